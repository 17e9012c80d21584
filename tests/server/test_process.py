"""`ossia serve` as a process: its address, what it refuses, and how it stops."""

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

import uvicorn
from openai import OpenAI
from uvicorn.server import ServerState

from ossia.loading import load
from ossia.server.core.service import WARMING
from ossia.server.http.connections import Limits, protocol
from tests.support.processes import server_process
from tests.support.waiting import PATIENCE, until

LONG = {"prompt": "a", "max_tokens": 4000, "logit_bias": {"1016": -100, "1017": -100}}


def failed(*options: str) -> str:
    command = [sys.executable, "-m", "ossia", "serve", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("starting:")]  # a slow machine says so
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_openais_client_is_answered_and_a_signal_ends_the_server_in_order(tmp_path: Path):
    with server_process("--state", str(tmp_path), "--name", "gpt-oss:20b") as (server, url):
        client = OpenAI(base_url=f"{url}/v1", api_key="none")
        messages = [{"role": "user", "content": "What is 17 + 25?"}]
        whole = client.chat.completions.create(model="gpt-oss:20b", messages=messages, temperature=0)  # type: ignore[arg-type]
        assert "42" in (whole.choices[0].message.content or "")
        stream = client.chat.completions.create(model="gpt-oss:20b", messages=messages, temperature=0, stream=True)  # type: ignore[call-overload]
        first = next(stream)
        server.send_signal(signal.SIGTERM)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert first.choices[0].delta.role == "assistant"
        assert text == whole.choices[0].message.content
        assert server.wait(PATIENCE) == 0


def test_while_it_stops_new_answers_are_refused_with_503():
    with server_process("--no-state", "--shutdown-timeout", str(PATIENCE)) as (server, url):
        address = urlsplit(url).netloc
        wait_until_warm(address)
        running, other = (http.client.HTTPConnection(address, timeout=PATIENCE) for _ in range(2))
        running.request("POST", "/v1/completions", json.dumps({**LONG, "stream": True}))
        answer = running.getresponse()
        answer.readline()
        other.request("GET", "/health")
        other.getresponse().read()
        server.send_signal(signal.SIGTERM)
        until(lambda: status_of(other) == 503, "the server drains")
        other.request("POST", "/v1/completions", json.dumps({"prompt": "a"}))
        refused = other.getresponse()
        assert (refused.status, json.loads(refused.read())["error"]["code"]) == (503, "stopping")
        assert b"[DONE]" in answer.read()
        assert server.wait(PATIENCE) == 0


