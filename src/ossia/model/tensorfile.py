"""The safetensors format, in one file or several with an index: read by memory map, written as a stream.

In: a folder; for writing, the tensors' names, types and shapes before their bytes. Out: NumPy views of the files. The
safetensors library cannot give bfloat16 to NumPy, or write tensors that are not in memory. It is the tests' oracle.

Layout: u64 length of the header, a JSON header {name: {dtype, shape, data_offsets}}, then the bytes without gaps, all
little-endian.
"""

import errno
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossia import files
from ossia.files import INDEX_LIMIT, SETTINGS_LIMIT, FileError, shown

# bfloat16 is represented by its bits
DTYPES = {"BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "U8": np.dtype("u1")}
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_DIMENSIONS, _MAX_DIMENSION = 8, 1 << 48  # number of dimensions, and size of one


class CheckpointError(FileError):
    """A checkpoint is invalid. The message names the file and the tensor."""


class TensorEntry(NamedTuple):
    """A tensor's position in its file, in bytes from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile(NamedTuple):
    """A mapped file. A tensor's bytes are read when they are used."""

    path: Path
    entries: dict[str, TensorEntry]
    bytes: NDArray[np.uint8]

    def read(self, name: str) -> NDArray[Any]:
        """A read-only view of a tensor; a copy if the file does not align it."""
        entry = self.entries[name]
        tensor = self.bytes[entry.begin : entry.end].view(DTYPES[entry.dtype]).reshape(entry.shape)
        return tensor if tensor.flags.aligned else tensor.copy()


def open_tensorfile(path: Path, folder: Path | None = None) -> TensorFile:
    """Map a file of `folder` (default: its own folder) and read its header.

    Raises CheckpointError if header and length disagree, or the file is outside the folder.
    """
    with _as_checkpoint_error():
        files.checked(path, folder)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise CheckpointError(f"{path}: not a safetensors file, or cut off in its header ({size:,} bytes)")
            if length > INDEX_LIMIT:
                raise CheckpointError(f"{path}: its header has {length:,} bytes; at most {INDEX_LIMIT:,} are read")
            entries = _entries(path, file.read(length))
        # asarray drops the memmap type, but keeps the mapping
        mapped = np.asarray(np.memmap(path, np.uint8, "r"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    _check_extents(path, entries, 8 + length, size)
    return TensorFile(path, {entry.name: entry for entry in entries}, mapped)


def _entries(path: Path, header: bytes) -> list[TensorEntry]:
    with _as_checkpoint_error():
        fields = files.json_object(path, header, "bad safetensors header")
    return [_entry(path, 8 + len(header), *item) for item in fields.items() if item[0] != "__metadata__"]


def _entry(path: Path, data: int, name: str, fields: Any) -> TensorEntry:
    match fields:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]} if len(
            shape
        ) <= _MAX_DIMENSIONS and all(type(n) is int and 0 <= n <= _MAX_DIMENSION for n in (*shape, begin, end)):
            pass
        case _:
            raise CheckpointError(f"{path}: tensor {shown(name)} has a bad header entry: {shown(fields)}")
    if dtype not in DTYPES:
        raise CheckpointError(
            f"{path}: tensor {shown(name)} has dtype {shown(dtype).strip(chr(39))}; Ossia reads {', '.join(DTYPES)}"
        )
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != needed:
        raise CheckpointError(
            f"{path}: tensor {shown(name)}, {dtype} {shape}, takes {needed:,} bytes, not {begin}..{end}"
        )
    return TensorEntry(name, dtype, tuple(shape), data + begin, data + end)


def _check_extents(path: Path, entries: list[TensorEntry], data: int, size: int) -> None:
    at = data
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.end > size:
            raise CheckpointError(
                f"{path}: tensor {shown(entry.name)} is cut off: it ends at byte {entry.end:,} of {size:,}"
            )
        if entry.begin != at:
            raise CheckpointError(f"{path}: tensor {shown(entry.name)} starts at byte {entry.begin:,}, not {at:,}")
        at = entry.end
    if at != size:
        raise CheckpointError(f"{path}: {size - at:,} bytes after the last tensor")


def open_folder(folder: Path) -> dict[str, TensorFile]:
    """The file of every tensor in a folder: model.safetensors, the shards named by its index, or all *.safetensors."""
    if os.path.lexists(folder / _SINGLE):
        opened = [open_tensorfile(folder / _SINGLE)]
    elif os.path.lexists(folder / _INDEX):
        opened = _open_shards(folder)
    else:
        opened = [open_tensorfile(path) for path in sorted(folder.glob("*.safetensors"))]
    places: dict[str, TensorFile] = {}
    for file in opened:
        for name in file.entries:
            if places.setdefault(name, file) is not file:
                raise CheckpointError(f"{file.path}: tensor {shown(name)} is in {places[name].path.name} too")
    return places


def read_json(path: Path, limit: int = SETTINGS_LIMIT) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes. CheckpointError names the file and the place."""
    with _as_checkpoint_error():
        return files.read_object(path, limit)


@contextmanager
def _as_checkpoint_error() -> Generator[None]:
    try:
        yield
    except FileError as error:
        raise CheckpointError(str(error)) from error


def _open_shards(folder: Path) -> list[TensorFile]:
    index = folder / _INDEX
    weight_map = read_json(index, INDEX_LIMIT).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: has no weight_map")
    # only the index decides which files there are: a "-of-0000n" in a name may be wrong
    opened: dict[str, TensorFile] = {}
    for name, place in weight_map.items():
        if not isinstance(place, str) or not 0 < len(place) < 1000 or "\0" in place:
            raise CheckpointError(f"{index}: the file of tensor {shown(name)} cannot be {shown(place)}")
        if place not in opened:
            path = folder / place
            if Path(place).is_absolute() or ".." in Path(place).parts:
                raise CheckpointError(
                    f"{index}: the file of tensor {shown(name)} is outside the folder: {shown(place)}"
                )
            if not os.path.lexists(path):
                raise CheckpointError(f"{path}: missing; the index has tensor {shown(name)} in it")
            opened[place] = open_tensorfile(path, folder)
        if name not in opened[place].entries:
            raise CheckpointError(f"{folder / place}: tensor {shown(name)} is missing; the index has it here")
    return list(opened.values())


class PlannedTensor(NamedTuple):
    """A tensor that will be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def write_tensors(
    folder: Path, plan: list[PlannedTensor], stream: Iterator[tuple[str, NDArray[Any]]], shard_bytes: int
) -> None:
    """Write each planned tensor's chunks from the stream, in order, into model.safetensors or shards with an index."""
    shards = _shards(plan, shard_bytes)
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [_SINGLE]
    for name, shard in zip(names, shards):
        with (folder / name).open("wb") as file:
            file.write(_header(shard))
            for tensor in shard:
                _write_chunks(file, tensor, stream)
    if len(shards) > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards) for tensor in shard}
        total = sum(tensor.bytes for tensor in plan)
        write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _write_chunks(file: BinaryIO, tensor: PlannedTensor, stream: Iterator[tuple[str, NDArray[Any]]]) -> None:
    left = tensor.bytes
    while left:
        name, chunk = next(stream)
        assert name == tensor.name, (name, tensor)
        assert chunk.nbytes <= left, tensor
        file.write(np.ascontiguousarray(chunk).data)
        left -= chunk.nbytes


