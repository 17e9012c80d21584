"""The op set on a CPU: Numba kernels that emit the machine's own vector instructions.

In: host tensors, memory-mapped or not, and a `Batch`. Out: float32 NumPy arrays.
It does not know layers or files.

MXFP4 experts keep their bits, repacked; attention and unembedding weights become int8 in blocks of 64 (or int4 in blocks of
32), or stay bfloat16; activations are rounded to int8, in blocks of as many, where they meet packed weights, queries and
attention's weights to bfloat16 where they meet a bfloat16 cache, and are float32 elsewhere.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossia.kernels.cpu.attention import TILE, attend_while_reading, place_and_attend, place_and_attend_apart
from ossia.kernels.cpu.codegen.jit import physical_cores
from ossia.kernels.cpu.gemm import multiply_exact, normed_exact, normed_multiply, rounded_multiply
from ossia.kernels.cpu.kv_cache import BF16, F32, INT8, LayerCache, block_bytes, discard_blocks, head_bytes, make_cache
from ossia.kernels.cpu.moe import Routing, add_dense, add_packed, routed
from ossia.kernels.cpu.pack import BIAS, INT4, MXFP4, Panels, pack_dense, pack_mxfp4
from ossia.kernels.cpu.pack import INT8 as INT8_PANELS
from ossia.kernels.mapped import ask_for
from ossia.kernels.ops import BLOCK, AttentionShape, Batch, Blocks, CacheBytes, Dense, HostArray, HostOps, KeyValues
from ossia.kernels.rope import frequencies
from ossia.quant import Mxfp4, as_mxfp4, widen

Rows = NDArray[np.float32]

_WORTH_WAKING = 1 << 20  # products: about 30 µs of one core, what waking a sleeping thread may take
_ROUNDING = 16  # products that norming, rounding or rotating a number takes as long as
_ALONE = 1 << 22  # products of attention that one thread does while another fetches the weights that come next
LARGE = 1 << 22  # bytes of such weights: they come from memory, not from a cache
APART = 4096  # cached tokens from which a few rows' attention is worth sharing out by key


class Exact(NamedTuple):
    """Rows as stored, padded to 16: flat uint16 (bfloat16 bits) or float32; bias float32 [R]."""

    weight: NDArray[np.uint16] | NDArray[np.float32]
    bias_R: Rows
    width: int

    @property
    def size(self) -> int:
        return self.weight.size


class Packed(NamedTuple):
    panels: Panels
    bias_R: Rows

    @property
    def size(self) -> int:
        return self.panels.rows * self.panels.width


class DenseExperts(NamedTuple):
    """[E, R, D] as stored, flat, rows padded to 16; bias float32 [E, R]."""

    weight: NDArray[np.uint16] | NDArray[np.float32]
    bias_ER: Rows
    width: int


class PackedExperts(NamedTuple):
    """bias float32 [E, panels, 32], in the panels' order."""

    panels: Panels
    bias_EPR: Rows


class Attention(NamedTuple):
    shape: AttentionShape
    rope: tuple[NDArray[np.float32], float]  # `Frequencies`, as Numba takes it fastest
    sinks_H: Rows


