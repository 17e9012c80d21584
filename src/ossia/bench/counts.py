"""What a token must read and multiply, and what a model takes in memory, counted from its config.

In: a `ModelConfig`, the formats its weights and cache are held in, how many sequences decode and how deep. Out: bytes
and multiply-accumulates. It does not know clocks, arrays, or what a kernel really reads: these are the least it can.

Matrices and the cache are counted; biases, norms and activations, under a fifth of a percent of gpt-oss-20b, are not.
"""

from typing import NamedTuple

from ossia.engine.host_plan import BITS, MXFP4_BITS
from ossia.kernels.ops import AttentionShape, Backend, Dense, KeyValues
from ossia.model.config import ModelConfig

TRITON_INT8_BITS = 8.5  # to 32


class Formats(NamedTuple):
    """Bits of a weight outside the experts and in them; bytes of one token's key, or value, in one head."""

    dense_bits: float
    expert_bits: float
    kv: KeyValues = "bf16"

    def head_bytes(self, head_dim: int, window: int = 0) -> int:
        if self.kv == "fp8":  # with an exponent; sliding layers stay bfloat16
            return 2 * head_dim if window else head_dim + 1
        return {"bf16": 2 * head_dim, "f32": 4 * head_dim, "int8": head_dim + 4}[self.kv]  # int8: a float32 scale


class Matrices(NamedTuple):
    """Weights of a model, by what one token's pass does with them."""

    attention: int  # q, k, v and output, all layers
    router: int
    expert: int  # one expert of one layer
    table: int  # the embedding, and as large the unembedding


def formats_of(backend: Backend, dense: Dense = "int8", kv: KeyValues = "bf16", mxfp4: bool = True) -> Formats:
    """What a backend holds: the reference unpacks all to float32; experts that came as bfloat16 stay so."""
    if backend == "reference":
        return Formats(32.0, 32.0, kv)
    bits = TRITON_INT8_BITS if (backend, dense) == ("triton", "int8") else BITS[dense]
    return Formats(bits, MXFP4_BITS if mxfp4 else 16.0, kv)


def matrices(c: ModelConfig) -> Matrices:
    heads, keys_values = c.heads * c.head_dim, 2 * c.kv_heads * c.head_dim
    return Matrices(
        attention=c.layers * c.hidden * (2 * heads + keys_values),
        router=c.layers * c.hidden * c.experts,
        expert=3 * c.hidden * c.intermediate,
        table=c.vocab * c.hidden,
    )


def expected_experts(c: ModelConfig, rows: int) -> float:
    """Distinct experts of a layer that `rows` rows choose, if the router favours none."""
    return c.experts * (1.0 - (1.0 - c.experts_per_token / c.experts) ** rows)


def cache_bytes(c: ModelConfig, formats: Formats, tokens: int) -> int:
    """Bytes of keys and values of one sequence of `tokens` tokens. Sliding layers hold their window only."""
    return sum(_layer_cache_bytes(shape, formats, tokens) for shape in c.shapes)


def decode_bytes(c: ModelConfig, formats: Formats, rows: int = 1, depth: int = 0) -> float:
    """Read for each token when `rows` sequences decode together, each with `depth` tokens before it.

    The pass reads each weight once for all of them, and of the experts those that some row chose.
    """
    m = matrices(c)
    dense = (m.attention + m.router + m.table) * formats.dense_bits / 8
    experts = c.layers * expected_experts(c, rows) * m.expert * formats.expert_bits / 8
    return (dense + experts) / rows + cache_bytes(c, formats, depth)


def prompt_macs(c: ModelConfig) -> int:
    """Multiply-accumulates of a prompt token's weights: neither attention's scores nor the unembedding."""
    m = matrices(c)
    return m.attention + m.router + c.layers * c.experts_per_token * m.expert


def weight_bytes(c: ModelConfig, formats: Formats) -> float:
    """What the weights take in memory; the embedding's rows are looked up, so they stay as in the checkpoint."""
    m = matrices(c)
    dense = (m.attention + m.router + m.table) * formats.dense_bits / 8
    experts = c.layers * c.experts * m.expert * formats.expert_bits / 8
    return dense + experts + m.table * max(16.0, formats.dense_bits if formats.dense_bits > 16 else 0.0) / 8


def _layer_cache_bytes(shape: AttentionShape, formats: Formats, tokens: int) -> int:
    held = min(tokens, shape.window) if shape.window else tokens
    return held * 2 * shape.kv_heads * formats.head_bytes(shape.head_dim, shape.window)
