"""Lays out the elements of a page as plain text: headings, lists, quotes, code and table rows.

In: start tags, texts and end tags in document order. Out: one string, not wrapped.
The form is the one that gpt-oss was trained to read, so spaces and blank lines are exact.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ossia.tools.browser.pieces import BEFORE_NEWLINE, cut

Attributes = Mapping[str, str | None]

HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
MAX_INDENT = 16  # levels of lists and quotes that are shown; deeper levels look like this one
_LISTS = frozenset({"ul", "ol"})
_HIDDEN = frozenset({"head", "style", "script"})
_CODE = frozenset({"code", "tt", "kbd"})
_STRUCK = frozenset({"s", "del", "strike"})
_BREAKS_BEFORE = dict.fromkeys(("p", "div", "dl", "hr", "blockquote", "pre", *HEADINGS), 2)
_BREAKS_AFTER = dict.fromkeys(("p", "div", "hr", "blockquote", "pre", *HEADINGS), 2)
_LINES = frozenset({"li", "dt", "dd", "tr"})  # end with at least one line break
_SPACE = re.compile(r"\s+")
_LIKE_AN_ITEM = re.compile(r"^([^\S\n]*)(\d+(?=\.\s)|)(\.(?=\s)|\+(?=\s)|-(?=[\s-]))", re.M)
_NO_SPACE_AFTER_STRUCK = frozenset("][(){}.!?")
_NO_SPACE_IN = frozenset({"a", "code", "pre", *HEADINGS})


class _Writer:
    """Joins texts. Line breaks and a space are owed until the next text, so those of neighbours do not add up."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.breaks = 0
        self.row_end = ""  # is written before the owed breaks
        self.space = False
        self.at_start = True  # of the document or an item: breaks and a space are dropped
        self._line_is_new = False

    def write(self, text: str, prefix: str) -> None:
        """Write what is owed and then the text. prefix: of each new line."""
        if self.at_start:
            self.at_start, self.space, self.breaks = False, False, 0
        if self.breaks:
            self._append((self.row_end + "\n" + prefix) * self.breaks)
            self.row_end = ""
        elif self.space and not self._line_is_new:
            self._append(" ")
        self.breaks, self.space = 0, False
        self._append(text)

    def _append(self, text: str) -> None:
        self.parts.append(text)
        self._line_is_new = text.endswith("\n")


@dataclass(slots=True)
class _List:
    is_ordered: bool
    number: int  # of the last item


@dataclass(slots=True)
class _Abbreviation:
    title: str
    texts: list[str] = field(default_factory=list)


