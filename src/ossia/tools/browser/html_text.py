"""HTML as the text that a model reads, with numbered links and images.

In: HTML and the page's URL. Out: title, text, and the URLs of the links. It fetches nothing.
The form is that of gpt-oss's own browser tool; docs/tools.md lists the chosen differences.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from selectolax.lexbor import LexborHTMLParser, LexborNode

from ossia.tools.browser.layout import TextLayout
from ossia.tools.browser.pieces import by_character
from ossia.tools.browser.repair import repaired
from ossia.tools.browser.urls import domain_of, joined

MAX_CHARACTERS = 2_000_000  # of HTML; the rest is not read
MAX_NODES = 200_000  # of the tree, and pieces of text; the rest is left out
MAX_URL = 8_000  # characters of a link's URL
_BEYOND_BMP = re.compile("[\U00010000-\U0001ffff]")
_LOOKALIKES = str.maketrans({"【": "〖", "】": "〗", "◼": "◾", "\u200b": None})  # a page cannot write link marks
_BLANK_LINE = re.compile(r"^\s+$", re.M)
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
_SPACE = re.compile(r"\s+")
_ENTITY = re.compile(r"([&<>\r])")
_INDEX = re.compile(r"[\w-]+")
_WITH_ATTRIBUTES = frozenset({"a", "img", "ol", "abbr"})


class HtmlText(NamedTuple):
    """links: number to URL."""

    title: str
    text: str
    links: dict[str, str]


class StartTag(NamedTuple):
    """The start of an element."""

    tag: str
    attributes: dict[str, str | None]


class EndTag(NamedTuple):
    """The end of an element; of a comment, with the tag ""."""

    tag: str


Event: TypeAlias = StartTag | EndTag | str


def html_to_text(html: str, url: str, title: str | None = None) -> HtmlText:
    """Never raises for broken HTML. What is over the limits of size and depth is left out."""
    html = by_character(_cleaned, html[:MAX_CHARACTERS])
    tree = LexborHTMLParser(repaired(html).encode("utf-8", "replace").decode())
    links = _Links(url)
    layout = TextLayout()
    _lay_out(_with_spaces(_with_indices(_joined(links.replaced(_events(tree.root))))), layout)
    text = _BLANK_LINES.sub("\n\n", _BLANK_LINE.sub("", layout.result()))
    return HtmlText(title or _title_of(tree, url), text, links.urls)


def plain_text(text: str) -> str:
    """Text that is not HTML, without the characters of link marks."""
    return by_character(lambda piece: piece.translate(_LOOKALIKES), text[:MAX_CHARACTERS]).replace("\r\n", "\n")


def _cleaned(html: str) -> str:
    return _BEYOND_BMP.sub("", html).translate(_LOOKALIKES).replace("\x00", "\ufffd")


def _title_of(tree: LexborHTMLParser, url: str) -> str:
    found = tree.css_first("title")
    if found is not None:
        return (found.text(deep=True) or "").translate(_LOOKALIKES)
    try:
        return domain_of(url) if url else ""
    except ValueError:
        return ""


def _events(root: LexborNode | None) -> Iterator[Event]:
    """The tree in document order, without recursion."""
    node, count = root, 0
    above: list[LexborNode] = []
    while node is not None and count < MAX_NODES:
        count += 1
        if node.is_text_node:
            yield by_character(lambda piece: piece.translate(_LOOKALIKES), node.text_content or "")
        elif node.is_comment_node:
            yield EndTag("")
        elif node.is_element_node and node.tag != "math":
            tag = node.tag or ""
            yield StartTag(tag, dict(node.attributes) if tag in _WITH_ATTRIBUTES else {})
            if (child := node.first_child) is not None:
                above.append(node)
                node = child
                continue
            yield EndTag(tag)
        while (following := node.next) is None and above:
            node = above.pop()
            yield EndTag(node.tag or "")
        node = following
    for node in reversed(above):
        yield EndTag(node.tag or "")


class _Links:
    """Replaces links and images with their marks. A URL has one number."""

    def __init__(self, url: str) -> None:
        self.urls: dict[str, str] = {}
        self._numbers: dict[str, str] = {}
        self._url = url
        try:
            self._domain = domain_of(url)
        except ValueError:
            self._domain = ""
        self._images = 0

    def replaced(self, events: Iterator[Event]) -> Iterator[Event]:
        link: StartTag | None = None
        inside: list[Event] = []
        for event in events:
            if link is not None:
                if event == EndTag("a"):
                    yield from self._link(link, inside)
                    link, inside = None, []
                else:
                    inside.append(event)
            elif isinstance(event, StartTag) and event.tag == "a" and "href" in event.attributes:
                link = event
            else:
                yield from self._image(event)
        if link is not None:
            yield from self._link(link, inside)

    def _link(self, link: StartTag, inside: list[Event]) -> Iterator[Event]:
        texts = [event for event in inside if isinstance(event, str)]
        text = _SPACE.sub(" ", " ".join(texts)).replace("†", "‡")
        mark = self._mark(link.attributes.get("href") or "", text)
        if mark is not None:
            yield mark
            return
        yield link
        for event in inside:
            yield from self._image(event)
        yield EndTag("a")

    def _mark(self, href: str, text: str) -> str | None:
        """The link's mark. None: the link is not one that can be opened, or has no text."""
        if href.startswith(("mailto:", "javascript:")) or not text:
            return None
        if href.startswith("#"):
            return text
        try:
            url = joined(self._url, href[:MAX_URL])
            domain = domain_of(url)
        except ValueError:
            return None
        if not domain:
            return None
        url = url.replace("arxiv.org", "ar5iv.org")
        number = self._numbers.setdefault(url, str(len(self._numbers)))
        self.urls[number] = url
        return f"【{number}†{text}】" if domain == self._domain else f"【{number}†{text}†{domain}】"

    def _image(self, event: Event) -> Iterator[Event]:
        if isinstance(event, StartTag) and event.tag == "img":
            name = event.attributes.get("alt", event.attributes.get("title"))
            yield f"[Image {self._images}: {name.translate(_LOOKALIKES)}]" if name else f"[Image {self._images}]"
            self._images += 1
        elif event != EndTag("img"):
            yield event


