# pyright: standard
"""Dense projections: RMSNorm + weight + bias, weight + bias + residual, the embedding, the logits.

In: rows on the device, a packed `Dense`. Out: bfloat16 activations, the float32 residual, or float32 logits.

Shape suffixes: see `ossia.kernels.ops`; P rows of a weight. The product is y^T = W x^T: the weight is the tensor
instruction's A operand, and rows of the batch are B. The norm is applied after the product: bfloat16(x * norm) is
multiplied, and the sum is scaled by the root mean square of the same pass. So up to FUSED rows norm and product are
one launch, else two.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ossia.kernels.ops import HostArray
from ossia.kernels.triton.kernels.tiles import (
    bits_on_device,
    column_sums,
    dot,
    is_amd,
    least_tokens,
    on_device,
    power_of_two,
    to_bf16,
)
from ossia.kernels.triton.tools.specs import KernelSpec, Sizes, spec
from ossia.quant import QBLOCK

Kind = Literal["bf16", "int8"]
WIDTH = 64  # inputs of one step; also the lanes of the sum of squares
FUSED = 16  # up to this many rows, each program computes the norm itself: faster than a second launch


class Dense(NamedTuple):
    """weight: [P, D] bfloat16, or int8 with scales bfloat16 [P, D / 32]; rows zero-padded to 16 bytes. bias: float32."""

    weight: Tensor
    bias: Tensor | None
    scales: Tensor | None


class LinearTiles(NamedTuple):
    """What one program computes: rows of the weight times rows of the batch."""

    rows: int
    tokens: int
    warps: int
    stages: int


# Few rows: one warp per program, so that hundreds of programs share the GPU evenly, and deep pipelines of 2 KB per stage.
# In flight an SM of an H100, at batch 1: 53 KB for 5120 rows (320 programs), 30 KB for 2880 (180); 3.35 TB/s over 132
# SMs for 0.7 µs of latency are 18 KB.
_TABLE = (
    (4, LinearTiles(16, 16, 1, 12)),
    (8, LinearTiles(16, 16, 1, 10)),
    (16, LinearTiles(16, 16, 1, 8)),
    (32, LinearTiles(16, 32, 1, 6)),
    (64, LinearTiles(32, 64, 2, 5)),
    (128, LinearTiles(64, 64, 4, 4)),
)
_MANY = LinearTiles(128, 128, 8, 4)


def tiles(tokens: int, amd: bool) -> LinearTiles:
    """The table entry for this many rows. A tile has at most as many columns as rows, rounded up to a power of two.

    AMD GPUs have a third of the shared memory, and no asynchronous copies that more stages could use.
    """
    found = next((entry for max_tokens, entry in _TABLE if tokens <= max_tokens), _MANY)
    columns = min(found.tokens, max(least_tokens(amd), power_of_two(tokens)))
    return found._replace(tokens=columns, stages=2 if amd else found.stages)


def pack_dense(host: HostArray, bias: HostArray | None, device: torch.device | str, kind: Kind = "bf16") -> Dense:
    """Copy a host weight to the device. int8: blocks of 32 along a row, scale = amax / 127 rounded to bfloat16."""
    bias_P = None if bias is None else on_device(bias, device, torch.float32)
    if kind == "bf16":
        return Dense(_padded(on_device(host, device), 8), bias_P, None)
    wide = _padded(bits_on_device(host, device), QBLOCK)
    blocks = wide.view(len(wide), -1, QBLOCK)
    weight = torch.empty(blocks.shape, dtype=torch.int8, device=wide.device)
    scales = torch.empty(blocks.shape[:2], dtype=torch.bfloat16, device=wide.device)
    for first in range(0, len(wide), 1 << 14):  # limits the memory for float32
        part = blocks[first : first + (1 << 14)].float()
        scale = (part.abs().amax(-1) / 127).to(torch.bfloat16)
        divisor = torch.where(scale > 0, scale, 1).float()[..., None]
        weight[first : first + (1 << 14)] = (part / divisor).round().clamp(-127, 127).to(torch.int8)
        scales[first : first + (1 << 14)] = scale
    return Dense(weight.view(len(wide), -1), bias_P, scales)


def _padded(weight_PD: Tensor, multiple: int) -> Tensor:
    missing = -weight_PD.shape[1] % multiple
    return F.pad(weight_PD, (0, missing)) if missing else weight_PD


@triton.jit
def weight_tile(weight, scales, row, k, ROWS, WIDE, PITCH, INT8: tl.constexpr):
    """bfloat16 [row, k]; zeros beyond the weight. PITCH: numbers per row, a multiple of 8."""
    inside = (row[:, None] < ROWS) & (k[None, :] < WIDE)
    at = row[:, None].to(tl.int64) * PITCH + k[None, :]
    if INT8:
        value = tl.load(weight + at, mask=inside, other=0)
        scale = tl.load(scales + row[:, None].to(tl.int64) * (PITCH // 32) + (k // 32)[None, :], mask=inside, other=0.0)
        tile = to_bf16(value.to(tl.float32) * scale.to(tl.float32))
    else:
        tile = tl.load(weight + at, mask=inside, other=0.0)
    return tile


@triton.jit(do_not_specialize=["TOKENS"])
def linear_kernel(
    x, norm, rstd, weight, scales, bias, picked, out, TOKENS, ROWS, WIDE, PITCH, eps,
    IN: tl.constexpr, OUT: tl.constexpr, INT8: tl.constexpr, BIAS: tl.constexpr, PICKED: tl.constexpr,
    R: tl.constexpr, T: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """out[t, r] (+)= weight[r] . x[t] + bias[r].

    IN "raw": float32 rows, normed here; "scaled": bfloat16(x * norm), with `rstd`; "plain": bfloat16 rows unchanged.
    OUT "narrow" or "wide": store bfloat16 or float32; "add": add to float32 rows. PICKED: row t of x is picked[t].
    """
    row, token, lane = tl.program_id(0) * R + tl.arange(0, R), tl.program_id(1) * T + tl.arange(0, T), tl.arange(0, K)
    source = token  # 32-bit offsets suffice for activations, but not for weights and logits
    if PICKED:
        source = tl.load(picked + token, mask=token < TOKENS, other=0)
    acc = tl.zeros((R, T), tl.float32)
    squares = tl.zeros((K, T), tl.float32)
    for first in range(0, WIDE, K):
        k = first + lane
        inside = (token[None, :] < TOKENS) & (k[:, None] < WIDE)
        tile = weight_tile(weight, scales, row, k, ROWS, WIDE, PITCH, INT8)
        rows = tl.load(x + source[None, :] * WIDE + k[:, None], mask=inside, other=0.0)
        if IN == "raw":
            squares = tl.fma(rows, rows, squares)
            rows = to_bf16(rows * tl.load(norm + k, mask=k < WIDE, other=0.0)[:, None])
        acc = dot(tile, rows, acc)
    if IN == "raw":
        acc = acc * tl.rsqrt(column_sums(squares, K, T) / WIDE + eps)[None, :]
    if IN == "scaled":
        acc = acc * tl.load(rstd + source, mask=token < TOKENS, other=0.0)[None, :]
    if BIAS:
        acc = acc + tl.load(bias + row, mask=row < ROWS, other=0.0)[:, None]
    at = out + token[None, :].to(tl.int64) * ROWS + row[:, None]
    inside = (row[:, None] < ROWS) & (token[None, :] < TOKENS)
    if OUT == "add":
        acc = tl.load(at, mask=inside, other=0.0) + acc
    if OUT == "narrow":
        acc = to_bf16(acc)
    tl.store(at, acc, mask=inside)


@triton.jit(do_not_specialize=["TOKENS"])
def scale_kernel(x, norm, picked, out, rstd, TOKENS, WIDE, eps, PICKED: tl.constexpr, T: tl.constexpr, K: tl.constexpr):
    """bfloat16(x * norm) and 1 / root mean square of rows, with exactly the bits that `linear_kernel` computes."""
    token, lane = tl.program_id(0) * T + tl.arange(0, T), tl.arange(0, K)
    source = token
    if PICKED:
        source = tl.load(picked + token, mask=token < TOKENS, other=0)
    squares = tl.zeros((K, T), tl.float32)
    for first in range(0, WIDE, K):
        k = first + lane
        inside = (token[None, :] < TOKENS) & (k[:, None] < WIDE)
        rows = tl.load(x + source[None, :] * WIDE + k[:, None], mask=inside, other=0.0)
        squares = tl.fma(rows, rows, squares)
        rows = rows * tl.load(norm + k, mask=k < WIDE, other=0.0)[:, None]
        tl.store(out + token[None, :] * WIDE + k[:, None], to_bf16(rows), mask=inside)
    tl.store(rstd + token, tl.rsqrt(column_sums(squares, K, T) / WIDE + eps), mask=token < TOKENS)


@triton.jit
def embed_kernel(tokens, table, out, WIDE, K: tl.constexpr):
    """Some columns of one row, widened to float32."""
    t, k = tl.program_id(0).to(tl.int64), tl.program_id(1) * K + tl.arange(0, K)
    token = tl.load(tokens + t).to(tl.int64)
    row = tl.load(table + token * WIDE + k, mask=k < WIDE, other=0.0)
    tl.store(out + t * WIDE + k, row.to(tl.float32), mask=k < WIDE)


class Scaled(NamedTuple):
    """Rows times the norm's scale, bfloat16, not yet divided by their root mean square. rstd: the missing factor."""

    x_TD: Tensor
    rstd_T: Tensor


