"""Numbers and bytes of a model, counted from its config: weights, keys and values, a step's activations.

In: a `ModelConfig` and formats. Out: counts and bytes. Nothing is loaded. `engine/host_plan.py` and `engine/plan.py`
decide by them what fits, `bench` what a token must read, `ossia info` what it shows.
"""

from typing import NamedTuple

from ossia.kernels.ops import AttentionShape, Dense, KeyValues
from ossia.kernels.sizes import BF16, F32, MAX_GRAPH_ROWS, Formats, dense_bytes, expert_bytes, head_bytes
from ossia.model.config import ModelConfig

_PARTIALS = 64 << 20  # on a GPU: attention's partial sums, a step's lists of work
_FIXED = 256 << 20  # on the host: the interpreter, the compiled kernels and the compiler
_TOKEN_BYTES = 1024  # of the tokenizer and its masks, per token of the vocabulary
_LOGITS = 16  # rows of logits in the host's memory at a time


class Matrices(NamedTuple):
    """Weights of a model's matrices, by what one token's pass does with them."""

    attention: int  # q, k, v and output, all layers
    router: int  # all layers
    expert: int  # one expert of one layer
    table: int  # the embedding, and as large the unembedding


def qkv_rows(c: ModelConfig) -> int:
    """Outputs of the query, key and value projections of a layer."""
    return (c.heads + 2 * c.kv_heads) * c.head_dim


def matrices(c: ModelConfig) -> Matrices:
    return Matrices(
        attention=c.layers * c.hidden * (qkv_rows(c) + c.heads * c.head_dim),
        router=c.layers * c.hidden * c.experts,
        expert=3 * c.hidden * c.intermediate,
        table=c.vocab * c.hidden,
    )


def expert_biases(c: ModelConfig) -> int:
    """Biases of one expert of one layer."""
    return 2 * c.intermediate + c.hidden


# Keys and values.


def token_cache_bytes(shape: AttentionShape, kv: KeyValues) -> int:
    """Bytes of one token's keys and values in a layer."""
    return 2 * shape.kv_heads * head_bytes(kv, shape.head_dim, shape.window)


def cache_bytes(c: ModelConfig, kv: KeyValues, tokens: int) -> int:
    """Bytes of keys and values of one sequence of `tokens` tokens. Sliding layers hold only their window."""
    held = {window: min(tokens, window) if window else tokens for window in set(c.windows)}
    return sum(held[shape.window] * token_cache_bytes(shape, kv) for shape in c.shapes)


# Weights.


def weight_bytes(c: ModelConfig, formats: Formats) -> float:
    """Bytes of the matrices; of the embedding only rows are read, so it stays as in the checkpoint."""
    m = matrices(c)
    dense = (m.attention + m.router + m.table) * formats.dense_bits / 8
    experts = c.layers * c.experts * m.expert * formats.expert_bits / 8
    return dense + experts + m.table * max(16.0, formats.dense_bits if formats.dense_bits > 16 else 0.0) / 8


def host_weight_bytes(c: ModelConfig, formats: Formats, *, copies_embedding: bool) -> tuple[int, int]:
    """Bytes of the experts, and of all other weights, in the host's memory. A mapped embedding does not count."""
    m = matrices(c)
    others = (m.attention + m.table) * formats.dense_bits / 8 + m.router * BF16
    others += c.layers * c.experts * expert_biases(c) * F32
    others += m.table * F32 if copies_embedding else 0
    return int(c.layers * c.experts * m.expert * formats.expert_bits / 8), int(others)


def card_weight_bytes(c: ModelConfig, dense: Dense, mxfp4: bool = True) -> int:
    """Bytes of all weights on a GPU. The embedding is bfloat16; the router and norms are bfloat16 or wider."""
    layer = dense_bytes(qkv_rows(c), c.hidden, dense) + dense_bytes(c.hidden, c.heads * c.head_dim, dense)
    layer += F32 * (qkv_rows(c) + c.hidden + c.heads + 2 * c.hidden)  # biases, sinks, norms
    layer += c.experts * (c.hidden + 1) * F32  # the router, if float32
    layer += expert_bytes(c.experts, 2 * c.intermediate, c.hidden, mxfp4)
    layer += expert_bytes(c.experts, c.hidden, c.intermediate, mxfp4)
    table = matrices(c).table
    return c.layers * layer + dense_bytes(c.vocab, c.hidden, dense) + table * BF16 + c.hidden * F32


def largest_tensor_bytes(c: ModelConfig, mxfp4: bool = True) -> int:
    """Bytes of the largest tensor that is loaded onto a GPU: the embedding, or a layer's up experts."""
    return max(matrices(c).table * BF16, expert_bytes(c.experts, 2 * c.intermediate, c.hidden, mxfp4))


# A step's activations.


def card_workspace_bytes(c: ModelConfig, rows: int) -> int:
    """Bytes of a step of `rows` rows on a GPU: activations, partial sums, the logits of all rows sampled at once."""
    row = c.hidden * (F32 + 2 * BF16) + (qkv_rows(c) + c.heads * c.head_dim) * BF16
    row += c.experts_per_token * (c.intermediate * BF16 + c.hidden * F32)
    logits = 3 * MAX_GRAPH_ROWS * c.vocab * F32  # inside a graph, its output, and a step without a graph
    return rows * row + logits + _PARTIALS


def host_workspace_bytes(c: ModelConfig, rows: int) -> int:
    """Bytes of a step of `rows` rows on the host: activations, logits, tokenizer, compiler and interpreter."""
    row = 6 * c.hidden + qkv_rows(c) + c.heads * c.head_dim
    row += c.experts_per_token * (3 * c.intermediate + c.hidden)
    return _FIXED + rows * row * F32 + c.vocab * (_TOKEN_BYTES + _LOGITS * F32)
