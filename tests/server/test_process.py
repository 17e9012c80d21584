"""`ossia serve` as a process: where it says it is, who is refused, and how it leaves."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from openai import OpenAI


@contextmanager
def process(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running process and its address."""
    command = [sys.executable, "-m", "ossia", "serve", "--port", "0", *options]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert " at http://" in line, started.stderr and started.stderr.read()
        yield started, line.split(" at ")[1].split(",")[0]
    finally:
        started.kill()
        started.communicate()


def failed(*options: str) -> str:
    command = [sys.executable, "-m", "ossia", "serve", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


def test_openais_client_speaks_to_it_and_it_leaves_in_good_order(tmp_path: Path):
    with process("--state", str(tmp_path), "--name", "gpt-oss:20b") as (server, url):
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
        assert server.wait(20) == 0


def test_while_it_stops_new_answers_are_refused_with_503():
    with process("--no-state", "--drain-seconds", "20") as (server, url):
        address = urlsplit(url).netloc
        running, other = (http.client.HTTPConnection(address, timeout=20) for _ in range(2))
        body = json.dumps({"prompt": "a", "max_tokens": 3000, "stream": True, "logit_bias": {"1016": -100, "1017": -100}})
        running.request("POST", "/v1/completions", body)
        answer = running.getresponse()
        answer.readline()
        other.request("GET", "/health")
        other.getresponse().read()
        server.send_signal(signal.SIGTERM)
        while True:  # the signal is on its way
            other.request("GET", "/health")
            health = other.getresponse()
            health.read()
            if health.status == 503:
                break
        other.request("POST", "/v1/completions", json.dumps({"prompt": "a"}))
        refused = other.getresponse()
        assert (refused.status, json.loads(refused.read())["error"]["code"]) == (503, "stopping")
        assert b"[DONE]" in answer.read()
        assert server.wait(20) == 0


def test_who_leaves_in_mid_stream_is_forgotten():
    with process("--no-state") as (_, url):
        address = urlsplit(url).netloc
        for _ in range(3):
            connection = http.client.HTTPConnection(address, timeout=20)
            body = {"prompt": "a", "max_tokens": 4000, "stream": True, "logit_bias": {"1016": -100, "1017": -100}}
            connection.request("POST", "/v1/completions", json.dumps(body))
            connection.getresponse().readline()
            connection.close()
        metrics = ""
        while not ("ossia_running 0.0" in metrics and "ossia_kv_used_ratio 0.0" in metrics):
            connection = http.client.HTTPConnection(address, timeout=20)
            connection.request("GET", "/metrics")
            metrics = connection.getresponse().read().decode()
        assert "ossia_cancelled_total 3.0" in metrics
        tokens = next(line for line in metrics.splitlines() if line.startswith("ossia_output_tokens_total"))
        assert float(tokens.split()[1]) < 9000


def test_a_head_without_end_is_cut_off():
    with process("--no-state") as (_, url), socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), 20) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n")
        answer = b""
        try:
            for _ in range(100):
                raw.sendall(b"x: " + b"y" * 10_000 + b"\r\n")
            answer = raw.recv(1000)
        except OSError:  # it had closed by then
            pass
        assert not answer or answer.startswith(b"HTTP/1.1 431")


def test_a_port_that_is_taken_and_an_open_host_are_one_line_errors():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "give another --port" in failed("--port", str(taken.getsockname()[1]))
    assert "--api-key" in failed("--host", "0.0.0.0")
    assert "no model at" in failed("-m", "nowhere", "--port", "0")


def test_help_has_groups():
    told = subprocess.run([sys.executable, "-m", "ossia", "serve", "--help"], capture_output=True, text=True, timeout=60)
    for group in ("Model", "Address", "Security", "Limits", "Memory", "Log"):
        assert f" {group} " in told.stdout
