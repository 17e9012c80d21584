"""A text file as lines, and the place in it where a hunk fits.

In: the bytes of a file, and lines to look for. Out: `TextFile`, and a `Place` with its fuzz: 0 for equal lines, more if
white space or punctuation had to be ignored.
"""

import difflib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ossia.tools.patch.parse import PatchError
from ossia.tools.patch.paths import shortened

BOM = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
MAX_COMPARED = 1_000  # lines of a file that are compared one by one, for an error message
MAX_COUNTED = 200_000  # lines of a file in which the nearest place is looked for
CLOSE = 0.6  # similarity of a line that is named in an error message
ELSEWHERE = 10_000  # fuzz of a hunk that should be at the end of the file and is not
PUNCTUATION = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u2018\u2019\u201a\u201b", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
        **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "),
    }
)


def _folded(line: str) -> str:
    return line.translate(PUNCTUATION).strip()


# How lines may be compared, from strict to lenient, and the fuzz of each.
COMPARISONS: tuple[tuple[int, Callable[[str], str]], ...] = (
    (0, str),
    (1, str.rstrip),
    (100, str.strip),
    (1_000, _folded),
)


class Place(NamedTuple):
    """Where lines were found: the index of the first one."""

    start: int
    fuzz: int


class FileLines:
    """The lines of a file, made ready to be searched. Each search is linear in the size of the file."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines
        self._joined: dict[int, tuple[str, list[int]]] = {}

    def find(self, wanted: Sequence[str], start: int) -> Place | None:
        """The first place at or after line `start`, by the strictest comparison that finds one."""
        for fuzz, form in COMPARISONS:
            if (index := self._find(wanted, start, fuzz, form)) is not None:
                return Place(index, fuzz)
        return None

    def find_at_end(self, wanted: Sequence[str], start: int, least: int) -> Place | None:
        """The place at the end of the file, if that is at or after line `least`; elsewhere only with a high fuzz."""
        last = len(self.lines) - len(wanted)
        if last >= least and (place := self.find(wanted, last)) is not None:
            return place
        place = self.find(wanted, start)
        return None if place is None else Place(place.start, place.fuzz + ELSEWHERE)

    def find_line(self, wanted: str, start: int) -> Place | None:
        """The first line at or after `start` that equals this one, or equals it without outer white space."""
        for fuzz, form in ((0, str), (1, str.strip)):
            if (index := self._find([wanted], start, 100 if fuzz else 0, form)) is not None:
                return Place(index, fuzz)
        return None

    def find_beginning(self, wanted: str, start: int) -> Place | None:
        """The first line at or after `start` that begins with this text, without outer white space."""
        text = wanted.strip()
        found = (index for index in range(start, len(self.lines)) if self.lines[index].strip().startswith(text))
        index = next(found, None)
        return None if index is None else Place(index, 100)

    def _find(self, wanted: Sequence[str], start: int, key: int, form: Callable[[str], str]) -> int | None:
        if key not in self._joined:
            kept = [form(line) for line in self.lines]
            starts, at = [], 0
            for line in kept:
                starts.append(at)
                at += len(line) + 1
            self._joined[key] = ("\n" + "\n".join(kept) + "\n", starts)
        text, starts = self._joined[key]
        if start >= len(starts):
            return None
        found = text.find("\n" + "\n".join(map(form, wanted)) + "\n", starts[start])
        return None if found < 0 else bisect_left(starts, found)

    def nearest(self, wanted: Sequence[str], start: int) -> int | None:
        """The index where most of these lines are found, in their order; else where a similar line is found."""
        places: dict[str, list[int]] = {}
        for offset, line in enumerate(wanted):
            if line.strip():
                places.setdefault(line.strip(), []).append(offset)
        votes: Counter[int] = Counter()
        from_line = max(0, start - MAX_COUNTED // 2)
        for index, line in enumerate(self.lines[from_line : from_line + MAX_COUNTED], from_line):
            for offset in places.get(line.strip(), ())[:10]:
                votes[index - offset] += 1
        if votes:
            return max(votes, key=lambda index: (votes[index], index >= start, -abs(index - start)))
        longest = max(wanted, key=lambda line: len(line.strip()), default="")
        near = list(self.lines[max(0, start - MAX_COMPARED // 2) :][:MAX_COMPARED])
        similar = difflib.get_close_matches(longest[:200], [line[:200] for line in near], 1, CLOSE)
        if not similar:
            return None
        index = next(n for n, line in enumerate(near) if line[:200] == similar[0])
        return index + max(0, start - MAX_COMPARED // 2) - wanted.index(longest)


@dataclass(frozen=True, slots=True)
class TextFile:
    """Lines with their ends ("\\n" or "\\r\\n"; "" for a last line without one). bom: whether a UTF-8 BOM comes first."""

    lines: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    bom: bool = False

    @property
    def usual_end(self) -> str:
        """The line end that most lines have."""
        return "\r\n" if 2 * self.ends.count("\r\n") > len([end for end in self.ends if end]) else "\n"

    @property
    def ends_with_newline(self) -> bool:
        return not self.ends or bool(self.ends[-1])

    def encoded(self) -> bytes:
        return (BOM if self.bom else b"") + "".join(map(str.__add__, self.lines, self.ends)).encode()


def text_file(data: bytes, path: str) -> TextFile:
    """The lines of a file. Raises PatchError if it is binary or not UTF-8."""
    bom = data.startswith(BOM)
    if data.startswith(UTF_16) or b"\0" in data:
        raise PatchError(f"{shortened(path)} is a binary file, or text in UTF-16; only UTF-8 text can be changed")
    try:
        text = data.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        raise PatchError(f"{shortened(path)} is not UTF-8 text (at byte {error.start})") from error
    pieces = text.split("\n")
    ends = ["\n"] * (len(pieces) - 1) + [""]
    if pieces[-1] == "":
        pieces, ends = pieces[:-1], ends[:-1]
    for index, piece in enumerate(pieces):
        if piece.endswith("\r") and ends[index]:
            pieces[index], ends[index] = piece[:-1], "\r\n"
    return TextFile(pieces, ends, bom)


def new_file(lines: Sequence[str]) -> TextFile:
    """A new file: lines that end with "\\n"."""
    return TextFile(list(lines), ["\n"] * len(lines))
