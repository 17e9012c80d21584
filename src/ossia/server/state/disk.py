"""Explains errors of the disk, and reserves space, so that deleting works on a full disk.

In: errors of the system and of SQLite, and a folder. Out: a condition and a message.
"""

import errno
import os
import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

Condition: TypeAlias = Literal["ok", "full", "read_only", "damaged", "failed"]
RESERVE_BYTES = 4 << 20  # SQLite writes before it frees pages
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


class Trouble(NamedTuple):
    condition: Condition
    message: str


def trouble_of(error: Exception, path: Path) -> Trouble:
    """What is wrong, and what to do. Clients may read the message, so it names no folder."""
    name = path.name
    code = getattr(error, "sqlite_errorname", "") or ""
    if type(error) is sqlite3.DatabaseError or code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Trouble("damaged", f"{name} is damaged ({error}): stop the server and move the file away")
    number = error.errno if isinstance(error, OSError) else None
    if number is None and code.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        number = refusal_of(path.parent)  # SQLite does not report the system's error
    if number in _FULL or code == "SQLITE_FULL":
        return Trouble("full", f"the disk of {name} is full: free some space, or limit the store's size")
    if number in _READ_ONLY or code.startswith(("SQLITE_READONLY", "SQLITE_PERM")):
        return Trouble(
            "read_only", f"{name} cannot be written: check who may write to its folder, and how it is mounted"
        )
    text = str((error.strerror if isinstance(error, OSError) else None) or error)
    return Trouble("failed", f"{name} cannot be used: {text}")


def refusal_of(folder: Path) -> int | None:
    """The system's error number for a write to this folder; None if it works."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    return None


class Reserve:
    """A file that reserves space on the disk until it is needed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.reserve"

    def take(self) -> None:
        """Reserve the space, if there is any."""
        with suppress(OSError):
            if self._path.exists() and self._path.stat().st_size >= RESERVE_BYTES:
                return
        try:
            with open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(os.urandom(1 << 16) * (RESERVE_BYTES >> 16))  # random bytes, which no file system compresses
        except OSError:
            self.free()

    def free(self) -> bool:
        """Free the space. False if none was reserved."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
