"""Rewrites broken HTML before it is parsed, so that its tree has the form that gpt-oss's own tool gives it.

In and out: HTML. The tool that the model was trained with reads HTML with libxml2, which repairs some mistakes in
another way than browsers do: mismatched headings, interleaved inline elements, self-closing tags. This module rewrites
those mistakes. It also bounds depth, the number of tags, and the work of the parser.
"""

import re
from collections import Counter
from itertools import islice

MAX_DEPTH = 250  # of elements; the tags of deeper elements are left out, their text stays
MAX_TAGS = 100_000  # the HTML is cut there
MAX_WORK = 2_000_000  # the sum of open inline elements over all tags, because the parser may repeat each of them
MAX_OPTIONS = 1_000
MAX_TAG = 2_000  # characters; of longer tags only the attributes that the browser uses are kept
_TAG = re.compile(
    r"<!--(?:-?>|.*?(?:--!?>|\Z))"
    r"|<(?P<raw>script|style|textarea|title)(?=[\s/>])[^>]*+>(?<!/>)(?P<inside>.*?)(?:</(?P=raw)(?=[\s/>])[^>]*+>|\Z)"
    r"|<(?P<slash>/?)(?P<name>[a-zA-Z][a-zA-Z0-9]*+)(?:[^<>\"']++|\"[^\"]*+\"|'[^']*+')*+>"
    r"|<(?=[a-zA-Z/])",
    re.S | re.I,
)
_ATTRIBUTE = re.compile(r"\s(?:href|alt|title|start)\s*=\s*(?:\"[^\"]*+\"|'[^']*+'|[^\s\"'>]++)", re.I)
_OPTIONS = frozenset({"option", "optgroup"})
_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
_HEADINGS = frozenset(f"h{level}" for level in range(1, 7))
_INLINE = frozenset(
    "a abbr b big cite code del dfn em font i ins kbd label mark q s samp small span strike strong sub sup tt u var".split()
)
_FORMATTING = frozenset("a b big code em font i s small strike strong tt u".split())  # end inside other elements too
# Elements of HTML 5 that libxml2 does not know, so they end no paragraph. Renamed, the parser treats them so too.
_UNKNOWN = frozenset(
    "article aside details dialog figcaption figure footer header hgroup main nav search section summary".split()
)
_PARAGRAPH_ENDS = frozenset("address blockquote center dir div dl fieldset form hr menu ol p pre table ul".split())
# Start tags that end open elements. What is not sure to end counts as open, so depth is never underestimated.
_ENDS: dict[str, frozenset[str]] = {
    **dict.fromkeys(_PARAGRAPH_ENDS | _HEADINGS, frozenset({"p"})),
    "li": frozenset({"li", "p"}),
    **dict.fromkeys(("dt", "dd"), frozenset({"dt", "dd", "p"})),
    "tr": frozenset({"tr", "td", "th", "p"}),
    **dict.fromkeys(("td", "th"), frozenset({"td", "th", "p"})),
    "option": frozenset({"option"}),
}
_TABLE_PARTS = frozenset("caption tbody thead tfoot tr td th".split())
_TABLE_SCOPE = frozenset({"table", "template", "svg", "math"})
_SCOPE = _TABLE_SCOPE | {"td", "th", "caption", "marquee", "object", "applet", "button", "select"}
_HEADING_ENDS = frozenset({"p", "table", "form", "fieldset", "li", *_HEADINGS})


def repaired(html: str) -> str:
    """The HTML with its mistakes rewritten, cut where it is too much work."""
    repair = _Repair()
    kept: list[str] = []
    at = 0
    for count, tag in enumerate(_TAG.finditer(html)):
        if count >= MAX_TAGS or repair.work > MAX_WORK:
            return "".join([*kept, html[at : tag.start()]])
        text = _rewritten(html, tag, repair)
        if text is not None:
            kept += [html[at : tag.start()], text]
            at = tag.end()
    return "".join([*kept, html[at:]]) if kept else html


