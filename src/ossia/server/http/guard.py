"""Access rules: API keys, hosts, origins and sizes. Also counts and logs each request.

In: an ASGI app. Out: the same app behind the checks.
"""

import hashlib
import hmac
import logging
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ossia.server.errors import ApiError
from ossia.server.http.decoding.bodies import Bodies, Lease
from ossia.server.http.metrics import ServerMetrics
from ossia.server.http.requests import client_of, error_response
from ossia.server.settings import Settings, is_loopback

log = logging.getLogger("ossia.server")
PUBLIC_PATHS = ("/", "/health")  # without a key: they contain no user's data


class Guard:
    """Rejects requests that break a rule, in the form of the API that they use."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: ServerMetrics, bodies: Bodies) -> None:
        self.app, self.settings, self.metrics, self.bodies = app, settings, metrics, bodies
        self._keys = [hashlib.sha256(key.encode()).digest() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        entry = _RequestLog(send)
        scope.setdefault("state", {})
        try:
            self._check(scope)
            entry.lease = scope["state"]["body"] = self.bodies.lease(client_of(scope))
            limited = _limited(receive, self.settings.max_body_bytes)
            await self.app(scope, limited, entry.send)
        except ApiError as error:
            await error_response(error, scope["path"])(scope, receive, entry.send)
        except Exception:
            entry.status = 500
            raise
        finally:
            entry.release()
            self._log(scope, entry)

    def _check(self, scope: Scope) -> None:
        headers = scope["headers"]
        if sum(len(name) + len(value) for name, value in headers) > self.settings.max_header_bytes:
            raise ApiError(431, f"the headers are larger than {self.settings.max_header_bytes} bytes", code="too_large")
        named = {name: value.decode("latin-1") for name, value in headers}
        self._check_host(named)
        self._check_origin(named)
        self._check_key(scope, named)
        length = named.get(b"content-length", "0")
        if length.isdecimal():
            check_size(int(length), self.settings.max_body_bytes)

    def _check_host(self, headers: dict[bytes, str]) -> None:
        """Without keys, reject host names other than this machine's: DNS rebinding lets a foreign page use one.

        Every browser sends a host; a request without one is a health probe.
        """
        if self._keys or not is_loopback(self.settings.host) or b"host" not in headers:
            return
        host = _host_name(headers[b"host"])
        if not is_loopback(host) and host not in self.settings.allow_hosts:
            raise ApiError(
                403, f"host {host[:200]!r} is not served: start with --allow-host {host[:200]}", code="unknown_host"
            )

    def _check_origin(self, headers: dict[bytes, str]) -> None:
        """A browser sends the origin of the page. Only this server's page and allowed origins may send requests."""
        origin = headers.get(b"origin")
        if origin is None or "*" in self.settings.allow_origins or origin in self.settings.allow_origins:
            return
        if urlsplit(origin).netloc.lower() != headers.get(b"host", "").lower():
            message = f"pages of {origin[:200]!r} may not ask: start with --allow-origin {origin[:200]}"
            raise ApiError(403, message, code="unknown_origin")

    def _check_key(self, scope: Scope, headers: dict[bytes, str]) -> None:
        if not self._keys or scope["path"] in PUBLIC_PATHS or scope["method"] == "OPTIONS":
            return
        kind, _, bearer = headers.get(b"authorization", "").partition(" ")
        given = bearer.strip() if kind.lower() == "bearer" else headers.get(b"x-api-key", "")
        digest = hashlib.sha256(given.encode()).digest()
        # compare every key, so that the time does not reveal which one matches
        found = [number for number, key in enumerate(self._keys) if hmac.compare_digest(key, digest)]
        if not found:
            wanted = "wrong API key" if given else "no API key: send it as 'Authorization: Bearer KEY'"
            raise ApiError(401, wanted, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        scope["state"]["client"] = f"key {found[0]}"

    def _log(self, scope: Scope, entry: "_RequestLog") -> None:
        route: Any = scope.get("route")
        path = str(getattr(route, "path", None) or "other")
        self.metrics.requests.labels(path, str(entry.status)).inc()
        if self.settings.log_requests:
            seconds = perf_counter() - entry.started
            log.info("%s %s %d %.3f s", scope["method"], path, entry.status, seconds)


class _RequestLog:
    """The status of a response; 499 if the client disconnected before it."""

    def __init__(self, send: Send) -> None:
        self._send, self.status, self.started = send, 499, perf_counter()
        self.lease: Lease | None = None

    def release(self) -> None:
        """Free the memory of the body."""
        if self.lease:
            self.lease.release()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.release()
        await self._send(message)


def _limited(receive: Receive, max_bytes: int) -> Receive:
    """Count the bytes of a body as they arrive: its stated length may be missing or wrong."""
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        check_size(read, max_bytes)
        return message

    return limited


def check_size(size: int, max_bytes: int) -> None:
    """Raises ApiError (413) for a body of more than `max_bytes` bytes."""
    if size > max_bytes:
        raise ApiError(413, f"the body is larger than {max_bytes} bytes", code="too_large")


def _host_name(host: str) -> str:
    """Without the port."""
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[").lower()
    return host.partition(":")[0].lower()
