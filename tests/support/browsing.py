"""Search providers and sessions for tests of the browser: pages from a dict, and o200k tokens."""

import functools
from collections.abc import Mapping, Sequence

from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tokenizer.tokenizer_json import o200k_harmony
from ossia.tools.browser.page import SplitTokens
from ossia.tools.browser.results import BrowserLimits
from ossia.tools.browser.search import Document, Hit, ProviderError
from ossia.tools.browser.session import BrowserSession, token_splitter
from ossia.tools.browser.urls import with_scheme


@functools.cache
def o200k() -> SplitTokens:
    return token_splitter(Tokenizer(o200k_harmony()))


class FakeWeb:
    """Pages by URL, and the same hits for every query. fetched: the URLs, in order."""

    def __init__(self, pages: Mapping[str, str | Document], hits: Sequence[Hit] = ()) -> None:
        self.pages = dict(pages)
        self.hits = list(hits)
        self.fetched: list[str] = []
        self.queries: list[tuple[str, int]] = []

    async def open(self) -> None:
        pass

    def absolute(self, url: str) -> str:
        return with_scheme(url)

    async def search(self, query: str, topn: int) -> list[Hit]:
        self.queries.append((query, topn))
        return self.hits

    async def fetch(self, url: str) -> Document:
        self.fetched.append(url)
        if url not in self.pages:
            raise ProviderError("404 not found")
        page = self.pages[url]
        return page if isinstance(page, Document) else Document(url, page)

    async def close(self) -> None:
        pass


def browser(web: FakeWeb, limits: BrowserLimits | None = None) -> BrowserSession:
    return BrowserSession(web, o200k(), limits)
