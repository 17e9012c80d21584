"""Citations in the final answer: `【3†L4-L6】` becomes a link, with an annotation, while the text streams.

In: pieces of text, split anywhere. Out: pieces of text with `([domain](url))` in place of citations, and annotations
whose indices count the characters of the resulting text. It is independent of the browser: `resolve` finds the source
of a cursor and a line.
"""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from ossia.tools.browser.urls import label_of

MAX_CITATION = 64  # characters; a longer text is not a citation
CitationStyle = Literal["links", "raw", "none"]
_CITATION = re.compile(r"【([0-9]{1,9})†([^†【】]+)(†[^【】]*)?】")
_BEGINNING = re.compile(r"【(?:[0-9]{0,9}|[0-9]{1,9}†[^†【】]*(?:†[^【】]*)?)\Z")
_LINE = re.compile(r"L?([0-9]{1,9})(?:\s*-\s*L?[0-9]{1,9})?\Z")


class CitedSource(NamedTuple):
    """The page that a citation means."""

    title: str
    url: str


class UrlCitation(NamedTuple):
    """A link in the text: text[start_index:end_index] is `([domain](url))`, counted in code points."""

    start_index: int
    end_index: int
    title: str
    url: str


@runtime_checkable
class CitesPages(Protocol):
    """A session whose pages the model can cite."""

    def cited_source(self, cursor: int, line: int | None) -> CitedSource | None:
        """The page that a citation means."""
        ...


Resolve: TypeAlias = Callable[[int, int | None], CitedSource | None]
CitedPiece: TypeAlias = str | UrlCitation


class CitationStream:
    """Transforms one answer. Call `feed` with each piece of text, then `flush`.

    style: links replaces citations, raw leaves the text as it is, none removes citations. Citations without a source
    stay in the text; `warnings` names them. An annotation comes directly after the text of its link.
    """

    def __init__(self, resolve: Resolve, style: CitationStyle = "links") -> None:
        self._resolve = resolve
        self._style = style
        self._held = ""
        self._length = 0  # of the text that was returned
        self._ends_in_space = True
        self.warnings: list[str] = []

    def feed(self, text: str) -> list[CitedPiece]:
        """The pieces that are complete. The beginning of a possible citation is held back."""
        if self._style == "raw":
            return [text] if text else []
        text = self._held + text
        self._held = ""
        pieces: list[CitedPiece] = []
        at = 0
        for found in _CITATION.finditer(text):
            if len(found[0]) <= MAX_CITATION:
                self._cite(pieces, text[at : found.start()], found)
                at = found.end()
        rest = text[at:]
        start = rest.rfind("【")
        if start >= 0 and len(rest) - start < MAX_CITATION and _BEGINNING.match(rest[start:]):
            self._held = rest[start:]
            rest = rest[:start]
        if self._style == "none" and rest.endswith(" "):  # the space before a citation is removed with it
            self._held = " " + self._held
            rest = rest[:-1]
        self._add(pieces, rest)
        return pieces

    def flush(self) -> list[CitedPiece]:
        """The rest of the text, after the last piece."""
        rest, self._held = self._held, ""
        pieces: list[CitedPiece] = []
        self._add(pieces, rest)
        return pieces

    def _add(self, pieces: list[CitedPiece], text: str) -> None:
        if not text:
            return
        self._length += len(text)
        self._ends_in_space = text[-1].isspace()
        if pieces and isinstance(last := pieces[-1], str):
            pieces[-1] = last + text
        else:
            pieces.append(text)

    def _cite(self, pieces: list[CitedPiece], before: str, found: re.Match[str]) -> None:
        """Add the text before a citation, and what replaces the citation."""
        line = _LINE.match(found[2])
        source = self._resolve(int(found[1]), int(line[1]) if line else None)
        if source is None or not source.url:
            self.warnings.append(f"the citation {found[0]} names no page with a URL, so it stays in the text")
            self._add(pieces, before + found[0])
            return
        if self._style == "none":
            self._add(pieces, before.removesuffix(" "))
            return
        self._add(pieces, before)
        if not self._ends_in_space:
            self._add(pieces, " ")
        start = self._length
        self._add(pieces, f"([{_escaped(label_of(source.url) or source.title)}]({_link(source.url)}))")
        pieces.append(UrlCitation(start, self._length, source.title, source.url))


def cite(text: str, resolve: Resolve, style: CitationStyle = "links") -> tuple[str, list[UrlCitation], list[str]]:
    """A whole text at once: the text, its annotations, and warnings."""
    stream = CitationStream(resolve, style)
    pieces = [*stream.feed(text), *stream.flush()]
    texts = "".join(piece for piece in pieces if isinstance(piece, str))
    return texts, [piece for piece in pieces if isinstance(piece, UrlCitation)], stream.warnings


def _escaped(label: str) -> str:
    return re.sub(r"([\[\]\\])", r"\\\1", label)


def _link(url: str) -> str:
    """A URL inside Markdown's parentheses."""
    return url.replace("(", "%28").replace(")", "%29").replace(" ", "%20").replace("\n", "%0A")
