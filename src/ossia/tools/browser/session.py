"""The browser of one conversation: runs the model's calls of search, open and find.

In: a function's name and its arguments as JSON. Out: the text that the model reads, and a `BrowserResult`. Pages come
from a `SearchProvider`, which sessions may share. Conversion and tokenizing run in another thread.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import msgspec

from ossia.harmony.messages import ToolNamespace
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tools.browser.arguments import CallArguments
from ossia.tools.browser.citations import CitedSource
from ossia.tools.browser.declaration import browser_namespace
from ossia.tools.browser.html_text import html_to_text, plain_text
from ossia.tools.browser.page import MAX_TEXT, BrowserPage, SplitTokens, found_in, shortened, view
from ossia.tools.browser.results import BrowserLimits, BrowserResult
from ossia.tools.browser.search import MAX_RESULTS, Document, Hit, ProviderError, SearchProvider, results_html
from ossia.tools.browser.stack import CursorError, PageStack
from ossia.tools.browser.urls import is_allowed, label_of
from ossia.tools.functions import ToolOutput
from ossia.tools.session import Report, ToolProgress, ToolUnavailableError, ignore
from ossia.tools.signature import ArgumentsError

VIEW_SOURCE = "view-source:"
MAX_QUERY = 2_000  # characters
MAX_PATTERN = 1_000
MAX_URL = 8_000
Value = TypeVar("Value")


class _Shown(NamedTuple):
    text: str
    result: BrowserResult


class _CallError(Exception):
    """A call that cannot be done. The message is for the model. url: of the page that it was about, if known."""

    def __init__(self, message: str, url: str | None = None) -> None:
        super().__init__(message)
        self.url = url


def token_splitter(tokenizer: Tokenizer) -> SplitTokens:
    """Splits text into a tokenizer's tokens, to measure views."""

    def split(text: str) -> Sequence[str]:
        return [tokenizer.token_bytes(token).decode("utf-8", "replace") for token in tokenizer.encode(text)]

    return split


