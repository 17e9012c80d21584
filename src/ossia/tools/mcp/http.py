"""The HTTP client of one MCP server: checked addresses, bounded answers, and a note of what failed.

In: an `McpServer`. Out: an httpx2 client that sends the server's own headers and no others, resolves names through
`AddressGuard`, and reads no answer beyond a limit. Redirects are followed by the `mcp` package, within the origin only.
"""

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field

import httpx2

from ossia.tools.addresses import AddressGuard
from ossia.tools.mcp.servers import McpServer

CONNECT_SECONDS = 10.0
HTTP_ERROR = 400
# How many times as long as a message a stream may be: of one call, and of a whole connection to a request's server.
CALL_STREAM, CONNECTION_STREAM = 16, 64


@dataclass(slots=True)
class HttpTrouble:
    """What went wrong below the protocol while one call ran. status: of the last error answer; 0 if there is none.

    failed: set as soon as something goes wrong.
    """

    status: int = 0
    is_json: bool = False
    reason: str | None = None
    failed: asyncio.Event = field(default_factory=asyncio.Event)


# The trouble of the call in whose context a request is sent. Requests run in a copy of the caller's context.
current_trouble: ContextVar[HttpTrouble | None] = ContextVar("current_trouble", default=None)


def http_client(server: McpServer, guard: AddressGuard | None, max_bytes: int, seconds: float) -> httpx2.AsyncClient:
    """A client for one server. guard: None reaches all addresses. Proxies and .netrc files are not used."""
    return httpx2.AsyncClient(
        headers={**server.headers, "accept-encoding": "identity"},
        timeout=httpx2.Timeout(CONNECT_SECONDS, read=seconds),
        transport=_GuardedTransport(guard, max_bytes),
        trust_env=False,
        follow_redirects=False,
    )


class _GuardedTransport(httpx2.AsyncBaseTransport):
    """Connects to the addresses that the guard allows, and never resolves a name a second time."""

    def __init__(self, guard: AddressGuard | None, max_bytes: int) -> None:
        self._guard, self._max_bytes = guard, max_bytes
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)
        self._resolved: dict[tuple[str, int], list[str]] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        trouble = current_trouble.get()
        try:
            response = await self._sent(request)
            encoding = response.headers.get("content-encoding", "identity").lower()
            if encoding not in ("", "identity"):
                await response.aclose()
                raise httpx2.RemoteProtocolError(f"the server answered with the content encoding {encoding[:40]!r}")
        except Exception as error:
            if trouble:
                trouble.reason = str(error) or type(error).__name__
                trouble.failed.set()
            raise
        kind = response.headers.get("content-type", "").lower()
        if trouble and response.status_code >= HTTP_ERROR:
            trouble.status, trouble.is_json = response.status_code, kind.startswith("application/json")
            trouble.failed.set()
        is_stream = kind.startswith("text/event-stream")  # the mcp package bounds each of its events
        is_call = request.method == "POST"
        if not is_stream or is_call or self._guard is not None:
            times = (CALL_STREAM if is_call else CONNECTION_STREAM) if is_stream else 1
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _BoundedStream(response.stream, self._max_bytes * times)
        return response

    async def _sent(self, request: httpx2.Request) -> httpx2.Response:
        if self._guard is None:
            return await self._inner.handle_async_request(request)
        host, port = request.url.host, request.url.port or (443 if request.url.scheme == "https" else 80)
        if (host, port) not in self._resolved:
            self._resolved[host, port] = await self._guard.addresses(host, port)
        for address in (addresses := self._resolved[host, port]):
            pinned = httpx2.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                response = await self._inner.handle_async_request(pinned)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if address == addresses[-1]:
                    raise
                continue
            response.request = request
            return response
        raise httpx2.ConnectError(f"host {host!r} has no address")

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedStream(httpx2.AsyncByteStream):
    """A body that ends with an error beyond a number of bytes."""

    def __init__(self, inner: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._inner, self._max_bytes = inner, max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._max_bytes
        async for chunk in self._inner:
            left -= len(chunk)
            if left < 0:
                raise httpx2.StreamError(f"the answer is larger than {self._max_bytes} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
