"""Search services: exact requests, their answers, and keys that never show. A local server takes their place."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ossia.tools.addresses import AddressGuard
from ossia.tools.browser.corpus import CorpusProvider
from ossia.tools.browser.fetch import WebFetcher
from ossia.tools.browser.http_client import HttpClient
from ossia.tools.browser.providers import ExaProvider, SearxngProvider, YouProvider
from ossia.tools.browser.replay import RecordingProvider, ReplayProvider
from ossia.tools.browser.search import Document, Hit, ProviderError, SearchProvider
from ossia.tools.browser.settings import search_provider
from tests.support.browsing import FakeWeb
from tests.support.web_server import Reply, WebServer, http, web_server

Value = TypeVar("Value")
KEY = "sk-secret-key"


def using(replies: dict[str, Reply], use: Callable[[WebServer, HttpClient], Awaitable[Value]]) -> Value:
    async def run() -> Value:
        async with web_server(replies) as web:
            return await use(web, HttpClient(AddressGuard({web.host})))

    return asyncio.run(run())


def json_reply(value: object, status: str = "200 OK") -> bytes:
    return http(json.dumps(value).encode(), status, content_type="application/json")


def exa(web: WebServer, client: HttpClient) -> SearchProvider:
    return ExaProvider(client, WebFetcher(client), KEY, f"http://{web.host}")


def you(web: WebServer, client: HttpClient) -> SearchProvider:
    return YouProvider(client, WebFetcher(client), KEY, f"http://{web.host}/")


def searxng(web: WebServer, client: HttpClient) -> SearchProvider:
    return SearxngProvider(client, WebFetcher(client), f"http://{web.host}/s")


EXA_HITS = {
    "results": [
        {"title": "T", "url": "https://a.test/", "summary": "a\n b", "text": "long"},
        {"title": None, "url": "https://b.test/"},
        {"title": "no url"},
        "broken",
    ]
}
YOU_HITS = {
    "results": {
        "web": [
            {"title": "W", "url": "https://w.test/", "snippets": ["one", "two", "three"]},
            {"url": "https://v.test/", "snippets": None},
        ],
        "news": [{"title": "N", "url": "https://n.test/", "description": "new"}],
    }
}
SEARXNG_HITS = {
    "results": [{"title": "S", "url": "https://s.test/", "content": "c"}, {"title": "S2", "url": "https://s2.test/"}]
}


def test_exa_is_asked_for_results_with_summaries():
    async def use(web: WebServer, client: HttpClient) -> None:
        assert await exa(web, client).search("q?", 7) == [
            Hit("T", "https://a.test/", "a b"),
            Hit("", "https://b.test/"),
        ]
        method, path, headers, body = web.requests[0]
        assert (method, path, headers["x-api-key"], headers["content-type"]) == (
            "POST",
            "/search",
            KEY,
            "application/json",
        )
        assert json.loads(body) == {"query": "q?", "numResults": 7, "contents": {"text": True, "summary": True}}

    using({"/search": json_reply(EXA_HITS)}, use)


def test_exa_gives_pages_with_their_tags():
    async def use(web: WebServer, client: HttpClient) -> None:
        found = await exa(web, client).fetch("https://a.test/")
        assert found == Document("https://a.test/", "<p>x", title="T")
        assert json.loads(web.requests[0][3]) == {"urls": ["https://a.test/"], "text": {"includeHtmlTags": True}}

    using({"/contents": json_reply({"results": [{"title": "T", "text": "<p>x"}]})}, use)


def test_you_is_asked_for_results_and_pages():
    async def use(web: WebServer, client: HttpClient) -> None:
        provider = you(web, client)
        assert await provider.search("a b&c", 5) == [
            Hit("W", "https://w.test/", "one two"), Hit("", "https://v.test/"), Hit("N", "https://n.test/", "new"),
        ]  # fmt: skip
        assert await provider.fetch("https://w.test/") == Document("https://w.test/", "<p>y", title="Y")
        (method, path, headers, _), contents = web.requests
        assert (method, path, headers["x-api-key"]) == ("GET", "/v1/search?query=a%20b%26c&count=5", KEY)
        assert contents[:2] == ("POST", "/v1/contents")
        assert json.loads(contents[3]) == {"urls": ["https://w.test/"], "livecrawl_formats": "html"}

    using({"/v1/search": json_reply(YOU_HITS), "/v1/contents": json_reply([{"html": "<p>y", "title": "Y"}])}, use)


@pytest.mark.parametrize(("make", "path", "empty"), [(exa, "/contents", {"results": []}), (you, "/v1/contents", [])])
def test_a_page_that_a_service_lacks_is_fetched_from_the_web_without_the_key(
    make: Callable[..., SearchProvider], path: str, empty: object
):
    async def use(web: WebServer, client: HttpClient) -> None:
        assert (await make(web, client).fetch(f"http://{web.host}/page")).text == "<p>own"
        assert KEY not in str(web.requests[1])

    using({path: json_reply(empty), "/page": http(b"<p>own")}, use)


def test_searxng_is_asked_for_json_and_pages_come_from_the_web():
    async def use(web: WebServer, client: HttpClient) -> None:
        provider = searxng(web, client)
        assert await provider.search("q", 1) == [Hit("S", "https://s.test/", "c")]
        assert (await provider.fetch(f"http://{web.host}/page")).text == "<p>own"
        assert [each[1] for each in web.requests] == ["/s/search?q=q&format=json", "/page"]

    using({"/s/search": json_reply(SEARXNG_HITS), "/page": http(b"<p>own")}, use)


BROKEN: list[tuple[bytes, str]] = [
    (json_reply({}, "401 Unauthorized"), "refused the key (401)"),
    (json_reply({}, "429 Too Many Requests"), "answered 429 Too Many Requests"),
    (http(KEY.encode(), "500 Broken"), "answered 500 Broken"),
    (http(b"<html>", content_type="text/html"), "answered something that is not JSON"),
    (b"", ": the connection broke"),
    (http(status="302 Found", location="http://127.0.0.1/steal"), "answered 302 Found"),
    (b"[" * 100_000, ": the connection broke"),
    (http(b"[" * 100_000), "answered something that is not JSON"),
]


@pytest.mark.parametrize("make", [exa, you, searxng])
@pytest.mark.parametrize(("reply", "reason"), BROKEN)
def test_failures_are_named_without_the_key(
    make: Callable[..., SearchProvider], reply: bytes, reason: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)

    async def use(web: WebServer, client: HttpClient) -> str:
        with pytest.raises(ProviderError) as error:
            await make(web, client).search("q", 5)
        return repr(error.value) + repr(error.value.__cause__)

    said = using(dict.fromkeys(("/search", "/v1/search", "/s/search"), reply), use)
    assert reason in said
    assert KEY not in said
    assert KEY not in caplog.text


@pytest.mark.parametrize("make", [exa, you, searxng])
@pytest.mark.parametrize(
    "answer", [[], {}, None, 1, {"results": None}, {"results": {"web": 1, "news": [1]}}, {"results": [[]]}]
)
def test_answers_of_another_form_are_no_results(make: Callable[..., SearchProvider], answer: object):
    async def use(web: WebServer, client: HttpClient) -> list[Hit]:
        return await make(web, client).search("q", 5)

    assert using(dict.fromkeys(("/search", "/v1/search", "/s/search"), json_reply(answer)), use) == []


def test_recordings_give_the_same_answers_again(tmp_path: Path):
    path = tmp_path / "calls.jsonl"
    hits = [Hit("T", "https://a.test/", "s")]
    recorder = RecordingProvider(FakeWeb({"https://a.test/": "<p>é"}, hits), path)

    async def answers(provider: SearchProvider) -> list[Any]:
        await provider.open()
        found: list[Any] = [await provider.search("q", 5), await provider.fetch("https://a.test/")]
        for call in (provider.fetch("https://none.test/"),):
            with pytest.raises(ProviderError) as error:
                await call
            found.append(str(error.value))
        return found

    recorded = asyncio.run(answers(recorder))
    assert recorded == [hits, Document("https://a.test/", "<p>é"), "404 not found"]
    replay = ReplayProvider(path)
    assert asyncio.run(answers(replay)) == recorded
    assert asyncio.run(replay.search("q", 3)) == hits  # also with another topn
    with pytest.raises(ProviderError, match="this search was not recorded"):
        asyncio.run(replay.search("other", 5))
    with pytest.raises(ProviderError, match="this page was not recorded"):
        asyncio.run(replay.fetch("https://other.test/"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "line 1, is not a recording"), ('{"query": "q"}\n{"x": 1}', "line 2, is not"), ("{}", "neither a query nor a url"), ("[" * 9_999, "line 1, is not")],
)  # fmt: skip
def test_a_broken_recording_is_named_with_its_line(tmp_path: Path, text: str, reason: str):
    path = tmp_path / "calls.jsonl"
    path.write_text(text)
    with pytest.raises(ProviderError, match=reason):
        asyncio.run(ReplayProvider(path).open())


def test_a_missing_recording_is_named(tmp_path: Path):
    with pytest.raises(ProviderError, match="cannot be read: No such file"):
        asyncio.run(ReplayProvider(tmp_path / "none.jsonl").open())


def test_search_values_name_providers(tmp_path: Path):
    keys = {"EXA_API_KEY": KEY, "YDC_API_KEY": KEY}
    values = {f"corpus:{tmp_path}": CorpusProvider, "exa": ExaProvider, "you": YouProvider, "searxng:http://127.0.0.1:8888": SearxngProvider, "replay:x": ReplayProvider}  # fmt: skip
    for value, kind in values.items():
        assert isinstance(search_provider(value, keys), kind)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("exa", "set the environment variable EXA_API_KEY"), ("you", "set the environment variable YDC_API_KEY"), ("google", "is not a search provider; give corpus:FOLDER"),
        ("corpus:", "is not a search provider"), ("searxng:", "is not a search provider"), ("searxng:ftp://x", "is not an http or https URL"), ("", "is not a search provider"),
    ],
)  # fmt: skip
def test_other_values_and_missing_keys_are_refused(value: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        search_provider(value, {"EXA_API_KEY": " ", "YDC_API_KEY": "a\nb"})


def test_a_searxng_server_may_be_private_but_the_pages_may_not():
    async def use(web: WebServer, _: HttpClient) -> None:
        provider = search_provider(f"searxng:http://{web.host}", {})
        assert len(await provider.search("q", 5)) == 2
        with pytest.raises(ProviderError, match=r"port|public"):
            await provider.fetch(f"http://{web.host}/page")
        allowed = search_provider(f"searxng:http://{web.host}", {}, allow_hosts=(web.host,))
        assert (await allowed.fetch(f"http://{web.host}/page")).text == "<p>own"
        limited = search_provider(
            f"searxng:http://{web.host}", {}, allow_hosts=(web.host,), allowed_domains=("a.test",)
        )
        with pytest.raises(ProviderError, match="its domain is not allowed"):
            await limited.fetch(f"http://{web.host}/page")

    using({"/search": json_reply(SEARXNG_HITS), "/page": http(b"<p>own")}, use)
