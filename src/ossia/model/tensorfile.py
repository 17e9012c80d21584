"""The safetensors format, in one file or several with an index, read by memory map and written as a stream.

In: a folder, and for writing the tensors' names, types and shapes before their bytes. Out: NumPy views of the files.
It does not know models. (The safetensors library can neither give bfloat16 to NumPy nor write what is not in memory; it
is the oracle of the tests.)

Layout: u64 length of the header, a JSON header {name: {dtype, shape, data_offsets}}, then the bytes without holes, all
little-endian.
"""

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

# bfloat16 is carried as its bits
DTYPES = {"BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "U8": np.dtype("u1")}
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_HEADER_LIMIT = 100_000_000  # the library's own


class CheckpointError(ValueError):
    """A checkpoint is not what it should be; the message names the file and the tensor."""


class Entry(NamedTuple):
    """A tensor's place in its file, in bytes from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile(NamedTuple):
    """A mapped file; none of its tensors' bytes is read before it is used."""

    path: Path
    entries: dict[str, Entry]
    bytes: NDArray[np.uint8]

    def read(self, name: str) -> NDArray[Any]:
        """A read-only view of a tensor (a copy where the file does not align it)."""
        entry = self.entries[name]
        tensor = self.bytes[entry.begin : entry.end].view(DTYPES[entry.dtype]).reshape(entry.shape)
        return tensor if tensor.flags.aligned else tensor.copy()


def open_tensorfile(path: Path) -> TensorFile:
    """Map a file and read its header; CheckpointError if header and length do not agree."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise CheckpointError(f"{path}: not a safetensors file, or cut off in its header ({size:,} bytes)")
            entries = _entries(path, file.read(length))
        # asarray sheds the memmap type and keeps the map
        mapped = np.asarray(np.memmap(path, np.uint8, "r"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    _check_extents(path, entries, 8 + length, size)
    return TensorFile(path, {entry.name: entry for entry in entries}, mapped)


def _entries(path: Path, header: bytes) -> list[Entry]:
    try:
        fields = json.loads(header, object_pairs_hook=_without_doubles)
    except ValueError as error:
        raise CheckpointError(f"{path}: bad safetensors header: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: bad safetensors header: not a table of tensors")
    return [_entry(path, 8 + len(header), *item) for item in fields.items() if item[0] != "__metadata__"]


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        seen: set[str] = set()
        double = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"{double!r} is there twice")
    return names


def _entry(path: Path, data: int, name: str, fields: Any) -> Entry:
    match fields:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if all(
            type(n) is int and n >= 0 for n in shape
        ):
            pass
        case _:
            raise CheckpointError(f"{path}: tensor {name!r} has a bad header entry: {fields!r}")
    if dtype not in DTYPES:
        raise CheckpointError(f"{path}: tensor {name!r} has dtype {dtype}; Ossia reads {', '.join(DTYPES)}")
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if begin < 0 or end - begin != needed:
        raise CheckpointError(f"{path}: tensor {name!r}, {dtype} {shape}, takes {needed:,} bytes, not {begin}..{end}")
    return Entry(name, dtype, tuple(shape), data + begin, data + end)


def _check_extents(path: Path, entries: list[Entry], data: int, size: int) -> None:
    at = data
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.end > size:
            raise CheckpointError(
                f"{path}: tensor {entry.name!r} is cut off: it ends at byte {entry.end:,} of {size:,}"
            )
        if entry.begin != at:
            raise CheckpointError(f"{path}: tensor {entry.name!r} starts at byte {entry.begin:,}, not {at:,}")
        at = entry.end
    if at != size:
        raise CheckpointError(f"{path}: {size - at:,} bytes after the last tensor")


def open_folder(folder: Path) -> dict[str, TensorFile]:
    """The file of every tensor in a folder: model.safetensors, the shards its index names, or all *.safetensors."""
    if (folder / _SINGLE).exists():
        files = [open_tensorfile(folder / _SINGLE)]
    elif (folder / _INDEX).exists():
        files = _open_shards(folder)
    else:
        files = [open_tensorfile(path) for path in sorted(folder.glob("*.safetensors"))]
    places: dict[str, TensorFile] = {}
    for file in files:
        for name in file.entries:
            if places.setdefault(name, file) is not file:
                raise CheckpointError(f"{file.path}: tensor {name!r} is in {places[name].path.name} too")
    return places


def read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return raw


def _open_shards(folder: Path) -> list[TensorFile]:
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{folder / _INDEX}: has no weight_map")
    # the index alone says which files there are: a "-of-0000n" in a name may be wrong
    files: dict[str, TensorFile] = {}
    for name, place in weight_map.items():
        path = folder / str(place)
        if place not in files:
            if not path.is_file():
                raise CheckpointError(f"{path}: missing; the index has tensor {name!r} in it")
            files[place] = open_tensorfile(path)
        if name not in files[place].entries:
            raise CheckpointError(f"{path}: tensor {name!r} is missing; the index has it here")
    return list(files.values())


class Planned(NamedTuple):
    """A tensor to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def write_tensors(
    folder: Path, plan: list[Planned], stream: Iterator[tuple[str, NDArray[Any]]], shard_bytes: int
) -> None:
    """Take each planned tensor's chunks off the stream, in order, into model.safetensors or shards with an index."""
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


def _write_chunks(file: BinaryIO, tensor: Planned, stream: Iterator[tuple[str, NDArray[Any]]]) -> None:
    left = tensor.bytes
    while left:
        name, chunk = next(stream)
        assert name == tensor.name, (name, tensor)
        assert chunk.nbytes <= left, tensor
        file.write(np.ascontiguousarray(chunk).data)
        left -= chunk.nbytes


def _shards(plan: list[Planned], shard_bytes: int) -> list[list[Planned]]:
    shards: list[list[Planned]] = [[]]
    room = shard_bytes
    for tensor in plan:
        if tensor.bytes > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tensor)
        room -= tensor.bytes
    return shards


def _header(tensors: list[Planned]) -> bytes:
    # transformers refuses files that do not say what wrote them
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    return len(text).to_bytes(8, "little") + text


@contextmanager
def staged(folder: Path, needed: int) -> Iterator[Path]:
    """A folder inside `folder` whose files move up into it at the end, or vanish on any error."""
    folder.mkdir(parents=True, exist_ok=True)
    if held := sorted(folder.glob("*.safetensors")):
        raise CheckpointError(f"{held[0]}: already there; choose another directory or remove the old weights")
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(f"{folder}: the checkpoint needs {needed:,} bytes and the disk has {free:,} free")
    stage = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
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
    finally:
        shutil.rmtree(stage, ignore_errors=True)
