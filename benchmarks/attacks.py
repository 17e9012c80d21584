"""Requests that try to stop a server for others, and a plain HTTP client to send them with.

In: the address of a server, on this machine alone. Out: what each request was answered. Every attack is bounded in requests,
connections and seconds. `hostile.py` runs them one by one, `soak.py` at random.
"""

import asyncio
import json
import random
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ossia.loading import load

ATTACKER, ORDINARY = "the-attackers-key", "an-ordinary-key"
KEYS = ("--api-key", ATTACKER, "--api-key", ORDINARY)
STOPS = {str(stop): -100 for stop in load().stop_tokens}  # biased against, an answer goes on to its last token
MESSAGE = [{"role": "user", "content": "Count."}]
ADDED = {"input": "Hello.", "store": False}


@dataclass
class Answered:
    """What a request was answered: its status, headers and body, and the seconds that took."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        try:
            return str(self.json["error"].get("code") or self.json["error"]["type"])
        except (ValueError, KeyError, TypeError):
            return ""


@dataclass
class Target:
    """A server on this machine. key: the API key that requests carry."""

    host: str
    port: int
    key: str | None = None

    def head(self, path: str, size: int, method: str = "POST") -> bytes:
        key = f"authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {self.host}\r\nconnection: close\r\n{key}content-length: {size}\r\n\r\n"
        )
        return head.encode()

    async def send(self, path: str, body: bytes, method: str = "POST", timeout: float = 120) -> Answered:
        """One request on a connection of its own. Status 0: none came."""
        started, answered = time.perf_counter(), Answered()
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                try:
                    writer.write(self.head(path, len(body), method) + body)
                    data = await reader.read(-1)
                finally:
                    writer.close()
            answered = parsed(data)
        except (OSError, TimeoutError):
            pass
        answered.seconds = time.perf_counter() - started
        return answered

    async def post(self, path: str, value: object, timeout: float = 120) -> Answered:
        return await self.send(path, json.dumps(value).encode(), timeout=timeout)


def parsed(data: bytes) -> Answered:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    if not first.startswith("HTTP/"):
        return Answered()
    headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    whole = unchunked(body) if headers.get("transfer-encoding") == "chunked" else body
    return Answered(int(first.split()[1]), headers, whole)


def unchunked(body: bytes) -> bytes:
    """What chunks hold, as far as they came."""
    parts: list[bytes] = []
    at = 0
    while (end := body.find(b"\r\n", at)) > 0 and (size := int(body[at:end], 16)):
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 4 + size
    return b"".join(parts)


async def without_reading(target: Target, path: str, body: dict[str, Any], seconds: float) -> None:
    """Ask for a stream and read nothing of it for so long."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, (target.host, target.port))
        data = json.dumps(body).encode()
        await loop.sock_sendall(sock, target.head(path, len(data)) + data)
        await asyncio.sleep(seconds)
    except OSError:
        pass
    finally:
        sock.close()


LONG = {"prompt": "a", "max_tokens": 3500, "logit_bias": STOPS, "logprobs": 5, "stream": True}
CHAT = {
    "messages": MESSAGE,
    "max_tokens": 3500,
    "logit_bias": STOPS,
    "logprobs": True,
    "top_logprobs": 20,
    "stream": True,
}
SILENT: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", LONG),
    ("/v1/completions", {**LONG, "n": 4}),
    ("/v1/chat/completions", CHAT),
    ("/v1/responses", {**ADDED, "stream": True, "max_output_tokens": 3000, "top_logprobs": 20}),
    ("/v1/messages", {"messages": MESSAGE, "max_tokens": 3000, "stream": True}),
]


async def silent(target: Target, rng: random.Random, count: int = 8, seconds: float = 8) -> str:
    """K1: readers that do not read."""
    kinds = [rng.choice(SILENT) for _ in range(count)]
    await asyncio.gather(*[without_reading(target, path, body, seconds) for path, body in kinds])
    return f"{count} streams, not read for {seconds:g} s"


