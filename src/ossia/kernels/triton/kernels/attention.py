# pyright: standard
"""Attention of one layer on a GPU: its cache, and the launches of the kernels that write and read it.

In: the fused projection [T, (H+2G)d], a layer's cache, a `DeviceBatch`. Out: bfloat16 heads [T, H d].

Launches: 1 if every sequence has one row (decode): RoPE, the cache write, attention, and the sum over chunks by the
last program. Otherwise 2: the cache write comes first. 3 if sequences with few and with many rows are in one batch.
Bytes for a decode row that sees n keys: 4 n G d (bfloat16) or n G (2 d + 2) (e4m3). Each split chunk writes and reads
4 H (d + 2) more, mostly in the L2 cache.
"""

# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ossia.kernels.ops import BLOCK, AttentionShape, HostArray
from ossia.kernels.rope import frequencies
from ossia.kernels.triton.batch import AttentionWork, DeviceBatch, on_device
from ossia.kernels.triton.kernels.kv_write import BF16, FP8, FP8_BY_HAND, keep_kernel
from ossia.kernels.triton.kernels.paged_attention import attend_kernel
from ossia.kernels.triton.kernels.tiles import on_device as put
from ossia.kernels.triton.kernels.tiles import power_of_two
from ossia.kernels.triton.tools.specs import KernelSpec, Sizes, spec
from ossia.kernels.triton.work_table import FULL, WINDOW, Chunks

Kind = Literal["bf16", "fp8"]
LOG2E = 1.4426950408889634
KEYS = 64  # keys of a tile: the rows of a warp-group instruction
PAIRS = 32  # pairs of a row and a group that one program writes to the cache
PROGRAMS = 2048  # the maximum of one launch; with more work, programs loop over items


class AttentionTiles(NamedTuple):
    """ahead: partial sums that are loaded ahead while chunks are combined; 0 if items are whole tiles."""

    warps: int
    stages: int
    ahead: int


# By columns. A stage is 16 KB of bfloat16 keys and values. Four programs with few columns fit on a multiprocessor, with
# 128 KB and more in flight; 20 KB would hide 0.8 µs of latency at 3.35 TB/s. More columns are limited by registers.
_TABLE = {16: AttentionTiles(4, 3, 8), 32: AttentionTiles(4, 3, 2), 64: AttentionTiles(4, 2, 0)}


class Attention(NamedTuple):
    """sinks_H: float32, in units of log 2. inverse: float32 [d / 2], radians per token."""

    shape: AttentionShape
    sinks_H: Tensor
    inverse: Tensor
    concentration: float


