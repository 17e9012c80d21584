"""Recorded searches and pages: a file of requests with their responses, for tests and repeatable evaluations.

In: a provider and a file to write, or a recorded file. Out: the same answers without a network. A line of the file is
one JSON object: the request (`query` and `topn`, or `url`) and its response (`hits`, `document`, or `error`).
"""

import asyncio
from pathlib import Path
from urllib.parse import quote

import msgspec

from ossia.tools.browser.search import Document, Hit, ProviderError, SearchProvider
from ossia.tools.browser.urls import CORPUS, with_scheme

MAX_FILE = 500_000_000  # bytes


class Recording(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One line of a recorded file."""

    query: str | None = None
    topn: int | None = None
    url: str | None = None
    hits: list[Hit] | None = None
    document: Document | None = None
    error: str | None = None


class RecordingProvider:
    """Passes requests on to a provider and appends them with their responses to a file."""

    def __init__(self, provider: SearchProvider, path: Path) -> None:
        self._provider = provider
        self._path = path

    async def open(self) -> None:
        await self._provider.open()

    def absolute(self, url: str) -> str:
        return self._provider.absolute(url)

    async def search(self, query: str, topn: int) -> list[Hit]:
        try:
            hits = await self._provider.search(query, topn)
        except ProviderError as error:
            await self._write(Recording(query=query, topn=topn, error=str(error)))
            raise
        await self._write(Recording(query=query, topn=topn, hits=hits))
        return hits

    async def fetch(self, url: str) -> Document:
        try:
            document = await self._provider.fetch(url)
        except ProviderError as error:
            await self._write(Recording(url=url, error=str(error)))
            raise
        await self._write(Recording(url=url, document=document))
        return document

    async def close(self) -> None:
        await self._provider.close()

    async def _write(self, recording: Recording) -> None:
        await asyncio.to_thread(_append, self._path, msgspec.json.encode(recording) + b"\n")


class ReplayProvider:
    """Answers from a recorded file. The last recording of a request counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._searches: dict[tuple[str, int | None], Recording] = {}
        self._pages: dict[str, Recording] = {}
        self._is_read = False

    async def open(self) -> None:
        """Read the file. Raises ProviderError with the line that is wrong."""
        if not self._is_read:
            await asyncio.to_thread(self._load)

    def absolute(self, url: str) -> str:
        """A file's name, if the recording is of a folder; else a web URL."""
        file = CORPUS + quote(url.lstrip("/"))
        return file if file in self._pages else with_scheme(url)

    async def search(self, query: str, topn: int) -> list[Hit]:
        await self.open()
        found = self._searches.get((query, topn)) or self._searches.get((query, None))
        if found is None:
            raise ProviderError("this search was not recorded")
        if found.error is not None:
            raise ProviderError(found.error)
        return (found.hits or [])[:topn]

    async def fetch(self, url: str) -> Document:
        await self.open()
        found = self._pages.get(url)
        if found is None:
            raise ProviderError("this page was not recorded")
        if found.document is None:
            raise ProviderError(found.error or "this page was not recorded")
        return found.document

    async def close(self) -> None:
        """Nothing is open."""

    def _load(self) -> None:
        try:
            if self._path.stat().st_size > MAX_FILE:
                raise ProviderError(f"{self._path} has more than {MAX_FILE} bytes")
            lines = self._path.read_bytes().splitlines()
        except OSError as error:
            raise ProviderError(f"{self._path} cannot be read: {error.strerror}") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                each = msgspec.json.decode(line, type=Recording)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise ProviderError(f"{self._path}, line {number}, is not a recording: {error}") from error
            if each.query is not None:
                self._searches[each.query, each.topn] = self._searches[each.query, None] = each
            elif each.url is not None:
                self._pages[each.url] = each
            else:
                raise ProviderError(f"{self._path}, line {number}, has neither a query nor a url")
        self._is_read = True


def _append(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line)