async def scoring(target: Target, rng: random.Random) -> str:
    """K2: many prompts to score, several times."""
    text = " ".join(str(rng.randrange(10**6)) for _ in range(200))
    body = {"prompt": [text + str(n) for n in range(64)], "n": 4, "echo": True, "logprobs": 5, "max_tokens": 0}
    return said(await target.post("/v1/completions", body, timeout=20 + 40 * rng.random()))


async def references(target: Target, rng: random.Random) -> str:
    """K3: a large kept item, many times over."""
    item = {"role": "user", "content": [{"type": "input_text", "text": "word " * 700_000}]}
    made = await target.post("/v1/conversations", {"items": [item]})
    if made.status != 200:
        return "no conversation: " + said(made)
    own = made.json["id"]
    listed = await target.send(f"/v1/conversations/{own}/items", b"", "GET")
    name = listed.json["data"][0]["id"]
    answers = [
        await target.post("/v1/responses", {"input": [{"type": "item_reference", "id": name}] * 60, "store": False}),
        await target.post("/v1/responses", {"input": "Hello.", "conversation": own}),
    ]
    await target.send(f"/v1/conversations/{own}", b"", "DELETE")
    return ", ".join(map(said, answers))


def chat_of(**more: Any) -> bytes:
    return json.dumps({"messages": MESSAGE, **more}).encode()


def schema_of(schema: object) -> bytes:
    form = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}
    return chat_of(response_format=form)


def objects(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"type": "object", "properties": {f"a{n}": {"type": "string"}}} for n in range(start, start + count)]


def tool_named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


def large_bodies() -> dict[str, tuple[str, Callable[[], bytes]]]:
    """K4 and K6: bodies that take long to read, by name."""
    chat, responses = "/v1/chat/completions", "/v1/responses"
    parts = [{"type": "text", "text": "a"}]
    nested = b'{"messages":[{"role":"user","content":"hi"}],"x":[%b[]]}'
    return {
        "one message": (
            chat,
            lambda: json.dumps({"messages": [{"role": "user", "content": "a" * (30 << 20)}]}).encode(),
        ),
        "many messages": (chat, lambda: json.dumps({"messages": MESSAGE * 500_000}).encode()),
        "many items": (responses, lambda: b'{"input":[' + b'{"role":"user"},' * 1_000_000 + b'{"role":"user"}]}'),
        "oneOf": (chat, lambda: schema_of({"oneOf": objects(3000)})),
        "anyOf": (chat, lambda: schema_of({"anyOf": objects(3000)})),
        "enum": (chat, lambda: schema_of({"enum": [f"v{n}" for n in range(100_000)]})),
        "properties": (chat, lambda: schema_of({"type": "object", "properties": {f"k{n}": {} for n in range(10_000)}})),
        "long name": (chat, lambda: schema_of({"type": "object", "properties": {"k" * 3_000_000: {}}})),
        "tools": (chat, lambda: chat_of(tools=[tool_named("é" * n) for n in range(1, 250)] * 32)),
        "many tools": (chat, lambda: chat_of(tools=[tool_named(f"{chr(8192 + n)}") for n in range(8000)])),
        "stops": (chat, lambda: chat_of(stop=["x" * 999] * 20_000)),
        "biases": (chat, lambda: chat_of(logit_bias={str(n): 1 for n in range(200_000)})),
        "metadata": (
            responses,
            lambda: json.dumps({**ADDED, "metadata": {f"k{n}": "v" for n in range(200_000)}}).encode(),
        ),
        "parts": (chat, lambda: json.dumps({"messages": [{"role": "user", "content": parts * 300_000}]}).encode()),
        "nested": (chat, lambda: nested % (b"[]," * 1_600_000)),
        "nested, 30 MB": (chat, lambda: nested % (b"[]," * 10_000_000)),
        "deep": (chat, lambda: nested % (b"[" * 100_000 + b"]" * 100_000 + b",")),
        "escapes": (chat, lambda: b'{"messages":[{"role":"user","content":"' + b"\\u0061" * 5_000_000 + b'"}]}'),
        "ids": ("/v1/completions", lambda: b'{"prompt":[' + b"1," * 10_000_000 + b"1]}"),
        "spaces": (chat, lambda: b'{"messages":[],' + b" " * (30 << 20) + b'"x":1}'),
        "digits": (
            chat,
            lambda: b'{"messages":[{"role":"user","content":"hi"}],"temperature":0.' + b"1" * (30 << 20) + b"}",
        ),
    }


