"""MCP servers over HTTP on 127.0.0.1: real ones of the mcp package, and fakes that misbehave.

In: an ASGI application. Out: its URL, while the context is open. `LegacyHttp` is a server of the generation before 2026.
"""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn


@contextmanager
def served(app, lifespan: str = "on") -> Iterator[str]:
    """Serve an application in a thread. Yields http://127.0.0.1:PORT."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", lifespan=lifespan, timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=asyncio.run, args=(server.serve([listening]),), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.01)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(20)


class LegacyHttp:
    """A server of the generation before 2026, with a session id, as a raw ASGI application.

    how: what happens to tools/call, or to everything: "ok", "401", "500", "hang", "garbage", "huge", "gzip", "drop",
    "forget" (404 for a known session, once), "redirect". seen: the headers of all requests.
    """

    def __init__(self, how: str = "ok", everything: bool = False, tools: list | None = None) -> None:
        self.how, self.everything = how, everything
        self.tools = tools or [{"name": "echo", "description": "Echo.", "inputSchema": {"type": "object"}}]
        self.seen: list[dict[str, str]] = []
        self.methods: list[str] = []
        self.forgotten = False

    async def __call__(self, scope, receive, send) -> None:
        assert scope["type"] == "http"
        self.seen.append({key.decode(): value.decode() for key, value in scope["headers"]})
        if scope["method"] != "POST":
            await reply(send, 405)
            return
        message = json.loads(await body(receive))
        method = message["method"]
        self.methods.append(method)
        if (self.everything or method == "tools/call") and await self.misbehave(send, message):
            return
        if "id" not in message:
            await reply(send, 202)
            return
        if method == "server/discover":
            await reply(
                send,
                400,
                {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "Method not found"}},
            )
            return
        params = message.get("params") or {}
        result = {
            "initialize": lambda: {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "old", "version": "1"},
            },
            "tools/list": lambda: {"tools": self.tools},
            "tools/call": lambda: {"content": [{"type": "text", "text": json.dumps(params.get("arguments"))}]},
        }[method]()
        await reply(send, 200, {"jsonrpc": "2.0", "id": message["id"], "result": result}, {"mcp-session-id": "s1"})

    async def misbehave(self, send, message) -> bool:
        match self.how:
            case "401" | "500":
                await reply(send, int(self.how), {"detail": "no"})
            case "hang":
                await asyncio.sleep(600)
            case "garbage":
                await reply(send, 200, b"<html>not json", {})
            case "huge":
                await reply(send, 200, b'{"jsonrpc": "2.0", "id": 1, "result": "' + b"x" * 3_000_000 + b'"}')
            case "gzip":
                await reply(send, 200, b"\x1f\x8b", {"content-encoding": "gzip"})
            case "drop":
                await send(
                    {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
                )
                await send({"type": "http.response.body", "body": b": hello\n\n", "more_body": True})
                raise ConnectionError("dropped")
            case "forget" if not self.forgotten:
                self.forgotten = True
                await reply(send, 404)
            case "error":
                error = {"code": -32602, "message": "Unknown tool"}
                await reply(send, 400, {"jsonrpc": "2.0", "id": message["id"], "error": error})
            case "redirect":
                await reply(send, 307, b"", {"location": "http://169.254.169.254/latest/meta-data"})
            case "malformed":
                await reply(send, 200, {"jsonrpc": "2.0", "id": message["id"], "result": {"content": "text"}})
            case _:
                return False
        return True


async def body(receive) -> bytes:
    data = b""
    while True:
        part = await receive()
        data += part.get("body", b"")
        if not part.get("more_body"):
            return data


async def reply(send, status: int, content: object = b"", headers: dict[str, str] | None = None) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    every = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(k.encode(), v.encode()) for k, v in every.items()],
        }
    )
    await send({"type": "http.response.body", "body": data})