class LayerCache(NamedTuple):
    """keys, values: [blocks, G, BLOCK, d], bfloat16, or e4m3 as uint8; then scales: uint8 [blocks, G, BLOCK],
    exponents.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None
    value_scales: Tensor | None


def make_attention(shape: AttentionShape, sinks_H: HostArray, device: torch.device | str) -> Attention:
    inverse, concentration = frequencies(shape.rope, shape.head_dim)
    sinks = put(sinks_H, device, torch.float32) * LOG2E
    return Attention(shape, sinks, torch.from_numpy(inverse).to(device), concentration)


def make_cache(
    shapes: list[AttentionShape], blocks: int, window_blocks: int, kv: Kind, device: torch.device | str
) -> list[LayerCache]:
    """One cache per layer. fp8 applies to full-attention layers only; sliding windows are small and stay bfloat16."""

    def cache(shape: AttentionShape) -> LayerCache:
        size = (window_blocks if shape.window else blocks, shape.kv_heads, BLOCK, shape.head_dim)
        if kv == "bf16" or shape.window:
            return LayerCache(*(torch.zeros(size, dtype=torch.bfloat16, device=device) for _ in range(2)), None, None)
        sizes = (size, size, size[:3], size[:3])
        return LayerCache(*(torch.zeros(each, dtype=torch.uint8, device=device) for each in sizes))

    return [cache(shape) for shape in shapes]


def attend(qkv: Tensor, attention: Attention, cache: LayerCache | None, batch: DeviceBatch) -> Tensor:
    """Attention of one layer. Without a cache, a temporary one is made for this call."""
    shape = attention.shape
    if cache is None:
        batch = on_device(batch.host, qkv.device, batch.layout, has_cache=False)
        blocks = len(batch.tables) // 2
        (cache,) = make_cache([shape], blocks, blocks, "bf16", qkv.device)
    out_TP = torch.empty(batch.rows, shape.heads * shape.head_dim, dtype=torch.bfloat16, device=qkv.device)
    kind = kind_of(cache)
    is_fresh = batch.longest == 1
    if not is_fresh:
        each = power_of_two(shape.kv_heads)
        pairs = max(PAIRS, each)
        keep_kernel[(-(-batch.rows * each // pairs),)](
            qkv, batch.positions_T, *_held(cache, shape, batch), attention.inverse, attention.concentration, batch.rows,
            shape.heads, shape.kv_heads, shape.head_dim, kind, each, pairs, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    for work in batch.work:
        _launch(qkv, out_TP, attention, cache, batch, work, kind, is_fresh)
    return out_TP


def _held(cache: LayerCache, shape: AttentionShape, batch: DeviceBatch) -> tuple[Tensor, ...]:
    """The rows' slots and the cache's four tensors. Tensors that it lacks are not read."""
    key_scales = cache.keys if cache.key_scales is None else cache.key_scales
    value_scales = cache.values if cache.value_scales is None else cache.value_scales
    return batch.window_T if shape.window else batch.full_T, cache.keys, cache.values, key_scales, value_scales


def _launch(
    qkv: Tensor, out_TP: Tensor, attention: Attention, cache: LayerCache, batch: DeviceBatch, work: AttentionWork, kind: int,
    is_fresh: bool,
) -> None:  # fmt: skip
    shape, layout = attention.shape, batch.layout
    items, count, max_items = work.split, work.split_count, work.split_items
    if shape.window:
        items, count, max_items = work.whole, work.whole_count, work.whole_items
    slots, *held = _held(cache, shape, batch)
    tiles, chunks = _TABLE[power_of_two(max(16, work.tokens * layout.each))], layout.chunks
    programs = max_items * shape.kv_heads
    attend_kernel[(min(PROGRAMS, programs) if tiles.ahead else programs,)](
        qkv, out_TP, *held, attention.sinks_H, attention.inverse, batch.positions_T, slots, batch.tables, items, count,
        batch.sums, batch.parts, batch.arrivals, shape.head_dim**-0.5 * LOG2E, attention.concentration,
        HEADS=shape.heads, GROUPS=shape.kv_heads, D=shape.head_dim, EACH=layout.each, TOKENS=work.tokens,
        WINDOW=shape.window, KIND=kind, FRESH=is_fresh, TABLE=WINDOW if shape.window else FULL,
        NEAR=chunks.near, FAR=chunks.far, SMALL=chunks.small,
        MIDDLE=chunks.middle, LARGE=chunks.large, KEYS=KEYS, STAGES=tiles.stages, AHEAD=tiles.ahead,
        num_warps=tiles.warps, enable_fp_fusion=False,
    )  # fmt: skip


def kind_of(cache: LayerCache) -> int:
    if cache.key_scales is None:
        return BF16
    keys = cache.keys
    has_instruction = (
        keys.is_cuda and torch.version.hip is None and torch.cuda.get_device_capability(keys.device) >= (8, 9)
    )
    return FP8 if has_instruction else FP8_BY_HAND


def kernel_specs(sizes: Sizes, groups: bool, ptx: bool) -> Iterator[KernelSpec]:
    """The kernels of this file for decode and prefill. groups: the GPU has warp-group instructions and widens e4m3
    itself. ptx: it is NVIDIA's.
    """
    each, chunks = power_of_two(sizes.heads // sizes.kv_heads), Chunks()
    common = {
        "qkv": "*bf16", "out_TP": "*bf16", "key_scales": "*u8", "value_scales": "*u8", "sinks": "*fp32",
        "inverse": "*fp32", "positions": "*i32", "slots": "*i32", "tables": "*i32", "items": "*i32", "count": "*i32",
        "sums": "*fp32", "parts": "*fp32", "arrivals": "*i32", "scale": "fp32", "concentration": "fp32", "NEAR": chunks.near,
        "FAR": chunks.far, "ROWS": "i32", "HEADS": sizes.heads, "GROUPS": sizes.kv_heads, "D": sizes.head_dim,
        "SMALL": chunks.small, "MIDDLE": chunks.middle, "LARGE": chunks.large, "KEYS": KEYS,
    }  # fmt: skip
    for kind, name in ((BF16, "bf16"), (FP8 if groups else FP8_BY_HAND, "fp8")):
        held = dict.fromkeys(("keys", "values"), "*bf16" if kind == BF16 else "*u8")
        kept = {"KIND": kind, "EACH": power_of_two(sizes.kv_heads), "N": max(PAIRS, power_of_two(sizes.kv_heads))}
        yield spec(f"keys and values to the cache, {name}", keep_kernel, common | held | kept, 4, 1)
        for columns, tiles in _TABLE.items():
            if columns == max(_TABLE) and ((ptx and not groups) or kind != BF16):
                continue  # not enough registers: see `Layout.widest`
            for window in (0, 128) if kind == BF16 else (0,):
                more = {
                    "EACH": each, "TOKENS": max(1, columns // each), "WINDOW": window, "KIND": kind,
                    "FRESH": columns == min(_TABLE), "TABLE": WINDOW if window else FULL, "STAGES": tiles.stages,
                    "AHEAD": tiles.ahead,
                }  # fmt: skip
                label = f"attention, {columns} columns, {name}" + (f", window {window}" if window else "")
                yield spec(label, attend_kernel, common | held | more, tiles.warps, tiles.stages)