class TextLayout:
    """Call `start`, `text` and `end` in document order, then `result`. Unbalanced calls raise nothing."""

    def __init__(self) -> None:
        self._writer = _Writer()
        self._hidden = 0
        self._quotes = 0
        self._lists: list[_List] = []
        self._list_is_near = False  # the last tag began or ended a list
        self._item_indent = ""  # of preformatted text in an item
        self._in_pre = False
        self._pre_begins = False
        self._in_code = False
        self._struck: str = ""  # "inside": text of a struck element is next; "after": text that follows it
        self._last_text = ""
        self._last_tag = ""  # of the last start or end
        self._abbreviation: _Abbreviation | None = None
        self._titles: dict[str, str] = {}  # of abbreviations

    def start(self, tag: str, attributes: Attributes) -> None:
        """Begin an element."""
        self._last_tag = tag
        self._begin_block(tag, attributes)
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag == "body":
            self._hidden = 0
        elif tag in _STRUCK:
            self._put(" ~~" if self._last_text.endswith("~") else "~~")
            self._struck, self._last_text = "inside", ""
        elif tag in _CODE or tag == "q":
            self._mark(tag)
        elif tag == "br":
            self._put("  \n> " if self._quotes else "  \n")
        elif tag == "dd":
            self._put("    ")
        elif tag == "abbr":
            self._abbreviation = _Abbreviation(title) if (title := attributes.get("title")) else None
        self._list_is_near = tag in _LISTS

    def _begin_block(self, tag: str, attributes: Attributes) -> None:
        writer = self._writer
        writer.breaks = _BREAKS_BEFORE.get(tag, writer.breaks)
        if tag in HEADINGS:
            self._put(HEADINGS[tag])
        elif tag == "hr":
            self._put("* * *")
            writer.breaks = 2
        elif tag == "blockquote":
            self._put("> ", is_quote_mark=True)
            writer.at_start = True
            self._quotes += 1
        elif tag in _LISTS:
            if not self._lists and not self._list_is_near:
                writer.breaks = 2
            self._lists.append(_List(tag == "ol", _number(attributes.get("start")) - 1))
        elif tag == "li":
            self._begin_item()
        elif tag == "pre":
            self._in_pre = self._pre_begins = True

    def _begin_item(self) -> None:
        writer = self._writer
        writer.breaks = writer.breaks or 1
        own = self._lists[-1] if self._lists else _List(is_ordered=False, number=0)
        own.number += 1
        outer = "".join("   " if each.is_ordered else "  " for each in self._lists[:-1][:MAX_INDENT])
        marker = ("  " if self._lists else "") + outer + (f"{own.number}. " if own.is_ordered else "* ")
        self._item_indent = " " * len(marker)
        self._put(marker)
        writer.at_start = True

    def end(self, tag: str) -> None:
        """End an element."""
        writer = self._writer
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag == "blockquote":
            self._quotes = max(0, self._quotes - 1)
        elif tag == "pre":
            self._in_pre = False
        elif tag in _LISTS and self._lists:
            self._lists.pop()
            self._item_indent = ""
            if not self._lists:
                self._put("\n")
        elif tag in _LINES:
            writer.breaks = writer.breaks or 1
            writer.row_end = "  " if tag == "tr" else writer.row_end
        elif tag in _STRUCK:
            self._put("~~")
        elif tag in _CODE or tag == "q":
            self._mark(tag)
        elif tag == "abbr" and self._abbreviation is not None:
            self._titles["".join(self._abbreviation.texts)] = self._abbreviation.title
            self._abbreviation = None
        writer.breaks = _BREAKS_AFTER.get(tag, writer.breaks)
        self._list_is_near = tag in _LISTS
        self._last_tag = tag

    def text(self, text: str, is_entity: bool = False) -> None:
        """Add text. is_entity: a character that HTML writes as an entity."""
        text = self._beside_struck(text)
        self._last_text = text
        for piece in cut(text, BEFORE_NEWLINE):
            self._text_piece(piece, is_entity)

    def _text_piece(self, text: str, is_entity: bool) -> None:
        if not (is_entity or self._in_code or self._in_pre):
            text = _LIKE_AN_ITEM.sub(r"\1\2\\\3", text)  # the form has a backslash there
        if self._abbreviation is not None:
            self._abbreviation.texts.append(text)
        if self._hidden:
            return
        if not self._in_pre:
            text = _SPACE.sub(" ", text)
            if text.startswith(" "):
                self._writer.space = True
                text = text[1:]
        self._put_visible(text)

    def _beside_struck(self, text: str) -> str:
        """Text between and after the marks of a struck element, with the spaces of the form."""
        state, self._struck = self._struck, ""
        if state == "inside":
            self._struck = "after"
            return text.strip()
        if state == "after" and text and self._last_tag not in _NO_SPACE_IN:
            joins = text[0] in _NO_SPACE_AFTER_STRUCK or text[0].isspace()
            return text if joins else " " + text
        return text

    def result(self) -> str:
        """The whole text. Titles of abbreviations stand at its end."""
        notes = [f"  *[{text}]: {title}\n" for text, title in self._titles.items()]
        return "".join([*self._writer.parts, "\n", *notes]).strip()

    def _mark(self, tag: str) -> None:
        """The same mark before and after the text."""
        if tag == "q":
            self._put('"')
        elif not self._in_pre:
            self._put("`")
            self._in_code = not self._in_code

    def _put(self, text: str, is_quote_mark: bool = False) -> None:
        """Write a mark of the layout."""
        if self._abbreviation is not None:
            self._abbreviation.texts.append(text)
        if not self._hidden:
            self._put_visible(text, is_quote_mark)

    def _put_visible(self, text: str, is_quote_mark: bool = False) -> None:
        if not text:
            return
        prefix = ">" * min(self._quotes, MAX_INDENT)
        if self._quotes and not is_quote_mark:
            prefix += " "
        if self._in_pre:
            prefix += "    " + self._item_indent
            text = self._preformatted(text, prefix)
        self._writer.write(text, prefix)

    def _preformatted(self, text: str, prefix: str) -> str:
        """Text with its line breaks. A block begins on a new line, except in a list."""
        begins, self._pre_begins = self._pre_begins, False
        if begins and self._lists:
            text = text.lstrip()
        elif begins and not text.startswith("\n"):
            text = "\n" + text
        return text.replace("\n", "\n" + prefix)


def _number(text: str | None) -> int:
    """The value of an attribute; 1 if it is missing or not a number."""
    try:
        return int((text or "1")[:9])
    except ValueError:
        return 1
