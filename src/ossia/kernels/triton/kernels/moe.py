# pyright: standard
"""The chosen experts of each row: up, SwiGLU, down, weighted sum, residual. Two launches at decode, three at prefill.

In: a `Routing`, packed experts (MXFP4 as in the checkpoint, or bfloat16), the residual. Out: the residual.

Shape suffixes: see `ossia.kernels.ops`; N = T K sorted pairs; h_NF the result of up, parts_ND the result of down. A
program has one expert's tile of pairs and some rows of its weights, which it reads once. Parts are added in the order
of the experts' numbers: up to DECODE rows by the last program of these columns, else in a launch of its own with the
same sum.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ossia.kernels.ops import SWIGLU_SLOPE, HostArray
from ossia.kernels.triton.kernels.linear import LinearTiles, weight_tile
from ossia.kernels.triton.kernels.mxfp4 import TILE, Packed, has_ptx, in_tiles, mxfp4_tile, pack_mxfp4, row_tiles
from ossia.kernels.triton.kernels.route import DECODE, Routing
from ossia.kernels.triton.kernels.tiles import bits_on_device, dot, has_warp_groups, is_amd, on_device, to_bf16
from ossia.kernels.triton.tools.specs import KernelSpec, Sizes, spec
from ossia.quant import Mxfp4, as_mxfp4

WIDTH = 128  # inputs of one step: four blocks
SLOPE: tl.constexpr = tl.constexpr(SWIGLU_SLOPE)


class Experts(NamedTuple):
    """weight: `Packed`, or bfloat16 [E, tiles * 16, D] in the same row order; bias: float32 [E, R] in the checkpoint's
    order.

    features: outputs of one expert; F if gated. counters: int32 zeros, one per tile of columns, which each launch
    resets. So a layer can compute on one stream at a time only.
    """

    weight: Packed | Tensor
    bias_ER: Tensor
    features: int
    counters: Tensor


# Few pairs a tile: one warp a program, 16 rows of the weight (gated: 16 gates and 16 ups). The 20b's up at batch 1 has
# 720 programs of 8 KB in flight, its down 720 of 7 KB: 44 and 38 KB an SM of an H100.
_UP = (
    (8, LinearTiles(16, 8, 1, 5)),
    (16, LinearTiles(32, 16, 2, 4)),
    (32, LinearTiles(32, 32, 2, 4)),
    (64, LinearTiles(32, 64, 4, 4)),
    (128, LinearTiles(32, 128, 4, 3)),
)
_DOWN = (
    (8, LinearTiles(16, 8, 1, 8)),
    (16, LinearTiles(16, 16, 1, 6)),
    (32, LinearTiles(32, 32, 2, 5)),
    (64, LinearTiles(64, 64, 4, 4)),
    (128, LinearTiles(64, 128, 8, 3)),
)
_UP_GROUPS = (*_UP[:3], (64, LinearTiles(64, 64, 4, 4)), (128, LinearTiles(64, 128, 4, 2)))
_DOWN_GROUPS = (*_DOWN[:4], (128, LinearTiles(128, 128, 8, 3)))


def tiles(tokens: int, gated: bool, groups: bool, amd: bool) -> LinearTiles:
    """The table entry for tiles of this many pairs. groups: the GPU has warp-group instructions."""
    table = (_UP_GROUPS if groups else _UP) if gated else (_DOWN_GROUPS if groups else _DOWN)
    found = next(entry for max_tokens, entry in table if tokens <= max_tokens)
    return found._replace(tokens=tokens, stages=2 if amd else found.stages)


def pack_experts(weight: Mxfp4 | HostArray, bias_ER: HostArray, gated: bool, device: torch.device | str) -> Experts:
    """Pack experts' weights [E, R, D] on the device, one expert at a time. Gated: gate and up rows alternate.

    Dense weights that MXFP4 can hold exactly are packed to MXFP4 again; others become bfloat16.
    """
    bias = on_device(bias_ER, device, torch.float32)
    features = bias.shape[1] // 2 if gated else bias.shape[1]
    in_order = torch.stack([in_tiles(row[:, None], gated).reshape(-1) for row in bias])
    counters = torch.zeros(-(-features // TILE), dtype=torch.int32, device=device)
    if not isinstance(weight, Mxfp4):
        weight = as_mxfp4(weight) or weight
    if isinstance(weight, Mxfp4):
        return Experts(pack_mxfp4(weight, gated, device), in_order, features, counters)
    count, rows, width = weight.shape
    packed = torch.zeros(
        (count, row_tiles(rows, gated) * TILE, -(-width // 8) * 8), dtype=torch.bfloat16, device=device
    )
    for e in range(count):
        matrix = bits_on_device(weight[e], device).to(torch.bfloat16)
        packed[e] = F.pad(in_tiles(matrix, gated).flatten(0, 1), (0, packed.shape[2] - width))
    return Experts(packed, in_order, features, counters)


@triton.jit
def product(
    x, source, held, data, scales, row, ROWS, WIDE, PITCH,
    acc, other, GATED: tl.constexpr, MXFP4: tl.constexpr, PTX: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """acc += rows `row` of a matrix times x[source]. Gated: `other` += the next tile of rows. PITCH: blocks or numbers
    per row.
    """
    half, lane = tl.arange(0, K // 2), tl.arange(0, K)
    if MXFP4:
        for first in range(0, PITCH, K // 32):
            k = first * 32 + (half // 16) * 32 + half % 16
            inside = held[None, :] & (k[:, None] < WIDE)
            at = x + source[None, :] * WIDE + k[:, None]
            low, high = tl.load(at, mask=inside, other=0.0), tl.load(at + 16, mask=inside, other=0.0)
            even, odd = mxfp4_tile(data, scales, row, first, ROWS, PITCH, R, K, PTX)
            acc = dot(odd, high, dot(even, low, acc))
            if GATED:
                even, odd = mxfp4_tile(data, scales, row + 16, first, ROWS, PITCH, R, K, PTX)
                other = dot(odd, high, dot(even, low, other))
    else:
        for first in range(0, WIDE, K):
            k = first + lane
            inside = held[None, :] & (k[:, None] < WIDE)
            columns = tl.load(x + source[None, :] * WIDE + k[:, None], mask=inside, other=0.0)
            acc = dot(weight_tile(data, scales, row, k, ROWS, PITCH, PITCH, False), columns, acc)
            if GATED:
                other = dot(weight_tile(data, scales, row + 16, k, ROWS, PITCH, PITCH, False), columns, other)
    return acc, other


@triton.jit
def up_kernel(
    x, rstd, rows_N, expert_I, first_I, count_I, data, scales, bias, h, ROWS, WIDE, PITCH, FEATURES, limit, factor,
    MXFP4: tl.constexpr, PTX: tl.constexpr, R: tl.constexpr, T: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """h[n, f] = SwiGLU of gate and up f of pair n."""
    tile = tl.program_id(1)
    expert = tl.load(expert_I + tile)
    if expert >= 0:
        lane = tl.arange(0, T)
        held = lane < tl.load(count_I + tile)
        pair = tl.load(first_I + tile) + lane
        source = tl.load(rows_N + pair, mask=held, other=0)
        feature = tl.program_id(0) * R + tl.arange(0, R)
        row = (feature // 16) * 32 + feature % 16
        matrix = expert.to(tl.int64) * ROWS * PITCH
        if MXFP4:
            scales += matrix
            matrix *= 16
        gate, up = tl.zeros((R, T), tl.float32), tl.zeros((R, T), tl.float32)
        gate, up = product(
            x, source, held, data + matrix, scales, row, ROWS, WIDE, PITCH, gate, up, True, MXFP4, PTX, R, K
        )
        scale = (tl.load(rstd + source, mask=held, other=0.0) * factor)[None, :]
        inside = feature < FEATURES
        gate = gate * scale + tl.load(bias + expert * ROWS + row, mask=inside, other=0.0)[:, None]
        up = up * scale + tl.load(bias + expert * ROWS + row + 16, mask=inside, other=0.0)[:, None]
        gate = tl.minimum(gate, limit)
        up = tl.minimum(tl.maximum(up, -limit), limit)
        value = gate / (1.0 + tl.exp(gate * -SLOPE)) * (up + 1.0)
        at = h + pair[None, :] * FEATURES + feature[:, None]
        tl.store(at, to_bf16(value), mask=inside[:, None] & held[None, :])


@triton.jit(do_not_specialize=["TOKENS"])
def down_kernel(
    h, place, weights, expert_I, first_I, count_I, data, scales, bias, parts, residual, counters,
    TOKENS, ROWS, WIDE, PITCH, FEATURES, factor,
    TOP: tl.constexpr, ADD: tl.constexpr, MXFP4: tl.constexpr, PTX: tl.constexpr,
    R: tl.constexpr, T: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """parts[n, d] = down of pair n, plus bias. ADD: the last program of these columns adds all parts to the residual."""
    tile = tl.program_id(1)
    expert = tl.load(expert_I + tile)
    feature, lane = tl.program_id(0) * R + tl.arange(0, R), tl.arange(0, T)
    if expert >= 0:
        held = lane < tl.load(count_I + tile)
        pair = tl.load(first_I + tile) + lane
        matrix = expert.to(tl.int64) * ROWS * PITCH
        if MXFP4:
            scales += matrix
            matrix *= 16
        zeros = tl.zeros((R, T), tl.float32)
        acc, _ = product(
            h, pair, held, data + matrix, scales, feature, ROWS, WIDE, PITCH, zeros, zeros, False, MXFP4, PTX, R, K
        )
        inside = feature < FEATURES
        acc = acc * factor + tl.load(bias + expert * ROWS + feature, mask=inside, other=0.0)[:, None]
        tl.store(parts + pair[None, :] * FEATURES + feature[:, None], acc, mask=inside[:, None] & held[None, :])
    if ADD:
        tl.debug_barrier()  # all parts of this program are stored before it is counted
        if tl.atomic_add(counters + tl.program_id(0), 1, sem="acq_rel") == tl.num_programs(1) - 1:
            tl.store(counters + tl.program_id(0), 0)
            add_parts(parts, place, weights, residual, lane[None, :], feature[:, None], TOKENS, FEATURES, TOP)


@triton.jit
def add_parts(parts, place, weights, residual, row, feature, TOKENS, FEATURES, TOP: tl.constexpr):
    """residual[row, feature] += the weighted sum of the row's parts, in the order of the experts."""
    inside = (row < TOKENS) & (feature < FEATURES)
    at = residual + row * FEATURES + feature
    total = tl.zeros_like(row + feature).to(tl.float32)
    for i in tl.static_range(TOP):
        pair = tl.load(place + row * TOP + i, mask=row < TOKENS, other=0)
        share = tl.load(weights + row * TOP + i, mask=row < TOKENS, other=0.0)
        part = tl.load(parts + pair * FEATURES + feature, mask=inside, other=0.0, cache_modifier=".cg")
        total = tl.fma(part, share, total)
    tl.store(at, tl.load(at, mask=inside, other=0.0) + total, mask=inside)


