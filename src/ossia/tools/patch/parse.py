"""Reads a patch: the envelope with operations on several files, or the diff of a single file.

In: the text that a model wrote. Out: a `Patch`, or a `PatchError` that names the line. No file is looked at.

    *** Begin Patch
    *** Update File: a.py
    @@ def f():
    -    return 1
    +    return 2
    *** End Patch
"""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from ossia.tools.patch.paths import shortened

MAX_PATCH = 1_000_000  # characters
MAX_OPERATIONS = 200
MAX_HUNKS = 500
MAX_HEADERS = 8  # of one hunk
BEGIN, END, END_OF_FILE = "*** Begin Patch", "*** End Patch", "*** End of File"
FILE = re.compile(r"\*\*\* (Add|Delete|Update) File: *(.*)")
MOVE = re.compile(r"\*\*\* Move to: *(.*)")
HEREDOC = re.compile(r"(?:apply_patch[ \t]*)?<<-?[ \t]*(['\"]?)(\w+)\1")
FENCE = re.compile(r"```\w*")
RANGE = re.compile(r"@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@ ?(.*)")  # the header of a unified diff
NO_NEWLINE = "\\ No newline at end of file"

Sign: TypeAlias = Literal[" ", "-", "+"]
Kind: TypeAlias = Literal["add", "delete", "update"]
KINDS: dict[str, Kind] = {"Add": "add", "Delete": "delete", "Update": "update"}


class PatchError(ValueError):
    """A patch that cannot be read or does not fit. The message is for the model."""


