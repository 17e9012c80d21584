"""The op set on a CPU: Numba kernels over the checkpoint's own bytes.

In: host tensors, memory-mapped or not, and a `Batch`. Out: float32 NumPy arrays.
It does not know layers or files. Weights stay as stored (MXFP4 or bfloat16); activations and sums are float32.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossia.kernels import BLOCK, AttentionShape, Batch, HostArray
from ossia.kernels.cpu.attention import attend, rotate, store
from ossia.kernels.cpu.linear import linear
from ossia.kernels.cpu.moe import Routing, down_add, sort_pairs, top_k, up_swiglu
from ossia.kernels.cpu.norm import rms_norm
from ossia.kernels.rope import Frequencies, frequencies
from ossia.quant import Mxfp4, widen

Rows = NDArray[np.float32]


class Linear(NamedTuple):
    """weight [1, R, D] in uint16 (bfloat16 bits) or float32; bias float32 [R]."""

    weight: NDArray[np.uint16] | NDArray[np.float32]
    bias_R: Rows


class Experts(NamedTuple):
    """weight: (blocks, scales) of MXFP4, or a dense [E, R, D]; bias float32 [E, R]."""

    weight: tuple[NDArray[np.uint8], NDArray[np.uint8]] | NDArray[np.uint16] | NDArray[np.float32]
    bias_ER: Rows


class Attention(NamedTuple):
    shape: AttentionShape
    frequencies: Frequencies
    sinks_H: Rows


class LayerCache(NamedTuple):
    """Keys and values of one layer, float32 [C, BLOCK, G, d]; pages are touched when first written."""

    keys: Rows
    values: Rows


class CpuOps:
    name = "cpu"

    def vector(self, host: HostArray) -> Rows:
        return np.ascontiguousarray(widen(host), np.float32)

    def embedding(self, table_VD: HostArray) -> NDArray[np.uint16] | NDArray[np.float32]:
        return _stored(table_VD)

    def linear(self, weight_RD: HostArray, bias_R: HostArray | None) -> Linear:
        bias = np.zeros(weight_RD.shape[0], np.float32) if bias_R is None else self.vector(bias_R)
        return Linear(_stored(weight_RD)[None], bias)

    def experts(self, weight_ERD: HostArray | Mxfp4, bias_ER: HostArray) -> Experts:
        if isinstance(weight_ERD, Mxfp4):
            return Experts((_stored(weight_ERD.blocks), _stored(weight_ERD.scales)), self.vector(bias_ER))
        return Experts(_stored(weight_ERD), self.vector(bias_ER))

    def attention(self, shape: AttentionShape, sinks_H: HostArray) -> Attention:
        return Attention(shape, frequencies(shape.rope, shape.head_dim), self.vector(sinks_H))

    def cache(self, shapes: list[AttentionShape], blocks: int) -> list[LayerCache]:
        sizes = [(blocks, BLOCK, shape.kv_heads, shape.head_dim) for shape in shapes]
        return [LayerCache(np.zeros(size, np.float32), np.zeros(size, np.float32)) for size in sizes]

    def embed(self, tokens_T: NDArray[np.int32], table: NDArray[np.uint16] | NDArray[np.float32]) -> Rows:
        return self.vector(table[tokens_T])

    def norm_linear(self, x_TD: Rows, norm_D: Rows, eps: float, weight: Linear) -> Rows:
        return _linear(rms_norm(x_TD, norm_D, eps), weight)

    def linear_add(self, x: Rows, weight: Linear, residual_TD: Rows) -> Rows:
        linear(x, weight.weight, weight.bias_R, residual_TD)
        return residual_TD

    def attend(self, qkv: Rows, attention: Attention, cache: LayerCache | None, batch: Batch) -> Rows:
        """RoPE, cache write, attention; without a cache a sequence's rows go through one made for this call."""
        shape = attention.shape
        lengths_S = np.diff(batch.starts_S1)
        sequence_T = np.repeat(np.arange(len(lengths_S), dtype=np.int32), lengths_S)
        blocks_SB = batch.blocks_SB
        if cache is None:
            blocks_SB = _own_blocks(batch, lengths_S)
            (cache,) = self.cache([shape], int(blocks_SB.max()) + 1)
        rotated = shape.heads + shape.kv_heads
        rotate(qkv, rotated, shape.head_dim, batch.positions_T, *attention.frequencies)
        first_key = shape.heads * shape.head_dim
        store(qkv, first_key, cache.keys, cache.values, batch.positions_T, sequence_T, blocks_SB)
        out = np.empty((len(qkv), first_key), np.float32)
        places = (batch.positions_T, sequence_T, blocks_SB)
        attend(qkv, cache.keys, cache.values, *places, attention.sinks_H, shape.window, out)
        return out

    def route(self, x_TD: Rows, norm_D: Rows, eps: float, router: Linear, k: int) -> Routing:
        normed_TD = rms_norm(x_TD, norm_D, eps)
        return Routing(normed_TD, *top_k(_linear(normed_TD, router), k))

    def experts_add(self, routing: Routing, up: Experts, down: Experts, limit: float, residual_TD: Rows) -> Rows:
        pairs = sort_pairs(routing)
        h_NF = np.empty((len(pairs.rows_N), up.bias_ER.shape[1] // 2), np.float32)
        up_swiglu(routing.x_TD, pairs, up.weight, up.bias_ER, np.float32(limit), h_NF)
        down_add(h_NF, pairs, down.weight, down.bias_ER, residual_TD)
        return residual_TD

    def unembed(self, x_TD: Rows, rows_R: NDArray[np.int32], norm_D: Rows, eps: float, table: Linear) -> Rows:
        return self.norm_linear(x_TD[rows_R], norm_D, eps, table)

    def host(self, logits_RV: Rows) -> Rows:
        return logits_RV


def _stored(host: NDArray[Any]) -> NDArray[Any]:
    """As stored, rows contiguous; float16 has no kernel of its own and is widened.

    Read-only whether mapped or copied: Numba compiles a kernel anew for each mutability.
    """
    stored = np.ascontiguousarray(host.astype(np.float32) if host.dtype == np.float16 else host).view()
    stored.flags.writeable = False
    return stored


def _linear(x_TD: Rows, weight: Linear) -> Rows:
    out_TR = np.zeros((len(x_TD), len(weight.bias_R)), np.float32)
    linear(x_TD, weight.weight, weight.bias_R, out_TR)
    return out_TR


def _own_blocks(batch: Batch, lengths_S: NDArray[np.int32]) -> NDArray[np.int32]:
    """Block tables for sequences that start at position 0 and lie in this batch as a whole."""
    counts_S = -(-lengths_S // BLOCK)
    starts_S = np.cumsum(counts_S) - counts_S
    return (starts_S[:, None] + np.arange(counts_S.max())[None]).astype(np.int32)
