"""The files of one folder, and no others: no path and no symbolic link leads out of it, also not in a race.

In: relative paths. Out: bytes and folder entries. Folders are opened one by one without following links, and files are
opened relative to them where the system can do that (not on Windows, where each folder is checked by name).
"""

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from ossia.tools.patch.paths import WorkspaceError, checked_path, shortened

MAX_FILE = 2_000_000  # bytes
HAS_HANDLES = {os.open, os.stat, os.mkdir, os.unlink, os.rename, os.link, os.rmdir} <= os.supports_dir_fd
NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
FOLDER: int = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | NO_FOLLOW | getattr(os, "O_CLOEXEC", 0)
READ: int = (
    os.O_RDONLY | NO_FOLLOW | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
)
CREATE: int = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
)
LINKS = {errno.ELOOP, errno.EMLINK, errno.ENOTDIR}  # what opening a link or a file as a folder can answer


class Folder(NamedTuple):
    """An open folder. handle: its descriptor, or None where names are used instead."""

    path: Path
    handle: int | None

    def at(self, name: str) -> str:
        """The name to give to the system together with `handle`."""
        return name if self.handle is not None else str(self.path / name)

    def stat(self, name: str) -> os.stat_result | None:
        """Of the entry itself, not of what a link means. None if there is none."""
        try:
            return os.stat(self.at(name), dir_fd=self.handle, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def create(self, name: str, mode: int = 0o666) -> int:
        """The descriptor of a new file. Raises FileExistsError if there is any entry of this name."""
        return os.open(self.at(name), CREATE, mode, dir_fd=self.handle)

    def replace(self, source: str, target: str) -> None:
        """Rename, in one step also over an existing file."""
        os.replace(self.at(source), self.at(target), src_dir_fd=self.handle, dst_dir_fd=self.handle)

    def link(self, source: str, target: str) -> None:
        """A second name for a file. Raises FileExistsError if there is any entry of this name."""
        handle = self.handle
        os.link(self.at(source), self.at(target), src_dir_fd=handle, dst_dir_fd=handle, follow_symlinks=False)

    def unlink(self, name: str) -> None:
        os.unlink(self.at(name), dir_fd=self.handle)


class Entry(NamedTuple):
    """What a folder contains. size: of a file, in bytes."""

    name: str
    kind: Literal["folder", "file", "link", "special"]
    size: int = 0


class Workspace:
    """The files under `root`. handles: False uses names instead of open folders, as on Windows."""

    def __init__(self, root: str | Path, handles: bool = HAS_HANDLES, max_file: int = MAX_FILE) -> None:
        self.root = Path(root)
        self.max_file = max_file
        self._handles = handles
        if not self.root.is_dir():
            raise WorkspaceError(f"root {shortened(str(root))} is not a folder")

    @contextmanager
    def folder(self, parts: tuple[str, ...], made: list[tuple[str, ...]] | None = None) -> Generator[Folder]:
        """The folder of these parts. made: creates missing folders, and notes them here.

        Raises FileNotFoundError if it is missing, and WorkspaceError if a part is a link or a file.
        """
        flags = FOLDER & ~NO_FOLLOW
        here = Folder(self.root, os.open(self.root, flags) if self._handles else None)
        try:
            for count, part in enumerate(parts, 1):
                if made is not None and here.stat(part) is None:
                    os.mkdir(here.at(part), dir_fd=here.handle)
                    made.append(parts[:count])
                inside = self._entered(here, part, "/".join(parts[:count]))
                _close(here)
                here = inside
            yield here
        finally:
            _close(here)

    def _entered(self, here: Folder, part: str, shown: str) -> Folder:
        path = here.path / part
        if here.handle is not None:
            try:
                return Folder(path, os.open(part, FOLDER, dir_fd=here.handle))
            except FileNotFoundError:
                raise
            except OSError as error:
                raise _unusable(shown, here.stat(part), error) from error
        found = here.stat(part)
        if found is None:
            raise FileNotFoundError(shown)
        if not stat.S_ISDIR(found.st_mode) or is_link(found):
            raise _unusable(shown, found, None)
        return Folder(path, None)

    def entries(self, parts: tuple[str, ...], most: int = 100_000) -> list[Entry]:
        """What is in a folder, by name; at most the first `most` that the system gives.

        Raises WorkspaceError if it is not a folder.
        """
        try:
            with (
                self.folder(parts) as folder,
                os.scandir(folder.path if folder.handle is None else folder.handle) as found,
            ):
                return sorted(map(_entry, islice(found, most)))
        except FileNotFoundError:
            raise WorkspaceError(f"there is no {shortened('/'.join(parts))}") from None
        except OSError as error:
            raise WorkspaceError(f"{shortened('/'.join(parts))} cannot be read: {error.strerror or error}") from error

    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None if there is none. Raises WorkspaceError for what is not a readable, small file."""
        parts = checked_path(path)
        if not parts:
            raise WorkspaceError("the root folder is not a file")
        try:
            with self.folder(parts[:-1]) as folder:
                return self.read_in(folder, parts[-1], "/".join(parts))
        except FileNotFoundError:
            return None

    def read_in(self, folder: Folder, name: str, shown: str) -> bytes:
        """The same in an open folder. Raises FileNotFoundError if there is no such file."""
        found = folder.stat(name)
        if found is None:
            raise FileNotFoundError(shown)
        if not stat.S_ISREG(found.st_mode) or is_link(found):
            raise _unusable(shown, found, None)
        try:
            file = os.open(folder.at(name), READ, dir_fd=folder.handle)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unusable(shown, folder.stat(name), error) from error
        with os.fdopen(file, "rb") as opened:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise _unusable(shown, found, None)
            data = opened.read(self.max_file + 1)
        if len(data) > self.max_file:
            raise WorkspaceError(f"file {shortened(shown)} is larger than {self.max_file} bytes")
        return data


def is_link(found: os.stat_result) -> bool:
    """A symbolic link, or a Windows junction."""
    reparse_point = getattr(found, "st_file_attributes", 0) & getattr(stat, "FILE_ATTRIBUTE_REPARSE_POINT", 0)
    return stat.S_ISLNK(found.st_mode) or bool(reparse_point)


def _entry(found: "os.DirEntry[str]") -> Entry:
    try:
        status = found.stat(follow_symlinks=False)
    except OSError:
        return Entry(found.name, "special")
    if is_link(status):
        return Entry(found.name, "link")
    if stat.S_ISDIR(status.st_mode):
        return Entry(found.name, "folder")
    return Entry(found.name, "file", status.st_size) if stat.S_ISREG(status.st_mode) else Entry(found.name, "special")


def _unusable(shown: str, found: os.stat_result | None, error: OSError | None) -> WorkspaceError:
    """The error for an entry that is not what was expected."""
    name = shortened(shown)
    if found is not None and is_link(found):
        return WorkspaceError(f"{name} is a symbolic link, which is not followed")
    if found is not None and stat.S_ISDIR(found.st_mode) and (error is None or error.errno == errno.EISDIR):
        return WorkspaceError(f"{name} is a folder, not a file")
    if error is not None and error.errno not in LINKS:
        return WorkspaceError(f"{name} cannot be opened: {error.strerror or error}")
    if found is not None and stat.S_ISREG(found.st_mode):
        return WorkspaceError(f"{name} is a file, not a folder")
    return WorkspaceError(f"{name} is a device, pipe or socket, or was replaced by one")


def _close(folder: Folder) -> None:
    if folder.handle is not None:
        os.close(folder.handle)
