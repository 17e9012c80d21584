"""What the GPU backend's weights and caches take on the card, counted from shapes: no card, torch or Triton is needed.

In: shapes and kinds. Out: bytes.
It does not know models: `ossia.engine.plan` adds up.
"""

from collections.abc import Sequence

from ossia.kernels.ops import BLOCK, AttentionShape, CacheBytes, Dense, KeyValues
from ossia.quant import QBLOCK

BF16, F32 = 2, 4
MXFP4_BLOCK = QBLOCK // 2 + 1  # bytes of 32 weights and their scale
INT8_BLOCK = QBLOCK + BF16
MOST_ROWS = 256  # of a step whose kernels are replayed from a graph


def dense_bytes(rows: int, width: int, kind: Dense) -> int:
    """A matrix outside the experts, without its bias."""
    if kind == "int8":
        return rows * -(-width // QBLOCK) * INT8_BLOCK
    return rows * width * BF16


def expert_bytes(experts: int, rows: int, width: int, mxfp4: bool) -> int:
    """One of a layer's two expert tensors with its biases, which are float32."""
    row = width // QBLOCK * MXFP4_BLOCK if mxfp4 else width * BF16
    return experts * rows * (row + F32)


def cache_bytes(shapes: Sequence[AttentionShape], kv: KeyValues) -> CacheBytes:
    """One block over all layers of a kind. fp8 is for layers that see everything: a window is small and soon left."""

    def block(shape: AttentionShape) -> int:
        head = (
            shape.head_dim + 1 if kv == "fp8" and not shape.window else BF16 * shape.head_dim
        )  # fp8: with an exponent
        return 2 * BLOCK * shape.kv_heads * head

    window = sum(block(shape) for shape in shapes if shape.window)
    return CacheBytes(sum(map(block, shapes)) - window, window)
