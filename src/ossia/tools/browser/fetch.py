"""Fetches web pages: redirects, content types and character sets.

In: a URL. Out: a `Document`. Each redirect is a new request, so its address is checked too.
"""

import asyncio
import codecs
import re
from collections.abc import Callable

import httpx

from ossia.tools.browser.http_client import HttpClient, HttpReply
from ossia.tools.browser.search import Document, ProviderError
from ossia.tools.browser.urls import with_scheme

MAX_REDIRECTS = 5
_ACCEPT = "text/html,application/xhtml+xml,text/plain;q=0.9,application/json;q=0.8,application/xml;q=0.8,*/*;q=0.1"
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_TEXT = re.compile(
    r"text/[\w.+-]+|application/(?:[\w.+-]+\+)?(?:json|xml)|application/(?:x-ndjson|javascript|yaml|toml)"
)
_HOST = re.compile(rb"[a-z0-9._-]+|[0-9a-f:.]+")
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w:.-]{1,40})", re.I)
_CHARSET = re.compile(
    r"utf[-_]?(?:8|16)(?:[-_]?(?:le|be|sig))?|ascii|iso[-_]?8859[-_]?\d+|latin[-_]?1|cp\d+|koi8[-_][rut]|mac[-_]roman"
    r"|shift[-_]jis|euc[-_](?:jp|kr)|iso2022[-_]jp|gb2312|gbk|gb18030|big5(?:hkscs)?"
)
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class WebFetcher:
    """Fetches pages of the web. is_allowed: of each URL, also after a redirect."""

    def __init__(self, client: HttpClient, is_allowed: Callable[[str], bool] = lambda url: True) -> None:
        self._client = client
        self._is_allowed = is_allowed

    async def fetch(self, url: str) -> Document:
        """The page at a URL. Raises ProviderError with the reason."""
        address = with_scheme(url)
        try:
            async with asyncio.timeout(self._client.limits.seconds):
                for _ in range(MAX_REDIRECTS + 1):
                    self.check(address)
                    reply = await self._client.send("GET", address, {"Accept": _ACCEPT})
                    if reply.location is None:
                        return await asyncio.to_thread(_document, address, reply)
                    address = reply.location
        except TimeoutError as error:
            raise ProviderError(f"timed out after {self._client.limits.seconds:g} s") from error
        raise ProviderError(f"more than {MAX_REDIRECTS} redirects")

    def check(self, url: str) -> None:
        """Raises ProviderError for a URL that is not fetched."""
        try:
            parts = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise ProviderError("not a valid http or https URL") from error
        if parts.scheme not in ("http", "https") or not _HOST.fullmatch(parts.raw_host):
            raise ProviderError("not a valid http or https URL")
        if parts.userinfo:
            raise ProviderError("URLs with a user name are not opened")
        if not self._is_allowed(url):
            raise ProviderError("its domain is not allowed")


def _document(url: str, reply: HttpReply) -> Document:
    if not 200 <= reply.status < 300:
        raise ProviderError(f"{reply.status} {reply.reason}".strip()[:200])
    kind, _, parameters = reply.headers.get("content-type", "").lower().partition(";")
    kind = kind.strip()
    if kind and kind not in _HTML and not _TEXT.fullmatch(kind):
        raise ProviderError(f"the content type {kind[:80]!r} is not text")
    if not kind and b"\x00" in reply.body[:1_024]:
        raise ProviderError("the content is not text")
    text = decoded(reply.body, parameters)
    is_html = kind in _HTML or (not kind and "<" in text[:1_024])
    return Document(url, text, is_html)


def decoded(body: bytes, parameters: str = "") -> str:
    """Text of bytes: by their mark, the charset of the content type, that of the HTML, or UTF-8. It never fails."""
    for mark, charset in _BOMS:
        if body.startswith(mark):
            return body.decode(charset, "replace")
    named = re.search(r"charset\s*=\s*[\"']?([\w:.-]{1,40})", parameters)
    found = _known(named[1]) if named else None
    if found is None and (meta := _META_CHARSET.search(body[:4_096])):
        found = _known(meta[1].decode("ascii", "replace"))
    return body.decode(found or "utf-8", "replace")


def _known(charset: str) -> str | None:
    """Python's name of a text charset. None for others: some of Python's codecs are slow or no charsets."""
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        return None
    if name == "iso8859-1":
        return "cp1252"  # as web browsers read it
    return name if _CHARSET.fullmatch(name.replace("_", "-")) or _CHARSET.fullmatch(name) else None
