"""Frozen weights: MXFP4 stays packed; only one block of rows is unpacked at a time.

Input: stored blocks and scales, or dense values. Output: rows of an expert as numbers, a block at a time.

Shape legend: N rows of one expert, E experts, R outputs, C inputs, r rank.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ossia.kernels.cpu.unpack import unpack_bf16
from ossia.quant import E2M1, QBLOCK, Mxfp4, unpack_mxfp4

_BLOCK_BYTES = {"cpu": 1 << 24}  # unpacked or widened at a time
_CACHED_BYTES = 1 << 22  # of MXFP4 on a CPU, to stay in its cache
_BLOCK_BYTES_ELSEWHERE = 1 << 26
SMALL_WEIGHT = 1 << 22  # numbers: all experts of such a weight are unpacked together, once a pass
_BYTES = np.arange(256)
_PAIRS = np.ascontiguousarray(E2M1[np.stack([_BYTES & 15, _BYTES >> 4], axis=-1)])  # a byte's two values


def block_bytes(device: torch.device | str) -> int:
    """The most bytes of a weight that are unpacked at once."""
    return _BLOCK_BYTES.get(torch.device(device).type, _BLOCK_BYTES_ELSEWHERE)


class PackedWeight(NamedTuple):
    """[E, R, C] in MXFP4: uint8 blocks [E, R, C/32, 16] and scales [E, R, C/32]."""

    blocks: Tensor
    scales: Tensor

    @property
    def outputs(self) -> int:
        return self.blocks.shape[1]

    @property
    def numbers(self) -> int:
        return 2 * self.blocks.numel()

    def whole(self, dtype: torch.dtype) -> Tensor:
        """[E, R, C]: all experts as numbers. For small weights."""
        experts, rows, *packed = self.blocks.shape
        flat = unpack(self.blocks.reshape(-1, *packed), self.scales.reshape(experts * rows, -1), dtype)
        return flat.view(experts, rows, -1)

    def row_blocks(self, expert: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """The expert's rows, a block at a time, as numbers."""
        blocks, scales = self.blocks[expert], self.scales[expert]
        most = block_bytes(blocks.device)
        most = min(most, _CACHED_BYTES) if blocks.device.type == "cpu" else most
        for rows in _row_slices(blocks.shape[0], scales.shape[1] * QBLOCK * dtype.itemsize, most):
            yield rows, unpack(blocks[rows], scales[rows], dtype)


class DenseWeight(NamedTuple):
    """[E, R, C] as numbers, in a type that may be narrower than the compute type."""

    values: Tensor

    @property
    def outputs(self) -> int:
        return self.values.shape[1]

    @property
    def numbers(self) -> int:
        return self.values.numel()

    def whole(self, dtype: torch.dtype) -> Tensor:
        """[E, R, C]: all experts in `dtype`. For small weights."""
        return self.values.to(dtype)

    def row_blocks(self, expert: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        values = self.values[expert]
        if values.dtype == dtype:
            yield slice(0, values.shape[0]), values
            return
        for rows in _row_slices(values.shape[0], values.shape[1] * dtype.itemsize, block_bytes(values.device)):
            yield rows, values[rows].to(dtype)


Frozen = PackedWeight | DenseWeight


def is_small(weight: Frozen) -> bool:
    """Whether the weight takes so little memory that it may be unpacked whole."""
    return weight.numbers <= SMALL_WEIGHT


class Update(NamedTuple):
    """A low-rank update of an [E, R, C] weight: scale times b [E, R, r] times a [E, r, C]."""

    a: Tensor
    b: Tensor
    scale: float


def unpack(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """[R, C/32, 16] and [R, C/32] as [R, C] numbers, exact in bfloat16 and wider."""
    shape = (*scales.shape[:-1], scales.shape[-1] * QBLOCK)
    if blocks.device.type != "cpu":
        pairs = torch.from_numpy(_PAIRS).to(blocks.device, dtype)
        values = torch.nn.functional.embedding(blocks.reshape(-1).int(), pairs).reshape(-1, QBLOCK)
        return values.mul_(_powers(scales).to(dtype).reshape(-1, 1)).reshape(shape)
    # not Tensor.numpy(): FSDP could not free the storage then
    host = Mxfp4(np.from_dlpack(blocks).view(np.uint8), np.from_dlpack(scales).view(np.uint8))
    if dtype != torch.bfloat16:
        return torch.from_numpy(unpack_mxfp4(host)).to(dtype)
    bits = np.empty(shape, np.uint16)
    unpack_bf16(host, bits, torch.get_num_threads())
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


def _powers(scales: Tensor) -> Tensor:
    """2 ** (scale - 127) in float32: the scale has the exponent's bits, except 0, which is a subnormal number."""
    powers = (scales.int() << 23).view(torch.float32)
    return torch.where(scales == 0, 2.0**-127, powers)


def _row_slices(rows: int, row_bytes: int, most: int) -> Iterator[slice]:
    step = max(1, most // row_bytes)
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


def input_gradient(grad_NR: Tensor, weight: Frozen, expert: int) -> Tensor:
    """The gradient of the input rows of an expert's weight. Parts are summed in float32 or wider."""
    total: Tensor | None = None
    for rows, values in weight.row_blocks(expert, grad_NR.dtype):
        part = grad_NR[:, rows] @ values
        if rows.start == 0 and rows.stop == weight.outputs:
            return part
        wide = part.to(torch.promote_types(part.dtype, torch.float32))
        total = wide if total is None else total.add_(wide)
    assert total is not None
    return total.to(grad_NR.dtype)
