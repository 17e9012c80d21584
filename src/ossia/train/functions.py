"""The network's costly parts as single steps of the gradient: normed projections, attention with sinks, experts.

In: rows and float32 weights; `Means`: the type of matrix products and the passes between them. Out: rows, the same numbers
as `ReferenceOps` up to the rounding of that type. It does not know parameters, layers or losses.

Autograd on the reference's own lines is right too, but keeps and walks three times as many arrays.

Shape legend: T rows, D hidden, R rows of a weight, H query heads, G key/value heads, M = H / G, d head width, P = (H + 2G)d,
S sequences padded to L rows, E experts, K experts a row, F expert width, U = 2F, N rows sorted by expert, n of one.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ossia.kernels import AttentionShape
from ossia.train.steps import EAGER, Steps

QUERIES = 64  # of a tile: keys behind them are hardly computed
# oneDNN compiles a product anew for sizes it has not kept, which takes longer than the product: so rows are filled up.
ROWS, EXPERT_ROWS, LENGTHS = 256, 64, 32  # LENGTHS: of the longest sequence of a batch
SCORES = 1 << 18  # of a tile: they stay in a processor's cache


class Means(NamedTuple):
    """What a product is computed in, and what runs between products."""

    dtype: torch.dtype = torch.float32
    steps: Steps = EAGER


def rms_norm(x_TD: Tensor, scale_D: Tensor, eps: float, means: Means, dtype: torch.dtype = torch.float32) -> Tensor:
    return _RmsNorm.apply(x_TD, scale_D, eps, means, dtype)  # type: ignore[no-any-return]


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, scale_D: Tensor, eps: float, means: Means, dtype: torch.dtype) -> Tensor:
        normed_TD, factor_T1 = means.steps.norm(x_TD, scale_D, eps, dtype)
        ctx.save_for_backward(x_TD, scale_D, factor_T1)
        ctx.means = means
        return normed_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return *ctx.means.steps.norm_back(grads[0], *ctx.saved_tensors), None, None, None


def product(x_TD: Tensor, weight_RD: Tensor, bias_R: Tensor | None, means: Means) -> Tensor:
    """x @ weight.T + bias, in the type of products."""
    return _Product.apply(x_TD, weight_RD, bias_R, means)  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_RD: Tensor, bias_R: Tensor | None, means: Means) -> Tensor:
        rows, x_TD, weight_RD = len(x_TD), _filled(x_TD.to(means.dtype)), weight_RD.to(means.dtype)
        ctx.save_for_backward(x_TD, weight_RD)
        ctx.has_bias = bias_R is not None
        return torch.nn.functional.linear(x_TD, weight_RD, None if bias_R is None else bias_R.to(means.dtype))[:rows]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x_TD, weight_RD = ctx.saved_tensors
        grad_TR = _filled(grads[0].to(x_TD.dtype))
        bias = grad_TR.sum(0, dtype=torch.float32) if ctx.has_bias else None
        return (grad_TR @ weight_RD)[: len(grads[0])], (grad_TR.T @ x_TD).float(), bias, None


def _filled(x_TD: Tensor) -> Tensor:
    """With rows of zeros up to a multiple of ROWS."""
    return torch.nn.functional.pad(x_TD, (0, 0, 0, -len(x_TD) % ROWS))


class Packing(NamedTuple):
    """S sequences padded with zeros to L rows: where each row stands among the S * L; its angles, [T, 1, d / 2]."""

    sequences: int
    length: int
    at_T: Tensor
    cos: Tensor
    sin: Tensor


def attention(qkv_TP: Tensor, sinks_H: Tensor, shape: AttentionShape, packing: Packing, means: Means) -> Tensor:
    """RoPE and causal attention with sinks, each sequence its own; [T, H * d]."""
    return _Attention.apply(qkv_TP, sinks_H, shape, packing, means)  # type: ignore[no-any-return]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv_TP: Tensor, sinks_H: Tensor, shape: AttentionShape, packing: Packing, means: Means
    ) -> Tensor:
        steps, scale = means.steps, shape.head_dim**-0.5
        q, k, v = _heads(qkv_TP, shape, packing, steps)
        out, kept = torch.empty_like(q), list[Tensor]()
        for tile in _tiles(shape, packing):
            sinks = sinks_H.view(shape.kv_heads, -1).repeat(1, tile.size)[..., None]
            hidden = _hidden(tile, shape, q.device)
            shares, at_sink = steps.shares(torch.matmul(q[tile.queries], k[tile.keys].mT), sinks, hidden, scale)
            kept += [shares, at_sink]
            out[tile.queries] = torch.matmul(shares, v[tile.keys])
        ctx.save_for_backward(q, k, v, out, *kept)
        ctx.shape, ctx.packing, ctx.steps = shape, packing, steps
        return _rows(out, packing)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        q, k, v, out, *kept = ctx.saved_tensors
        shape, packing, steps = ctx.shape, ctx.packing, ctx.steps
        grad = _by_group(grads[0].to(q.dtype), shape, packing)
        along = steps.dot(grad, out)
        grads_q = torch.empty_like(q)
        grads_k, grads_v = torch.zeros_like(k, dtype=along.dtype), torch.zeros_like(v, dtype=along.dtype)
        of_sinks = along.new_zeros(shape.kv_heads, shape.heads // shape.kv_heads)
        for i, tile in enumerate(_tiles(shape, packing)):
            (shares, at_sink), own, along_own = kept[2 * i : 2 * i + 2], grad[tile.queries], along[tile.queries]
            of_sinks -= (at_sink * along_own).unflatten(2, (tile.size, -1)).sum((0, 2, 4))
            grads_v[tile.keys] += torch.matmul(shares.mT, own)
            slope = steps.slope(torch.matmul(own, v[tile.keys].mT), along_own, shares, shape.head_dim**-0.5)
            grads_q[tile.queries] = torch.matmul(slope, k[tile.keys])
            grads_k[tile.keys] += torch.matmul(slope.mT, q[tile.queries])
        q_T, k_T, v_T = (_rows(each.to(q.dtype), packing) for each in (grads_q, grads_k, grads_v))
        turned_T = torch.cat([q_T, k_T], 1).view(len(q_T), -1, shape.head_dim)
        back_T = steps.rotate(turned_T, packing.cos, -packing.sin).flatten(1)
        return torch.cat([back_T, v_T], 1), of_sinks.view(-1), None, None, None


class _Tile(NamedTuple):
    """Some sequences' queries [begin, begin + size) and the keys [seen, ...) that any of them sees, as indices."""

    queries: tuple[slice, slice, slice]
    keys: tuple[slice, slice, slice]
    begin: int
    size: int
    seen: int


