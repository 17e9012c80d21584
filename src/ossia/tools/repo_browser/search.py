"""Finds lines in the files of a workspace, without an index and without regular expressions that could run for ever.

In: a path and a query. Out: lines `PATH:NUMBER: TEXT`. The text is looked for as it is. If it is nowhere, it is tried
without regard to case, and `|`, `.*` and backslashes are read as in a regular expression.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ossia.tools.patch.paths import WorkspaceError, checked_path, shortened
from ossia.tools.patch.workspace import Workspace
from ossia.tools.repo_browser.files import MAX_DEPTH, Cut, folder_of, walk

MAX_QUERY = 1_000  # characters
MAX_SHOWN = 300  # characters of a line
MAX_SEARCHED = 2_000_000  # bytes of a file
BINARY_START = 8_192  # bytes in which a NUL means a binary file


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """seconds and bytes: of one search. results: at most, whatever is asked for."""

    seconds: float = 10.0
    bytes: int = 300_000_000
    results: int = 500


@dataclass(slots=True)
class _Progress:
    limits: SearchLimits
    stop: threading.Event
    ends: float
    read: int = 0
    skipped: int = 0
    reason: str = ""
    lines: list[str] = field(default_factory=list)

    def is_over(self) -> bool:
        if time.monotonic() > self.ends:
            self.reason = f"stopped after {self.limits.seconds:g} s; search in a folder further below"
        elif self.read > self.limits.bytes:
            self.reason = f"stopped after {self.limits.bytes} bytes; search in a folder further below"
        return bool(self.reason) or self.stop.is_set()


def search(
    workspace: Workspace,
    path: str,
    query: str,
    most: int = 50,
    stop: threading.Event | None = None,
    limits: SearchLimits | None = None,
) -> Cut:
    """Search a file or all files below a folder. Raises WorkspaceError for a path or a query that cannot be used."""
    if not query.strip() or "\n" in query.strip() or len(query) > MAX_QUERY:
        raise WorkspaceError(f"the query must be one line of 1 to {MAX_QUERY} characters")
    limits = limits or SearchLimits()
    most = max(1, min(most, limits.results))
    query = query.strip("\r\n")
    progress = _Progress(limits, stop or threading.Event(), time.monotonic() + limits.seconds)
    _collect(workspace, path, lambda text: _literal(text, query), most, progress)
    inexact = False
    if not progress.lines and not progress.reason:
        progress.read = progress.skipped = 0
        alternatives = _alternatives(query.casefold())
        _collect(workspace, path, lambda text: _inexact(text, alternatives), most, progress)
        inexact = bool(progress.lines)
    return _shown(progress, query, inexact)


def _shown(progress: _Progress, query: str, inexact: bool) -> Cut:
    lines, count = progress.lines, len(progress.lines)
    if inexact:
        lines = ["[no exact match; without regard to case, with | and .* as in a regular expression:]", *lines]
    if not count:
        lines = [f"No line contains {shortened(query)}."]
    if progress.skipped:
        lines = [*lines, f"[{progress.skipped} binary or large files were not searched]"]
    if progress.reason:
        lines = [*lines, f"[{progress.reason}]"]
    return Cut("\n".join(lines), count)


def _collect(
    workspace: Workspace, path: str, match: Callable[[str], Iterator[tuple[int, str]]], most: int, progress: _Progress
) -> None:
    for name in _files(workspace, path, progress):
        if progress.is_over():
            return
        text = _text(workspace, name, progress)
        if text is None:
            progress.skipped += 1
            continue
        for number, line in match(text):
            if len(progress.lines) >= most:
                progress.reason = f"more than {most} matches; only the first are shown"
                return
            progress.lines.append(f"{name}:{number}: {line.rstrip()[:MAX_SHOWN]}")


def _files(workspace: Workspace, path: str, progress: _Progress) -> Iterator[str]:
    """The paths to search, in order; the path itself if it is a file."""
    parts = checked_path("" if path.strip() == "/" else path.strip())
    if parts and _is_file(workspace, parts):
        yield "/".join(parts)
        return
    for found in walk(workspace, folder_of(workspace, "/".join(parts)), MAX_DEPTH, progress.is_over):
        if found.entry.kind == "file" and found.entry.name.isprintable():
            yield found.path


def _is_file(workspace: Workspace, parts: tuple[str, ...]) -> bool:
    try:
        return any(each.name == parts[-1] and each.kind == "file" for each in workspace.entries(parts[:-1]))
    except WorkspaceError:
        return False


def _text(workspace: Workspace, path: str, progress: _Progress) -> str | None:
    """The text of a file; None of one that is binary, large or cannot be read."""
    try:
        data = workspace.read(path)
    except WorkspaceError:
        return None
    if data is None or len(data) > MAX_SEARCHED or b"\0" in data[:BINARY_START]:
        return None
    progress.read += len(data)
    return data.decode("utf-8", "replace")


def _literal(text: str, query: str) -> Iterator[tuple[int, str]]:
    """The lines that contain the query."""
    number, counted, at = 1, 0, text.find(query)
    while at >= 0:
        number += text.count("\n", counted, at)
        start, end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
        end = len(text) if end < 0 else end
        yield number, text[start:end]
        counted, at = at, text.find(query, end)


def _alternatives(query: str) -> list[list[str]]:
    """The texts of each alternative, in their order."""
    found = []
    for alternative in re.split(r"(?<!\\)\|", query):
        pieces = [re.sub(r"\\(.)", _unescaped, piece) for piece in re.split(r"(?<!\\)\.[*+]\??", alternative)]
        if pieces := [piece for piece in pieces if piece]:
            found.append(pieces)
    return found


def _unescaped(match: re.Match[str]) -> str:
    """A backslash before a sign makes it plain; \\b, \\s and the like are left out."""
    return "" if match[1].isalnum() else match[1]


def _inexact(text: str, alternatives: list[list[str]]) -> Iterator[tuple[int, str]]:
    folded = text.casefold()
    alternatives = [pieces for pieces in alternatives if all(piece in folded for piece in pieces)]
    if not alternatives:
        return
    for number, line in enumerate(text.split("\n"), 1):
        lowered = line.casefold()
        if any(_in_order(lowered, pieces) for pieces in alternatives):
            yield number, line


def _in_order(line: str, pieces: list[str]) -> bool:
    at = 0
    for piece in pieces:
        found = line.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return True