class BrowserSession:
    """A `ToolSession`. Call `begin_response` before each response: it resets the limits of calls and tokens."""

    def __init__(self, provider: SearchProvider, split: SplitTokens, limits: BrowserLimits | None = None) -> None:
        self._provider = provider
        self._split = split
        self._limits = limits or BrowserLimits()
        self._stack = PageStack()
        self._calls = 0
        self._tokens = 0

    @property
    def namespace(self) -> ToolNamespace:
        return browser_namespace()

    async def open(self) -> None:
        """Check that the provider can work. Raises ToolUnavailableError."""
        try:
            await self._provider.open()
        except ProviderError as error:
            raise ToolUnavailableError(f"the browser cannot start: {error}") from error

    def begin_response(self) -> None:
        """Reset the limits of calls and tokens."""
        self._calls = self._tokens = 0

    async def run(self, name: str, text: str, report: Report = ignore) -> ToolOutput:
        """Run search, open or find. Whatever the arguments are, the result is text for the model."""
        functions = {"search": self._search, "open": self._open, "find": self._find}
        if name not in functions:
            return ToolOutput(_error(f"Unknown function: {shortened(name, 100)}"), failed=True)
        if (limit := self._limit_reached()) is not None:
            return ToolOutput(limit, failed=True, details=_about(name, text))
        self._calls += 1
        try:
            shown = await functions[name](CallArguments(text), report)
        except ArgumentsError as error:
            return ToolOutput(_error(str(error)), failed=True, details=_about(name, text))
        except (_CallError, CursorError) as error:
            return ToolOutput(shortened(str(error)), failed=True, details=self._details(name, text, error))
        self._tokens += await asyncio.to_thread(lambda: len(self._split(shown.text)))
        return ToolOutput(shown.text, details=shown.result)

    async def close(self) -> None:
        """Forget the pages. The provider belongs to the caller."""
        self._stack = PageStack()

    def export_state(self) -> bytes:
        """The pages as JSON of at most 256 KB. `restore_state` continues from it."""
        return self._stack.exported()

    def restore_state(self, state: bytes | str) -> None:
        """Continue with the pages of another session. Raises ValueError for a state that cannot be read."""
        self._stack = PageStack.restored(state)

    def cited_source(self, cursor: int, line: int | None) -> CitedSource | None:
        """The page that a citation means. On a results page, it is the link of that line."""
        try:
            if cursor < 0:
                return None
            found = self._stack.cursor(cursor)
        except CursorError:
            return None
        page = self._stack.page(found)
        if page is None:
            url = self._stack.url(found)
            return CitedSource(self._stack.title(found), url) if url else None
        if page.origin is not None:
            return CitedSource(page.origin[1], page.origin[0])
        if page.url:
            return CitedSource(page.title, page.url)
        link = page.link_at(line) if line is not None else None
        return None if link is None else CitedSource(link[1], link[0])

    def _limit_reached(self) -> str | None:
        if self._calls >= self._limits.max_calls:
            return f"Limit of {self._limits.max_calls} browser calls reached. Answer with what you have found."
        if self._tokens >= self._limits.max_tokens:
            return f"Limit of {self._limits.max_tokens} tokens of pages reached. Answer with what you have found."
        return None

    async def _search(self, arguments: CallArguments, report: Report) -> _Shown:
        query = arguments.text("query", MAX_QUERY)
        topn = min(MAX_RESULTS, max(1, arguments.number("topn", 10)))
        report(ToolProgress(f"searching {query}", "status"))
        try:
            found = await self._provider.search(query, topn)
        except Exception as error:
            raise _CallError(f"Error during search for `{query}`: {_reason(error)}") from error
        hits = [hit for hit in found if is_allowed(hit.url, self._limits.allowed_domains)][:topn]
        page = await asyncio.to_thread(_results_page, query, hits)
        cursor = self._stack.push(page)
        sources = [hit.url for hit in hits]
        return await self._show(cursor, 0, -1, BrowserResult("search", query=query, title=query, sources=sources))

    async def _open(self, arguments: CallArguments, report: Report) -> _Shown:
        number_or_url = arguments.number_or_text("id", MAX_URL)
        at, count = arguments.number("loc"), arguments.number("num_lines")
        cursor, shows_source = arguments.number("cursor"), arguments.flag("view_source")
        target = 0
        if isinstance(number_or_url, str):
            prefix = VIEW_SOURCE if shows_source and not number_or_url.startswith(VIEW_SOURCE) else ""
            page = await self._fetched(prefix + number_or_url, report)
        else:
            here = self._stack.cursor(cursor)
            page = await self._page(here, report)
            if number_or_url >= 0:
                target = max(0, (page.targets or {}).get(str(number_or_url), 0))
                page = await self._linked(page, number_or_url, shows_source, report)
            elif shows_source:
                page = await self._fetched(VIEW_SOURCE + page.url.removeprefix(VIEW_SOURCE), report)
        opened = self._stack.push(page)
        if at < 0:
            at = target - 4 if target > 4 else target
        result = BrowserResult("open_page", url=page.url, title=page.title, sources=[page.url] if page.url else [])
        try:
            return await self._show(opened, at, count, result)
        except _CallError:
            self._stack.pop()
            raise

    async def _find(self, arguments: CallArguments, report: Report) -> _Shown:
        pattern = arguments.text("pattern", MAX_PATTERN)
        here = self._stack.cursor(arguments.number("cursor"))
        page = await self._page(here, report)
        if page.targets is not None:
            raise _CallError("Cannot run `find` on search results page or find results page")
        found = await asyncio.to_thread(found_in, page, pattern)
        cursor = self._stack.push(found)
        result = BrowserResult("find_in_page", pattern=pattern, url=page.url, title=page.title)
        return await self._show(cursor, 0, -1, result)

    async def _show(self, cursor: int, first: int, count: int, result: BrowserResult) -> _Shown:
        page = await self._page(cursor, ignore)
        tokens = self._limits.view_tokens if count <= 0 else self._limits.max_view_tokens

        def show() -> str | None:
            return view(page, cursor, first, count, tokens, self._split) if first < len(page.lines) else None

        if (text := await asyncio.to_thread(show)) is None:
            raise _CallError(
                f"Invalid location parameter: `{first}`. Cannot exceed page maximum of {len(page.lines) - 1}."
            )
        return _Shown(text, msgspec.structs.replace(result, cursor=cursor))

    async def _page(self, cursor: int, report: Report) -> BrowserPage:
        """The page of a valid cursor, fetched again if its text was dropped."""
        page = self._stack.page(cursor)
        if page is None:
            if not (url := self._stack.url(cursor)):
                raise _CallError(f"The results at cursor `{cursor}` are no longer kept. Search again.")
            page = await self._fetched(url, report)
            self._stack.replace(cursor, page)
        return page

    async def _linked(self, page: BrowserPage, number: int, shows_source: bool, report: Report) -> BrowserPage:
        """The page of a link: one that is open, or fetched."""
        if (url := page.links.get(str(number))) is None:
            raise _CallError(f"Invalid link id `{number}`.")
        if shows_source:
            return await self._fetched(VIEW_SOURCE + url, report)
        return self._stack.with_url(url) or await self._fetched(url, report)

    async def _fetched(self, url: str, report: Report) -> BrowserPage:
        address = self._provider.absolute(url.removeprefix(VIEW_SOURCE).strip())
        report(ToolProgress(f"opening {shortened(address)}", "status"))
        failed = f"Error fetching URL `{shortened(url)}`"
        if not is_allowed(address, self._limits.allowed_domains):
            raise _CallError(f"{failed}: its domain is not allowed", address)
        try:
            document = await self._provider.fetch(address)
        except Exception as error:
            raise _CallError(f"{failed}: {_reason(error)}", address) from error
        if not is_allowed(document.url, self._limits.allowed_domains):
            raise _CallError(f"{failed}: it redirects to a domain that is not allowed", address)
        return await asyncio.to_thread(_source_page if url.startswith(VIEW_SOURCE) else page_of, document)

    def _details(self, name: str, text: str, error: Exception) -> BrowserResult:
        """What a call that failed was about. The URL of a page that is known is filled in."""
        about = _about(name, text)
        if about.action == "search":
            return about
        url = error.url if isinstance(error, _CallError) else None
        if url is None and not about.url:
            try:
                url = self._stack.url(self._stack.cursor(CallArguments(text).number("cursor")))
            except (CursorError, ArgumentsError):
                url = ""
        return about if url is None else msgspec.structs.replace(about, url=url)


