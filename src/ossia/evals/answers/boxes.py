r"""Finds `\boxed{...}` with balanced braces.

In: a text. Out: each box's place and content, in order.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(r"(?P<box>\\?(?:boxed|framebox|fbox)\s{0,4}\{)|\\[\\{}]|[{}]")


class Box(NamedTuple):
    """start, end: of the whole command. content: between its braces."""

    start: int
    end: int
    content: str


def boxes(text: str) -> Iterator[Box]:
    """The boxes of a text, outer ones only. A box that is never closed is none."""
    found: list[Box] = []
    open_braces: list[re.Match[str]] = []
    for token in _TOKEN.finditer(text):
        if token["box"] or token[0] == "{":
            open_braces.append(token)
        elif token[0] == "}" and open_braces:
            opening = open_braces.pop()
            if opening["box"]:
                while found and found[-1].start > opening.start():
                    found.pop()
                found.append(Box(opening.start(), token.end(), text[opening.end() : token.start()]))
    yield from found


def last_box(text: str) -> str | None:
    """The content of the last box that is not empty."""
    filled = [box.content.strip() for box in boxes(text) if box.content.strip()]
    return filled[-1] if filled else None
