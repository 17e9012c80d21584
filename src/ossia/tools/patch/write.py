"""Writes planned changes: all of them, or none.

In: `FileChange`s and a `Workspace`. First all new contents are written to temporary files beside their targets, so a
full disk changes nothing. Then each is renamed to its place. If one fails, those before it are put back. A process that
is killed leaves each file whole, old or new, and at most some files named `.ossia-patch-*`.
"""

import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from ossia.tools.patch.parse import PatchError
from ossia.tools.patch.paths import WorkspaceError, checked_path, shortened
from ossia.tools.patch.plan import FileChange
from ossia.tools.patch.workspace import Folder, Workspace

TEMPORARY = ".ossia-patch-"


def apply_changes(changes: Iterable[FileChange], workspace: Workspace) -> None:
    """Write all changes. Raises PatchError if a file changed since the plan or cannot be written; nothing is changed then."""
    with ExitStack() as closing:
        transaction = _Transaction(workspace, closing)
        try:
            for change in changes:
                transaction.prepare(change)
            transaction.check()
            transaction.commit()
        except WorkspaceError as error:
            transaction.undo()
            raise PatchError(str(error)) from error
        except OSError as error:
            transaction.undo()
            raise PatchError(f"the files cannot be written ({error.strerror or error}); nothing was changed") from error
        except BaseException:
            transaction.undo()
            raise
        transaction.finish()


@dataclass(slots=True)
class _Target:
    """One file of the transaction. temporary: has its new content. backup: a second name of the old file."""

    change: FileChange
    folder: Folder
    name: str
    temporary: str | None = None
    backup: str | None = None
    committed: bool = False


class _Transaction:
    def __init__(self, workspace: Workspace, closing: ExitStack) -> None:
        self._workspace, self._closing = workspace, closing
        self._targets: list[_Target] = []
        self._folders: dict[tuple[str, ...], Folder] = {}
        self._made: list[tuple[str, ...]] = []

    def prepare(self, change: FileChange) -> None:
        """Check the old content, and write the new one beside it."""
        parts = checked_path(change.path, writing=True)
        folder = self._folder(parts[:-1])
        target = _Target(change, folder, parts[-1])
        self._targets.append(target)
        self._check_unchanged(target)
        if change.after is None:
            return
        target.temporary = _new_name()
        old = self._old_status(target)
        _write(folder.create(target.temporary), change.after, old)

    def _folder(self, parts: tuple[str, ...]) -> Folder:
        """An open folder, which is created if it is missing."""
        if parts not in self._folders:
            self._folders[parts] = self._closing.enter_context(self._workspace.folder(parts, self._made))
        return self._folders[parts]

    def check(self) -> None:
        """No two paths may be the same file, as on a file system that ignores case."""
        seen: dict[tuple[int, int], str] = {}
        for target in self._targets:
            found = target.folder.stat(target.name)
            if found is None or not found.st_ino or found.st_nlink > 1:
                continue
            other = seen.setdefault((found.st_dev, found.st_ino), target.change.path)
            if other != target.change.path:
                raise PatchError(f"{shortened(other)} and {shortened(target.change.path)} are the same file here")

    def commit(self) -> None:
        """Put all files in their places: new ones first, deletions last."""
        for target in sorted(self._targets, key=lambda target: target.temporary is None):
            self._check_unchanged(target)
            if target.change.before is not None:
                self._back_up(target)
            self._put(target)
            target.committed = True

    def undo(self) -> None:
        """Put back what was there. A backup that cannot be put back stays."""
        for target in reversed(self._targets):
            with suppress(OSError):
                if target.backup is not None:
                    target.folder.replace(target.backup, target.name)
                elif target.committed:
                    target.folder.unlink(target.name)
                _remove(target.folder, target.backup)  # it still exists if both were names of one file
            _remove(target.folder, target.temporary)
        for parts in reversed(self._made):
            with suppress(OSError, WorkspaceError), self._workspace.folder(parts[:-1]) as folder:
                os.rmdir(folder.at(parts[-1]), dir_fd=folder.handle)

    def finish(self) -> None:
        for target in self._targets:
            _remove(target.folder, target.backup)

    def _check_unchanged(self, target: _Target) -> None:
        try:
            data = self._workspace.read_in(target.folder, target.name, target.change.path)
        except FileNotFoundError:
            data = None
        if data != target.change.before:
            raise PatchError(
                f"{shortened(target.change.path)} was changed by another program; nothing was changed here"
            )

    def _old_status(self, target: _Target) -> os.stat_result | None:
        """Of the file whose permissions the new one gets."""
        if target.change.before is not None:
            return target.folder.stat(target.name)
        if target.change.moved_from is None:
            return None
        parts = checked_path(target.change.moved_from)
        with suppress(FileNotFoundError), self._workspace.folder(parts[:-1]) as folder:
            return folder.stat(parts[-1])
        return None

    def _back_up(self, target: _Target) -> None:
        """Give the old file a second name. A file system without hard links gets a copy."""
        name, folder = _new_name(), target.folder
        try:
            folder.link(target.name, name)
            target.backup = name
        except (OSError, NotImplementedError):
            old = folder.stat(target.name)
            copy = folder.create(name, 0o600)
            _write(copy, target.change.before or b"", old)
            target.backup = name

    def _put(self, target: _Target) -> None:
        folder, temporary = target.folder, target.temporary
        if temporary is None:
            folder.unlink(target.name)
        elif target.change.before is not None:
            folder.replace(temporary, target.name)
        else:
            try:
                folder.link(temporary, target.name)  # unlike renaming, this replaces no file of that name
            except FileExistsError:
                raise
            except (OSError, NotImplementedError):
                self._check_unchanged(target)
                folder.replace(temporary, target.name)
            _remove(folder, temporary)


def _write(file: int, data: bytes, like: os.stat_result | None) -> None:
    """Write to a new file and wait until the disk has it. like: a file with the owner and permissions to give."""
    with os.fdopen(file, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(file)
        if like is not None and hasattr(os, "fchmod"):
            with suppress(OSError):
                os.fchown(file, like.st_uid, like.st_gid)
            os.fchmod(file, stat.S_IMODE(like.st_mode) & 0o777)


def _new_name() -> str:
    return f"{TEMPORARY}{secrets.token_hex(8)}"


def _remove(folder: Folder, name: str | None) -> None:
    if name is not None:
        with suppress(OSError):
            folder.unlink(name)
