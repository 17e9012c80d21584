"""Work on long texts piece by piece, so that a thread that converts a page lets other threads run in between.

In: a text. Out: the same text in pieces that are cut where the work's result does not change.
"""

import re
from collections.abc import Callable, Iterator

PIECE = 50_000  # characters
BEFORE_SPACE = re.compile(r"[^\t\n\v\f\r ](?=[\t\n\v\f\r ])")  # as textwrap breaks lines: not at a no-break space
# Not within the marker of a list's item, and not before space alone, which belongs to the text before it.
BEFORE_NEWLINE = re.compile(r"[^\s.+-](?=\n\s*\S)")


def by_character(work: Callable[[str], str], text: str) -> str:
    """The result of work that treats each character alone."""
    if len(text) <= PIECE:
        return work(text)
    return "".join(work(text[start : start + PIECE]) for start in range(0, len(text), PIECE))


def cut(text: str, boundary: re.Pattern[str]) -> Iterator[str]:
    """Pieces of about PIECE characters. boundary: matches the last character of a piece."""
    start, at = 0, PIECE
    while at < len(text):
        if found := boundary.search(text, at, at + PIECE):
            yield text[start : found.end()]
            start, at = found.end(), found.end()
        at += PIECE
    yield text[start:]
