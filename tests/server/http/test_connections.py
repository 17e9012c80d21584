"""Connections are counted, idle ones give way, and a client that reads nothing is disconnected: rows K1 and K7."""

import asyncio
import http.client
import json
import logging
import resource
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any
from unittest.mock import patch

import pytest
import uvicorn
from uvicorn.server import ServerState

from ossia.server.http.connections import Limits, protocol, raise_file_limit
from ossia.server.http.logs import UnawaitedErrors
from ossia.server.run import limits_of
from ossia.server.settings import Settings
from tests.server.test_process import LONG, metrics_of, wait_until_warm
from tests.support.processes import server_process
from tests.support.waiting import PATIENCE, until, until_async

Send = Callable[[dict[str, Any]], Awaitable[None]]
REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def serving(limits: Limits, app: Any, work: Callable[[tuple[str, int]], Awaitable[None]]) -> None:
    """Do the work against this app behind the protocol."""
    made, loop = protocol(limits), asyncio.get_running_loop()
    config = uvicorn.Config(app, log_config=None)
    config.load()
    state = ServerState()
    server = await loop.create_server(lambda: made(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
    try:
        await work(server.sockets[0].getsockname())
    finally:
        server.close()


async def short(_: object, __: object, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"done"})


@pytest.mark.parametrize(
    "limits", [Limits(max_connections=5, max_per_address=100), Limits(max_connections=100, max_per_address=5)]
)
def test_K7_idle_connections_give_way_to_new_ones(limits: Limits, caplog: pytest.LogCaptureFixture):
    async def work(address: tuple[str, int]) -> None:
        idle = [await asyncio.open_connection(*address) for _ in range(50)]
        reader, writer = await asyncio.open_connection(*address)
        writer.write(REQUEST)
        assert await reader.readuntil(b"done")
        ended = [await asyncio.wait_for(reader.read(1), 0.01) for reader, _ in idle[:40] if reader.at_eof()]
        assert not any(ended)
        for _, each in idle:
            each.close()
        writer.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(serving(limits, short, work))
    assert len(caplog.records) == 1


def test_K7_connections_that_are_answered_do_not_give_way():
    asked: list[asyncio.Event] = []

    async def slow(_: object, __: object, send: Send) -> None:
        asked.append(asyncio.Event())
        await asked[-1].wait()
        await short(_, __, send)

    async def work(address: tuple[str, int]) -> None:
        busy = [await asyncio.open_connection(*address) for _ in range(3)]
        for _, writer in busy:
            writer.write(REQUEST)
        await until_async(lambda: len(asked) == 3, "all three have been asked")
        reader, _ = await asyncio.open_connection(*address)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)  # closed: there is no room
        for each in asked:
            each.set()
        assert [await reader.readuntil(b"done") for reader, _ in busy]

    asyncio.run(serving(Limits(max_connections=3), slow, work))


def test_K1_a_client_that_reads_nothing_is_disconnected_and_buffers_are_bounded():
    ended: list[str] = []
    sent = 0

    async def endless(_: object, receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            sent += 65536
            await asyncio.sleep(0)
        ended.append(gone.result()["type"])

    async def work(address: tuple[str, int]) -> None:
        with closing(socket.create_connection(address)) as silent:
            silent.sendall(REQUEST)
            await until_async(lambda: ended, "the client is disconnected")

    asyncio.run(serving(Limits(write_timeout=0.2), endless, work))
    assert ended == ["http.disconnect"]
    assert sent < 64 << 20


def test_each_write_is_sent_at_once_whatever_made_the_listener():
    async def connect() -> None:
        limits = protocol(Limits())
        config = uvicorn.Config(short, log_config=None)
        config.load()
        made = limits(config=config, server_state=ServerState(), app_state={})
        with socket.create_server(("127.0.0.1", 0)) as listener:  # it names no protocol, and asyncio sets nothing
            server = await asyncio.get_running_loop().create_server(lambda: made, sock=listener)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(REQUEST)
            assert await reader.readuntil(b"done")
            accepted = made.transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()
            server.close()

    asyncio.run(connect())


def test_K7_failures_of_one_kind_are_logged_once_in_a_while(caplog: pytest.LogCaptureFixture):
    async def work() -> None:
        handler = UnawaitedErrors()
        for _ in range(1000):
            handler(asyncio.get_running_loop(), {"message": "socket.accept() out of system resource"})
        handler(asyncio.get_running_loop(), {"message": "another"})

    asyncio.run(work())
    assert len(caplog.records) == 2


def test_K7_the_limit_of_files_is_raised_and_bounds_the_connections():
    limits = {"now": (100, 1000)}

    def change(_: int, pair: tuple[int, int]) -> None:
        limits["now"] = pair

    with (
        patch.object(resource, "getrlimit", lambda _: limits["now"]),
        patch.object(resource, "setrlimit", change),
    ):
        assert raise_file_limit(4096) == 1000 - 128
        assert limits["now"] == (1000, 1000)
        assert limits_of(Settings()).max_per_address == (1000 - 128) // 2
        assert limits_of(Settings(behind_proxy=True)).max_per_address == 1000 - 128
        assert limits_of(Settings(max_connections=10, max_connections_per_address=3)).max_per_address == 3


def test_K1_silent_readers_on_every_place_stop_no_other_client():
    options = ("--no-state", "--max-num-seqs", "4", "--request-timeout", "3", "--write-timeout", "2")
    with server_process(*options) as (_, url):
        address = url.removeprefix("http://")
        host, port = address.split(":")
        wait_until_warm(address)
        silent = []
        for path, body in (
            ("/v1/completions", {**LONG, "stream": True, "logprobs": 5}),
            ("/v1/completions", {**LONG, "stream": True, "n": 2}),
            (
                "/v1/chat/completions",
                {"messages": [{"role": "user", "content": "hi"}], "stream": True, "logprobs": True},
            ),
            ("/v1/responses", {"input": "hi", "stream": True}),
            ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4000, "stream": True}),
        ):
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            raw.connect((host, int(port)))
            data = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
            raw.sendall(head.encode() + data)
            silent.append(raw)
        until(lambda: metrics_of(address)["ossia_running"], "an answer is under way")
        other = http.client.HTTPConnection(address, timeout=PATIENCE)
        other.request("POST", "/v1/completions", json.dumps({"prompt": "a", "max_tokens": 3}))
        assert other.getresponse().status == 200
        until(lambda: not metrics_of(address)["ossia_running"], "all have ended or expired")
        for raw in silent:
            raw.close()