def _rewritten(html: str, tag: re.Match[str], repair: "_Repair") -> str | None:
    """What replaces a tag, a comment or a raw element; None: it stays."""
    if (raw := tag["raw"]) is not None:
        return f"<{raw}>{tag['inside'].replace('<', '&lt;')}</{raw}>"  # text, even where a parser would see tags
    name = (tag["name"] or "").lower()
    if not name:
        is_comment = tag[0].startswith("<!")
        return None if is_comment or html.find(">", tag.end(), tag.end() + MAX_TAG) >= 0 else "&lt;"
    before, keep = repair.end(name) if tag["slash"] else repair.start(name)
    text = tag[0] if len(tag[0]) <= MAX_TAG else _with_few_attributes(tag[0], tag["slash"] + tag["name"])
    if name in _UNKNOWN:
        text = f"<{tag['slash']}x-{text[1 + len(tag['slash']) :]}"
    after = ""
    if keep and not tag["slash"]:
        if text.endswith("/>") and name not in _VOID and repair.end(name)[1]:
            after = f"</{'x-' * (name in _UNKNOWN)}{name}>"
        elif name == "pre" and html[tag.end() : tag.end() + 1] == "\n":
            after = "\n"  # the parser drops the first line break
    if before or after or not keep or text is not tag[0]:
        return before + (text if keep else "") + after
    return None


def _with_few_attributes(tag: str, name: str) -> str:
    found = [each[0] for each in islice(_ATTRIBUTE.finditer(tag), 8)]
    return f"<{name}{''.join(found)}{' />' if tag.endswith('/>') else '>'}"


class _Repair:
    """Follows the open elements. `start` and `end` return end tags to insert, and whether to keep the tag."""

    def __init__(self) -> None:
        self.work = 0
        self._options = 0
        self._open: list[str] = []
        self._inline = 0  # open inline elements
        self._left_out: Counter[str] = Counter()  # open elements without a start tag
        self._heading_is_mismatched = False  # an end tag of another level was left out

    def start(self, name: str) -> tuple[str, bool]:
        self.work += self._inline
        closing = ""
        if name in _HEADING_ENDS and self._heading_is_mismatched:
            closing = self._close_heading()
        if name in _ENDS:
            closing += self._close_implicit(name)
        if name in _HEADINGS:
            self._heading_is_mismatched = False
        if name in _VOID or (name in _TABLE_PARTS and _TABLE_SCOPE.isdisjoint(self._open)):
            return closing, True  # the parser leaves out parts of a table outside of one
        self._options += name in _OPTIONS
        if self._is_left_out(name):
            self._left_out[name] += 1
            return closing, False
        self._open.append(name)
        self._inline += name in _INLINE
        return closing, True

    def _is_left_out(self, name: str) -> bool:
        """Whether a start tag costs too much: the parser is quadratic in the options of a list."""
        if name == "select":
            return name in self._open
        return len(self._open) >= MAX_DEPTH or (name in _OPTIONS and self._options > MAX_OPTIONS)

    def end(self, name: str) -> tuple[str, bool]:
        if self._left_out[name]:
            self._left_out[name] -= 1
            return "", False
        place = self._place(name)
        if name in _HEADINGS and place is None and (_HEADINGS & set(self._open)):
            self._heading_is_mismatched = True
            return "", False
        if place is None:
            return "", name not in _INLINE and name not in ("br", "p")
        if name in _INLINE and any(each not in _INLINE for each in self._open[place:]):
            if name in _FORMATTING:
                del self._open[place]
                self._inline -= 1
            return "", True
        closing = self._close(place)
        return ("" if name == "p" else closing), True

    def _place(self, name: str) -> int | None:
        """The innermost open element that this end tag ends."""
        scope = _TABLE_SCOPE if name == "table" or name in _TABLE_PARTS else _SCOPE
        for place in range(len(self._open) - 1, -1, -1):
            self.work += 1
            if self._open[place] == name:
                return place
            if self._open[place] in scope:
                return None
        return None

    def _close(self, place: int) -> str:
        """Drop the elements from `place` on. Returns end tags of the inline elements inside the first."""
        popped = self._open[place:]
        del self._open[place:]
        self._inline -= sum(each in _INLINE for each in popped)
        return "".join(f"</{each}>" for each in reversed(popped[1:]) if each in _INLINE)

    def _close_implicit(self, name: str) -> str:
        """Close the outermost of the elements that a start tag ends."""
        found = None
        for place in range(len(self._open) - 1, -1, -1):
            self.work += 1
            element = self._open[place]
            if element in _ENDS[name]:
                found = place
            elif name in _TABLE_PARTS:
                if element in _TABLE_SCOPE:
                    break
            elif element not in _INLINE and not (element == "div" and name in ("li", "dt", "dd")):
                break
        if found is None:
            return ""
        ends_itself = name == "table" and self._open[found] == "p"  # without a doctype, the parser keeps <p> open
        return self._close(found) + ("</p>" if ends_itself else "")

    def _close_heading(self) -> str:
        self._heading_is_mismatched = False
        for place in range(len(self._open) - 1, -1, -1):
            if (name := self._open[place]) in _HEADINGS:
                return self._close(place) + f"</{name}>"
            if name not in _INLINE and name != "p":
                break
        return ""
