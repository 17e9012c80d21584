"""Checks the files of a snapshot in the Hugging Face cache against the hub's hashes.

In: a snapshot's folder. Out: nothing, or an error that names the file; a file that differs is removed. Checked files
are recorded in the user's own cache, so the hub's cache may be read-only.

The cache names a large file by its SHA-256, and any other by git's SHA-1 of a blob. If the cache has no links, the
hashes come from the hub.
"""

import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CHUNK = 1 << 24
_PATTERNS = ("*.json", "*.safetensors")


def check_files(name: str, folder: Path, left_out: Sequence[str], *, whole: bool = False) -> None:
    """Check all files of the snapshot that were not checked before.

    whole: all needed files of the repository were downloaded, which is recorded too. Raises ValueError if a file has
    another hash than the hub's.
    """
    mark = _read_mark(folder)
    known = mark.get("files") or {}
    found: dict[str, list[int]] = {}
    listing: Mapping[str, str] | None = None
    for path in _files(folder, left_out):
        file, stamp = path.relative_to(folder).as_posix(), _stamp(path)
        found[file] = stamp
        if isinstance(known, dict) and known.get(file) == stamp:
            continue
        expected = _linked_hash(path)
        if expected is None:
            listing = _listed_hashes(name, folder.name) if listing is None else listing
            expected = listing.get(file, "")
        if _HASH.fullmatch(expected) is None:
            raise ValueError(
                f"{file} of {name} cannot be checked: the hub gives no hash of it. Download the model with another "
                "tool, and give its folder"
            )
        if not _is_hash_of(path, expected):
            raise ValueError(_remove(name, file, path))
    _write_mark(folder, {"files": found, "whole": whole or bool(mark.get("whole"))})


def is_known_whole(folder: Path) -> bool:
    """Whether all needed files of the snapshot are recorded as downloaded."""
    mark = _read_mark(folder)
    files = mark.get("files")
    return bool(mark.get("whole")) and isinstance(files, dict) and all((folder / file).exists() for file in files)


def _files(folder: Path, left_out: Sequence[str]) -> list[Path]:
    paths = [path for pattern in _PATTERNS for path in folder.rglob(pattern)]
    names = {path: path.relative_to(folder).as_posix() for path in paths}
    return sorted(p for p, name in names.items() if not any(fnmatch.fnmatch(name, each) for each in left_out))


def _linked_hash(path: Path) -> str | None:
    """The hash in the name of the blob that the cache links to."""
    if not path.is_symlink():
        return None
    name = os.path.basename(path.readlink())
    return name if _HASH.fullmatch(name) else None


def _listed_hashes(name: str, commit: str) -> dict[str, str]:
    """The hashes that the hub lists; none if it cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        siblings = HfApi().model_info(name, revision=commit, files_metadata=True).siblings or []
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return {}
    return {each.rfilename: each.lfs.sha256 if each.lfs else each.blob_id or "" for each in siblings}


def _is_hash_of(path: Path, expected: str) -> bool:
    if len(expected) == 64:
        digests = [hashlib.sha256()]
    else:  # git's SHA-1, which includes the length; some mirrors list the plain one
        digests = [hashlib.sha1(f"blob {path.stat().st_size}\0".encode()), hashlib.sha1()]
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            for digest in digests:
                digest.update(chunk)
    return expected in [digest.hexdigest() for digest in digests]


def _remove(name: str, file: str, path: Path) -> str:
    """Remove a file from the cache, so that it is downloaded again. Returns the message."""
    places = [path.resolve(), *([path.parent / path.readlink()] if path.is_symlink() else []), path]
    for place in places:
        with suppress(OSError):
            place.unlink()
    message = f"{file} of {name} was damaged or altered on the way: its hash is not the hub's"
    if os.path.lexists(path):
        return f"{message}. It cannot be removed here: remove {path.resolve()}, then run the command again"
    return f"{message}. It has been removed: run the command again"


def _stamp(path: Path) -> list[int]:
    """Values that change when a file does."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _mark(folder: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    return Path.home() / ".cache" / "ossia" / "checked" / f"{digest}.json"


def _read_mark(folder: Path) -> dict[str, object]:
    try:
        mark = json.loads(_mark(folder).read_bytes())
    except (OSError, ValueError, RuntimeError):
        return {}
    return mark if isinstance(mark, dict) else {}


def _write_mark(folder: Path, mark: Mapping[str, object]) -> None:
    """Record checked files. Without a writable user cache, files are checked at each start."""
    with suppress(OSError, RuntimeError):
        place = _mark(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.{os.getpid()}")
        part.write_text(json.dumps(mark), encoding="utf-8")
        part.replace(place)
