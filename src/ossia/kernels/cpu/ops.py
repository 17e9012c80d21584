# pyright: standard
"""The op set on a CPU: Numba kernels that emit the machine's own vector instructions.

In: host tensors, memory-mapped or not, and a `Batch`. Out: float32 NumPy arrays.

MXFP4 experts keep their bits and are repacked. Attention and unembedding weights become int8 in blocks of 64, or int4
in blocks of 32, or stay bfloat16. Activations are quantized to int8 with the weights' block size before a packed
matmul. Beside a bfloat16 cache, queries and attention weights are rounded to bfloat16. All else is float32.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossia.kernels.cpu.attention import TILE, attend_while_prefetching, place_and_attend, place_and_attend_splits
from ossia.kernels.cpu.codegen.jit import physical_cores
from ossia.kernels.cpu.gemm import multiply_exact, normed_exact, normed_multiply, quantize_and_multiply
from ossia.kernels.cpu.kv_cache import BF16, F32, INT8, LayerCache, block_bytes, discard_blocks, head_bytes, make_cache
from ossia.kernels.cpu.moe import Routing, add_dense, add_packed, routed
from ossia.kernels.cpu.pack import BIAS, INT4, MXFP4, Panels, pack_dense, pack_mxfp4
from ossia.kernels.cpu.pack import INT8 as INT8_PANELS
from ossia.kernels.mapped import prefetch_pages
from ossia.kernels.ops import BLOCK, AttentionShape, Batch, Blocks, CacheBytes, Dense, HostArray, HostOps, KeyValues
from ossia.kernels.rope import frequencies
from ossia.quant import Mxfp4, as_mxfp4, widen

Rows = NDArray[np.float32]

_WORTH_WAKING = 1 << 20  # products: about 30 µs on one core, as long as waking a thread may take
_ROUNDING = 16  # cost of norm, quantization or rotation of one number, in products
_ALONE = 1 << 22  # products: below this one thread attends while another prefetches the next weights
LARGE = 1 << 22  # bytes: weights above this are prefetched, because they do not fit the caches
SPLIT_CONTEXT = 4096  # cached tokens from which attention of few rows is split by key over threads


class Exact(NamedTuple):
    """Rows as stored, padded to 16 columns: flat uint16 (bfloat16 bits) or float32; bias float32 [R]."""

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
    """[E, R, D] as stored, flat, rows padded to 16 columns; bias float32 [E, R]."""

    weight: NDArray[np.uint16] | NDArray[np.float32]
    bias_ER: Rows
    width: int


class PackedExperts(NamedTuple):
    """bias: float32 [E, panels, 32], in the order of the panels."""

    panels: Panels
    bias_EPR: Rows


class Attention(NamedTuple):
    shape: AttentionShape
    rope: tuple[NDArray[np.float32], float]  # `Frequencies` as a plain tuple, which Numba unpacks fastest
    sinks_H: Rows


class CpuOps(HostOps):
    """dense: type of the attention and unembedding weights. kv: type of keys and values. workers: threads."""

    name = "cpu"

    def __init__(self, dense: Dense = "int8", kv: KeyValues = "bf16", workers: int | None = None) -> None:
        self._dense, self._kv = dense, {"bf16": BF16, "int8": INT8, "f32": F32}[kv]
        self._limbs = 3 if dense == "bf16" else 1  # int8 limbs per activation for packed experts
        self._max_workers = workers or physical_cores()

    def _workers(self, products: int) -> int:
        """Threads for this many products: 1 (the caller's own) where waking others would take longer."""
        return 1 if products < _WORTH_WAKING else self._max_workers

    # makers: called once, at load

    def vector(self, host: HostArray) -> Rows:
        return np.ascontiguousarray(widen(host), np.float32)

    def embedding(self, table_VD: HostArray) -> NDArray[np.uint16] | NDArray[np.float32]:
        prefetch_pages(table_VD)
        return _stored(table_VD)

    def linear(self, weight_RD: HostArray, bias_R: HostArray | None) -> Exact | Packed:
        if self._dense == "bf16":
            return self.router(weight_RD, bias_R)
        panels = pack_dense(weight_RD, INT8_PANELS if self._dense == "int8" else INT4)
        return Packed(panels, self._bias(panels.rows, bias_R))

    def router(self, weight_ED: HostArray, bias_E: HostArray | None) -> Exact:
        """Never quantized: a small error can change which experts are chosen."""
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

    # ops

    def embed(self, tokens_T: NDArray[np.int32], table: NDArray[np.uint16] | NDArray[np.float32]) -> Rows:
        return self.vector(table[tokens_T])

    def norm_linear(self, x_TD: Rows, norm_D: Rows, eps: float, weight: Exact | Packed) -> Rows:
        out_TR = np.zeros((len(x_TD), len(weight.bias_R)), np.float32)
        quantize_workers, workers = self._workers(_ROUNDING * x_TD.size), self._workers(len(x_TD) * weight.size)
        if isinstance(weight, Exact):
            normed_exact(
                x_TD, norm_D, eps, weight.width, quantize_workers, weight.weight, weight.bias_R, out_TR, workers
            )
        else:
            normed_multiply(x_TD, norm_D, eps, quantize_workers, *_of(weight), out_TR, workers)
        return out_TR

    def linear_add(self, x: Rows, weight: Exact | Packed, residual_TD: Rows) -> Rows:
        quantize_workers, workers = self._workers(_ROUNDING * x.size), self._workers(len(x) * weight.size)
        if isinstance(weight, Exact):
            multiply_exact(weight.weight, weight.bias_R, _wide(x, weight.width), residual_TD.reshape(-1), workers)
        else:
            quantize_and_multiply(x, quantize_workers, *_of(weight), residual_TD, workers)
        return residual_TD

    def attend(
        self, qkv: Rows, attention: Attention, cache: LayerCache | None, batch: Batch, prefetch: Any = None
    ) -> Rows:
        """RoPE, cache write, attention. Without a cache, a temporary one is made for this call."""
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
        is_idle = self._max_workers > 1 and products < _ALONE
        if is_idle and isinstance(prefetch, Packed) and prefetch.panels.data.size > LARGE:
            attend_while_prefetching(*given, prefetch.panels.data)
            return out_TD
        workers = self._workers(products)
        tiles = groups * -(-len(qkv) * heads // groups // TILE)
        is_apart = not shape.window and tiles < 2 * workers and furthest >= SPLIT_CONTEXT
        run = place_and_attend_splits if is_apart else place_and_attend
        run(*given, self._workers(_ROUNDING * qkv.size), workers)
        return out_TD

    def route(self, x_TD: Rows, norm_D: Rows, eps: float, router: Exact, k: int) -> Routing:
        norm_workers, workers = self._workers(_ROUNDING * x_TD.size), self._workers(len(x_TD) * router.size)
        return Routing(*routed(x_TD, norm_D, eps, router.width, norm_workers, router.weight, router.bias_R, k, workers))

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
        quantize_workers = self._workers(_ROUNDING * x_TD.size)
        workers = self._workers(routing.experts_TK.size * d.rows * d.width)
        ways = ((u.data, u.stride, u.blocks, up.bias_EPR), (d.data, d.stride, d.blocks, down.bias_EPR))
        chosen = (routing.experts_TK, routing.weights_TK)
        add_packed(
            x_TD, *chosen, self._limbs, BIAS[MXFP4], quantize_workers, *ways, np.float32(limit), residual_TD, workers
        )
        return residual_TD

    def unembed(self, x_TD: Rows, rows_R: NDArray[np.int32], norm_D: Rows, eps: float, table: Exact | Packed) -> Rows:
        return self.norm_linear(x_TD[rows_R], norm_D, eps, table)

    def host(self, logits_RV: Rows) -> Rows:
        return logits_RV


def _of(weight: Packed) -> tuple[int, NDArray[np.int8], int, int, int, Rows]:
    """The arguments that kernels take for a packed weight."""
    panels = weight.panels
    return panels.kind, panels.data, panels.stride, panels.blocks, BIAS[panels.kind], weight.bias_R


def _stored(host: NDArray[Any]) -> NDArray[Any]:
    """As stored, contiguous. float16 is widened, because it has no kernel.

    Always read-only: Numba compiles a kernel separately for mutable and read-only arrays.
    """
    stored = np.ascontiguousarray(host.astype(np.float32) if host.dtype == np.float16 else host).view()
    stored.flags.writeable = False
    return stored


def _padded(weight: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """The weight, flat, with rows zero-padded to a multiple of 16 columns; and the padded width."""
    width = weight.shape[-1]
    padded = -(-width // 16) * 16
    if padded != width:
        weight = _stored(np.pad(weight, [(0, 0)] * (weight.ndim - 1) + [(0, padded - width)]))
    return weight.reshape(-1), padded


def _wide(x_TD: Rows, width: int) -> Rows:
    """x with zero columns added, or columns removed, to get `width` columns."""
    if x_TD.shape[1] == width:
        return x_TD
    out = np.zeros((len(x_TD), width), np.float32)
    kept = min(width, x_TD.shape[1])
    out[:, :kept] = x_TD[:, :kept]
    return out


def _own_blocks(lengths_S: NDArray[np.int32]) -> NDArray[np.int32]:
    """Block tables for sequences that start at position 0 and are whole in this batch."""
    counts_S = -(-lengths_S // BLOCK)
    starts_S = np.cumsum(counts_S) - counts_S
    return (starts_S[:, None] + np.arange(counts_S.max())[None]).astype(np.int32)
