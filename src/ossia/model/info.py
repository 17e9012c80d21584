"""The size of a model by component: parameters, checkpoint bytes and KV-cache bytes, computed from its config.

In: a `ModelConfig`. Out: a `ModelSize`, or text for `ossia info`. Sizes are those of the published formats. No file is
read.
"""

from typing import NamedTuple

from ossia.kernels.sizes import BF16, MXFP4_BLOCK
from ossia.model.config import ModelConfig
from ossia.model.memory import expert_biases, matrices, qkv_rows, token_cache_bytes
from ossia.quant import QBLOCK

_GIB = 1 << 30


class Component(NamedTuple):
    """active: parameters that one token's pass reads. bytes: in an MXFP4 checkpoint."""

    name: str
    parameters: int
    active: int
    bytes: int


class ModelSize(NamedTuple):
    """kv_token_bytes: full-attention layers, per token, in bfloat16. kv_window_bytes: the maximum of all sliding
    layers of one sequence.
    """

    components: tuple[Component, ...]
    kv_token_bytes: int
    kv_window_bytes: int

    @property
    def parameters(self) -> int:
        return sum(c.parameters for c in self.components)

    @property
    def active(self) -> int:
        """Parameters that one token is multiplied with: includes the unembedding, but not the embedding."""
        return sum(c.active for c in self.components)

    @property
    def checkpoint_bytes(self) -> int:
        return sum(c.bytes for c in self.components)

    def kv_bytes(self, tokens: int, window: int) -> int:
        """Cache bytes of one sequence of `tokens` tokens."""
        return self.kv_token_bytes * tokens + self.kv_window_bytes * min(tokens, window) // window


def model_size(config: ModelConfig) -> ModelSize:
    """Exact counts. gpt-oss-120b has 116,829,156,672 parameters, 5,132,849,472 of them active."""
    c, m = config, matrices(config)
    attention = m.attention + c.layers * (qkv_rows(c) + c.hidden + c.heads)
    router = m.router + c.layers * c.experts
    biases = expert_biases(c)
    experts, active_experts = (c.layers * n * (m.expert + biases) for n in (c.experts, c.experts_per_token))
    expert_bytes = m.expert // QBLOCK * MXFP4_BLOCK + biases * BF16
    norms, table = (2 * c.layers + 1) * c.hidden, m.table
    return ModelSize(
        components=(
            Component("embedding", table, 0, table * BF16),
            Component("attention", attention, attention, attention * BF16),
            Component("router", router, router, router * BF16),
            Component("experts", experts, active_experts, c.layers * c.experts * expert_bytes),
            Component("norms", norms, norms, norms * BF16),
            Component("unembedding", table, table, table * BF16),
        ),
        kv_token_bytes=sum(token_cache_bytes(shape, "bf16") for shape in c.shapes if not shape.window),
        kv_window_bytes=sum(token_cache_bytes(shape, "bf16") * shape.window for shape in c.shapes),
    )


def describe(config: ModelConfig) -> str:
    """The text of `ossia info` about a model: its shape, then its sizes by component."""
    c, size = config, model_size(config)
    rows = [*size.components, Component("total", size.parameters, size.active, size.checkpoint_bytes)]
    table = [f"{'':12}{'parameters':>18}{'active':>16}{'checkpoint':>16}"]
    table += [f"{r.name:12}{r.parameters:>18,}{r.active:>16,}{readable(r.bytes):>16}" for r in rows]
    whole = size.kv_bytes(c.max_context, c.window)
    return "\n".join(
        [
            f"layers       {c.layers}: {c.sliding.count(True)} see the last {c.window} tokens, "
            f"{c.sliding.count(False)} see all",
            f"hidden       {c.hidden}",
            f"attention    {c.heads} heads of {c.head_dim}, {c.kv_heads} key/value heads",
            f"experts      {c.experts} a layer, {c.experts_per_token} active, width {c.intermediate}",
            f"vocabulary   {c.vocab:,}",
            f"context      {c.max_context:,} tokens",
            "",
            *table,
            "",
            f"KV cache     {readable(size.kv_token_bytes)} a token in full layers, and at most "
            f"{readable(size.kv_window_bytes)} a sequence in sliding layers",
            f"             {readable(whole)} for one sequence of {c.max_context:,} tokens (bfloat16)",
        ]
    )


def readable(count: int) -> str:
    """Bytes in the largest binary unit that gives at least 1."""
    for unit, name in ((_GIB, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count} B"
