"""The forward function of gpt-oss, written once against the op set: embed, blocks of attention and experts, unembed.

In: a `Batch` of token rows and the layers' caches. Out: the logits of the sampled rows.

Source: gpt-oss model card, arXiv:2508.10925, section 2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ossia.kernels.ops import AttentionShape, Batch, CacheBytes, Ops
from ossia.model.checkpoint import Checkpoint
from ossia.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's weights, as objects of the backend."""

    attn_norm: Any
    qkv: Any
    attention: Any
    out: Any
    mlp_norm: Any
    router: Any
    up: Any
    down: Any


@dataclass(frozen=True, slots=True)
class Weights:
    embedding: Any
    layers: tuple[Layer, ...]
    norm: Any
    unembedding: Any


@dataclass(frozen=True, slots=True)
class Transformer:
    """A model on a backend."""

    config: ModelConfig
    weights: Weights
    ops: Ops

    def forward(self, batch: Batch, cache: list[Any] | None = None) -> Any:
        """Logits [R, V] of the batch's sampled rows. Without a cache, each sequence sees only its rows of this batch."""
        c = self.config
        shape = AttentionShape(c.heads, c.kv_heads, c.head_dim, 0, c.rope)
        return self.ops.run(lambda held: self._forward(held, cache), batch, cache, shape)

    def _forward(self, batch: Any, cache: list[Any] | None) -> Any:
        """batch: a `Batch`, or the backend's form of one."""
        c, w, ops = self.config, self.weights, self.ops
        x_TD = ops.embed(batch.tokens_T, w.embedding)
        for i, layer in enumerate(w.layers):
            x_TD = block(c, ops, layer, x_TD, cache[i] if cache else None, batch)
        return ops.unembed(x_TD, batch.sampled_R, w.norm, c.norm_eps, w.unembedding)

    @property
    def cache_bytes(self) -> CacheBytes:
        return self.ops.cache_bytes(self.config.shapes)

    def cache(self, blocks: int, window_blocks: int) -> list[Any]:
        """An empty cache per layer: `blocks` blocks in full-attention layers, `window_blocks` in sliding layers."""
        return self.ops.cache(self.config.shapes, blocks, window_blocks)


def block(config: ModelConfig, ops: Ops, layer: Layer, x_TD: Any, cache: Any, batch: Batch) -> Any:
    """Attention, then experts, each added to the residual."""
    qkv = ops.norm_linear(x_TD, layer.attn_norm, config.norm_eps, layer.qkv)
    heads = ops.attend(qkv, layer.attention, cache, batch, prefetch=layer.out)
    x_TD = ops.linear_add(heads, layer.out, x_TD)
    routing = ops.route(x_TD, layer.mlp_norm, config.norm_eps, layer.router, config.experts_per_token)
    return ops.experts_add(routing, layer.up, layer.down, config.swiglu_limit, x_TD)


def load_transformer(
    checkpoint: Checkpoint, ops: Ops, progress: Callable[[int, int], None] | None = None
) -> Transformer:
    """Pack a checkpoint's tensors for a backend, layer by layer. Calls `progress(done, total)` after each."""
    config = checkpoint.config
    layers = []
    for i in range(config.layers):
        layers.append(_layer(checkpoint, i, ops))
        if progress:
            progress(i + 1, config.layers)
    weights = Weights(
        embedding=_made("embedding", ops.embedding, checkpoint.embedding()),
        layers=tuple(layers),
        norm=_made("norm", ops.vector, checkpoint.norm()),
        unembedding=_made("unembedding", ops.linear, checkpoint.unembedding(), None),
    )
    return Transformer(config, weights, ops)


def _layer(checkpoint: Checkpoint, index: int, ops: Ops) -> Layer:
    t, at = checkpoint.layer(index), f"layers.{index}"
    return Layer(
        attn_norm=_made(f"{at}.attn_norm", ops.vector, t.attn_norm),
        qkv=_made(f"{at}.qkv_weight", ops.linear, t.qkv_weight, t.qkv_bias),
        attention=_made(f"{at}.sinks", ops.attention, checkpoint.config.shapes[index], t.sinks),
        out=_made(f"{at}.out_weight", ops.linear, t.out_weight, t.out_bias),
        mlp_norm=_made(f"{at}.mlp_norm", ops.vector, t.mlp_norm),
        router=_made(f"{at}.router_weight", ops.router, t.router_weight, t.router_bias),
        up=_made(f"{at}.up_weight", ops.experts, t.up_weight, t.up_bias, gated=True),
        down=_made(f"{at}.down_weight", ops.experts, t.down_weight, t.down_bias, gated=False),
    )


def _made(name: str, make: Callable[..., Any], *host: Any, **more: Any) -> Any:
    """The result of `make`. A ValueError gets the tensor's name."""
    try:
        return make(*host, **more)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
