"""Request bodies: a limit on their total size, and decoding without blocking the event loop.

In: a body's bytes as they arrive, and its type. Out: a value, or an `ApiError`.
"""

import asyncio
import ctypes
import functools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ossia.server.errors import ApiError
from ossia.server.http.decoding.json_codec import decode
from ossia.server.http.decoding.token_bound import TextBound

T = TypeVar("T")
PIECE = 256 << 10  # bytes
SMALL = 64 << 10  # bytes: smaller bodies are not counted, and decoded in the event loop
TRIM_SECONDS = 2.0  # after the last large body, before its memory is returned to the system


class Bodies:
    """All bodies in memory, from their first byte until the answer begins.

    A client may use as much as is still free: a single client gets at most half of `max_bytes`.
    bound: on a request's text, from the model's context.
    """

    def __init__(self, max_bytes: int, bound: TextBound) -> None:
        self.max_bytes, self.bound = max_bytes, bound
        self.used = 0
        self.used_by: Counter[str] = Counter()
        self._decoder = ThreadPoolExecutor(1, "ossia-decode")  # one at a time: decoding holds the interpreter
        self._trim: asyncio.TimerHandle | None = None

    def lease(self, client: str) -> "Lease":
        return Lease(self, client)

    def take(self, client: str, size: int) -> None:
        """Count a client's bytes. Raises ApiError 429 if there is no room."""
        if self.used_by[client] + size > self.max_bytes - self.used - size:
            message = f"too many bytes of requests are under way ({self.used >> 20} of {self.max_bytes >> 20} MiB)"
            raise ApiError(429, f"{message}: try again", code="rate_limit_exceeded", headers={"retry-after": "2"})
        self.used += size
        self.used_by[client] += size

    def release(self, client: str, size: int) -> None:
        self.used -= size
        self.used_by[client] -= size
        if self.used_by[client] <= 0:
            del self.used_by[client]
        if self._trim:
            self._trim.cancel()
        loop = asyncio.get_running_loop()
        self._trim = loop.call_later(TRIM_SECONDS, lambda: self._decoder.submit(trim))

    async def value(self, body: "BodyBuffer", type: type[T]) -> T:
        """The body as a value. Raises ApiError 400 like `decode`."""
        if body.size <= SMALL:
            return decode(body.joined(), type)
        work = functools.partial(self._decode, body, type)
        return await asyncio.get_running_loop().run_in_executor(self._decoder, work)

    def _decode(self, body: "BodyBuffer", type: type[T]) -> T:
        return decode(body.joined(), type, self.bound)

    def close(self) -> None:
        self._decoder.shutdown(wait=False, cancel_futures=True)


class BodyBuffer:
    """A body that arrives in pieces. One growing buffer would be copied often, in the event loop."""

    def __init__(self) -> None:
        self.size = 0
        self.whole: list[bytes] = []
        self._last = bytearray()

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        self._last += piece
        if len(self._last) >= PIECE:
            self.whole.append(bytes(self._last))
            self._last = bytearray()

    def joined(self) -> bytes:
        """The whole body. Large ones are joined in another thread."""
        return b"".join([*self.whole, bytes(self._last)])


class Lease:
    """One request's bytes among `Bodies`. Small bodies are not counted."""

    def __init__(self, bodies: Bodies, client: str) -> None:
        self.bodies, self._client = bodies, client
        self._size = self._counted = 0

    def add(self, size: int) -> None:
        """Count `size` more bytes. Raises ApiError 429 if there is no room for them."""
        self._size += size
        if self._size > SMALL:
            self.bodies.take(self._client, self._size - self._counted)
            self._counted = self._size

    def release(self) -> None:
        """Stop counting: the answer begins, or the request has ended."""
        if self._counted:
            self.bodies.release(self._client, self._counted)
            self._counted = 0


def trim() -> None:
    """Return free memory to the system, if the C library can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # not glibc
        return
