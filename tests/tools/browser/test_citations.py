"""Citations become links and annotations, however the text is split."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.tools.browser.citations import (
    MAX_CITATION,
    CitationStream,
    CitedSource,
    UrlCitation,
    cite,
)

PAGES = {1: CitedSource("One", "https://www.one.test/a"), 2: CitedSource("Two", "https://two.test:8443/b(c)")}


def resolve(cursor: int, line: int | None) -> CitedSource | None:
    if cursor == 0:  # a results page: each line has its own link
        return CitedSource(f"Hit {line}", f"https://hit{line}.test/") if line else None
    return PAGES.get(cursor)


def streamed(pieces: list[str], style: str = "links") -> tuple[str, list[UrlCitation]]:
    stream = CitationStream(resolve, style)  # type: ignore[arg-type]
    out = [each for piece in pieces for each in stream.feed(piece)] + stream.flush()
    return "".join(each for each in out if isinstance(each, str)), [x for x in out if isinstance(x, UrlCitation)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("A fact【1†L3】.", "A fact ([one.test](https://www.one.test/a))."),
        ("A fact 【1†L3-L5】.", "A fact ([one.test](https://www.one.test/a))."),
        ("A fact 【1†L3-L5†site】", "A fact ([one.test](https://www.one.test/a))"),
        ("【1†source】", "([one.test](https://www.one.test/a))"),
        ("x 【2†L1】", "x ([two.test:8443](https://two.test:8443/b%28c%29))"),
        ("x【1†L1】【0†L4】", "x ([one.test](https://www.one.test/a)) ([hit4.test](https://hit4.test/))"),
        ("x【7†L1】", "x【7†L1】"),
        ("x【0†title】", "x【0†title】"),
        ("【x†L1】【1】【†】【1†】【", "【x†L1】【1】【†】【1†】【"),
        (f"【1†{'a' * 80}】", f"【1†{'a' * 80}】"),
        ("【1†a【1†L2】", "【1†a ([one.test](https://www.one.test/a))"),
    ],
)
def test_a_citation_is_replaced_by_a_link(text: str, shown: str):
    assert cite(text, resolve)[0] == shown


def test_annotations_cover_the_link_with_its_parentheses_in_code_points():
    text, found, _ = cite("😀é【1†L3】 and 【2†L1】", resolve)
    assert [(text[each.start_index : each.end_index], each.title, each.url) for each in found] == [
        ("([one.test](https://www.one.test/a))", "One", "https://www.one.test/a"),
        ("([two.test:8443](https://two.test:8443/b%28c%29))", "Two", "https://two.test:8443/b(c)"),
    ]


def test_an_annotation_follows_its_link_directly():
    stream = CitationStream(resolve)
    assert stream.feed("A【1†L3】 b") == [
        "A ([one.test](https://www.one.test/a))",
        UrlCitation(2, 38, "One", "https://www.one.test/a"),
        " b",
    ]


def test_an_unknown_cursor_stays_as_text_with_a_warning():
    text, found, warnings = cite("x【9†L1】", resolve)
    assert (text, found) == ("x【9†L1】", [])
    assert warnings == ["the citation 【9†L1】 names no page with a URL, so it stays in the text"]


def test_raw_leaves_citations_and_none_removes_them_with_one_space():
    text = "A fact 【1†L3】. B【9†L1】 c  【1†L2】"
    assert cite(text, resolve, "raw")[:2] == (text, [])
    assert cite(text, resolve, "none")[:2] == ("A fact. B【9†L1】 c ", [])


def test_text_without_citations_is_not_held_back():
    stream = CitationStream(resolve)
    assert stream.feed("plain text ") == ["plain text "]
    assert stream.feed("【not a citation") == ["【not a citation"]


def test_at_most_one_citation_is_held_back():
    stream = CitationStream(resolve)
    for character in "【1†" + "a" * 200:
        stream.feed(character)
    assert sum(map(len, stream.flush())) < MAX_CITATION


ANSWERS = ["é【1†L3】, 【0†L2-L4†x】【9†L1】 end", "x 【1†", "【1†L【2†L1】】", "  【2†L1】  【1†a†b】 "]


@pytest.mark.parametrize("style", ["links", "raw", "none"])
@pytest.mark.parametrize("text", ANSWERS)
def test_every_split_gives_the_same_text_and_annotations(text: str, style: str):
    whole = streamed([text], style)
    assert streamed(list(text), style) == whole
    for a, b in combinations(range(len(text) + 1), 2):
        assert streamed([text[:a], text[a:b], text[b:]], style) == whole


@given(
    st.lists(
        st.sampled_from(["【", "】", "†", "1", "9", "L3", "-", " ", "a", "😀", "【1†L3】", "b" * 40, "\n"]), max_size=30
    ),
    st.data(),
)
def test_any_text_in_any_pieces(parts: list[str], data: st.DataObject):
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    for style in ("links", "raw", "none"):
        shown, found = streamed(pieces, style)
        assert (shown, found) == streamed([text], style)
        assert all(shown[each.start_index : each.end_index].startswith("([") for each in found)
        assert all(shown[each.end_index - 2 : each.end_index] == "))" for each in found)
