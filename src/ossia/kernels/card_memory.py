"""Bytes that the GPU backend's weights and caches take, computed from shapes. Needs no GPU, torch or Triton.

In: shapes and types. Out: bytes. `ossia.engine.plan` adds them up for a model.
"""

from collections.abc import Sequence

from ossia.kernels.ops import BLOCK, AttentionShape, CacheBytes, Dense, KeyValues
from ossia.quant import QBLOCK

BF16, F32 = 2, 4
MXFP4_BLOCK = QBLOCK // 2 + 1  # bytes of 32 weights and their scale
INT8_BLOCK = QBLOCK + BF16
MAX_GRAPH_ROWS = 256  # rows of the largest step that a CUDA graph is captured for


def dense_bytes(rows: int, width: int, kind: Dense) -> int:
    """Bytes of a matrix outside the experts, without its bias."""
    if kind == "int8":
        return rows * -(-width // QBLOCK) * INT8_BLOCK
    return rows * width * BF16


def expert_bytes(experts: int, rows: int, width: int, mxfp4: bool) -> int:
    """Bytes of one of a layer's two expert tensors, with its float32 biases."""
    row = width // QBLOCK * MXFP4_BLOCK if mxfp4 else width * BF16
    return experts * rows * (row + F32)


def cache_bytes(shapes: Sequence[AttentionShape], kv: KeyValues) -> CacheBytes:
    """Bytes of one block over all layers of a kind. Only full-attention layers use fp8: sliding windows are small."""

    def block(shape: AttentionShape) -> int:
        is_fp8 = kv == "fp8" and not shape.window
        head = shape.head_dim + 1 if is_fp8 else BF16 * shape.head_dim  # fp8 has one exponent byte
        return 2 * BLOCK * shape.kv_heads * head

    window = sum(block(shape) for shape in shapes if shape.window)
    return CacheBytes(sum(map(block, shapes)) - window, window)
