"""A folder as the web: the index, URLs of files, links between them, and its limits."""

import asyncio
import json
from pathlib import Path

import pytest

from ossia.tools.browser import corpus
from ossia.tools.browser.bm25 import Bm25Index, words
from ossia.tools.browser.corpus import CorpusProvider
from ossia.tools.browser.search import Document, ProviderError
from ossia.tools.browser.session import BrowserSession
from tests.support.browsing import o200k


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    (root / "sub").mkdir(parents=True)
    (root / "a b.html").write_text(
        "<title>Harbors</title><p>The harbor of Lumo has 12 cranes.<p><a href='sub/n.md'>notes</a> <a href='https://x.test/'>x</a>"
    )
    (root / "sub" / "n.md").write_text("# Notes on cranes\n\nA crane lifts 40 tons. See [0†forged].\n")
    (root / "plain.txt").write_text("東京の港には橋がある。\nNothing else here.")
    (root / "image.png").write_bytes(b"\x89PNG harbor")
    (root / ".hidden.md").write_text("harbor")
    (tmp_path / "secret.md").write_text("harbor secret")
    (root / "link.md").symlink_to(tmp_path / "secret.md")
    return root


def session_of(folder: Path) -> BrowserSession:
    return BrowserSession(CorpusProvider(folder), o200k())


def texts(session: BrowserSession, *calls: tuple[str, dict[str, object]]) -> list[str]:
    async def run() -> list[str]:
        await session.open()
        return [(await session.run(name, json.dumps(arguments))).text for name, arguments in calls]

    return asyncio.run(run())


def test_a_search_lists_files_with_the_passage_that_fits(folder: Path):
    [found] = texts(session_of(folder), ("search", {"query": "harbor cranes"}))
    assert found.splitlines()[7:] == [
        "L4:   * 【0†Harbors†corpus】 The harbor of Lumo has 12 cranes. notes x",
        "L5:   * 【1†Notes on cranes†corpus】 # Notes on cranes A crane lifts 40 tons. See ",
        "L6: [0†forged].",
    ]


def test_files_are_opened_by_link_url_or_name_and_link_to_each_other(folder: Path):
    _, by_link, by_url, by_name, linked, scrolled = texts(
        session_of(folder), ("search", {"query": "harbor"}), ("open", {"id": 0}), ("open", {"id": "corpus://a%20b.html"}),
        ("open", {"id": "a b.html"}), ("open", {"id": 0}), ("open", {"id": "n.md"}),
    )  # fmt: skip
    assert by_link.splitlines()[0] == "[1] Harbors (corpus://a b.html)"
    assert by_link[3:] == by_url[3:] == by_name[3:]
    assert "【0†notes】 【1†x†x.test】" in by_link
    assert linked.splitlines()[0] == "[4] Notes on cranes (corpus://sub/n.md)"
    assert scrolled[3:] == linked[3:]


@pytest.mark.parametrize(
    "url", ["../secret.md", "corpus://../secret.md", "corpus:///etc/passwd", "/etc/passwd", "link.md", ".hidden.md", "image.png", "corpus://%2e%2e/secret.md", ""]
)  # fmt: skip
def test_only_indexed_files_are_opened(folder: Path, url: str):
    provider = CorpusProvider(folder)
    with pytest.raises(ProviderError, match="there is no such file in the corpus"):
        asyncio.run(provider.fetch(provider.absolute(url)))


def test_there_is_no_network(folder: Path):
    with pytest.raises(ProviderError, match="there is no network"):
        asyncio.run(CorpusProvider(folder).fetch("https://x.test/"))


def test_a_folder_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(ProviderError, match="missing is not a folder"):
        asyncio.run(CorpusProvider(tmp_path / "missing").open())


def test_too_many_files_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "MAX_FILES", 2)
    with pytest.raises(ProviderError, match="more than 2 files"):
        asyncio.run(CorpusProvider(folder).search("x", 1))


def test_long_files_are_cut(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "MAX_FILE", 10)
    assert asyncio.run(CorpusProvider(folder).fetch("corpus://plain.txt")) == Document(
        "corpus://plain.txt", "東京の\ufffd", False, "plain.txt"
    )


def test_many_searches_at_once_build_one_index(folder: Path):
    async def run() -> None:
        provider = CorpusProvider(folder)
        results = await asyncio.gather(*(provider.search("harbor", 5) for _ in range(8)))
        assert all(each == results[0] for each in results)

    asyncio.run(run())


def test_words_are_lower_case_and_singular_and_unspaced_scripts_are_pairs():
    assert list(words("Two_Words, été 3.5 東京都x")) == ["two", "word", "été", "3", "5", "東京", "京都", "x"]


def test_the_index_ranks_rare_words_and_short_texts_first():
    index = Bm25Index()
    for text in ("the cat sat", "the the the dog", "the cat and the dog and many other words in a long text", ""):
        index.add(text)
    assert [number for number, _ in index.search("cat", 5)] == [0, 2]
    assert [number for number, _ in index.search("the dog", 1)] == [1]
    assert index.search("nothing", 5) == index.search("", 5) == Bm25Index().search("cat", 5) == []


def test_japanese_text_is_found(folder: Path):
    assert [hit.url for hit in asyncio.run(CorpusProvider(folder).search("東京", 5))] == ["corpus://plain.txt"]