class HunkLine(NamedTuple):
    """A line to keep (" "), to remove ("-") or to insert ("+")."""

    sign: Sign
    text: str


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines that belong together. headers: lines that come before it. at_end: it ends where the file ends.

    line: its number in the patch. trailing: how many blank lines at its end may only be space between two hunks.
    """

    headers: tuple[str, ...]
    lines: tuple[HunkLine, ...]
    at_end: bool = False
    line: int = 1
    trailing: int = 0

    @property
    def old(self) -> list[str]:
        """The lines that the file must have."""
        return [line.text for line in self.lines if line.sign != "+"]


@dataclass(frozen=True, slots=True)
class FileOperation:
    """What to do with one file. content: the lines of an added file."""

    kind: Kind
    path: str
    hunks: tuple[Hunk, ...] = ()
    content: tuple[str, ...] = ()
    move_to: str | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    operations: tuple[FileOperation, ...]


@dataclass(slots=True)
class _Reader:
    """The lines of a patch and the place in them."""

    lines: list[str]
    at: int = 0
    end: int = 0
    hunks: int = 0

    @property
    def line(self) -> str:
        return self.lines[self.at]

    @property
    def number(self) -> int:
        return self.at + 1

    @property
    def done(self) -> bool:
        return self.at >= self.end

    def skip_blank(self) -> None:
        while not self.done and not self.line.strip():
            self.at += 1


def parse_patch(text: str) -> Patch:
    """Read a patch. Lines around the envelope, such as a heredoc or a code fence, and spaces around markers are ignored.

    The envelope may be missing. Raises PatchError.
    """
    reader = _Reader(_split(text))
    _find_envelope(reader)
    operations: list[FileOperation] = []
    reader.skip_blank()
    while not reader.done:
        operations.append(_operation(reader))
        reader.skip_blank()
        if len(operations) > MAX_OPERATIONS:
            raise PatchError(f"the patch has more than {MAX_OPERATIONS} file operations; split it")
    if not operations:
        raise PatchError("the patch is empty: it has no *** Add File, *** Update File or *** Delete File")
    return Patch(tuple(operations))


def parse_update(diff: str) -> tuple[Hunk, ...]:
    """The hunks of a diff of one file, without the envelope. Raises PatchError."""
    lines = _split(diff)
    reader = _Reader(lines, end=len(lines))
    hunks = _hunks(reader, "the file")
    if not reader.done and reader.line.strip() != END:
        raise PatchError(f"line {reader.number}: {shortened(reader.line)} does not belong in the diff of one file")
    return hunks


def parse_create(diff: str) -> tuple[str, ...]:
    """The lines of a file that a diff creates. Raises PatchError."""
    lines = _split(diff)
    reader = _Reader(lines, end=len(lines))
    content = _content(reader)
    if not reader.done and reader.line.strip() != END:
        raise PatchError(f"line {reader.number}: {shortened(reader.line)} does not begin with +")
    return content


def _split(text: str) -> list[str]:
    if len(text) > MAX_PATCH:
        raise PatchError(f"the patch is longer than {MAX_PATCH} characters; split it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PatchError("the patch has half of a surrogate pair, which is not text") from error
    if "\0" in text:
        raise PatchError("the patch has a NUL character; only text files can be changed")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _find_envelope(reader: _Reader) -> None:
    """Set the reader to the lines between the markers, and check what is outside of them."""
    lines = reader.lines
    filled = [number for number, line in enumerate(lines) if line.strip()]
    if not filled:
        raise PatchError(f"the patch is empty; write {BEGIN}, operations on files, and {END}")
    begin = next((n for n in filled if lines[n].strip() == BEGIN), None)
    end = next((n for n in reversed(filled) if lines[n].strip() == END), None)
    if begin is None:
        begin = next((n for n in filled if FILE.fullmatch(lines[n].strip())), None)
        if begin is None:
            raise PatchError(f"line {filled[0] + 1}: {shortened(lines[filled[0]])} is not the marker {BEGIN}")
        before, begin = [n for n in filled if n < begin], begin - 1
    else:
        before = [n for n in filled if n < begin]
        if end is None or end < begin:
            raise PatchError(f"the patch has no {END}: it seems to be cut; write the whole patch again")
    word = _check_before(lines, before)
    reader.at, reader.end = begin + 1, len(lines) if end is None else end
    if end is not None:
        for n in (n for n in filled if n > end):
            if lines[n].strip() not in ("```", word):
                raise PatchError(f"line {n + 1}: unexpected text after {END}: {shortened(lines[n])}")
    elif lines[filled[-1]].strip() in ("```", word):
        reader.end = filled[-1]


def _check_before(lines: list[str], before: list[int]) -> str | None:
    """Check the lines before the patch; the word that ends a heredoc, if one begins there."""
    word = None
    for n in before:
        text = lines[n].strip()
        if heredoc := HEREDOC.fullmatch(text):
            word = heredoc[2]
        elif not FENCE.fullmatch(text) and text != "apply_patch":
            raise PatchError(f"line {n + 1}: unexpected text before {BEGIN}: {shortened(lines[n])}")
    return word


def _operation(reader: _Reader) -> FileOperation:
    marker = FILE.fullmatch(reader.line.strip())
    if marker is None:
        raise PatchError(
            f"line {reader.number}: {shortened(reader.line)} is not a file header; "
            "use *** Add File: PATH, *** Update File: PATH or *** Delete File: PATH"
        )
    kind, path = KINDS[marker[1]], marker[2].strip()
    if not path:
        raise PatchError(f"line {reader.number}: *** {marker[1]} File has no path")
    reader.at += 1
    match kind:
        case "add":
            return FileOperation(kind, path, content=_content(reader))
        case "delete":
            return FileOperation(kind, path)
    reader.skip_blank()
    move_to = None
    if not reader.done and (moved := MOVE.fullmatch(reader.line.strip())):
        move_to = moved[1].strip()
        if not move_to:
            raise PatchError(f"line {reader.number}: *** Move to has no path")
        reader.at += 1
    number = reader.number
    hunks = _hunks(reader, path)
    if not hunks and move_to is None:
        raise PatchError(f"line {number}: *** Update File: {path} has no hunks")
    return FileOperation(kind, path, hunks=hunks, move_to=move_to)


def _content(reader: _Reader) -> tuple[str, ...]:
    """The lines of an added file. Blank lines between others count as lines; those at the end do not."""
    found: list[str] = []
    blank = 0
    while not reader.done:
        if reader.line.startswith("+"):
            found += [""] * blank
            found.append(reader.line[1:])
            blank = 0
        elif not reader.line.strip():
            blank += 1
        elif reader.line.strip() == NO_NEWLINE:
            pass
        elif reader.line.strip().startswith("***"):
            break
        else:
            raise PatchError(f"line {reader.number}: {shortened(reader.line)} in an added file does not begin with +")
        reader.at += 1
    return tuple(found)


def _hunks(reader: _Reader, path: str) -> tuple[Hunk, ...]:
    found: list[Hunk] = []
    while not _at_end_of_hunks(reader):
        if found and not reader.line.startswith("@@"):
            raise PatchError(
                f"line {reader.number}: {shortened(reader.line)} in {path} is not in a hunk; begin one with @@"
            )
        found.append(_hunk(reader, path))
        reader.hunks += 1
        if reader.hunks > MAX_HUNKS:
            raise PatchError(f"the patch has more than {MAX_HUNKS} hunks; split it")
    return tuple(found)


def _at_end_of_hunks(reader: _Reader) -> bool:
    """Whether no hunk follows. Blank lines before a header or a marker are skipped."""
    at = reader.at
    reader.skip_blank()
    if reader.done or _is_marker(reader.line):
        return True
    if not reader.line.startswith("@@"):
        reader.at = at  # these blank lines belong to a hunk without header
    return False


def _is_marker(line: str) -> bool:
    return line.startswith("***") and (FILE.fullmatch(line.strip()) is not None or line.strip() == END)


def _hunk(reader: _Reader, path: str) -> Hunk:
    number, headers = reader.number, []
    while not reader.done and reader.line.startswith("@@"):
        ranged = RANGE.fullmatch(reader.line.rstrip())
        header = ranged[1] if ranged else reader.line[2:].removeprefix(" ")
        headers += [header] if header.strip() else []
        if len(headers) > MAX_HEADERS:
            raise PatchError(f"line {reader.number}: a hunk of {path} has more than {MAX_HEADERS} @@ headers")
        reader.at += 1
    lines: list[HunkLine] = []
    trailing, at_end = 0, False
    while not reader.done and not reader.line.startswith("@@") and not _is_marker(reader.line):
        raw = reader.line
        if raw.rstrip() == END_OF_FILE:
            at_end = True
        elif at_end:
            break
        elif raw != NO_NEWLINE:
            lines.append(_hunk_line(raw, reader.number, path))
            trailing = trailing + 1 if not raw.strip() else 0
        reader.at += 1
    if all(line.sign == " " and not line.text.strip() for line in lines):
        raise PatchError(f"line {number}: a hunk of {path} has no lines; write lines that begin with a space, - or +")
    return Hunk(tuple(headers), tuple(lines), at_end, number, trailing)


def _hunk_line(raw: str, number: int, path: str) -> HunkLine:
    match raw[:1]:
        case "":
            return HunkLine(" ", "")
        case " " | "-" | "+" as sign:
            return HunkLine(sign, raw[1:])
    raise PatchError(
        f"line {number}: {shortened(raw)} in a hunk of {path} begins with neither a space, - nor +; "
        "a line that stays begins with a space"
    )
