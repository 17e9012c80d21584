"""The browser's functions: cursors, links, find, arguments, limits, and the state of a conversation."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_harmony import ToolNamespaceConfig

from ossia.tools.browser.citations import CitedSource
from ossia.tools.browser.declaration import browser_namespace
from ossia.tools.browser.results import BrowserLimits, BrowserResult
from ossia.tools.browser.search import Document, Hit, ProviderError
from ossia.tools.browser.session import BrowserSession
from ossia.tools.browser.stack import MAX_STATE
from ossia.tools.functions import ToolOutput
from ossia.tools.session import ToolProgress, ToolUnavailableError
from tests.support.browsing import FakeWeb, browser

A = (
    "<title>Page A</title><p>first line</p><a href='/b'>to b</a><p>the word</p>"
    + "<p>filler</p>" * 20
    + "<p>a Word again</p>"
)
B = "<title>Page B</title><p>second</p>"
HITS = [Hit("Hit A", "https://a.test/", "about a"), Hit("Hit B", "https://a.test/b", "about b")]
WEB = {"https://a.test/": A, "https://a.test/b": B}


def web() -> FakeWeb:
    return FakeWeb(WEB, HITS)


def run(session: BrowserSession, *calls: tuple[str, object]) -> list[ToolOutput]:
    async def all_of_them() -> list[ToolOutput]:
        return [await session.run(name, args if isinstance(args, str) else json.dumps(args)) for name, args in calls]

    return asyncio.run(all_of_them())


def last(session: BrowserSession, *calls: tuple[str, object]) -> ToolOutput:
    return run(session, *calls)[-1]


def heads(outputs: list[ToolOutput]) -> list[str]:
    return [each.text.splitlines()[0] for each in outputs]


def test_the_declaration_is_that_of_harmony():
    reference = ToolNamespaceConfig.browser()
    ours = browser_namespace()
    assert (ours.name, ours.description) == (reference.name, reference.description)
    assert [(each.name, each.description, each.parameters) for each in ours.tools] == [
        (each.name, each.description, each.parameters) for each in reference.tools
    ]


def test_every_call_adds_a_cursor_and_minus_one_is_the_newest():
    outputs = run(
        browser(web()),
        ("search", {"query": "q"}), ("open", {"id": 0}), ("open", {"loc": 2}), ("find", {"pattern": "WORD"}),
        ("open", {"cursor": 0, "id": 1}), ("open", {}),
    )  # fmt: skip
    assert heads(outputs) == [
        "[0] q", "[1] Page A (https://a.test/)", "[2] Page A (https://a.test/)",
        "[3] Find results for text: `word` in `Page A` (https://a.test//find?pattern=word)",
        "[4] Page B (https://a.test/b)", "[5] Page B (https://a.test/b)",
    ]  # fmt: skip


def test_a_link_of_find_opens_the_page_four_lines_before_the_match():
    found, opened = run(
        browser(web()), ("open", {"id": "https://a.test/"}), ("find", {"pattern": "word"}), ("open", {"id": 1})
    )[1:]
    assert "L6: # 【1†match at L48】" in found.text
    assert "**viewing lines [44 - " in opened.text


def test_an_open_page_is_not_fetched_again_through_a_link_but_by_its_url():
    pages = web()
    run(
        browser(pages),
        ("search", {"query": "q"}),
        ("open", {"id": 0}),
        ("open", {"cursor": 0, "id": 0}),
        ("open", {"id": "https://a.test/"}),
    )
    assert pages.fetched == ["https://a.test/", "https://a.test/"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (("open", {"id": 99}), "Invalid link id `99`."),
        (("open", {"cursor": 77}), "Cursor `77` is out of range. Available cursor indices: [0 - 1]."),
        (("open", {"cursor": -2}), "Cursor `-2` is out of range. Available cursor indices: [0 - 1]."),
        (("open", {"loc": 5000}), "Invalid location parameter: `5000`. Cannot exceed page maximum of 48."),
        (("open", {"id": "https://x.test/"}), "Error fetching URL `https://x.test/`: 404 not found"),
        (("find", {"pattern": "word", "cursor": 9}), "Cursor `9` is out of range. Available cursor indices: [0 - 1]."),
        (("open", "[1]"), '{"error": "Invalid function arguments"}'),
        (("open", '{"id": 0} and more'), '{"error": "Invalid function arguments"}'),
        (("search", {}), '{"error": "Invalid function arguments: `query` must be a string that is not empty"}'),
        (("search", ""), '{"error": "Invalid function arguments: `query` must be a string that is not empty"}'),
        (("find", {"pattern": None}), '{"error": "Invalid function arguments: `pattern` must be a string that is not empty"}'),
        (("open", {"cursor": "x"}), '{"error": "Invalid function arguments: `cursor` must be a whole number"}'),
        (("open", {"loc": 1.5}), '{"error": "Invalid function arguments: `loc` must be a whole number"}'),
        (("click", {}), '{"error": "Unknown function: click"}'),
    ],
)  # fmt: skip
def test_errors_are_text_and_add_no_page(call: tuple[str, object], text: str):
    session = browser(web())
    failed, after = run(session, ("search", {"query": "q"}), ("open", {"id": 0}), call, ("open", {}))[2:]
    assert (failed.text, failed.failed) == (text, True)
    assert after.text.startswith("[2] Page A")


def test_without_pages_there_is_nothing_to_open():
    assert last(browser(web()), ("open", {"cursor": 0})).text == "No pages to access!"
    assert last(browser(web()), ("find", {"pattern": "x"})).text == "No pages to access!"


def test_a_failed_search_says_why_without_details_of_the_program():
    class Broken(FakeWeb):
        async def search(self, query: str, topn: int) -> list[Hit]:
            raise ProviderError("the key is not valid") if query == "key" else RuntimeError("secret")

    outputs = run(browser(Broken({})), ("search", {"query": "key"}), ("search", {"query": "other"}))
    assert [each.text for each in outputs] == [
        "Error during search for `key`: the key is not valid",
        "Error during search for `other`: RuntimeError",
    ]


def test_arguments_are_taken_in_any_order_with_the_slips_of_models():
    session = browser(web())
    run(session, ("search", '{"source": "web", "topn": "3", "unknown": [1], "query": "q"}'))
    outputs = run(
        session,
        ("open", '{"loc": 0.0, "cursor": "0", "id": "1"}'),
        ("open", '{"num_lines": null, "cursor": 0, "id": 1.0}'),
    )
    assert heads(outputs) == ["[1] Page B (https://a.test/b)", "[2] Page B (https://a.test/b)"]


@pytest.mark.parametrize(("topn", "asked"), [(1, 1), (3, 3), (20, 20), (500, 20), (0, 1), (-5, 1), (None, 10)])
def test_topn_is_between_1_and_20(topn: int | None, asked: int):
    pages = FakeWeb({}, [Hit(f"t{i}", f"https://t.test/{i}") for i in range(50)])
    output = last(browser(pages), ("search", {"query": "q", "topn": topn}))
    assert pages.queries == [("q", asked)]
    assert output.text.count("  * 【") == asked


def test_view_source_shows_the_html():
    first, second, third = run(
        browser(web()), ("open", {"id": "https://a.test/b", "view_source": True}), ("open", {"id": "view-source:https://a.test/b"}),
        ("open", {"view_source": "true", "cursor": 0}),
    )  # fmt: skip
    assert "<title>Page B</title><p>second</p>" in first.text
    assert first.text[3:] == second.text[3:] == third.text[3:]


def test_results_say_what_a_call_did():
    outputs = run(
        browser(web()), ("search", {"query": "q"}), ("open", {"id": 0}), ("find", {"pattern": "word"}), ("open", {"cursor": 0}),
        ("open", {"id": "https://x.test/"}), ("find", {"pattern": "x", "cursor": 9}), ("open", {"id": 55, "cursor": 1}), ("search", {}),
    )  # fmt: skip
    assert [each.details for each in outputs] == [
        BrowserResult("search", query="q", title="q", sources=["https://a.test/", "https://a.test/b"], cursor=0),
        BrowserResult("open_page", url="https://a.test/", title="Page A", sources=["https://a.test/"], cursor=1),
        BrowserResult("find_in_page", pattern="word", url="https://a.test/", title="Page A", cursor=2),
        BrowserResult("open_page", url="", title="q", cursor=3),
        BrowserResult("open_page", url="https://x.test/"),
        BrowserResult("find_in_page", pattern="x", url=""),
        BrowserResult("open_page", url="https://a.test/"),
        BrowserResult("search", query=""),
    ]


def test_a_link_that_cannot_be_fetched_is_named_in_the_result():
    session = browser(FakeWeb({}, [Hit("Dead", "https://dead.test/")]))
    failed = last(session, ("search", {"query": "q"}), ("open", {"id": 0}))
    assert failed.text == "Error fetching URL `https://dead.test/`: 404 not found"
    assert failed.details == BrowserResult("open_page", url="https://dead.test/")


def test_progress_is_reported():
    seen: list[ToolProgress] = []
    asyncio.run(browser(web()).run("search", '{"query": "q"}', seen.append))
    assert seen == [ToolProgress("searching q", "status")]


def test_a_response_has_a_limit_of_calls_and_of_tokens():
    session = browser(web(), BrowserLimits(max_calls=2))
    assert [each.failed for each in run(session, *[("search", {"query": "q"})] * 4)] == [False, False, True, True]
    session.begin_response()
    assert not last(session, ("search", {"query": "q"})).failed
    session = browser(web(), BrowserLimits(max_tokens=50))
    outputs = run(session, *[("search", {"query": "q"})] * 3)
    assert [each.failed for each in outputs] == [False, True, True]
    assert outputs[-1].text == "Limit of 50 tokens of pages reached. Answer with what you have found."


def test_a_view_is_bounded_even_with_num_lines():
    long = FakeWeb({"https://long.test/": "<p>" + "word " * 100_000})
    limits = BrowserLimits(max_view_tokens=2_000)
    assert len(last(browser(long, limits), ("open", {"id": "https://long.test/", "num_lines": 10_000})).text) < 20_000


def test_allowed_domains_filter_hits_fetches_and_redirects():
    hits = [Hit("ok", "https://docs.a.test/x"), Hit("no", "https://evila.test/"), Hit("no", "not a url")]
    pages = FakeWeb({"https://a.test/r": Document("https://other.test/", "x"), "https://a.test/": A}, hits)
    session = browser(pages, BrowserLimits(allowed_domains=("a.test",)))
    search, opened, refused, redirected = run(
        session, ("search", {"query": "q"}), ("open", {"id": "a.test/"}), ("open", {"id": "https://evila.test/"}), ("open", {"id": "https://a.test/r"}),
    )  # fmt: skip
    assert search.details.sources == ["https://docs.a.test/x"]  # type: ignore[union-attr]
    assert not opened.failed
    assert refused.text == "Error fetching URL `https://evila.test/`: its domain is not allowed"
    assert redirected.text == "Error fetching URL `https://a.test/r`: it redirects to a domain that is not allowed"
    assert pages.fetched == ["https://a.test/", "https://a.test/r"]


def test_a_provider_that_cannot_work_makes_the_tool_unavailable():
    class Keyless(FakeWeb):
        async def open(self) -> None:
            raise ProviderError("set EXA_API_KEY")

    with pytest.raises(ToolUnavailableError, match="the browser cannot start: set EXA_API_KEY"):
        asyncio.run(browser(Keyless({})).open())


def test_citations_resolve_to_pages_and_lines_of_results_to_their_links():
    session = browser(web())
    run(session, ("search", {"query": "q"}), ("open", {"id": 0}), ("find", {"pattern": "word"}))
    assert session.cited_source(0, 4) == CitedSource("Hit A", "https://a.test/")
    assert session.cited_source(0, 5) == CitedSource("Hit B", "https://a.test/b")
    assert session.cited_source(0, 99) == CitedSource("Hit B", "https://a.test/b")
    assert session.cited_source(1, 3) == session.cited_source(2, None) == CitedSource("Page A", "https://a.test/")
    assert [session.cited_source(*each) for each in ((0, None), (0, 1), (3, 1), (-1, 1))] == [None] * 4


def test_a_conversation_continues_from_its_state():
    first = browser(web())
    run(first, ("search", {"query": "q"}), ("open", {"id": 0}), ("find", {"pattern": "word"}))
    second = browser(web())
    second.restore_state(first.export_state())
    calls = [
        ("open", {"cursor": 0, "id": 1}),
        ("open", {"cursor": 1, "loc": 3}),
        ("open", {"cursor": 2, "id": 1}),
        ("open", {"cursor": 9}),
    ]
    assert run(second, *calls) == run(first, *calls)


def test_a_state_has_at_most_256_kb_and_pages_beyond_are_fetched_again():
    pages = FakeWeb({f"https://big.test/{i}": f"<title>T{i}</title><p>" + "é word " * 8_000 for i in range(12)})
    first = browser(pages)
    run(first, *[("open", {"id": f"https://big.test/{i}"}) for i in range(12)], ("search", {"query": "q"}))
    state = first.export_state()
    assert 100_000 < len(state) <= MAX_STATE
    second = browser(pages)
    second.restore_state(state)
    pages.fetched.clear()
    calls = [("open", {"cursor": 0, "loc": 5}), ("open", {"cursor": 11, "loc": 5})]
    outputs = run(second, *calls)
    assert outputs == run(first, *calls)
    assert pages.fetched == ["https://big.test/0"]
    assert second.cited_source(1, 3) == CitedSource("T1", "https://big.test/1")


def test_results_that_no_longer_fit_must_be_searched_again():
    session = browser(FakeWeb({}, [Hit("t" * 900, f"https://a.test/{'u' * 5_000}{i}", "s" * 2_000) for i in range(20)]))
    run(session, *[("search", {"query": "q", "topn": 20})] * 10)
    session.restore_state(session.export_state())
    assert last(session, ("open", {"cursor": 0})).text == "The results at cursor `0` are no longer kept. Search again."


@pytest.mark.parametrize("state", [b"", b"[]", b"{\"pages\": 1}", b"\xff", b"{\"first\": -1}", b" " * (MAX_STATE + 1), "[" * 9_999])  # fmt: skip
def test_a_broken_state_is_refused(state: bytes | str):
    with pytest.raises(ValueError, match="the browser's state"):
        browser(web()).restore_state(state)


def test_memory_is_bounded_and_old_pages_are_fetched_again():
    pages = FakeWeb({f"https://big.test/{i}": f"<p>{i}<pre>" + ("x" * 75 + "\n") * 10_000 for i in range(14)})
    session = browser(pages, BrowserLimits(max_calls=99))
    run(session, *[("open", {"id": f"https://big.test/{i}"}) for i in range(14)])
    pages.fetched.clear()
    outputs = run(session, ("open", {"cursor": 0}), ("open", {"cursor": 13}))
    assert [each.failed for each in outputs] == [False, False]
    assert pages.fetched == ["https://big.test/0"]


def test_a_cancelled_call_ends_at_once():
    class Slow(FakeWeb):
        async def fetch(self, url: str) -> Document:
            await asyncio.sleep(3_600)
            raise AssertionError

    async def cancelled() -> bool:
        task = asyncio.create_task(browser(Slow({})).run("open", '{"id": "https://a.test/"}'))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancelled())


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.integers(-3, 9), st.none(), st.booleans(), st.floats(), st.text(max_size=5), st.just("https://a.test/"), st.just("word"),
    st.lists(st.integers(), max_size=2), st.integers(), st.just("\ud800"),
)  # fmt: skip
CALLS = st.tuples(
    st.sampled_from(["search", "open", "find", "click", ""]),
    st.one_of(
        st.dictionaries(st.sampled_from(["query", "topn", "id", "cursor", "loc", "num_lines", "pattern", "view_source"]), VALUES).map(json.dumps),
        st.text(max_size=20),
    ),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(CALLS, max_size=10))
def test_any_calls_give_text_and_any_state_can_be_restored(calls: list[tuple[str, str]]):
    session = browser(web())
    for output in run(session, *calls):
        assert output.text
    restored = browser(web())
    restored.restore_state(session.export_state())
    assert restored.export_state() == session.export_state()
