"""Shared by all routes: read a body, identify the client, send responses and event streams, stop when the client leaves.

In: Starlette's requests, and frames of bytes. Out: values and responses, for any API.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from time import monotonic
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ossia.server.errors import ApiError
from ossia.server.http.decoding.bodies import BodyBuffer, Lease
from ossia.server.http.decoding.json_codec import encode

T = TypeVar("T")
log = logging.getLogger("ossia.server")
PING_SECONDS = 15.0
BODY_SECONDS, STALL_SECONDS = 120.0, 20.0  # for a body to come, and between two pieces of it
PIECE = 64 << 10  # bytes of an answer that are written at once
PING = b": ping\n\n"
EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


async def read(request: Request, type: type[T]) -> T:
    """The request's body as a value. Raises ApiError for an invalid or late body, and ClientDisconnect."""
    lease: Lease = request.scope["state"]["body"]
    body, loop = BodyBuffer(), asyncio.get_running_loop()
    end = loop.time() + BODY_SECONDS
    try:
        async with asyncio.timeout(STALL_SECONDS) as limit:
            async for piece in request.stream():
                lease.add(len(piece))
                body.add(piece)
                limit.reschedule(min(end, loop.time() + STALL_SECONDS))
    except TimeoutError as error:
        message = f"the body did not come: it may take {BODY_SECONDS:.0f} s, and pause for {STALL_SECONDS:.0f} s"
        raise ApiError(408, message, code="too_slow") from error
    return await until_disconnect(request, lease.bodies.value(body, type))


def client_of(request: Request | Scope) -> str:
    """The client as the queue identifies it: the number of its API key, or else its address."""
    scope = request.scope if isinstance(request, Request) else request
    address = scope.get("client")
    return scope.get("state", {}).get("client") or (address[0] if address else "")


def reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return BytesResponse([encode(value)], status, headers)


async def reply_with(name: str, value: Struct, headers: Mapping[str, str] | None = None) -> Response:
    """A value with a list that may be large: its members are encoded one by one, so other requests are not blocked."""
    members: Sequence[object] = getattr(value, name)
    empty = b'"%b":[]' % name.encode()
    head, _, tail = encode(replace(value, **{name: []})).partition(empty)
    parts = [head, empty[:-1]]
    for number, member in enumerate(members):
        parts += [b"," if number else b"", encode(member)]
        await asyncio.sleep(0)
    return BytesResponse([*parts, b"]", tail], 200, headers)


class BytesResponse(Response):
    """JSON in parts, written in pieces: other requests are not blocked, and nothing is copied for a slow client."""

    media_type = "application/json"

    def __init__(self, parts: Sequence[bytes], status: int, headers: Mapping[str, str] | None) -> None:
        size = sum(map(len, parts))
        self.parts = parts if size > PIECE else [b"".join(parts)]
        super().__init__(None, status, {**(headers or {}), "content-length": str(size)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if len(self.parts) == 1 and len(self.parts[0]) <= PIECE:
            await send({"type": "http.response.body", "body": self.parts[0]})
            return
        work, disconnected = asyncio.ensure_future(self._write(send)), asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({work, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _stop(work, disconnected)

    async def _write(self, send: Send) -> None:
        for part in self.parts:
            for at in range(0, len(part), PIECE):
                await send({"type": "http.response.body", "body": part[at : at + PIECE], "more_body": True})
                await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def error_response(error: ApiError, path: str) -> Response:
    """An error in the form of the API under this path."""
    return reply(error.body(path), error.status, error.headers)


def sse(value: object, event: str | None = None) -> bytes:
    """One server-sent event."""
    name = f"event: {event}\n".encode() if event else b""
    return b"%bdata: %b\n\n" % (name, encode(value))


async def until_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run the work. If the client disconnects, cancel it and raise ClientDisconnect."""
    task, disconnected = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        await _stop(task, disconnected)


class EventStream(Response):
    """Sends frames as they come, and comments during pauses. Closes the frames when the client disconnects.

    An ApiError before the first frame is an ordinary error response. error_frame: the API's form of a later one.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        error_frame: Callable[[ApiError], bytes] = lambda e: sse(e.body()),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.frames, self.error_frame = frames, error_frame
        self._headers = [*EVENT_STREAM, *((name.encode(), value.encode()) for name, value in (headers or {}).items())]
        self.status_code, self.background = 200, None
        self._started, self._last = False, monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._send_all(scope, receive, send))
        others = [asyncio.ensure_future(each) for each in (_disconnected(receive), self._ping(send))]
        try:
            await asyncio.wait({work, others[0]}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _stop(work, *others)
            await self.frames.aclose()
        if work.done() and not work.cancelled():
            work.result()

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async for frame in self.frames:
                await self._write(send, frame)
        except ApiError as error:
            await self._send_error(error, scope, receive, send)
        except Exception:
            log.exception("an answer failed")
            await self._send_error(ApiError(500, "the server failed: its log says why"), scope, receive, send)
        if self._started:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_error(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        if self._started:
            await self._write(send, self.error_frame(error))
        else:
            await error_response(error, scope["path"])(scope, receive, send)

    async def _write(self, send: Send, frame: bytes) -> None:
        self._last = monotonic()
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": frame, "more_body": True})

    async def _ping(self, send: Send) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            if monotonic() - self._last >= PING_SECONDS:
                await self._write(send, PING)


async def _disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stop(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
