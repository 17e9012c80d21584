"""The folder that the tools of one conversation share: programs see it as /mnt/data.

In: a folder of the user, or none for a new one. Out: its files, listed, read and written without following links, so
that a program inside cannot make these functions touch anything outside.
"""

import os
import secrets
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ossia.tools.sandbox.folders import private_folder, remove_folder
from ossia.tools.sandbox.settings import DATA, MIB

if TYPE_CHECKING:
    from collections.abc import Generator

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_MOST_FILES, _MOST_DEPTH = 1_000, 32


class DataFolderError(ValueError):
    """A name that is not in the data folder, or is no file. The message names it."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file in the data folder. path: relative to it."""

    path: str
    size: int
    modified: float


class DataFolder:
    """A folder for programs. root: the user's own, which stays; None for a new one, which `close` removes.

    All methods but the constructor do file I/O: on an event loop, call them in a thread.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._given = root
        self._root = root

    @property
    def root(self) -> Path:
        """The folder on the host; made when it is first needed."""
        if self._root is None:
            self._root = private_folder()
        return self._root

    def close(self) -> None:
        """Remove the folder if it was made here. Safe to call twice."""
        if self._given is None and self._root is not None:
            root, self._root = self._root, None
            remove_folder(root)

    def files(self) -> list[DataFile]:
        """The files, sorted by path; at most 1,000, and none below 32 folders."""
        found: list[DataFile] = []
        with self._folder(()) as root:
            _collect(root, "", found)
        return sorted(found, key=lambda file: file.path)

    def read(self, name: str, most: int = 64 * MIB) -> bytes:
        """The bytes of a file. Raises DataFolderError if it is not there, not a plain file, or larger than `most`."""
        *folders, last = _parts(name)
        try:
            with self._folder(folders) as folder:
                file = os.open(last, os.O_RDONLY | _FILE, dir_fd=folder)
        except OSError as error:
            raise DataFolderError(f"{name} cannot be read: {error.strerror}") from error
        with open(file, "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise DataFolderError(f"{name} is not a plain file")
            data = opened.read(most + 1)
        if len(data) > most:
            raise DataFolderError(f"{name} is larger than {most} bytes")
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a file, and the folders that lead to it. It replaces a file of that name at once."""
        *folders, last = _parts(name)
        owner = self.root.stat()
        temporary = f".{secrets.token_hex(8)}"
        try:
            with self._folder(folders, make=True) as folder:
                file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o644, dir_fd=folder)
                with open(file, "wb") as opened:
                    opened.write(data)
                    if os.geteuid() == 0:
                        os.fchown(opened.fileno(), owner.st_uid, owner.st_gid)
                os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            raise DataFolderError(f"{name} cannot be written: {error.strerror}") from error

    @contextmanager
    def _folder(self, parts: "list[str] | tuple[str, ...]", make: bool = False) -> "Generator[int]":
        """A folder's descriptor, opened name by name without following links."""
        at = os.open(self.root, _FOLDER & ~getattr(os, "O_NOFOLLOW", 0))
        try:
            for part in parts:
                if make and part not in os.listdir(at):
                    os.mkdir(part, 0o755, dir_fd=at)
                    if os.geteuid() == 0:
                        owner = os.fstat(at)
                        os.chown(part, owner.st_uid, owner.st_gid, dir_fd=at, follow_symlinks=False)
                below = os.open(part, _FOLDER, dir_fd=at)
                os.close(at)
                at = below
            yield at
        finally:
            os.close(at)


def _parts(name: str) -> list[str]:
    """The names that lead to a file, from its path relative to the data folder or below /mnt/data."""
    relative = name[len(DATA) + 1 :] if name.startswith(DATA + "/") else name
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if relative.startswith("/") or ".." in parts or "\0" in name or not parts or len(parts) > _MOST_DEPTH:
        raise DataFolderError(f"{name!r} names no file in {DATA}: give a path below it, without '..'")
    return parts


def _collect(folder: int, prefix: str, found: list[DataFile]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(found) >= _MOST_FILES:
                return
            path = f"{prefix}{entry.name}"
            try:
                if entry.is_dir(follow_symlinks=False) and path.count("/") < _MOST_DEPTH:
                    below = os.open(entry.name, _FOLDER, dir_fd=folder)
                    try:
                        _collect(below, f"{path}/", found)
                    finally:
                        os.close(below)
                elif entry.is_file(follow_symlinks=False):
                    known = entry.stat(follow_symlinks=False)
                    found.append(DataFile(path, known.st_size, known.st_mtime))
            except OSError:
                continue  # it is gone, or its folder may not be read