def _tiles(shape: AttentionShape, packing: Packing) -> Iterator[_Tile]:
    repeats, every = shape.heads // shape.kv_heads, slice(None)
    for begin in range(0, packing.length, QUERIES):
        end = min(begin + QUERIES, packing.length)
        seen = max(0, begin + 1 - shape.window) if shape.window else 0
        step = max(1, SCORES // (shape.heads * (end - begin) * (end - seen)))
        for first in range(0, packing.sequences, step):
            own = slice(first, first + step)
            queries, keys = (own, every, slice(begin * repeats, end * repeats)), (own, every, slice(seen, end))
            yield _Tile(queries, keys, begin, end - begin, seen)


def _hidden(tile: _Tile, shape: AttentionShape, device: torch.device) -> Tensor:
    """[C * M, keys]: -inf for what a query does not see: the keys behind it, and those that its window has left; else 0."""
    query_C = torch.arange(tile.begin, tile.begin + tile.size, device=device)
    distance = query_C[:, None] - torch.arange(tile.seen, tile.begin + tile.size, device=device)
    hidden = (distance < 0) | (distance >= shape.window) if shape.window else distance < 0
    added = torch.zeros(hidden.shape, device=device).masked_fill(hidden, -torch.inf)
    return added.repeat_interleave(shape.heads // shape.kv_heads, 0)


def _heads(qkv_TP: Tensor, shape: AttentionShape, packing: Packing, steps: Steps) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries [S, G, L * M, d] and keys; values; [S, G, L, d]."""
    heads, both = shape.heads, shape.heads + shape.kv_heads
    parts_T = qkv_TP.view(len(qkv_TP), -1, shape.head_dim)
    turned_T = steps.rotate(parts_T[:, :both], packing.cos, packing.sin)
    parts = (turned_T[:, :heads], turned_T[:, heads:], parts_T[:, both:])
    q, k, v = (_by_group(part, shape, packing) for part in parts)
    return q, k, v


def _by_group(heads_T: Tensor, shape: AttentionShape, packing: Packing) -> Tensor:
    """Rows of heads to [S, G, L * M, d]: a group's heads of a row are neighbours."""
    rows_Tw = heads_T.reshape(len(packing.at_T), -1)
    padded = rows_Tw.new_zeros(packing.sequences * packing.length, rows_Tw.shape[1])
    padded.index_copy_(0, packing.at_T, rows_Tw)
    by_row = padded.view(packing.sequences, packing.length, shape.kv_heads, -1, shape.head_dim)
    return by_row.transpose(1, 2).flatten(2, 3)


def _rows(grouped: Tensor, packing: Packing) -> Tensor:
    """[S, G, L * M, d] to rows [T, G * M * d]."""
    by_row = grouped.unflatten(2, (packing.length, -1)).transpose(1, 2)
    return by_row.reshape(packing.sequences * packing.length, -1).index_select(0, packing.at_T)


class Chosen(NamedTuple):
    """Rows sorted by expert: the row of each, where row t's k-th stands, and how many each expert has.

    Each expert's are filled up to a multiple of EXPERT_ROWS with the first row, which nothing points to.
    """

    rows_N: Tensor
    at_TK: Tensor
    counts: list[int]


def chosen(experts_TK: Tensor, experts: int) -> Chosen:
    flat = experts_TK.reshape(-1)
    order_N = torch.argsort(flat, stable=True)
    counts_E = torch.bincount(flat, minlength=experts)
    fill_E = -counts_E % EXPERT_ROWS
    moved_E = fill_E.cumsum(0) - fill_E  # by what the experts before were filled up
    counts = (counts_E + fill_E).tolist()
    place_N = torch.arange(len(flat), device=flat.device) + moved_E[flat[order_N]]
    at_TK = torch.empty_like(order_N).scatter_(0, order_N, place_N)
    rows_N = order_N.new_zeros(sum(counts)).scatter_(0, place_N, order_N // experts_TK.shape[1])
    return Chosen(rows_N, at_TK.view(experts_TK.shape), counts)


def experts(
    x_TD: Tensor, weights_TK: Tensor, up: tuple[Tensor, Tensor], down: tuple[Tensor, Tensor], rows: Chosen, limit: float,
    means: Means,
) -> Tensor:  # fmt: skip
    """Each row's experts, weighted and added: [T, D]. up and down: weights and biases, gates and ups by turns."""
    return _Experts.apply(x_TD, weights_TK, *up, *down, rows, limit, means)  # type: ignore[no-any-return]


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, weights_TK: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor,
        rows: Chosen, limit: float, means: Means,
    ) -> Tensor:  # fmt: skip
        up, up_bias = _halves(up).to(means.dtype), _halves(up_bias).to(means.dtype)
        down, down_bias = down.to(means.dtype), down_bias.to(means.dtype)
        x_ND = means.steps.picked(x_TD, rows.rows_N, means.dtype)
        h_NU = x_ND.new_empty(len(x_ND), up.shape[1])
        y_ND = torch.empty_like(x_ND)
        for e, own in _owned(rows.counts):
            torch.addmm(up_bias[e], x_ND[own], up[e].T, out=h_NU[own])
            torch.addmm(down_bias[e], means.steps.swiglu(h_NU[own], limit), down[e].T, out=y_ND[own])
        ctx.save_for_backward(weights_TK, x_ND, h_NU, y_ND, up, down)
        ctx.rows, ctx.limit, ctx.means = rows, limit, means
        return means.steps.combined(y_ND, rows.at_TK, weights_TK)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        weights_TK, x_ND, h_NU, y_ND, up, down = ctx.saved_tensors
        rows, steps, (grad_TD,) = ctx.rows, ctx.means.steps, grads
        weight_N = weights_TK.new_zeros(len(rows.rows_N)).scatter_(0, rows.at_TK.flatten(), weights_TK.flatten())
        grad_ND = steps.weighed(grad_TD, rows.rows_N, weight_N, x_ND.dtype)
        of_x_ND, of_up, of_down = torch.empty_like(x_ND), torch.zeros_like(up), torch.zeros_like(down)
        wide = grad_TD.dtype
        of_up_bias, of_down_bias = up.new_zeros(up.shape[:2], dtype=wide), down.new_zeros(down.shape[:2], dtype=wide)
        for e, own in _owned(rows.counts):
            of_h_nU, act_nF = steps.swiglu_back(h_NU[own], grad_ND[own] @ down[e], ctx.limit)
            torch.matmul(grad_ND[own].T, act_nF, out=of_down[e])
            torch.sum(grad_ND[own], 0, dtype=wide, out=of_down_bias[e])
            torch.matmul(of_h_nU.T, x_ND[own], out=of_up[e])
            torch.sum(of_h_nU, 0, dtype=wide, out=of_up_bias[e])
            torch.matmul(of_h_nU, up[e], out=of_x_ND[own])
        of_x_TD = steps.combined(of_x_ND, rows.at_TK, torch.ones_like(weights_TK))
        of_weights = steps.against(y_ND, rows.at_TK, grad_TD)
        of_up, of_up_bias = _by_turns(of_up).to(wide), _by_turns(of_up_bias)
        return of_x_TD, of_weights, of_up, of_up_bias, of_down.to(wide), of_down_bias, None, None, None


def _owned(counts: list[int]) -> list[tuple[int, slice]]:
    """Each expert that has rows, and where they stand."""
    ends = [0]
    for count in counts:
        ends.append(ends[-1] + count)
    return [(e, slice(first, last)) for e, (first, last) in enumerate(pairwise(ends)) if last > first]


def _halves(rows: Tensor) -> Tensor:
    """[E, 2F, ...] gates and ups by turns, to all gates before all ups."""
    return rows.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)


def _by_turns(rows: Tensor) -> Tensor:
    return rows.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
