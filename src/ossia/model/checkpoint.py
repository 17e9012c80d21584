"""Checkpoints of gpt-oss on disk: opened by memory map in any of the three layouts, written as a stream.

In: a directory; for writing, any source of tensors layer by layer. Out: a `Checkpoint`, or files.

Opening checks every tensor's name, shape and type. MXFP4 scales are checked when their layer is read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ossia.files import shown
from ossia.kernels.ops import HostArray
from ossia.model.config import ModelConfig
from ossia.model.layouts import (
    EMBEDDING,
    LAYER,
    LAYOUTS,
    NORM,
    UNEMBEDDING,
    Layout,
    LayoutRow,
    StoredTensor,
    all_stored,
    shape,
    stored,
)
from ossia.model.names import UnfusedExperts, published_names, unfused, wanted_tensors
from ossia.model.tensorfile import (
    CheckpointError,
    PlannedTensor,
    TensorFile,
    open_folder,
    read_json,
    staged,
    write_json,
    write_tensors,
)
from ossia.quant import NAN_SCALE, QBLOCK, Mxfp4, quantize_mxfp4, to_bf16, unpack_mxfp4, widen

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "LayerTensors",
    "Tensors",
    "open_checkpoint",
    "read_config",
    "write_checkpoint",
]

SHARD_BYTES = 5_000_000_000
_CHUNK_BYTES = 1 << 25


class LayerTensors(NamedTuple):
    """The tensors of one block. R = (H + 2G) d rows of q, k and v. The U = 2F gate and up rows alternate, gate first."""

    attn_norm: HostArray  # [D]
    qkv_weight: HostArray  # [R, D]
    qkv_bias: HostArray  # [R]
    sinks: HostArray  # [H]
    out_weight: HostArray  # [D, H d]
    out_bias: HostArray  # [D]
    mlp_norm: HostArray  # [D]
    router_weight: HostArray  # [E, D]
    router_bias: HostArray  # [E]
    up_weight: HostArray | Mxfp4  # [E, U, D]
    up_bias: HostArray  # [E, U]
    down_weight: HostArray | Mxfp4  # [E, D, F]
    down_bias: HostArray  # [E, D]


class Tensors(Protocol):
    """A model's weights, on demand: a `Checkpoint`, or anything that can be written as one."""

    def embedding(self) -> HostArray: ...
    def layer(self, index: int) -> LayerTensors: ...
    def norm(self) -> HostArray: ...
    def unembedding(self) -> HostArray: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open checkpoint. Arrays are read-only views of the mapped files where the layout allows."""

    path: Path
    layout: Layout
    config: ModelConfig
    files: dict[str, TensorFile]  # by tensor name
    unfused: UnfusedExperts | None = None  # the names of experts that are stored one by one

    def embedding(self) -> HostArray:
        return self._read(EMBEDDING)

    def norm(self) -> HostArray:
        return self._read(NORM)

    def unembedding(self) -> HostArray:
        return self._read(UNEMBEDDING)

    def layer(self, index: int) -> LayerTensors:
        """Raises CheckpointError if an MXFP4 scale is NaN."""
        return LayerTensors(*(self._read(row, index) for row in LAYER))

    def first_expert(self) -> HostArray | Mxfp4:
        """Gate and up weights [1, U, D] of the first expert of the first layer. Reads no other expert."""
        row = next(row for row in LAYER if row.field == "up_weight")
        if self.unfused:
            return self._stacked(row, self.unfused.stored(self.config, row, 0)[: len(self.unfused.up)])
        up = self._read(row, 0)
        return Mxfp4(up.blocks[:1], up.scales[:1]) if isinstance(up, Mxfp4) else up[:1]

    def unembedding_dtype(self) -> str:
        """The safetensors name of the type: "BF16", "F16" or "F32"."""
        name = stored(self.config, self.layout, UNEMBEDDING)[0].name
        return self.files[name].entries[name].dtype

    def _stacked(self, row: LayoutRow, parts: Sequence[StoredTensor]) -> HostArray:
        """Separately stored experts as one array. Separate gates and ups become alternate rows."""
        arrays = [self.files[part.name].read(part.name) for part in parts]
        if len({array.dtype for array in arrays}) > 1:
            arrays = [widen(array) for array in arrays]
        assert self.unfused is not None, "only unfused experts are stacked"
        step = len(self.unfused.up) if row.field.startswith("up") else 1
        rows = step * len(arrays[0])
        out = np.empty((len(arrays) // step, rows, *arrays[0].shape[1:]), arrays[0].dtype)
        for i, array in enumerate(arrays):
            out[i // step, i % step :: step] = array
        return out

    def _read(self, row: LayoutRow, layer: int | None = None) -> Any:
        if self.unfused and layer is not None and (own := self.unfused.stored(self.config, row, layer)):
            return self._stacked(row, own)
        parts = stored(self.config, self.layout, row, layer)
        arrays = [self.files[part.name].read(part.name) for part in parts]
        match [part.form for part in parts]:
            case ["blocks", "scales"]:
                self._check_scales(parts[1].name, arrays[1])
                return Mxfp4(*arrays)
            case ["turned"]:
                return arrays[0].swapaxes(1, 2)
            case ["dense"]:
                return arrays[0]
        if len({array.dtype for array in arrays}) > 1:
            arrays = [widen(array) for array in arrays]  # a tool may have trained only q and v, in float32
        return np.concatenate(arrays)

    def _check_scales(self, name: str, scales: NDArray[np.uint8]) -> None:
        if bad := np.count_nonzero(scales == NAN_SCALE):
            raise CheckpointError(
                f"{self.files[name].path}: tensor {shown(name)} holds {bad:,} scales of {NAN_SCALE}, which is NaN in MXFP4: "
                "the file is damaged; fetch it again"
            )


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint in a directory, or in its subfolder original/.

    Raises CheckpointError, naming file and tensor, if one is missing, unknown, truncated, or of a wrong shape or type.
    """
    folder = _weights_folder(Path(path))
    config = read_config(folder / "config.json")
    files = published_names(open_folder(folder))
    if variant := unfused(files):
        _check_tensors(folder, wanted_tensors(config, variant, len(files)), files)
        return Checkpoint(folder, "bf16", config, files, variant)
    layout = max(LAYOUTS, key=lambda layout: len(all_stored(config, layout).keys() & files.keys()))
    _check_tensors(folder, all_stored(config, layout), files)
    return Checkpoint(folder, layout, config, files)


