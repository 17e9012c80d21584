"""Reads a checkpoint's small files safely: regular files inside their folder, of limited size, with one-line errors.

In: an untrusted path. Out: its bytes or its JSON object, or a `FileError` that names the file and the place.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

SETTINGS_LIMIT = 4 << 20  # bytes of a config.json and its like; the published ones have under 10 KB
INDEX_LIMIT = 16 << 20  # bytes of an index or of a safetensors header; gpt-oss-120b with unfused experts has 4 MB
TOKENIZER_LIMIT = 256 << 20  # bytes of a tokenizer.json; the published one has 28 MB

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
_LFS = b"version https://git-lfs.github.com/spec/"
_LFS_LIMIT = 1024  # bytes; a pointer is never larger


class FileError(ValueError):
    """A file is invalid. The message names it, the place in it and, where possible, the remedy."""


def checked(path: Path, folder: Path | None = None) -> Path:
    """The path, if it is a regular file inside `folder` (default: its own).

    A link may lead to another file of the folder, or in the Hugging Face cache to the cache's blobs.
    """
    try:
        mode = path.stat().st_mode
        real, base = path.resolve(), (folder or path.parent).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise FileError(f"{path}: cannot be read: {_reason(error)}") from error
    if not stat.S_ISREG(mode):
        raise FileError(f"{path}: is {_KINDS.get(stat.S_IFMT(mode), 'a device')}, not a file")
    if not any(real.is_relative_to(root) for root in (base, *_blobs(base))):
        raise FileError(f"{path}: leads to {real}, outside {base}: copy that file into the folder")
    if real.stat().st_size <= _LFS_LIMIT and is_lfs_pointer(real):
        raise FileError(f"{path}: is a git-lfs pointer, not the file itself: run `git lfs pull` in {base}")
    return path


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file is a git-lfs pointer: a few lines of text in place of a large file."""
    if not path.is_file():  # opening a pipe would block
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(_LFS)) == _LFS
    except OSError:
        return False


def read_bytes(path: Path, limit: int) -> bytes:
    """The whole file. Raises FileError, before reading, if it is larger than `limit`."""
    checked(path)
    try:
        with path.open("rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > limit:
                raise FileError(f"{path}: has {size:,} bytes; at most {limit:,} are read")
            return file.read(limit)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {_reason(error)}") from error


def read_object(path: Path, limit: int = SETTINGS_LIMIT) -> dict[str, Any]:
    """The JSON object in a file. Raises FileError for other JSON, for a duplicate key, and for invalid JSON."""
    return json_object(path, read_bytes(path, limit))


def json_object(path: Path, data: bytes, what: str = "not JSON") -> dict[str, Any]:
    """The JSON object in bytes of `path`. what: the beginning of the error message."""
    try:
        value = json.loads(data, object_pairs_hook=_without_doubles)
    except RecursionError as error:
        raise FileError(f"{path}: {what}: nested too deeply") from error
    except ValueError as error:
        raise FileError(f"{path}: {what}: {_cut(str(error))}") from error
    if not isinstance(value, dict):
        raise FileError(f"{path}: {what}: not a JSON object")
    return value


def shown(value: object, max_length: int = 120) -> str:
    """A value on one line of an error message, shortened if it is long."""
    if isinstance(value, str | bytes | list | tuple) and len(value) > max_length:
        return f"{value[:max_length]!r}… ({len(value):,} in all)"
    try:
        return _cut(repr(value), max_length)
    except (ValueError, RecursionError):  # a number with thousands of digits; deeply nested lists
        return f"a {type(value).__name__}"


def _cut(text: str, max_length: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= max_length else f"{text[:max_length]}…"


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        seen: set[str] = set()
        double = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"{shown(double)} occurs twice")
    return names


def _blobs(folder: Path) -> list[Path]:
    """Where the Hugging Face cache keeps the files that models--ORG--NAME/snapshots/COMMIT links to."""
    for parent in folder.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return [parent.parent / "blobs", parent.parent.parent / "blobs"]  # the second is shared by repositories
    return []


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "No such file"
    return getattr(error, "strerror", None) or _cut(str(error))
