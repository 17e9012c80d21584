"""Plans a patch: reads the files it names, and works out their new contents. Nothing is written.

In: a `Patch` and a reader of files. Out: the `FileChange`s to write, and a `PatchResult` that describes them. Operations
see the results of earlier ones, so one file may occur several times.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from ossia.tools.patch.fit import fitted
from ossia.tools.patch.lines import new_file, text_file
from ossia.tools.patch.parse import FileOperation, Patch, PatchError
from ossia.tools.patch.paths import WorkspaceError, checked_path, shortened

MAX_READ = 20_000_000  # bytes of all files together
MAX_DIFF = 20_000  # characters of one file's shown diff

Reader: TypeAlias = Callable[[str], bytes | None]  # a file's bytes; None if there is none


class FileChange(NamedTuple):
    """The whole content of a file before and after; None where it does not exist. moved_from: has its permissions."""

    path: str
    before: bytes | None
    after: bytes | None
    moved_from: str | None = None


class PatchedFile(msgspec.Struct, frozen=True):
    """What an operation does to a file. fuzz: 0 if all lines were equal, more if white space or punctuation differs."""

    path: str
    kind: Literal["add", "delete", "update", "move"]
    added: int = 0
    removed: int = 0
    diff: str = ""
    moved_to: str | None = None
    fuzz: int = 0


class PatchResult(msgspec.Struct, frozen=True):
    """The operations of a patch, in order."""

    operations: list[PatchedFile]


@dataclass(frozen=True, slots=True)
class PlannedPatch:
    changes: tuple[FileChange, ...]
    result: PatchResult


@dataclass(slots=True)
class _Files:
    """The files as they are after the operations so far."""

    reader: Reader
    before: dict[str, bytes | None] = field(default_factory=dict)
    after: dict[str, bytes | None] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)  # of files that were moved
    read: int = 0

    def get(self, path: str) -> bytes | None:
        if path not in self.after:
            data = self.reader(path)
            self.read += len(data or b"")
            if self.read > MAX_READ:
                raise PatchError(f"the files of the patch are larger than {MAX_READ} bytes together; split the patch")
            self.before[path] = self.after[path] = data
        return self.after[path]


def plan(patch: Patch, reader: Reader | Mapping[str, bytes], overwrite: bool = False) -> PlannedPatch:
    """Work out all changes. overwrite: allows that a file is added or moved over an existing one.

    Raises PatchError if any operation is not possible.
    """
    files = _Files(reader if callable(reader) else reader.get)
    try:
        done = [_planned(operation, files, overwrite) for operation in patch.operations]
    except WorkspaceError as error:
        raise PatchError(str(error)) from error
    _check_folders(files)
    changes = [
        FileChange(path, files.before[path], after, files.origin.get(path))
        for path, after in files.after.items()
        if after != files.before[path]
    ]
    return PlannedPatch(tuple(changes), PatchResult(done))


def _planned(operation: FileOperation, files: _Files, overwrite: bool) -> PatchedFile:
    path = "/".join(checked_path(operation.path, writing=True))
    data = files.get(path)
    match operation.kind:
        case "add":
            if data is not None and not overwrite:
                raise PatchError(f"{shortened(path)} exists already; use *** Update File to change it")
            files.after[path] = new_file(operation.content).encoded()
            return PatchedFile(path, "add", len(operation.content), 0, _listed("+", operation.content))
        case "delete":
            if data is None:
                raise PatchError(f"{shortened(path)} does not exist, so it cannot be deleted")
            files.after[path] = None
            removed = _lines_of(data, path)
            return PatchedFile(path, "delete", 0, len(removed), _listed("-", removed))
    if data is None:
        raise PatchError(f"{shortened(path)} does not exist; use *** Add File to create it")
    return _updated(operation, path, data, files, overwrite)


def _updated(operation: FileOperation, path: str, data: bytes, files: _Files, overwrite: bool) -> PatchedFile:
    target = path if operation.move_to is None else "/".join(checked_path(operation.move_to, writing=True))
    if target != path and files.get(target) is not None and not overwrite:
        raise PatchError(f"{shortened(path)} cannot be moved: {shortened(target)} exists already")
    added, removed, diff, fuzz = 0, 0, "", 0
    if operation.hunks:
        change = fitted(text_file(data, path), operation.hunks, path)
        added, removed, diff, fuzz = change.added, change.removed, _cut(change.diff), sum(change.fuzz)
        data = change.file.encoded()
    if target == path:
        files.after[path] = data
        return PatchedFile(path, "update", added, removed, diff, None, fuzz)
    files.after[path], files.after[target] = None, data
    files.origin[target] = files.origin.get(path, path)
    return PatchedFile(path, "move", added, removed, diff, target, fuzz)


def _check_folders(files: _Files) -> None:
    """No file may be put into another file of the same patch."""
    present = {path for path, after in files.after.items() if after is not None}
    for path in present:
        parts = path.split("/")
        for count in range(1, len(parts)):
            if (above := "/".join(parts[:count])) in present:
                raise PatchError(f"{shortened(path)} cannot be inside {shortened(above)}, which is a file")


def _lines_of(data: bytes, path: str) -> list[str]:
    """For display: none of a binary file."""
    try:
        return text_file(data, path).lines
    except PatchError:
        return []


def _listed(sign: str, lines: list[str] | tuple[str, ...]) -> str:
    return _cut("\n".join(f"{sign}{line}" for line in lines))


def _cut(diff: str) -> str:
    return diff if len(diff) <= MAX_DIFF else f"{diff[:MAX_DIFF]}\n[{len(diff) - MAX_DIFF} more characters]"
