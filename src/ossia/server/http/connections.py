"""Connections: how many there may be, how long they may idle, and what becomes of those that do not read.

In: limits. Out: uvicorn's HTTP protocol that keeps to them. It does not know routes or what is asked.
"""

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ossia.server.errors import ApiError
from ossia.server.http.decoding.json_codec import encode

log = logging.getLogger("ossia.server")
HEAD_SECONDS = 30.0  # for a connection to send a request's head
OTHER_FILES = 128  # files that the process opens beside its connections
LOG_SECONDS = 60.0  # between two messages of one kind


@dataclass(frozen=True, slots=True)
class Limits:
    """most_head: bytes of headers. most, most_of_address: connections. write_timeout: for a client to read some."""

    most_head: int = 64 << 10
    most: int = 4096
    most_of_address: int = 2048
    write_timeout: float = 60.0


class Connections:
    """All connections. Where there are too many, the one that has idled for longest is closed for the newest."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._address: dict[HttpToolsProtocol, str] = {}
        self._count_of: Counter[str] = Counter()
        self._idle: OrderedDict[HttpToolsProtocol, None] = OrderedDict()  # those between two requests, oldest first
        self._logged: dict[str, tuple[float, int]] = {}

    def add(self, protocol: HttpToolsProtocol, address: str) -> bool:
        """Whether there is room for it."""
        if len(self._address) >= self.limits.most and not self._close_idle(None):
            self.warn("connections were refused: --max-connections is %d", self.limits.most)
            return False
        if self._count_of[address] >= self.limits.most_of_address and not self._close_idle(address):
            own = self.limits.most_of_address
            self.warn("connections were refused: --max-connections-per-address is %d", own)
            return False
        self._address[protocol] = address
        self._count_of[address] += 1
        self._idle[protocol] = None
        return True

    def remove(self, protocol: HttpToolsProtocol) -> None:
        """Harmless for one that is not there."""
        self._idle.pop(protocol, None)
        if (address := self._address.pop(protocol, None)) is not None:
            self._count_of[address] -= 1
            if not self._count_of[address]:
                del self._count_of[address]

    def busy(self, protocol: HttpToolsProtocol) -> None:
        self._idle.pop(protocol, None)

    def idle(self, protocol: HttpToolsProtocol) -> None:
        if protocol in self._address:
            self._idle[protocol] = None

    def _close_idle(self, address: str | None) -> bool:
        """Close the connection that has idled for longest, of one address or of all."""
        found = next((each for each in self._idle if address in (None, self._address[each])), None)
        if found is None:
            return False
        self.warn("idle connections were closed for new ones")
        self.remove(found)
        found.transport.abort()
        return True

    def warn(self, message: str, *values: object) -> None:
        """Log it, once in a while."""
        last, more = self._logged.get(message, (-LOG_SECONDS, 0))
        now = time.monotonic()
        if now - last < LOG_SECONDS:
            self._logged[message] = last, more + 1
            return
        self._logged[message] = now, 0
        log.warning(message + (f" ({more} times more since the last such line)" if more else ""), *values)


def raise_file_limit(wanted: int) -> int:
    """Let the process open enough files for `wanted` connections, if the system allows; how many it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
        target = max(soft, wanted + OTHER_FILES) if hard == resource.RLIM_INFINITY else hard
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
        except (ValueError, OSError):
            log.warning("the limit of open files stays %d: it cannot be raised to %d", soft, target)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - OTHER_FILES))


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, with limits on what it otherwise keeps without end: connections, a head that never ends or never
    comes, answers that are not read; and with its refusals in OpenAI's shape.
    """

    registry: Connections
    too_large: bytes
    _in_head, _in_body, _head_bytes, _late, _stalled, _unsent = True, False, 0, None, None, None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        send_at_once(transport)
        if self.registry.add(self, address_of(transport)):
            self._hurry()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.registry.remove(self)
        self._in_time()
        self._stalled = _cancelled(self._stalled)
        self._unsent = _cancelled(self._unsent)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data) if self._in_head else 0
        super().data_received(data)
        if self._in_head and self._head_bytes > self.registry.limits.most_head and not self.transport.is_closing():
            self.transport.write(self.too_large)
            self.transport.close()

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._unsent = _cancelled(self._unsent)
        if not self._late:  # a later request of a connection that is kept
            self._hurry()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self.registry.busy(self)
        self._in_time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.registry.idle(self)
        if self.transport.get_write_buffer_size():  # too little to pause for; the next request shows that it was read
            self._unsent = self._unsent or self._later(self._give_up)
        if self._in_body:  # refused; the rest is read and dropped: closed at once, the client would never see why
            self._hurry()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self._stalled or self._later(self._give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled = _cancelled(self._stalled)

    def send_400_response(self, msg: str) -> None:
        self.transport.write(error_bytes(400, "this is no HTTP request that can be read", "invalid_http"))
        self.transport.close()

    def _hurry(self) -> None:
        self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _in_time(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None

    def _later(self, work: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(self.registry.limits.write_timeout, work)

    def _give_up(self) -> None:
        """Nothing was read for long, or too little to write more."""
        if self.transport.get_write_buffer_size():
            seconds = self.registry.limits.write_timeout
            self.registry.warn("connections were closed: too little was read in --write-timeout %g", seconds)
            self.transport.abort()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer:
        timer.cancel()


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol of one server, whose connections are counted together."""

    class Own(LimitedProtocol):
        registry = Connections(limits)
        too_large = error_bytes(431, f"the headers are larger than {limits.most_head} bytes", "too_large")

    return Own


def send_at_once(transport: Any) -> None:
    """Each write leaves by itself (TCP_NODELAY). asyncio sets that only where the listener names TCP as its protocol; without
    it, the second part of an answer waits for the first one's acknowledgement: 40 ms on Linux.
    """
    with contextlib.suppress(OSError, AttributeError):  # a connection that is lost already, a Unix socket
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def address_of(transport: Any) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""


def error_bytes(status: int, message: str, code: str) -> bytes:
    """An answer to what never became a request, after which the connection ends."""
    error = ApiError(status, message, code=code)
    body = encode(error.body())
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in error.headers.items())
    return b"%bcontent-length: %d\r\n\r\n%b" % (head.encode(), len(body), body)