def _shards(plan: list[PlannedTensor], shard_bytes: int) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    room = shard_bytes
    for tensor in plan:
        if tensor.bytes > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tensor)
        room -= tensor.bytes
    return shards


def _header(tensors: list[PlannedTensor]) -> bytes:
    # transformers refuses files without a "format" entry
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    return len(text).to_bytes(8, "little") + text


@contextmanager
def staged(folder: Path, needed: int) -> Generator[Path]:
    """A temporary folder inside `folder`. Its files move up at the end, or are deleted on any error."""
    folder.mkdir(parents=True, exist_ok=True)
    if held := sorted(folder.glob("*.safetensors")):
        if not (folder / "config.json").exists():
            raise CheckpointError(
                f"{held[0]}: is left over from an interrupted write (there is no config.json): remove it"
            )
        raise CheckpointError(f"{held[0]}: already there; choose another directory or remove the old weights")
    with temporary(folder) as stage:
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise CheckpointError(f"{folder}: the checkpoint needs {needed:,} bytes and the disk has {free:,} free")
        try:
            yield stage
            for path in sorted(stage.iterdir(), key=lambda path: (path.suffix != ".safetensors", path.name)):
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
                path.replace(folder / path.name)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise CheckpointError(
                    f"{folder}: no room for the checkpoint's {needed:,} bytes: {error.strerror}"
                ) from error
            raise


@contextmanager
def temporary(folder: Path) -> Generator[Path]:
    """A folder inside `folder` for the duration of the block. Also removes folders left by a killed process."""
    for left in folder.glob(".partial-*"):
        if (number := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(number)
    stage = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    number = _locked(stage)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if number is not None:
            os.close(number)


def _locked(folder: Path) -> int | None:
    """The folder's descriptor, with a lock that ends with the process. None if another process holds the lock."""
    if sys.platform == "win32":  # no such locks: leftover folders stay
        return None
    import fcntl

    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(number)
        return None
    return number