async def large(target: Target, rng: random.Random) -> str:
    """K4, K6: one large body."""
    name, (path, make) = rng.choice(list(large_bodies().items()))
    return f"{name}: " + said(await target.send(path, await asyncio.to_thread(make)))


async def stalled(target: Target, rng: random.Random, count: int = 12, megabytes: int = 16, seconds: float = 6) -> str:
    """K5: bodies that stop before their end."""

    async def one() -> None:
        reader, writer = await asyncio.open_connection(target.host, target.port)
        try:
            writer.write(target.head("/v1/chat/completions", (megabytes << 20) + 10))
            for _ in range(megabytes):
                writer.write(b"a" * (1 << 20))
                await writer.drain()
            await asyncio.wait_for(reader.read(100), seconds)
        finally:
            writer.close()

    await asyncio.gather(*[asyncio.wait_for(one(), 3 * seconds) for _ in range(count)], return_exceptions=True)
    return f"{count} bodies of {megabytes} MB"


async def hung_up(target: Target, rng: random.Random, count: int = 10, megabytes: int = 16) -> str:
    """K5: clients that leave as soon as they have sent a large body."""
    body = json.dumps({"messages": [{"role": "user", "content": "word " * (megabytes * 200_000)}]}).encode()

    async def one() -> None:
        _, writer = await asyncio.open_connection(target.host, target.port)
        try:
            writer.write(target.head("/v1/chat/completions", len(body)) + body)
            await writer.drain()
        finally:
            writer.close()

    await asyncio.gather(*[asyncio.wait_for(one(), 10) for _ in range(count)], return_exceptions=True)
    return f"{count} bodies of {megabytes} MB"


async def idle(target: Target, rng: random.Random, count: int = 300, seconds: float = 5) -> str:
    """K7: connections that send nothing."""
    opened: list[asyncio.StreamWriter] = []
    try:
        for _ in range(count):
            _, writer = await asyncio.wait_for(asyncio.open_connection(target.host, target.port), 5)
            opened.append(writer)
        await asyncio.sleep(seconds)
    except (OSError, TimeoutError):
        pass
    finally:
        for writer in opened:
            writer.close()
    return f"{len(opened)} connections"


async def crowding(target: Target, rng: random.Random) -> str:
    """K8: as many answers as one request may ask for; the client leaves after a while."""
    body = {"prompt": [f"{n}" for n in range(64)], "n": 12, "max_tokens": 200, "logit_bias": STOPS}
    return said(await target.post("/v1/completions", body, timeout=8))


async def too_many(target: Target, rng: random.Random) -> str:
    """K9: more answers than could ever run and wait."""
    return said(await target.post("/v1/completions", {"prompt": ["a"] * 64, "n": 16, "max_tokens": 1}, timeout=20))


async def strict(target: Target, rng: random.Random) -> str:
    """K10: a pattern that no answer of this model can fit."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^a{100000}$"}}, "required": ["a"]}
    body = {"messages": MESSAGE, "max_tokens": 200, "response_format": json.loads(schema_of(schema))["response_format"]}
    return said(await target.post("/v1/chat/completions", body, timeout=30))


def said(answered: Answered) -> str:
    return f"{answered.status or 'no answer'} {answered.code} in {answered.seconds:.2f} s".replace("  ", " ")


Attack = Callable[[Target, random.Random], Awaitable[str]]
ATTACKS: dict[str, Attack] = {
    "K1 silent readers": silent,
    "K2 scoring": scoring,
    "K3 references": references,
    "K4, K6 large bodies": large,
    "K5 stalled bodies": stalled,
    "K5 left after sending": hung_up,
    "K7 idle connections": idle,
    "K8 crowding": crowding,
    "K9 too many": too_many,
    "K10 strict schema": strict,
}
