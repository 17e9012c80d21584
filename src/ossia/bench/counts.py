"""What a token must read and multiply, counted from its config.

In: a `ModelConfig`, the formats of its weights and cache, how many sequences decode and how deep. Out: bytes and
multiply-accumulates. It does not know clocks, arrays, or what a kernel really reads: these are the least it can.

Matrices and the cache are counted; biases, norms and activations, under a fifth of a percent of gpt-oss-20b, are not.
"""

from ossia.kernels.sizes import Formats
from ossia.model.config import ModelConfig
from ossia.model.memory import cache_bytes, matrices


def expected_experts(c: ModelConfig, rows: int) -> float:
    """Distinct experts of a layer that `rows` rows choose, if the router favours none."""
    return c.experts * (1.0 - (1.0 - c.experts_per_token / c.experts) ** rows)


def decode_bytes(c: ModelConfig, formats: Formats, rows: int = 1, depth: int = 0) -> float:
    """Read for each token when `rows` sequences decode together, each with `depth` tokens before it.

    The pass reads each weight once for all of them, and of the experts those that some row chose.
    """
    m = matrices(c)
    dense = (m.attention + m.router + m.table) * formats.dense_bits / 8
    experts = c.layers * expected_experts(c, rows) * m.expert * formats.expert_bits / 8
    return (dense + experts) / rows + cache_bytes(c, formats.kv, depth)


def prompt_macs(c: ModelConfig) -> int:
    """Multiply-accumulates of a prompt token's weights: neither attention's scores nor the unembedding."""
    m = matrices(c)
    return m.attention + m.router + c.layers * c.experts_per_token * m.expert
