"""Search services: Exa, You.com and a SearXNG server.

In: a query or a URL. Out: `Hit`s and a `Document`. Keys are sent in a header and are in no error and no log.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from ossia.tools.browser.fetch import WebFetcher
from ossia.tools.browser.http_client import HttpClient
from ossia.tools.browser.search import Document, Hit, ProviderError
from ossia.tools.browser.urls import with_scheme

EXA = "https://api.exa.ai"
YOU = "https://api.ydc-index.io"
MAX_FIELD = 4_000  # characters of a title, URL or summary


class _JsonApi:
    """Requests with JSON answers. name: of the service, for errors."""

    def __init__(self, name: str, client: HttpClient, base: str, key: str | None = None) -> None:
        self._name = name
        self._client = client
        self._base = base.rstrip("/")
        self._headers = {"Accept": "application/json"} | ({"x-api-key": key} if key else {})

    async def get(self, path: str, query: Mapping[str, object]) -> Any:
        return await self._send("GET", f"{self._base}{path}?{urlencode(query, quote_via=quote)}", None)

    async def post(self, path: str, body: Mapping[str, object]) -> Any:
        return await self._send("POST", self._base + path, msgspec.json.encode(body))

    async def _send(self, method: str, url: str, body: bytes | None) -> Any:
        headers = self._headers | ({"Content-Type": "application/json"} if body is not None else {})
        try:
            reply = await self._client.send(method, url, headers, body)
        except ProviderError as error:
            raise ProviderError(f"{self._name}: {error}") from error
        if reply.status in (401, 403):
            raise ProviderError(f"{self._name} refused the key ({reply.status})")
        if reply.status != 200:
            raise ProviderError(f"{self._name} answered {reply.status} {reply.reason[:100]}".strip())
        try:
            return msgspec.json.decode(reply.body)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise ProviderError(f"{self._name} answered something that is not JSON") from error


class WebPages:
    """Pages of the web without a search service."""

    def __init__(self, fetcher: WebFetcher) -> None:
        self._fetcher = fetcher

    async def open(self) -> None:
        """The settings were checked when the provider was made."""

    def absolute(self, url: str) -> str:
        return with_scheme(url)

    async def search(self, query: str, topn: int) -> list[Hit]:
        raise ProviderError("there is no search service; open a URL instead")

    async def fetch(self, url: str) -> Document:
        return await self._fetcher.fetch(url)

    async def close(self) -> None:
        """Connections end with their requests."""


class ExaProvider(WebPages):
    """Exa. Pages come from its /contents, and from our own client where it has none."""

    def __init__(self, client: HttpClient, fetcher: WebFetcher, key: str, base: str = EXA) -> None:
        super().__init__(fetcher)
        self._api = _JsonApi("Exa", client, base, key)

    async def search(self, query: str, topn: int) -> list[Hit]:
        body = {"query": query, "numResults": topn, "contents": {"text": True, "summary": True}}
        answer = await self._api.post("/search", body)
        return [
            Hit(_text(each, "title"), url, _text(each, "summary"))
            for each in _objects(answer, "results")
            if (url := _text(each, "url"))
        ]

    async def fetch(self, url: str) -> Document:
        self._fetcher.check(url)
        answer = await self._api.post("/contents", {"urls": [url], "text": {"includeHtmlTags": True}})
        for each in _objects(answer, "results"):
            if html := each.get("text"):
                return Document(url, str(html), title=_text(each, "title") or None)
        return await self._fetcher.fetch(url)


class YouProvider(WebPages):
    """You.com. Pages come from its /v1/contents, and from our own client where it has none."""

    def __init__(self, client: HttpClient, fetcher: WebFetcher, key: str, base: str = YOU) -> None:
        super().__init__(fetcher)
        self._api = _JsonApi("You.com", client, base, key)

    async def search(self, query: str, topn: int) -> list[Hit]:
        answer = await self._api.get("/v1/search", {"query": query, "count": topn})
        results = answer.get("results") if isinstance(answer, dict) else None
        hits = [
            Hit(_text(each, "title"), _text(each, "url"), " ".join(_texts(each.get("snippets"))[:2]))
            for each in _objects(results, "web")
        ]
        hits += [
            Hit(_text(each, "title"), _text(each, "url"), _text(each, "description"))
            for each in _objects(results, "news")
        ]
        return [hit for hit in hits if hit.url][:topn]

    async def fetch(self, url: str) -> Document:
        self._fetcher.check(url)
        answer = await self._api.post("/v1/contents", {"urls": [url], "livecrawl_formats": "html"})
        pages = answer if isinstance(answer, list) else [answer]
        for each in pages:
            if isinstance(each, dict) and (html := each.get("html")):
                return Document(url, str(html), title=_text(each, "title") or None)
        return await self._fetcher.fetch(url)


class SearxngProvider(WebPages):
    """A SearXNG server. Its settings must allow the format json."""

    def __init__(self, client: HttpClient, fetcher: WebFetcher, base: str) -> None:
        super().__init__(fetcher)
        self._api = _JsonApi("SearXNG", client, base)

    async def search(self, query: str, topn: int) -> list[Hit]:
        answer = await self._api.get("/search", {"q": query, "format": "json"})
        hits = [
            Hit(_text(each, "title"), _text(each, "url"), _text(each, "content"))
            for each in _objects(answer, "results")
        ]
        return [hit for hit in hits if hit.url][:topn]


def host_of(base: str) -> str:
    """host or host:port of a service's URL. Raises ValueError if it is no http URL."""
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{base!r} is not an http or https URL")
    return parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"


def _objects(value: object, name: str) -> Iterator[dict[str, Any]]:
    """The objects in a list of an answer. Anything else is skipped."""
    found = value.get(name) if isinstance(value, dict) else None
    return iter([each for each in found if isinstance(each, dict)] if isinstance(found, list) else [])


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    return " ".join(found.split())[:MAX_FIELD] if isinstance(found, str) else ""


def _texts(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
