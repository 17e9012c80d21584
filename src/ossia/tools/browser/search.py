"""The interface of search providers, and their results as a page.

In: a query or a URL. Out: `Hit`s, a `Document`, and the HTML of a results page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

MAX_RESULTS = 20
MAX_SUMMARY = 2_000  # characters of a hit's summary that are shown


class ProviderError(Exception):
    """A search or a fetch failed. The message is shown to the model and contains no key."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result."""

    title: str
    url: str
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A fetched page. url: after redirects. is_html: False for plain text, JSON and XML."""

    url: str
    text: str
    is_html: bool = True
    title: str | None = None


class SearchProvider(Protocol):
    """Finds pages and fetches them. Methods raise ProviderError, and end at once if their task is cancelled.

    open: checks that it can work. absolute: a URL as models write it (without a scheme, a file name) as a whole URL.
    """

    async def open(self) -> None: ...

    def absolute(self, url: str) -> str: ...

    async def search(self, query: str, topn: int) -> list[Hit]: ...

    async def fetch(self, url: str) -> Document: ...

    async def close(self) -> None: ...


def results_html(hits: Sequence[Hit]) -> str:
    """The results as a list of links. The browser shows it like any page."""
    items = "".join(
        f"<li><a href='{escape(hit.url)}'>{escape(hit.title or hit.url)}</a> {escape(hit.summary[:MAX_SUMMARY])}</li>"
        for hit in hits[:MAX_RESULTS]
    )
    return f"<html><body><h1>Search Results</h1><ul>{items}</ul></body></html>"