def _weights_folder(path: Path) -> Path:
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such directory")
    for folder in (path, path / "original"):
        if any(folder.glob("*.safetensors")):
            return folder
    raise CheckpointError(f"{path}: no *.safetensors here or in original/: this is not a checkpoint")


def read_config(path: Path) -> ModelConfig:
    raw = read_json(path)
    try:
        return ModelConfig.from_json(raw)
    except ValueError as error:
        raise CheckpointError(f"{path.parent}: {error}") from error


def _check_tensors(folder: Path, wanted: dict[str, StoredTensor], files: dict[str, TensorFile]) -> None:
    if missing := [name for name in wanted if name not in files]:
        raise CheckpointError(f"{folder}: missing {_listed(missing)}")
    if extra := sorted(files.keys() - wanted.keys()):
        raise CheckpointError(f"{files[extra[0]].path}: {_listed(extra)} is not part of this gpt-oss model")
    for name, want in wanted.items():
        entry, where = files[name].entries[name], f"{files[name].path}: tensor {shown(name)}"
        if entry.shape != want.shape:
            raise CheckpointError(f"{where} has shape {list(entry.shape)}; config.json asks for {list(want.shape)}")
        if (entry.dtype == "U8") != (want.form in ("blocks", "scales")):
            kinds = "U8" if want.form in ("blocks", "scales") else "BF16, F16 or F32"
            raise CheckpointError(f"{where} has dtype {entry.dtype}; want {kinds}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return "tensor " + ", ".join(map(shown, names[:5])) + more


def write_checkpoint(
    path: str | Path, config: ModelConfig, tensors: Tensors, layout: Layout, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a model's weights and config.json into a directory; the "original" layout into its subfolder original/.

    Each layer is requested once and converted a few MB at a time. Dense weights are stored as bfloat16. "hf" and
    "original" quantize dense experts to MXFP4; "bf16" unpacks MXFP4 experts exactly. All files appear at the end, or
    none after an error. Raises CheckpointError if the directory has weights already, a shape is wrong, or the disk is
    full.
    """
    folder = Path(path) / "original" if layout == "original" else Path(path)
    raw = config.to_json("original" if layout == "original" else "hf", quantized=layout != "bf16")
    form_dtype = {"dense": "BF16", "turned": "BF16", "blocks": "U8", "scales": "U8"}
    wanted = all_stored(config, layout)
    plan = [PlannedTensor(name, form_dtype[part.form], part.shape) for name, part in wanted.items()]
    with staged(folder, sum(tensor.bytes for tensor in plan)) as stage:
        write_tensors(stage, plan, _stream(config, tensors, layout), shard_bytes)
        if layout == "original":
            kinds = {"blocks": "FP4", "scales": "UE8"}
            write_json(stage / "dtypes.json", {name: kinds.get(part.form, "BF16") for name, part in wanted.items()})
        write_json(stage / "config.json", raw)


def _stream(config: ModelConfig, tensors: Tensors, layout: Layout) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each stored tensor's name with its bytes in chunks, in the order of `all_stored`."""
    yield from _chunks(tensors.embedding(), config, layout, EMBEDDING)
    for index in range(config.layers):
        # no variable keeps a layer, so that it is freed before the next one is made
        yield from _layer_chunks(tensors.layer(index), config, layout, index)
    yield from _chunks(tensors.norm(), config, layout, NORM)
    yield from _chunks(tensors.unembedding(), config, layout, UNEMBEDDING)


def _layer_chunks(
    layer: LayerTensors, config: ModelConfig, layout: Layout, index: int
) -> Iterator[tuple[str, NDArray[Any]]]:
    for row in LAYER:
        yield from _chunks(getattr(layer, row.field), config, layout, row, index)


def _chunks(
    tensor: HostArray | Mxfp4, config: ModelConfig, layout: Layout, row: LayoutRow, layer: int | None = None
) -> Iterator[tuple[str, NDArray[Any]]]:
    given, wanted = _shape(tensor), shape(config, row)
    if given != wanted:
        raise CheckpointError(
            f"cannot write {row.field}: its shape is {list(given)}, the config asks for {list(wanted)}"
        )
    parts = stored(config, layout, row, layer)
    match [part.form for part in parts]:
        case ["blocks", "scales"]:
            scales = []
            for expert in range(config.experts):
                packed = _expert(tensor, expert)
                packed = packed if isinstance(packed, Mxfp4) else quantize_mxfp4(widen(packed))
                scales.append(packed.scales)
                yield parts[0].name, packed.blocks
            yield from ((parts[1].name, scale) for scale in scales)
        case ["turned"]:
            for expert in range(config.experts):
                dense = _expert(tensor, expert)
                yield parts[0].name, _bits(unpack_mxfp4(dense) if isinstance(dense, Mxfp4) else dense).T
        case _:
            assert not isinstance(tensor, Mxfp4), row.field
            start = 0
            for part in parts:
                end = start + part.shape[0]
                yield from ((part.name, chunk) for chunk in _dense_chunks(tensor[start:end]))
                start = end


def _shape(tensor: HostArray | Mxfp4) -> tuple[int, ...]:
    if isinstance(tensor, Mxfp4):
        return (*tensor.scales.shape[:-1], tensor.scales.shape[-1] * QBLOCK)
    return tensor.shape


def _expert(tensor: HostArray | Mxfp4, expert: int) -> HostArray | Mxfp4:
    if isinstance(tensor, Mxfp4):
        return Mxfp4(tensor.blocks[expert], tensor.scales[expert])
    return tensor[expert]


def _dense_chunks(tensor: HostArray) -> Iterator[NDArray[np.uint16]]:
    rows = max(1, _CHUNK_BYTES * len(tensor) // max(1, tensor.nbytes))
    return (_bits(tensor[start : start + rows]) for start in range(0, len(tensor), rows))


def _bits(tensor: HostArray) -> NDArray[np.uint16]:
    """bfloat16 bits of a dense tensor."""
    return tensor.view(np.uint16) if tensor.dtype == np.uint16 else to_bf16(widen(tensor))