class CpuOps(HostOps):
    """`dense`: what attention's and the unembedding's weights are kept in. `kv`: what keys and values are."""

    name = "cpu"

    def __init__(self, dense: Dense = "int8", kv: KeyValues = "bf16", workers: int | None = None) -> None:
        self._dense, self._kv = dense, {"bf16": BF16, "int8": INT8, "f32": F32}[kv]
        self._terms = 3 if dense == "bf16" else 1  # of activations, where experts are packed
        self._most = workers or physical_cores()

    def _workers(self, products: int) -> int:
        """Threads for so many multiplications: 1, the caller's own, where waking others would take longer."""
        return 1 if products < _WORTH_WAKING else self._most

    # made once, at load

    def vector(self, host: HostArray) -> Rows:
        return np.ascontiguousarray(widen(host), np.float32)

    def embedding(self, table_VD: HostArray) -> NDArray[np.uint16] | NDArray[np.float32]:
        ask_for(table_VD)
        return _stored(table_VD)

    def linear(self, weight_RD: HostArray, bias_R: HostArray | None) -> Exact | Packed:
        if self._dense == "bf16":
            return self.router(weight_RD, bias_R)
        panels = pack_dense(weight_RD, INT8_PANELS if self._dense == "int8" else INT4)
        return Packed(panels, self._bias(panels.rows, bias_R))

    def router(self, weight_ED: HostArray, bias_E: HostArray | None) -> Exact:
        """Never rounded: a router's choice is all or nothing."""
        weight, width = _padded(_stored(weight_ED))
        return Exact(weight, self._bias(len(weight_ED), bias_E), width)

    def experts(self, weight_ERD: HostArray | Mxfp4, bias_ER: HostArray, gated: bool) -> DenseExperts | PackedExperts:
        bias = self.vector(bias_ER)
        if not isinstance(weight_ERD, Mxfp4):
            weight_ERD = as_mxfp4(weight_ERD) or weight_ERD
        if not isinstance(weight_ERD, Mxfp4):
            weight, width = _padded(_stored(weight_ERD))
            return DenseExperts(weight, bias, width)
        panels = pack_mxfp4(weight_ERD, gated)
        experts, rows = bias.shape
        in_panels = np.zeros((experts, panels.panels * 32), np.float32)
        in_panels[:, :rows] = bias
        in_panels = in_panels.reshape(experts, panels.panels, 32)
        if gated:
            in_panels = np.concatenate([in_panels[..., 0::2], in_panels[..., 1::2]], axis=-1)
        return PackedExperts(panels, np.ascontiguousarray(in_panels))

    def attention(self, shape: AttentionShape, sinks_H: HostArray) -> Attention:
        inverse, concentration = frequencies(shape.rope, shape.head_dim)
        return Attention(shape, (inverse, concentration), self.vector(sinks_H))

    def cache(self, shapes: list[AttentionShape], blocks: int, window_blocks: int) -> list[LayerCache]:
        return [make_cache(shape, window_blocks if shape.window else blocks, self._kv) for shape in shapes]

    def cache_bytes(self, shapes: list[AttentionShape]) -> CacheBytes:
        sizes = [(bool(shape.window), block_bytes(shape, self._kv)) for shape in shapes]
        return CacheBytes(*(sum(size for windowed, size in sizes if windowed == wanted) for wanted in (False, True)))

    def discard(
        self, cache: list[LayerCache], shapes: list[AttentionShape], blocks: Blocks, window_blocks: Blocks
    ) -> None:
        for layer, shape in zip(cache, shapes):
            discard_blocks(layer, window_blocks if shape.window else blocks, block_bytes(shape, self._kv))

    def _bias(self, rows: int, bias_R: HostArray | None) -> Rows:
        return np.zeros(rows, np.float32) if bias_R is None else self.vector(bias_R)

    # computed

    def embed(self, tokens_T: NDArray[np.int32], table: NDArray[np.uint16] | NDArray[np.float32]) -> Rows:
        return self.vector(table[tokens_T])

    def norm_linear(self, x_TD: Rows, norm_D: Rows, eps: float, weight: Exact | Packed) -> Rows:
        out_TR = np.zeros((len(x_TD), len(weight.bias_R)), np.float32)
        rounders, workers = self._workers(_ROUNDING * x_TD.size), self._workers(len(x_TD) * weight.size)
        if isinstance(weight, Exact):
            normed_exact(x_TD, norm_D, eps, weight.width, rounders, weight.weight, weight.bias_R, out_TR, workers)
        else:
            normed_multiply(x_TD, norm_D, eps, rounders, *_of(weight), out_TR, workers)
        return out_TR

    def linear_add(self, x: Rows, weight: Exact | Packed, residual_TD: Rows) -> Rows:
        rounders, workers = self._workers(_ROUNDING * x.size), self._workers(len(x) * weight.size)
        if isinstance(weight, Exact):
            multiply_exact(weight.weight, weight.bias_R, _wide(x, weight.width), residual_TD.reshape(-1), workers)
        else:
            rounded_multiply(x, rounders, *_of(weight), residual_TD, workers)
        return residual_TD

    def attend(self, qkv: Rows, attention: Attention, cache: LayerCache | None, batch: Batch, soon: Any = None) -> Rows:
        """RoPE, cache write, attention; without a cache a sequence's rows go through one made for this call."""
        shape = attention.shape
        heads, groups, d = shape.heads, shape.kv_heads, shape.head_dim
        blocks_SB = batch.windows_SB if shape.window else batch.blocks_SB
        if cache is None:
            blocks_SB = _own_blocks(np.diff(batch.starts_S1))
            cache = make_cache(shape, int(blocks_SB.max()) + 1, self._kv)
        out_TD = np.empty((len(qkv), heads * d), np.float32)
        furthest = int(batch.positions_T.max())
        products = 2 * out_TD.size * min(furthest + 1, shape.window or furthest + 1)
        layout = (cache.data, cache.kind, groups, d, head_bytes(d, cache.kind))
        places = (batch.positions_T, batch.starts_S1, blocks_SB)
        given = (qkv, heads, layout, attention.rope, places, attention.sinks_H, shape.window, out_TD)
        is_idle = self._most > 1 and products < _ALONE
        if is_idle and isinstance(soon, Packed) and soon.panels.data.size > LARGE:
            attend_while_reading(*given, soon.panels.data)
            return out_TD
        workers = self._workers(products)
        tiles = groups * -(-len(qkv) * heads // groups // TILE)
        is_apart = not shape.window and tiles < 2 * workers and furthest >= APART
        run = place_and_attend_apart if is_apart else place_and_attend
        run(*given, self._workers(_ROUNDING * qkv.size), workers)
        return out_TD

    def route(self, x_TD: Rows, norm_D: Rows, eps: float, router: Exact, k: int) -> Routing:
        normers, workers = self._workers(_ROUNDING * x_TD.size), self._workers(len(x_TD) * router.size)
        return Routing(*routed(x_TD, norm_D, eps, router.width, normers, router.weight, router.bias_R, k, workers))

    def experts_add(
        self,
        routing: Routing,
        up: DenseExperts | PackedExperts,
        down: DenseExperts | PackedExperts,
        limit: float,
        residual_TD: Rows,
    ) -> Rows:
        if isinstance(up, DenseExperts) and isinstance(down, DenseExperts):
            h_NF = np.zeros((routing.experts_TK.size, down.width), np.float32)
            workers = self._workers(len(h_NF) * down.bias_ER.shape[1] * down.width)
            both = ((up.weight, up.bias_ER), (down.weight, down.bias_ER))
            chosen = (routing.experts_TK, routing.weights_TK)
            add_dense(_wide(routing.x_TD, up.width), *chosen, *both, np.float32(limit), h_NF, residual_TD, workers)
            return residual_TD
        assert isinstance(up, PackedExperts), "a checkpoint has one kind of experts"
        assert isinstance(down, PackedExperts), "a checkpoint has one kind of experts"
        u, d, x_TD = up.panels, down.panels, routing.x_TD
        rounders = self._workers(_ROUNDING * x_TD.size)
        workers = self._workers(routing.experts_TK.size * d.rows * d.width)
        ways = ((u.data, u.stride, u.blocks, up.bias_EPR), (d.data, d.stride, d.blocks, down.bias_EPR))
        chosen = (routing.experts_TK, routing.weights_TK)
        add_packed(x_TD, *chosen, self._terms, BIAS[MXFP4], rounders, *ways, np.float32(limit), residual_TD, workers)
        return residual_TD

    def unembed(self, x_TD: Rows, rows_R: NDArray[np.int32], norm_D: Rows, eps: float, table: Exact | Packed) -> Rows:
        return self.norm_linear(x_TD[rows_R], norm_D, eps, table)

    def host(self, logits_RV: Rows) -> Rows:
        return logits_RV


def _of(weight: Packed) -> tuple[int, NDArray[np.int8], int, int, int, Rows]:
    """What the kernels take of a weight."""
    panels = weight.panels
    return panels.kind, panels.data, panels.stride, panels.blocks, BIAS[panels.kind], weight.bias_R


def _stored(host: NDArray[Any]) -> NDArray[Any]:
    """As stored, rows contiguous; float16 has no kernel of its own and is widened.

    Read-only whether mapped or copied: Numba compiles a kernel anew for each mutability.
    """
    stored = np.ascontiguousarray(host.astype(np.float32) if host.dtype == np.float16 else host).view()
    stored.flags.writeable = False
    return stored


def _padded(weight: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Flat, rows padded with zeros to whole vectors of 16 where they are not; and a row's length."""
    width = weight.shape[-1]
    padded = -(-width // 16) * 16
    if padded != width:
        weight = _stored(np.pad(weight, [(0, 0)] * (weight.ndim - 1) + [(0, padded - width)]))
    return weight.reshape(-1), padded


def _wide(x_TD: Rows, width: int) -> Rows:
    """Columns of zeros added, or taken away, to a width."""
    if x_TD.shape[1] == width:
        return x_TD
    out = np.zeros((len(x_TD), width), np.float32)
    kept = min(width, x_TD.shape[1])
    out[:, :kept] = x_TD[:, :kept]
    return out


def _own_blocks(lengths_S: NDArray[np.int32]) -> NDArray[np.int32]:
    """Block tables for sequences that start at position 0 and lie in this batch as a whole."""
    counts_S = -(-lengths_S // BLOCK)
    starts_S = np.cumsum(counts_S) - counts_S
    return (starts_S[:, None] + np.arange(counts_S.max())[None]).astype(np.int32)