def status_of(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/health")
    health = connection.getresponse()
    health.read()
    return health.status


def test_a_log_that_is_not_read_stops_no_answer():
    with server_process("--no-state", log=subprocess.PIPE) as (_, url):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
        for _ in range(2000):  # lines of more than a pipe of 64 KiB
            connection.request("GET", "/health")
            assert connection.getresponse().read()


def metrics_of(address: str) -> dict[str, float]:
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    connection.request("GET", "/metrics")
    lines = [line.split() for line in connection.getresponse().read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def wait_until_warm(address: str) -> None:
    """Each prompt of the warm-up says one token; what is asked before may wait long for a kernel."""
    until(lambda: metrics_of(address)["ossia_output_tokens_total"] >= len(WARMING), "the server is warm")


def leave(address: str, streams: bool) -> None:
    """Ask for a long answer and hang up once it is under way."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    connection.request("POST", "/v1/completions", json.dumps({**LONG, "stream": streams}))
    if streams:
        connection.getresponse().readline()
    else:
        until(lambda: metrics_of(address)["ossia_running"], "the answer is under way")
    connection.close()


def test_a_client_that_hangs_up_frees_its_place_and_its_cache():
    with server_process("--no-state") as (_, url):
        address = urlsplit(url).netloc
        wait_until_warm(address)

        def cancelled() -> float:
            """How many were cancelled, once nothing runs any more."""
            until(lambda: not metrics_of(address)["ossia_running"], "nothing runs")
            until(lambda: not metrics_of(address)["ossia_kv_used_ratio"], "the cache is free")
            return metrics_of(address)["ossia_cancelled_total"]

        for before, streams in enumerate((True, True, False)):
            for _ in range(20):  # an answer that ended before its client left was not cancelled
                leave(address, streams)
                if cancelled() > before:
                    break
            assert cancelled() == before + 1


def test_a_client_that_does_not_read_delays_no_other():
    with server_process("--no-state") as (_, url):
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port), PATIENCE) as idle:
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            body = json.dumps({**LONG, "stream": True, "logprobs": 20}).encode()
            idle.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
            until(lambda: metrics_of(address.netloc)["ossia_running"], "the answer is under way")
            other = http.client.HTTPConnection(address.netloc, timeout=PATIENCE)
            other.request("POST", "/v1/completions", json.dumps({**LONG, "max_tokens": 50}))
            assert len(json.loads(other.getresponse().read())["choices"]) == 1


def test_a_second_signal_ends_the_answers_that_are_under_way_with_an_error(tmp_path: Path):
    log = tmp_path / "log"
    with server_process("--no-state", "--shutdown-timeout", "600", log=log) as (server, url):
        running = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
        endless = {**LONG, "logit_bias": {str(stop): -100 for stop in load().stop_tokens}}
        running.request("POST", "/v1/completions", json.dumps({**endless, "n": 8, "stream": True}))
        answer = running.getresponse()
        answer.readline()
        server.send_signal(signal.SIGINT)
        until(lambda: b'"draining"' in health_of(url), "the server drains")
        server.send_signal(signal.SIGINT)
        assert b'"code":"stopping"' in answer.read()
        assert server.wait(PATIENCE) == 0
        assert "Traceback" not in log.read_text()


def health_of(url: str) -> bytes:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    connection.request("GET", "/health")
    return connection.getresponse().read()


HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
LAST = b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n"  # a probe that names no host
SHORT = b'{"prompt":"a","max_tokens":1}'


def test_malformed_http_gets_an_error_in_openais_shape_and_the_rest_is_answered():
    with server_process("--no-state", "--max-body-mb", "0.1") as (_, url):
        for lie in (
            b"\x16\x03\x01\x00\xff rubbish\r\n\r\n",
            HEAD + b"content-length: 10\r\n\r\n" + SHORT,  # the rest of the body is no request
            HEAD + b"content-length: -1\r\n\r\n",
            HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n" + SHORT,
            HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            HEAD + b"transfer-encoding: chunked\r\n\r\nZZ\r\n",
            HEAD + b"transfer-encoding: chunked\r\n\r\n" + (b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 9 + b"0\r\n\r\n",
            b"GET /health HTTP/1.1\r\nhost: elsewhere.example\r\n\r\n",
            b"OPTIONS /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
            b"GET /v1/nothing HTTP/1.1\r\nhost: localhost\r\n\r\n",
        ):
            status, body = answers(url, lie + LAST)[0]
            assert 400 <= status < 500
            assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
        whole = HEAD + b"content-length: %d\r\n\r\n" % len(SHORT) + SHORT
        chunked = HEAD + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
            len(SHORT),
            SHORT,
        )
        assert [status for status, _ in answers(url, whole + whole + chunked)] == [200, 200, 200]
        assert answers(url, LAST)[0][0] == 200
        head = b"HEAD /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        assert answers(url, head) == [(200, b"")]
        assert health_of(url)


def answers(url: str, sent: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer that comes until the server closes."""
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), PATIENCE) as raw:
        raw.sendall(sent)
        told = b""
        while data := raw.recv(65536):
            told += data
    parts = [part.partition(b"\r\n\r\n") for part in told.split(b"HTTP/1.1 ")[1:]]
    return [(int(head[:3]), body) for head, _, body in parts]


def test_a_body_that_is_too_large_gets_413_however_much_is_still_sent():
    with server_process("--no-state", "--max-body-mb", "0.1") as (_, url):
        for _ in range(5):
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
            connection.request("POST", "/v1/completions", b" " * (16 << 20))
            assert connection.getresponse().status == 413


def test_a_head_that_takes_too_long_is_cut_off_on_a_kept_connection_too():
    async def work() -> None:
        made = protocol(Limits(1000))
        config = uvicorn.Config(nothing, log_config=None, timeout_keep_alive=60)
        config.load()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: made(config=config, server_state=ServerState(), app_state={}), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await reader.readuntil(b"done")
        writer.write(b"GET / HTTP/1.1\r\n")
        assert await asyncio.wait_for(reader.read(), 20) == b""
        server.close()

    async def nothing(_: object, __: object, send: Callable[[dict[str, object]], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})

    with patch("ossia.server.http.connections.HEAD_SECONDS", 0.05):
        asyncio.run(work())


def test_a_head_without_end_is_cut_off():
    with (
        server_process("--no-state") as (_, url),
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), PATIENCE) as raw,
    ):
        raw.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n")
        answer = b""
        try:
            for _ in range(100):
                raw.sendall(b"x: " + b"y" * 10_000 + b"\r\n")
            answer = raw.recv(1000)
        except OSError:  # it had closed by then
            pass
        assert not answer or answer.startswith(b"HTTP/1.1 431")


def test_a_port_in_use_and_an_open_host_without_keys_are_errors_of_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "give another --port" in failed("--port", str(taken.getsockname()[1]))
    assert "--api-key" in failed("--host", "0.0.0.0")
    assert "no model at" in failed("-m", "nowhere", "--port", "0")


def test_help_has_groups():
    told = subprocess.run(
        [sys.executable, "-m", "ossia", "serve", "--help"], capture_output=True, text=True, timeout=60
    )
    for group in ("Model", "Address", "Security", "Limits", "Memory", "Log"):
        assert f" {group} " in told.stdout