def scale_rows(x_TD: Tensor, norm_D: Tensor, eps: float, picked: Tensor | None = None) -> Scaled:
    """One launch. For many rows, where norms in each program would cost more."""
    count, width = len(x_TD) if picked is None else len(picked), x_TD.shape[1]
    out = Scaled(x_TD.new_empty((count, width), dtype=torch.bfloat16), x_TD.new_empty(count))
    grid = (triton.cdiv(count, 4),)
    scale_kernel[grid](
        x_TD, norm_D, picked, out.x_TD, out.rstd_T, count, width, eps,
        PICKED=picked is not None, T=4, K=WIDTH, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def norm_linear(x_TD: Tensor, norm_D: Tensor, eps: float, w: Dense) -> Tensor:
    """bfloat16 [T, P]: RMSNorm, product, bias. One launch up to FUSED rows, else two."""
    out_TP = x_TD.new_empty((len(x_TD), len(w.weight)), dtype=torch.bfloat16)
    return _normed(x_TD, None, norm_D, eps, w, out_TP, "narrow")


def unembed(x_TD: Tensor, rows_R: Tensor, norm_D: Tensor, eps: float, w: Dense) -> Tensor:
    """float32 [R, P]: the logits of the rows `rows_R` (int32, on the device)."""
    return _normed(x_TD, rows_R, norm_D, eps, w, x_TD.new_empty((len(rows_R), len(w.weight))), "wide")


def _normed(x_TD: Tensor, picked: Tensor | None, norm_D: Tensor, eps: float, w: Dense, out: Tensor, way: str) -> Tensor:
    if len(out) <= FUSED:
        return _launch(x_TD, "raw", w, out, way, norm=norm_D, eps=eps, picked=picked)
    scaled = scale_rows(x_TD, norm_D, eps, picked)
    return _launch(scaled.x_TD, "scaled", w, out, way, rstd=scaled.rstd_T)


def linear_add(x_TK: Tensor, w: Dense, residual_TD: Tensor) -> Tensor:
    """residual += W x + bias, in place. x is bfloat16, the residual float32. One launch."""
    return _launch(x_TK, "plain", w, residual_TD, "add")


def _launch(
    x: Tensor, form: str, w: Dense, out: Tensor, way: str, *,
    norm: Tensor | None = None, rstd: Tensor | None = None, picked: Tensor | None = None, eps: float = 0.0,
) -> Tensor:  # fmt: skip
    count, rows = out.shape
    if not count:
        return out
    t = tiles(count, is_amd())
    linear_kernel[(triton.cdiv(rows, t.rows), triton.cdiv(count, t.tokens))](
        x, norm, rstd, w.weight, w.scales, w.bias, picked, out, count, rows, x.shape[1], w.weight.shape[1], eps,
        IN=form, OUT=way, INT8=w.scales is not None, BIAS=w.bias is not None, PICKED=picked is not None,
        R=t.rows, T=t.tokens, K=WIDTH, num_warps=t.warps, num_stages=t.stages, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def embed(tokens_T: Tensor, table_VD: Tensor) -> Tensor:
    """float32 [T, D]: rows of the bfloat16 table. tokens: int32 on the device."""
    count, width = len(tokens_T), table_VD.shape[1]
    out_TD = table_VD.new_empty((count, width), dtype=torch.float32)
    if count:
        embed_kernel[(count, triton.cdiv(width, 1024))](tokens_T, table_VD, out_TD, width, K=1024, num_warps=4)
    return out_TD


def kernel_specs(sizes: Sizes, groups: bool, ptx: bool) -> Iterator[KernelSpec]:
    """The kernels of this file as launched by a decode step and by a prefill."""
    qkv = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim
    whole = {"TOKENS": "i32", "ROWS": "i32:16", "WIDE": "i32:16", "PITCH": "i32:16", "eps": "fp32"}
    for rows in (1, 4, 16, 64, 4096) if ptx else (16, 64, 4096):
        t = tiles(rows, not ptx)
        raw = rows <= FUSED
        for name, form, way, int8 in (
            (f"norm + qkv [{qkv}]", "raw" if raw else "scaled", "narrow", False),
            (f"norm + qkv [{qkv}] int8", "raw" if raw else "scaled", "narrow", True),
            (f"out + residual [{sizes.hidden}]", "plain", "add", False),
        ):
            given = whole | {
                "x": "*fp32" if form == "raw" else "*bf16",
                "norm": "*fp32" if form == "raw" else None,
                "rstd": "*fp32" if form == "scaled" else None,
                "weight": "*i8" if int8 else "*bf16",
                "scales": "*bf16" if int8 else None,
                "bias": "*fp32", "picked": None, "out": "*bf16" if way == "narrow" else "*fp32",
                "IN": form, "OUT": way, "INT8": int8, "BIAS": True, "PICKED": False,
                "R": t.rows, "T": t.tokens, "K": WIDTH,
            }  # fmt: skip
            yield spec(f"{name}, {rows} rows", linear_kernel, given, t.warps, t.stages)
