"""Bytes of matrices, experts and cache blocks in each format. Needs no GPU, torch, Triton or Numba.

In: shapes and formats. Out: bits and bytes. `ossia.model.memory` adds them up for a model.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ossia.kernels.ops import BLOCK, AttentionShape, Backend, CacheBytes, Dense, KeyValues
from ossia.quant import QBLOCK

BF16, F32 = 2, 4
MXFP4_BLOCK = QBLOCK // 2 + 1  # bytes of 32 weights and their scale
INT8_BLOCK = QBLOCK + BF16  # on a GPU; the CPU's int8 has a scale per 64 weights
MAX_GRAPH_ROWS = 256  # rows of the largest step that a CUDA graph is captured for
_CPU_BITS: dict[Dense, float] = {"int8": 8.25, "int4": 4.5, "bf16": 16.0}  # a bfloat16 scale per 64 or 32 weights


class Formats(NamedTuple):
    """Bits of a weight outside the experts and in them, with its part of a scale; the type of keys and values."""

    dense_bits: float
    expert_bits: float
    kv: KeyValues = "bf16"


def formats_of(backend: Backend, dense: Dense = "int8", kv: KeyValues = "bf16", mxfp4: bool = True) -> Formats:
    """The formats in a backend's memory: the reference unpacks all to float32; bfloat16 experts stay so."""
    if backend == "reference":
        return Formats(8.0 * F32, 8.0 * F32, kv)
    bits = 8 * INT8_BLOCK / QBLOCK if (backend, dense) == ("triton", "int8") else _CPU_BITS[dense]
    return Formats(bits, 8 * MXFP4_BLOCK / QBLOCK if mxfp4 else 8.0 * BF16, kv)


def head_bytes(kv: KeyValues, head_dim: int, window: int = 0) -> int:
    """Bytes of one token's key, or value, in one head. Sliding layers stay bfloat16 under fp8: they are small."""
    if kv == "fp8":
        return BF16 * head_dim if window else head_dim + 1  # one exponent byte
    return {"bf16": BF16 * head_dim, "f32": F32 * head_dim, "int8": head_dim + F32}[kv]  # int8: a float32 scale


def dense_bytes(rows: int, width: int, kind: Dense) -> int:
    """Bytes on a GPU of a matrix outside the experts, without its bias."""
    if kind == "int8":
        return rows * -(-width // QBLOCK) * INT8_BLOCK
    return rows * width * BF16


def expert_bytes(experts: int, rows: int, width: int, mxfp4: bool) -> int:
    """Bytes on a GPU of one of a layer's two expert tensors, with its float32 biases."""
    row = width // QBLOCK * MXFP4_BLOCK if mxfp4 else width * BF16
    return experts * rows * (row + F32)


def cache_bytes(shapes: Sequence[AttentionShape], kv: KeyValues) -> CacheBytes:
    """Bytes of one cache block over all layers of a kind."""

    def block(shape: AttentionShape) -> int:
        return 2 * BLOCK * shape.kv_heads * head_bytes(kv, shape.head_dim, shape.window)

    window = sum(block(shape) for shape in shapes if shape.window)
    return CacheBytes(sum(map(block, shapes)) - window, window)
