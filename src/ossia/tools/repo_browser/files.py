"""Walks the files of a workspace, and makes the texts of print_tree and list_dir.

In: a `Workspace` and a path. Out: files in order, or lines of text, bounded. Links are named and not followed.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from ossia.tools.patch.paths import WorkspaceError, checked_path, shortened
from ossia.tools.patch.workspace import Entry, Workspace
from ossia.tools.patch.write import TEMPORARY
from ossia.tools.repo_browser.ignore import IgnoreFile, ignore_file, is_ignored

MAX_DEPTH = 20
MAX_ENTRIES = 1_000  # lines of a tree
IGNORE = ".gitignore"
Stopped: TypeAlias = Callable[[], bool]  # whether the work should end
MARKS = {"folder": "/", "file": "", "link": "@", "special": "="}


class FoundEntry(NamedTuple):
    parts: tuple[str, ...]
    entry: Entry

    @property
    def path(self) -> str:
        return "/".join(self.parts)


class Cut(NamedTuple):
    """A text for the model, and how many lines or matches it has."""

    text: str
    found: int


def walk(
    workspace: Workspace, start: tuple[str, ...], depth: int, stopped: Stopped, ignoring: bool = True
) -> Iterator[FoundEntry]:
    """The entries below a folder, each folder before what it contains. ignoring: leave out ignored ones."""
    above = tuple(rules for n in range(len(start)) if (rules := _rules(workspace, start[:n]))) if ignoring else ()
    yield from _below(workspace, start, depth, stopped, above if ignoring else None)


def _below(
    workspace: Workspace,
    folder: tuple[str, ...],
    depth: int,
    stopped: Stopped,
    above: tuple[IgnoreFile, ...] | None,
) -> Iterator[FoundEntry]:
    if stopped():
        return
    rules = above
    if above is not None and (own := _rules(workspace, folder)):
        rules = (*above, own)
    for entry in workspace.entries(folder):
        parts = (*folder, entry.name)
        if entry.name.startswith(TEMPORARY) or (rules is not None and is_ignored(parts, entry.kind == "folder", rules)):
            continue
        yield FoundEntry(parts, entry)
        if entry.kind == "folder" and depth > 1 and entry.name != ".git":
            try:
                yield from _below(workspace, parts, depth - 1, stopped, rules)
            except WorkspaceError:
                continue  # it cannot be read, or is gone


def _rules(workspace: Workspace, folder: tuple[str, ...]) -> IgnoreFile | None:
    try:
        data = workspace.read("/".join((*folder, IGNORE)))
    except WorkspaceError:
        return None
    return None if data is None else ignore_file(data.decode("utf-8", "replace"), folder)


def folder_of(workspace: Workspace, path: str) -> tuple[str, ...]:
    """The parts of a folder's path; "", "." and "/" are the root. Raises WorkspaceError if there is no such folder."""
    parts = checked_path("" if path.strip() in ("/", "./") else path.strip())
    try:
        with workspace.folder(parts):
            return parts
    except FileNotFoundError:
        raise WorkspaceError(f"there is no {shortened(path)}; print_tree shows what there is") from None


def tree(workspace: Workspace, path: str, depth: int, stopped: Stopped) -> Cut:
    """The tree below a path: two spaces for each level; folders end with /, links with @."""
    start = folder_of(workspace, path)
    lines = [f"{'/'.join(start) or '.'}/"]
    for found in walk(workspace, start, depth, stopped):
        if len(lines) > MAX_ENTRIES:
            lines.append(f"[more than {MAX_ENTRIES} entries: use a smaller depth or a path further below]")
            break
        level = len(found.parts) - len(start)
        lines.append(f"{'  ' * level}{_shown(found.entry.name)}{MARKS[found.entry.kind]}")
    return Cut("\n".join(lines), len(lines) - 1)


def listing(workspace: Workspace, path: str, depth: int, stopped: Stopped) -> Cut:
    """The entries of a folder, ignored ones too, as paths from it; files with their size."""
    start = folder_of(workspace, path)
    lines: list[str] = []
    for found in walk(workspace, start, depth, stopped, ignoring=False):
        if len(lines) >= MAX_ENTRIES:
            lines.append(f"[more than {MAX_ENTRIES} entries: use a smaller depth]")
            break
        size = f" ({found.entry.size} bytes)" if found.entry.kind == "file" else ""
        lines.append(f"{_shown('/'.join(found.parts[len(start) :]))}{MARKS[found.entry.kind]}{size}")
    return Cut("\n".join(lines) or "[empty folder]", len(lines))


def _shown(name: str) -> str:
    """A name on one line. Control characters and bytes that are not UTF-8 are escaped."""
    return name if name.isprintable() else shortened(name, 300)
