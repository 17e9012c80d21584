"""A folder of HTML, Markdown and text files as the web that the model searches. It uses no network.

In: a folder. Out: `Hit`s of a query by BM25, and the files as `Document`s with URLs of the form
`corpus://path/in/folder.html`. The index is built once, at the first search, in another thread.
"""

import asyncio
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from ossia.tools.browser.bm25 import Bm25Index, words
from ossia.tools.browser.fetch import decoded
from ossia.tools.browser.html_text import html_to_text
from ossia.tools.browser.search import Document, Hit, ProviderError
from ossia.tools.browser.urls import CORPUS

HTML = frozenset({".html", ".htm", ".xhtml"})
TEXT = frozenset({".md", ".markdown", ".txt", ".rst", ".json", ".xml", ".csv"})
MAX_FILES = 20_000
MAX_FILE = 2_000_000  # bytes; the rest of a file is not read
MAX_BYTES = 500_000_000  # of all files
MAX_SUMMARIZED = 50_000  # characters of a file from which its summary is chosen
PASSAGE = 300  # characters of a hit's summary
_HEADING = re.compile(r"^#+\s+(.+?)\s*#*$", re.M)
_MARKS = re.compile(r"【\d+†([^†】]*)(?:†[^】]*)?】")


class CorpusProvider:
    """Searches a folder and its subfolders. Hidden files and links out of the folder are left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._building = threading.Lock()
        self._built: _Corpus | None = None

    async def open(self) -> None:
        """Raises ProviderError if the folder cannot be read."""
        if not await asyncio.to_thread(self._folder.is_dir):
            raise ProviderError(f"{self._folder} is not a folder; give corpus:FOLDER")

    def absolute(self, url: str) -> str:
        """corpus:// before a file's name."""
        return url if "://" in url else CORPUS + quote(url.lstrip("/"))

    async def search(self, query: str, topn: int) -> list[Hit]:
        return await asyncio.to_thread(lambda: self._corpus().search(query, topn))

    async def fetch(self, url: str) -> Document:
        if not url.startswith(CORPUS):
            raise ProviderError("only files of the corpus can be opened; there is no network")
        name = unquote(re.split("[?#]", url.removeprefix(CORPUS))[0])
        return await asyncio.to_thread(lambda: self._corpus().document(name))

    async def close(self) -> None:
        """Drop the index."""
        self._built = None

    def _corpus(self) -> "_Corpus":
        """The index. The first thread builds it, others wait."""
        with self._building:
            if self._built is None:
                self._built = _Corpus(self._folder)
            return self._built


class _Corpus:
    """The files of a folder and their index."""

    def __init__(self, folder: Path) -> None:
        self._root = folder.resolve()
        self._names: list[str] = []
        self._index = Bm25Index()
        total = 0
        for path in _files(self._root):
            try:
                body = _read(path)
            except OSError:
                continue
            total += len(body)
            if total > MAX_BYTES or len(self._names) >= MAX_FILES:
                raise ProviderError(
                    f"{folder} has more than {MAX_FILES} files or {MAX_BYTES} bytes; give a smaller one"
                )
            name = path.relative_to(self._root).as_posix()
            title, text = _content(path, name, body)
            self._index.add(f"{name} {title} {title} {text}")
            self._names.append(name)
        self._by_name = {name: name for name in self._names}
        for name in reversed(self._names):  # also by the file's name alone
            self._by_name.setdefault(name.rpartition("/")[2], name)

    def search(self, query: str, topn: int) -> list[Hit]:
        hits: list[Hit] = []
        for number, _ in self._index.search(query, topn):
            name = self._names[number]
            path = self._root / name
            try:
                title, text = _content(path, name, _read(path))
            except OSError:  # removed since
                continue
            hits.append(Hit(title, CORPUS + quote(name), _passage(text, query)))
        return hits

    def document(self, name: str) -> Document:
        known = self._by_name.get(name.strip("/"))
        if known is None:
            raise ProviderError("there is no such file in the corpus; search for it")
        path = self._root / known
        try:
            body = _read(path)
        except OSError as error:
            raise ProviderError("the file cannot be read") from error
        is_html = path.suffix.lower() in HTML
        title = None if is_html else _content(path, known, body)[0]
        return Document(CORPUS + quote(known), decoded(body), is_html, title)


def _files(root: Path) -> Iterator[Path]:
    """The files that are indexed, in a fixed order. Links are followed to files inside the folder only."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(each for each in subfolders if not each.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in HTML | TEXT:
                continue
            if path.resolve().is_relative_to(root) and path.is_file():
                yield path


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE)


def _content(path: Path, name: str, body: bytes) -> tuple[str, str]:
    """A file's title and text."""
    text = decoded(body)
    if path.suffix.lower() in HTML:
        found = html_to_text(text, CORPUS + quote(name))
        title = found.title if found.title != "corpus" else ""
        return " ".join(title.split()) or name, _MARKS.sub(r"\1", found.text)
    heading = _HEADING.search(text[:2_000]) if path.suffix.lower() in (".md", ".markdown") else None
    return heading[1] if heading else name, text


def _passage(text: str, query: str) -> str:
    """The part of a text in which most words of the query occur first."""
    wanted = set(words(query))
    plain = " ".join(text.split())
    best, most = 0, -1
    for start in range(0, min(len(plain), MAX_SUMMARIZED), PASSAGE // 2):
        found = len(wanted & set(words(plain[start : start + PASSAGE])))
        if found > most:
            best, most = start, found
        if found == len(wanted):
            break
    begin = plain.find(" ", best) + 1 if best else 0
    return plain[begin : best + PASSAGE].strip()
