"""The pages of a conversation, numbered by cursors, and their bounded copy as JSON.

In: pages, in the order of the calls. Out: the page of a cursor. The JSON lets a conversation continue later or in
another process. Texts that no longer fit are dropped; those pages can be fetched again by their URL.
"""

from collections.abc import Sequence

import msgspec

from ossia.tools.browser.page import MAX_TEXT, BrowserPage

MAX_STATE = 256 * 1024  # bytes of the JSON
MAX_KEPT_TEXT = 8_000_000  # characters of all pages in memory
MAX_PAGES = 1_000
_BRIEF = 2_000  # characters of titles and URLs in the JSON


class CursorError(Exception):
    """There is no page at a cursor. The message is for the model."""


class _SavedPage(msgspec.Struct, omit_defaults=True):
    url: str
    title: str
    text: str | None = None
    links: dict[str, str] = {}
    targets: dict[str, int] | None = None
    origin: tuple[str, str] | None = None


class _SavedStack(msgspec.Struct, omit_defaults=True):
    pages: list[_SavedPage] = []
    first: int = 0  # the cursor of the first page


class PageStack:
    """Pages by cursor. The newest has the highest cursor; old cursors stay valid."""

    def __init__(self) -> None:
        self._pages: list[BrowserPage] = []
        self._first = 0
        self._has_text: list[bool] = []

    @property
    def newest(self) -> int:
        """The highest cursor; -1 without pages."""
        return self._first + len(self._pages) - 1

    def push(self, page: BrowserPage) -> int:
        """Add a page and return its cursor. Texts of the oldest pages are dropped when there are too many."""
        self._pages.append(page)
        self._has_text.append(True)
        if len(self._pages) > MAX_PAGES:
            del self._pages[0], self._has_text[0]
            self._first += 1
        texts = {id(each): len(each.text) for each in self._pages}
        total = sum(texts.values())
        for place in range(len(self._pages) - 1):
            if total <= MAX_KEPT_TEXT:
                break
            old = self._pages[place]
            if old.can_be_fetched and self._has_text[place]:
                self._pages[place] = BrowserPage(old.url, old.title, "")
                self._has_text[place] = False
                total -= len(old.text) if all(each is not old for each in self._pages) else 0
        return self.newest

    def pop(self) -> None:
        """Remove the newest page."""
        self._pages.pop()
        self._has_text.pop()

    def cursor(self, cursor: int) -> int:
        """The cursor that a call means: -1 is the newest. Raises CursorError."""
        if not self._pages:
            raise CursorError("No pages to access!")
        found = self.newest if cursor == -1 else cursor
        if not self._first <= found <= self.newest:
            indices = f"[{self._first} - {self.newest}]"
            raise CursorError(f"Cursor `{cursor}` is out of range. Available cursor indices: {indices}.")
        return found

    def page(self, cursor: int) -> BrowserPage | None:
        """The page of a valid cursor. None: its text was dropped."""
        place = cursor - self._first
        return self._pages[place] if self._has_text[place] else None

    def url(self, cursor: int) -> str:
        """The URL of a valid cursor's page; empty for results of a search."""
        return self._pages[cursor - self._first].url

    def title(self, cursor: int) -> str:
        """The title of a valid cursor's page."""
        return self._pages[cursor - self._first].title

    def replace(self, cursor: int, page: BrowserPage) -> None:
        """Put back the text of a page that was fetched again."""
        self._pages[cursor - self._first] = page
        self._has_text[cursor - self._first] = True

    def with_url(self, url: str) -> BrowserPage | None:
        """The newest opened page of a URL."""
        for page, has_text in zip(reversed(self._pages), reversed(self._has_text)):
            if page.url == url and has_text and page.targets is None:
                return page
        return None

    def exported(self, limit: int = MAX_STATE) -> bytes:
        """The stack as JSON of at most `limit` bytes. The newest pages keep their text first."""
        encode = msgspec.json.encode
        brief = [_SavedPage(page.url[:_BRIEF], page.title[:_BRIEF]) for page in self._pages]
        sizes = [len(encode(each)) + 1 for each in brief]
        left = limit - 64 - sum(sizes)
        start = 0
        while left < 0 and start < len(brief):
            left += sizes[start]
            start += 1
        for place in reversed(range(start, len(brief))):
            if not self._has_text[place] or len(self._pages[place].text) > left + sizes[place]:
                continue
            full = _saved(self._pages[place])
            size = len(encode(full)) + 1
            if size - sizes[place] <= left:
                left -= size - sizes[place]
                brief[place] = full
        return encode(_SavedStack(brief[start:], self._first + start))

    @classmethod
    def restored(cls, state: bytes | str) -> "PageStack":
        """A stack from `exported`. Raises ValueError if it is none or too large."""
        if len(state) > MAX_STATE:
            raise ValueError(f"the browser's state has more than {MAX_STATE} bytes")
        try:
            saved = msgspec.json.decode(state, type=_SavedStack)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise ValueError(f"the browser's state cannot be read: {error}") from error
        if not 0 <= saved.first < 2**31 or len(saved.pages) > MAX_PAGES:
            raise ValueError("the browser's state has impossible cursors")
        stack = cls()
        stack._first = saved.first
        stack._pages = _loaded(saved.pages)
        stack._has_text = [each.text is not None for each in saved.pages]
        return stack


def _saved(page: BrowserPage) -> _SavedPage:
    return _SavedPage(page.url, page.title, page.text, page.links, page.targets, page.origin)


def _loaded(pages: Sequence[_SavedPage]) -> list[BrowserPage]:
    return [
        BrowserPage(each.url, each.title, (each.text or "")[:MAX_TEXT], each.links, each.targets, each.origin)
        for each in pages
    ]
