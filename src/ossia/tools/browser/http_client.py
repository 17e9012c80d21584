"""HTTP requests of the browser: to checked addresses only, with limits of time and size.

In: one request. Out: one reply. A name is resolved once, its addresses are checked, and the connection goes to them.
TLS and the Host header keep the name. It follows no redirects and keeps no cookies or connections. If its task is
cancelled, the connection is closed.
"""

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import httpx

from ossia.tools.addresses import AddressGuard, AddressRefusedError
from ossia.tools.browser.search import ProviderError

USER_AGENT = "Mozilla/5.0 (compatible; Ossia browser tool)"
MAX_ADDRESSES = 3  # of one host, tried in their order
PORTS = frozenset({80, 443})


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of one request. max_bytes: also after decompression."""

    seconds: float = 20.0
    max_bytes: int = 10_000_000


@dataclass(frozen=True, slots=True)
class HttpReply:
    """status, header fields (names in lower case) and body. location: the absolute URL of a redirect."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    location: str | None = None


class HttpClient:
    """Sends single requests. guard: which addresses may be reached; other ports than 80 and 443 need a trusted host.

    tls: the certificates that are trusted; default: those of certifi.
    """

    def __init__(
        self, guard: AddressGuard, limits: HttpLimits | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.guard = guard
        self.limits = limits or HttpLimits()
        self._tls = tls

    async def send(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> HttpReply:
        """Send one request. Raises ProviderError, whose message has no header and no body."""
        if self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)  # reads certificates
        transport = _PinnedTransport(self.guard, self._tls)
        fields = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip, deflate", **(headers or {})}
        try:
            async with (
                asyncio.timeout(self.limits.seconds),
                httpx.AsyncClient(transport=transport, timeout=self.limits.seconds, trust_env=False) as client,
                client.stream(method, httpx.URL(url), headers=fields, content=body) as reply,
            ):
                return await self._read(reply)
        except TimeoutError as error:
            raise ProviderError(f"timed out after {self.limits.seconds:g} s") from error
        except httpx.TimeoutException as error:
            raise ProviderError(f"timed out after {self.limits.seconds:g} s") from error
        except AddressRefusedError as error:
            raise ProviderError(str(error)) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError, ValueError) as error:
            raise ProviderError("not a valid http or https URL") from error
        except ssl.SSLError as error:
            raise ProviderError("the TLS connection failed") from error
        except (httpx.HTTPError, OSError) as error:
            raise ProviderError(_described(error)) from error

    async def _read(self, reply: httpx.Response) -> HttpReply:
        headers = {name.lower(): value for name, value in reply.headers.items()}
        location = None
        if reply.has_redirect_location:  # its body is not read
            location = str(reply.url.join(headers["location"]))
            return HttpReply(reply.status_code, reply.reason_phrase, headers, b"", location)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.limits.max_bytes:
            raise ProviderError(f"the page is larger than {self.limits.max_bytes} bytes")
        encoding = headers.get("content-encoding", "identity").strip().lower()
        body = b"".join([part async for part in _decoded(reply, encoding, self.limits.max_bytes)])
        return HttpReply(reply.status_code, reply.reason_phrase, headers, body)


class _PinnedTransport(httpx.AsyncBaseTransport):
    """Connects to the checked addresses of a request's host. Every request is resolved and checked anew."""

    def __init__(self, guard: AddressGuard, tls: ssl.SSLContext) -> None:
        self._guard = guard
        limits = httpx.Limits(max_connections=4, max_keepalive_connections=0)
        self._inner = httpx.AsyncHTTPTransport(verify=tls, trust_env=False, limits=limits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol("only http and https")
        host, port = url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)
        if port not in PORTS and not self._guard.is_trusted(host, port):
            raise AddressRefusedError(f"port {port} of host {host!r} is not reached; only 80 and 443 are")
        addresses = (await self._guard.addresses(host, port))[:MAX_ADDRESSES]
        for place, address in enumerate(addresses):
            pinned = httpx.Request(
                request.method, url.copy_with(host=address), headers=request.headers, stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )  # fmt: skip
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if place == len(addresses) - 1:
                    raise
        raise AddressRefusedError(f"host {host!r} has no address")

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _decoded(reply: httpx.Response, encoding: str, limit: int) -> AsyncIterator[bytes]:
    """The body, decompressed with a limit. Raises ProviderError for a larger body or another encoding."""
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise ProviderError(f"the content encoding {encoding[:40]!r} is not supported")
    inflate = _Inflate(encoding) if encoding not in ("identity", "") else None
    size = 0
    async for raw in reply.aiter_raw():
        part = raw if inflate is None else inflate.part(raw, limit + 1 - size)
        size += len(part)
        if size > limit:
            raise ProviderError(f"the page is larger than {limit} bytes")
        yield part


class _Inflate:
    """Decompresses gzip and deflate (with or without a zlib header)."""

    def __init__(self, encoding: str) -> None:
        self._windows = [zlib.MAX_WBITS | 16] if encoding.endswith("gzip") else [zlib.MAX_WBITS, -zlib.MAX_WBITS]
        self._stream = zlib.decompressobj(self._windows[0])

    def part(self, raw: bytes, limit: int) -> bytes:
        """The next part of the text, at most `limit` bytes. A longer part is over the page's limit anyway."""
        try:
            part = self._stream.decompress(raw, limit)
        except zlib.error as error:
            if len(self._windows) == 1:
                raise ProviderError("the compressed page is damaged") from error
            self._windows = self._windows[1:]
            self._stream = zlib.decompressobj(self._windows[0])
            return self.part(raw, limit)
        self._windows = self._windows[:1]
        return part


def _described(error: Exception) -> str:
    """What failed, without addresses or paths of this machine."""
    if isinstance(error, httpx.ConnectError):
        return "the connection failed"
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError | httpx.CloseError):
        return "the connection broke"
    return f"the request failed ({type(error).__name__})"