def _joined(events: Iterator[Event]) -> Iterator[Event]:
    """Neighbouring texts as one."""
    texts: list[str] = []
    for event in events:
        if isinstance(event, str):
            texts.append(event)
            continue
        if texts:
            yield "".join(texts)
            texts = []
        yield event
    if texts:
        yield "".join(texts)


def _with_indices(events: Iterator[Event]) -> Iterator[Event]:
    """x<sup>2</sup> as x^{2}, x<sub>i</sub> as x_{i}; others keep their text."""
    held: list[Event] = []
    for event in events:
        if isinstance(event, StartTag) and event.tag in ("sup", "sub"):
            yield from held
            held = [event]
        elif len(held) == 1 and isinstance(event, str) and _INDEX.fullmatch(event):
            held.append(event)
        elif len(held) == 2 and isinstance(start := held[0], StartTag) and event == EndTag(start.tag):
            yield ("^" if start.tag == "sup" else "_") + f"{{{held[1]}}}"
            held = []
        else:
            yield from held
            held = []
            yield event
    yield from held


def _with_spaces(events: Iterator[Event]) -> Iterator[Event]:
    """Words that only tags separate get a space between them."""
    text: str | None = None  # held until the next text
    tags: list[Event] = []
    for event in _joined(events):
        if not isinstance(event, str):
            tags.append(event)
            continue
        if text is not None:
            yield text + " " if tags and text and _is_word(text[-1]) and _is_word(event[:1]) else text
        yield from tags
        text, tags = event, []
    if text is not None:
        yield text
    yield from tags


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _lay_out(events: Iterator[Event], layout: TextLayout) -> None:
    pieces = 0
    for event in events:
        if isinstance(event, StartTag):
            layout.start(event.tag, event.attributes)
        elif isinstance(event, EndTag):
            if event.tag:
                layout.end(event.tag)
        else:
            for place, part in enumerate(_ENTITY.split(event, maxsplit=MAX_NODES - pieces)):
                pieces += 1
                if part and pieces < MAX_NODES:
                    layout.text(part, is_entity=place % 2 == 1)
