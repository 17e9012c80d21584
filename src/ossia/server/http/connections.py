"""Limits on connections: their number, idle time, header size, and time to read an answer.

In: limits. Out: uvicorn's HTTP protocol with these limits.
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
HEAD_SECONDS = 30.0  # for a client to send a request's headers
OTHER_FILES = 128  # open files that are not connections
LOG_SECONDS = 60.0  # between two log messages of one kind


@dataclass(frozen=True, slots=True)
class Limits:
    """max_connections: of all addresses. write_timeout: seconds in which a client must read a part of its answer."""

    max_header_bytes: int = 64 << 10
    max_connections: int = 4096
    max_per_address: int = 2048
    write_timeout: float = 60.0


class Connections:
    """All connections. If there are too many, the one that is idle for longest is closed for a new one."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._address: dict[HttpToolsProtocol, str] = {}
        self._count_of: Counter[str] = Counter()
        self._idle: OrderedDict[HttpToolsProtocol, None] = OrderedDict()  # those between two requests, oldest first
        self._logged: dict[str, tuple[float, int]] = {}

    def add(self, protocol: HttpToolsProtocol, address: str) -> bool:
        """Count a new connection. False if there are too many."""
        if len(self._address) >= self.limits.max_connections and not self._close_idle(None):
            self.warn("connections were refused: --max-connections is %d", self.limits.max_connections)
            return False
        if self._count_of[address] >= self.limits.max_per_address and not self._close_idle(address):
            limit = self.limits.max_per_address
            self.warn("connections were refused: --max-connections-per-address is %d", limit)
            return False
        self._address[protocol] = address
        self._count_of[address] += 1
        self._idle[protocol] = None
        return True

    def remove(self, protocol: HttpToolsProtocol) -> None:
        """Remove a connection. Safe to call twice."""
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
        """Close the connection that is idle for longest, of one address or of all."""
        found = next((each for each in self._idle if address in (None, self._address[each])), None)
        if found is None:
            return False
        self.warn("idle connections were closed for new ones")
        self.remove(found)
        found.transport.abort()
        return True

    def warn(self, message: str, *values: object) -> None:
        """Log a warning, at most once a minute for each message."""
        last, more = self._logged.get(message, (-LOG_SECONDS, 0))
        now = time.monotonic()
        if now - last < LOG_SECONDS:
            self._logged[message] = last, more + 1
            return
        self._logged[message] = now, 0
        log.warning(message + (f" ({more} times more since the last such line)" if more else ""), *values)


def raise_file_limit(wanted: int) -> int:
    """Raise the limit of open files for `wanted` connections. Returns how many connections the limit allows."""
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
    """uvicorn's HTTP protocol, with limits on connections, headers and unread answers. Errors have OpenAI's form."""

    registry: Connections
    too_large: bytes
    _in_head, _in_body, _head_bytes, _header_timer, _write_timer, _unread_timer = True, False, 0, None, None, None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        send_at_once(transport)
        if self.registry.add(self, address_of(transport)):
            self._start_header_timer()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.registry.remove(self)
        self._stop_header_timer()
        self._write_timer = _cancelled(self._write_timer)
        self._unread_timer = _cancelled(self._unread_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data) if self._in_head else 0
        super().data_received(data)
        if (
            self._in_head
            and self._head_bytes > self.registry.limits.max_header_bytes
            and not self.transport.is_closing()
        ):
            self.transport.write(self.too_large)
            self.transport.close()

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._unread_timer = _cancelled(self._unread_timer)
        if not self._header_timer:  # a later request of a kept-alive connection
            self._start_header_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self.registry.busy(self)
        self._stop_header_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.registry.idle(self)
        if self.transport.get_write_buffer_size():  # too little for a pause; the next request shows that it was read
            self._unread_timer = self._unread_timer or self._later(self._close_unread)
        if (
            self._in_body
        ):  # the rest of a rejected body is dropped: after an early close, the client would not see the error
            self._start_header_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self._write_timer or self._later(self._close_unread)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_timer = _cancelled(self._write_timer)

    def send_400_response(self, msg: str) -> None:
        self.transport.write(error_bytes(400, "this is no HTTP request that can be read", "invalid_http"))
        self.transport.close()

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_header_timer(self) -> None:
        if self._header_timer:
            self._header_timer.cancel()
            self._header_timer = None

    def _later(self, work: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(self.registry.limits.write_timeout, work)

    def _close_unread(self) -> None:
        """Close: the client has not read its answer in time."""
        if self.transport.get_write_buffer_size():
            seconds = self.registry.limits.write_timeout
            self.registry.warn("connections were closed: too little was read in --write-timeout %g", seconds)
            self.transport.abort()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer:
        timer.cancel()


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol class of one server. Its connections are counted together."""

    class ServerProtocol(LimitedProtocol):
        registry = Connections(limits)
        too_large = error_bytes(431, f"the headers are larger than {limits.max_header_bytes} bytes", "too_large")

    return ServerProtocol


def send_at_once(transport: Any) -> None:
    """Set TCP_NODELAY. asyncio does so only if the listener names TCP as its protocol. Without it, the second part of an
    answer waits for the acknowledgement of the first: 40 ms on Linux.
    """
    with contextlib.suppress(OSError, AttributeError):  # a closed connection, or a Unix socket
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def address_of(transport: Any) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""


def error_bytes(status: int, message: str, code: str) -> bytes:
    """The bytes of an error response to unreadable input. The connection is closed after it."""
    error = ApiError(status, message, code=code)
    body = encode(error.body())
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in error.headers.items())
    return b"%bcontent-length: %d\r\n\r\n%b" % (head.encode(), len(body), body)
