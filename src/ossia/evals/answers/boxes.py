r"""Finds `\boxed{...}` with balanced braces.

In: a text. Out: each box's place and content, in order.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_OPENING = re.compile(r"\\?(?:boxed|framebox|fbox)\s*(?=\{)")
_BRACE = re.compile(r"\\[\\{}]|[{}]")


class Box(NamedTuple):
    """start, end: of the whole command. content: between its braces."""

    start: int
    end: int
    content: str


def boxes(text: str) -> Iterator[Box]:
    """The boxes of a text, outer ones only. A box that is never closed is none."""
    at = 0
    while opening := _OPENING.search(text, at):
        at = opening.end()
        close = _closing(text, at)
        if close is not None:
            yield Box(opening.start(), close + 1, text[at + 1 : close])
            at = close + 1


def last_box(text: str) -> str | None:
    """The content of the last box that is not empty."""
    filled = [box.content.strip() for box in boxes(text) if box.content.strip()]
    return filled[-1] if filled else None


def _closing(text: str, opening: int) -> int | None:
    depth = 0
    for brace in _BRACE.finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return None