@triton.jit(do_not_specialize=["TOKENS"])
def add_kernel(parts, place, weights, residual, TOKENS, FEATURES, TOP: tl.constexpr, K: tl.constexpr):
    """`add_parts` for the columns of one row."""
    row = tl.program_id(0) + tl.zeros((1,), tl.int32)
    feature = tl.program_id(1) * K + tl.arange(0, K)
    add_parts(parts, place, weights, residual, row, feature, TOKENS, FEATURES, TOP)


def experts_add(routing: Routing, up: Experts, down: Experts, limit: float, residual_TD: Tensor) -> Tensor:
    """residual += the weighted sum of each row's experts, in place."""
    (count, k), table = routing.experts_TK.shape, routing.tiles
    if not count:
        return residual_TD
    h_NF = routing.x_TD.new_empty((count * k, up.features))
    listed = table[:3]
    groups = has_warp_groups(residual_TD.device)
    t = tiles(table.tokens, True, groups, is_amd())
    up_kernel[(triton.cdiv(up.features, t.rows), len(table.expert_I))](
        routing.x_TD, routing.rstd_T, routing.rows_N, *listed, *_arrays(up), h_NF, *_sizes(up, routing.x_TD),
        up.features, limit, _factor(up), **_form(up, t), enable_fp_fusion=False,
    )  # fmt: skip
    parts_ND = residual_TD.new_empty((count * k, down.features))
    t, is_few = tiles(table.tokens, False, groups, is_amd()), count <= DECODE
    down_kernel[(triton.cdiv(down.features, t.rows), len(table.expert_I))](
        h_NF, routing.place_TK, routing.weights_TK, *listed, *_arrays(down), parts_ND, residual_TD, down.counters,
        count, *_sizes(down, h_NF), down.features, _factor(down),
        TOP=k, ADD=is_few, **_form(down, t), enable_fp_fusion=False,
    )  # fmt: skip
    if not is_few:
        add_kernel[(count, triton.cdiv(down.features, 1024))](
            parts_ND, routing.place_TK, routing.weights_TK, residual_TD, count, down.features,
            TOP=k, K=1024, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return residual_TD


def _arrays(experts: Experts) -> tuple[Tensor, Tensor | None, Tensor]:
    if isinstance(experts.weight, Packed):
        return experts.weight.bytes_, experts.weight.scales, experts.bias_ER
    return experts.weight, None, experts.bias_ER


def _sizes(experts: Experts, x: Tensor) -> tuple[int, int, int]:
    """Stored rows of a matrix, its width, and the blocks or numbers of a row."""
    pitch = experts.weight.scales.shape[2] if isinstance(experts.weight, Packed) else experts.weight.shape[2]
    return experts.bias_ER.shape[1], x.shape[1], pitch


def _factor(experts: Experts) -> float:
    return experts.weight.factor if isinstance(experts.weight, Packed) else 1.0


def _form(experts: Experts, t: LinearTiles) -> dict[str, int | bool]:
    is_packed = isinstance(experts.weight, Packed)
    return {
        "MXFP4": is_packed, "PTX": is_packed and has_ptx(),
        "R": t.rows, "T": t.tokens, "K": WIDTH, "num_warps": t.warps, "num_stages": t.stages,
    }  # fmt: skip


def kernel_specs(sizes: Sizes, groups: bool, ptx: bool) -> Iterator[KernelSpec]:
    """The kernels of this file for each tile size."""
    listed = {"expert_I": "*i32", "first_I": "*i32", "count_I": "*i32"}
    packed = {"data": "*u8", "scales": "*u8", "bias": "*fp32", "MXFP4": True, "PTX": ptx, "K": WIDTH}
    whole = {"TOKENS": "i32", "ROWS": "i32:16", "WIDE": "i32:16", "PITCH": "i32", "FEATURES": "i32:16"}
    common = listed | packed | whole | {"limit": "fp32", "factor": "fp32", "TOP": sizes.top}
    up = common | {"x": "*bf16", "rstd": "*fp32", "rows_N": "*i32", "h": "*bf16"}
    down = common | {
        "h": "*bf16", "place": "*i32", "weights": "*fp32", "parts": "*fp32", "residual": "*fp32", "counters": "*i32"
    }  # fmt: skip
    for tokens in (1, 4, 8, 16, 32, 64, 128) if ptx else (16, 32, 64, 128):
        t = tiles(tokens, True, groups, not ptx)
        shape = {"R": t.rows, "T": tokens}
        yield spec(f"experts' up + SwiGLU, {tokens} pairs a tile", up_kernel, up | shape, t.warps, t.stages)
        t = tiles(tokens, False, groups, not ptx)
        shape = {"R": t.rows, "T": tokens, "ADD": tokens <= DECODE}
        tail = " + sum + residual" if tokens <= DECODE else ""
        yield spec(f"experts' down{tail}, {tokens} pairs a tile", down_kernel, down | shape, t.warps, t.stages)
    part = {"parts": "*fp32", "place": "*i32", "weights": "*fp32", "residual": "*fp32"}
    sum_up = whole | part | {"TOP": sizes.top, "K": 1024}
    yield spec("experts' sum + residual, many rows", add_kernel, sum_up, 4, 3)