def page_of(document: Document) -> BrowserPage:
    """The page that a document is shown as."""
    head = f"\nURL: {document.url}\n"
    if not document.is_html:
        title = document.title or label_of(document.url)
        return BrowserPage(document.url, title, head + plain_text(document.text))
    found = html_to_text(document.text, document.url, document.title)
    return BrowserPage(document.url, found.title, head + found.text[:MAX_TEXT], found.links)


def _source_page(document: Document) -> BrowserPage:
    return BrowserPage(
        VIEW_SOURCE + document.url, document.title or label_of(document.url),
        f"\nURL: {VIEW_SOURCE}{document.url}\n" + plain_text(document.text),
    )  # fmt: skip


def _results_page(query: str, hits: Sequence[Hit]) -> BrowserPage:
    found = html_to_text(results_html(hits), "", query)
    return BrowserPage("", query, "\nURL: \n" + found.text, found.links)


def _about(name: str, text: str) -> BrowserResult:
    """A call's arguments as far as they can be read."""
    values: dict[str, str] = {}
    for key in ("query", "pattern", "id"):
        try:
            values[key] = CallArguments(text).text(key, MAX_URL)
        except ArgumentsError:
            continue
    if name == "search":
        return BrowserResult("search", query=values.get("query", ""))
    if name == "find":
        return BrowserResult("find_in_page", pattern=values.get("pattern", ""), url="")
    url = values.get("id", "")
    return BrowserResult("open_page", url=url if not url.lstrip("-").isdigit() else "")


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ProviderError) else f"{type(error).__name__}"


def _error(text: str) -> str:
    return json.dumps({"error": text}, ensure_ascii=False)
