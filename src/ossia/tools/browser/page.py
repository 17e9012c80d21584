"""A page as the model sees it: numbered lines of at most 80 characters, a view of some of them, a search inside.

In: a page's text and links. Out: lines, the text of a view, and the page of a `find`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, takewhile
from textwrap import TextWrapper
from urllib.parse import quote, unquote

from ossia.tools.browser.pieces import BEFORE_SPACE, cut

WIDTH = 80
MAX_TITLE = 1_024  # characters of titles, URLs and errors that are shown
MAX_TEXT = 1_000_000  # characters of a page's text
MAX_LINES_FOUND = 50  # results of one `find`
LINES_OF_RESULT = 4
_LINES_AT_ONCE = 64
_PIECE = 100 * WIDTH  # longer words are wrapped piece by piece: textwrap copies the rest of a word for each line
_END_OF_LINK = re.compile(r"^[^【】]*】")
_CUT_LINK = re.compile(r"【\d*(?:†(?P<text>[^†】]*)(?:†[^†】]*)?)?$")
_LINK = re.compile(r"【\d+†(?P<text>[^†】]+)(?:†[^†】]+)?】")
_NUMBERED_LINK = re.compile(r"【(?P<number>\d+)†(?P<text>[^†】]*)")  # the mark of a long link ends on the next line

SplitTokens = Callable[[str], Sequence[str]]  # a text's tokens, each decoded alone


class _Wrapper(TextWrapper):
    """Splits very long words first. The pieces are multiples of a line, so the lines are the same."""

    def _split(self, text: str) -> list[str]:
        words = [word for piece in cut(text, BEFORE_SPACE) for word in super(_Wrapper, self)._split(piece)]
        if len(max(words, key=len, default="")) <= _PIECE:
            return words
        return [piece for word in words for piece in _pieces(word)]


def _pieces(word: str) -> list[str]:
    count = max(1, len(word) // _PIECE)
    return [word[i * _PIECE : (i + 1) * _PIECE if i < count - 1 else None] for i in range(count)]


_WRAPPER = _Wrapper(width=WIDTH, replace_whitespace=False, drop_whitespace=False)


def wrapped(text: str) -> list[str]:
    """Lines of at most WIDTH characters. Spaces stay where they are."""
    return [piece for line in text.split("\n") for piece in _wrapped_line(line)]


def _wrapped_line(line: str) -> list[str]:
    return [line] if len(line) <= WIDTH and "\t" not in line else _WRAPPER.wrap(line)


@dataclass(frozen=True)
class BrowserPage:
    """links: number to URL. A page of `find` has targets, the line that each link leads to, and origin, the URL and
    title of the page that was searched.
    """

    url: str
    title: str
    text: str
    links: dict[str, str] = field(default_factory=dict)
    targets: dict[str, int] | None = None
    origin: tuple[str, str] | None = None

    @property
    def can_be_fetched(self) -> bool:
        """Whether the page can be fetched again. Results of searches and of `find` cannot."""
        return bool(self.url) and self.targets is None

    @cached_property
    def lines(self) -> list[str]:
        """The page's lines, wrapped."""
        return wrapped(self.text[:MAX_TEXT])

    @cached_property
    def plain_lines(self) -> list[str]:
        """The same lines with the text of links instead of their marks. `find` searches in them."""
        text = _END_OF_LINK.sub("", "\n".join(self.lines))
        text = _CUT_LINK.sub(lambda found: found["text"] or "", text)
        return _LINK.sub(lambda found: found["text"], text).split("\n")

    def link_at(self, line: int) -> tuple[str, str] | None:
        """The URL and text of the link on this line, or on the nearest line before it."""
        for place in range(min(line, len(self.lines) - 1), -1, -1):
            if (found := _NUMBERED_LINK.search(self.lines[place])) and (url := self.links.get(found["number"])):
                return url, found["text"] or url
        return None


def view(page: BrowserPage, cursor: int, first: int, count: int, tokens: int, split: SplitTokens) -> str:
    """The page's lines from `first`: as many as fit in `tokens`, and at most `count` if it is positive."""
    lines = page.lines[first : first + count if count > 0 else None]
    shown = _lines_that_fit(lines, first, tokens, split)
    end = min(len(page.lines), first + shown)
    url = shortened(unquote(page.url))
    head = f"[{cursor}] {shortened(page.title)}" + (f" ({url})" if url else "")
    body = "\n".join(_numbered(lines[: end - first], first))
    return f"{head}\n**viewing lines [{first} - {end - 1}] of {len(page.lines) - 1}**\n\n{body}"


def found_in(page: BrowserPage, pattern: str) -> BrowserPage:
    """The page of a `find`: the lines that contain the pattern in any case, each with the three lines after it."""
    pattern = pattern.lower()
    lines = page.plain_lines
    results: list[str] = []
    targets: dict[str, int] = {}
    at = 0
    while at < len(lines) and len(results) < MAX_LINES_FOUND:
        if pattern not in lines[at].lower():
            at += 1
            continue
        number = str(len(results))
        excerpt = "\n".join(lines[at : at + LINES_OF_RESULT])
        results.append(f"# 【{number}†match at L{at}】\n{excerpt}")
        targets[number] = at
        at += LINES_OF_RESULT
    text = "\n\n".join(results) if results else f"No `find` results for pattern: `{pattern}`"
    title = f"Find results for text: `{pattern}` in `{page.title}`"
    links = dict.fromkeys(targets, page.url)
    return BrowserPage(f"{page.url}/find?pattern={quote(pattern)}", title, text, links, targets, (page.url, page.title))


def shortened(text: str, limit: int = MAX_TITLE) -> str:
    """The text, cut to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _numbered(lines: Sequence[str], first: int) -> list[str]:
    return [f"L{first + i}: {line}" for i, line in enumerate(lines)]


def _lines_that_fit(lines: Sequence[str], first: int, tokens: int, split: SplitTokens) -> int:
    """Lines that begin within the first `tokens` tokens. The last line may end after them.

    Every line begins with its number, so tokens do not depend on the lines before, and a few lines are split at a time.
    """
    characters, left = 0, tokens
    for start in range(0, len(lines), _LINES_AT_ONCE):
        chunk = _numbered(lines[start : start + _LINES_AT_ONCE], first + start)
        text = "\n".join(chunk) + ("\n" if start + _LINES_AT_ONCE < len(lines) else "")
        parts = split(text)
        characters += sum(map(len, parts[:left]))
        left -= len(parts)
        if left < 0:
            break
    else:
        return len(lines)
    ends = accumulate(len(line) + 1 for line in _numbered(lines, first))
    return min(len(lines), 1 + sum(1 for _ in takewhile(lambda end: end <= characters, ends)))
