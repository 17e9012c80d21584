"""Applies hunks to the lines of one file, without input or output.

In: a `TextFile` and hunks. Out: the changed file, how many lines were added and removed, and the fuzz of each hunk.
`apply_diff` is the same for the diff and the text of one file, as in the Responses API's apply_patch tool.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, NamedTuple

from ossia.tools.patch.lines import FileLines, Place, TextFile, new_file, text_file
from ossia.tools.patch.parse import Hunk, HunkLine, PatchError, parse_create, parse_update
from ossia.tools.patch.paths import shortened


class FittedHunk(NamedTuple):
    """A hunk and its place. start: index of its first line in the old file. lines: those that were used."""

    start: int
    lines: tuple[HunkLine, ...]
    fuzz: int


@dataclass(frozen=True, slots=True)
class FittedFile:
    """The changed file. diff: the change in unified form, without file names."""

    file: TextFile
    added: int
    removed: int
    diff: str
    fuzz: tuple[int, ...]


def apply_diff(text: str, diff: str, mode: Literal["update", "create"] = "update") -> str:
    """Apply a diff without envelope to the text of one file. create: the text is ignored; all lines begin with +.

    Raises PatchError.
    """
    if mode == "create":
        return new_file(parse_create(diff)).encoded().decode()
    return fitted(text_file(text.encode(), "the file"), parse_update(diff), "the file").file.encoded().decode()


def fitted(file: TextFile, hunks: Sequence[Hunk], path: str) -> FittedFile:
    """Apply all hunks, in order. Raises PatchError for the first that does not fit."""
    searched = FileLines(file.lines)
    found: list[FittedHunk] = []
    cursor = least = 0
    for number, hunk in enumerate(hunks, 1):
        title = f"hunk {number} of {shortened(path)}" if len(hunks) > 1 else f"the hunk of {shortened(path)}"
        each = _place(searched, hunk, cursor, least, f"{title} (patch line {hunk.line})", len(found))
        found.append(each)
        cursor = each.start + sum(line.sign != "+" for line in each.lines)
        least = cursor - sum(1 for _ in takewhile(lambda line: line.sign == " ", reversed(each.lines)))
    return _changed(file, found)


def _place(searched: FileLines, hunk: Hunk, cursor: int, least: int, title: str, before: int) -> FittedHunk:
    """Where the hunk fits, at or after the cursor. From `least` on, it may share lines that the hunk before it keeps."""
    start, fuzz = _after_headers(searched, hunk, cursor, title)
    old, lines = hunk.old, hunk.lines
    if not old:
        at_end = hunk.at_end or not hunk.headers
        return FittedHunk(len(searched.lines) if at_end else start, lines, fuzz)

    def found(wanted: Sequence[str], start: int) -> Place | None:
        return searched.find_at_end(wanted, start, least) if hunk.at_end else searched.find(wanted, start)

    place = found(old, start)
    if place is None and hunk.headers and start > cursor:
        place = found(old, start - 1)  # the header is repeated as the first line
    if place is None and (kept := len(old) - hunk.trailing) and hunk.trailing:
        # blank lines before the next hunk or marker need not be lines of the file
        place, lines = found(old[:kept], start), lines[: len(lines) - hunk.trailing]
    if place is None and start == cursor > least:
        place, lines = found(old, least), hunk.lines
    if place is None:
        raise PatchError(_misfit(searched, hunk, start, cursor, title, before))
    return FittedHunk(place.start, lines, fuzz + place.fuzz)


def _after_headers(searched: FileLines, hunk: Hunk, cursor: int, title: str) -> tuple[int, int]:
    """The line after the last header, and the fuzz of the search. A header before the cursor counts as found.

    One header that is not found is ignored if the hunk has lines to look for.
    """
    start, fuzz = cursor, 0
    needed = len(hunk.headers) > 1 or not hunk.old
    for number, header in enumerate(hunk.headers):
        passed = searched.find_line(header, 0) if number == 0 else None
        ahead = searched.find_line(header, start) or (searched.find_beginning(header, start) if needed else None)
        if passed is not None and passed.start < cursor and (ahead is None or passed.fuzz <= ahead.fuzz):
            continue
        if ahead is not None:
            start, fuzz = ahead.start + 1, fuzz + ahead.fuzz
        elif needed:
            near = searched.nearest([header], start)
            place = f"; the nearest line is {near + 1}: {shortened(searched.lines[near])}" if near is not None else ""
            raise PatchError(f"{title} does not fit: no line equals the header {shortened(header)}{place}")
    return start, fuzz


def _misfit(searched: FileLines, hunk: Hunk, start: int, cursor: int, title: str, before: int) -> str:
    """What is wrong: the first line that differs at the nearest place."""
    old = hunk.old
    fits = f"; {before} hunks before it fit" if before > 1 else "; the hunk before it fits" if before else ""
    if (earlier := searched.find(old, 0)) is not None and earlier.start < max(start, cursor):
        line, after = earlier.start + 1, "the previous hunk" if earlier.start < cursor else "its @@ header"
        return f"{title} does not fit: its lines are at file line {line}, before the end of {after}; use file order"
    nearest = searched.nearest(old, start)
    if nearest is None:
        return f"{title} does not fit: no line of the file is like {shortened(_first_filled(old))}{fits}; read the file again"
    for offset, wanted in enumerate(old):
        at = nearest + offset
        actual = searched.lines[at] if 0 <= at < len(searched.lines) else None
        if actual is None or actual.strip() != wanted.strip():
            has = "the file has no such line" if actual is None else f"the file has {shortened(actual)}"
            return (
                f"{title} does not fit: line {offset + 1} of its {len(old)} old lines differs at file line {at + 1}: "
                f"expected {shortened(wanted)}, {has}{fits}"
            )
    return f"{title} does not fit at file line {nearest + 1}, after the place of the previous hunk{fits}"


def _first_filled(lines: Sequence[str]) -> str:
    return next((line for line in lines if line.strip()), "")


def _changed(file: TextFile, hunks: Sequence[FittedHunk]) -> FittedFile:
    """The new file. Lines that stay keep the file's own text and line end, also where the hunk differs."""
    usual, newline = file.usual_end, file.ends_with_newline
    lines: list[str] = []
    ends: list[str] = []
    at = added = removed = 0
    shown: list[str] = []
    for hunk in hunks:
        if hunk.start < at:  # the lines that it shares with the hunk before it
            del lines[hunk.start - at :], ends[hunk.start - at :]
        lines += file.lines[at : hunk.start]
        ends += file.ends[at : hunk.start]
        at, first, first_new, body = hunk.start, hunk.start, len(lines), list[str]()
        for sign, text in hunk.lines:
            if sign == "+":
                lines.append(text)
                ends.append(usual)
                added += 1
                body.append(f"+{text}")
                continue
            if sign == " ":
                lines.append(file.lines[at])
                ends.append(file.ends[at])
            body.append(f"{sign}{file.lines[at]}")
            removed += sign == "-"
            at += 1
        shown.append(_range("-", first, at - first) + _range("+", first_new, len(lines) - first_new, end=" @@"))
        shown += body
    lines += file.lines[at:]
    ends += file.ends[at:]
    ends = [end or usual for end in ends]
    if ends and not newline:
        ends[-1] = ""
    diff = "\n".join(shown)
    return FittedFile(TextFile(lines, ends, file.bom), added, removed, diff, tuple(hunk.fuzz for hunk in hunks))


def _range(sign: str, start: int, count: int, end: str = "") -> str:
    begin = "@@ " if sign == "-" else " "
    return f"{begin}{sign}{start + 1 if count else start},{count}{end}"
