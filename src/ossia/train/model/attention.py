"""Causal attention with sinks over packed sequences, as one autograd function.

Input: projected rows of a batch, `Packing`s with the position of each sequence. Output: attended rows.
Scores exist for one tile of queries at a time. Probabilities of short sequences are saved for the backward pass; those of
long ones are recomputed, so memory grows linearly with the length.

Shape legend: T rows, H query heads, G key/value heads, M = H / G, d head width, P = (H + 2G)d, S sequences padded to L
rows, C queries of a tile, n keys that they see.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.kernels.ops import AttentionShape, Batch
from ossia.kernels.reference import padded_rows
from ossia.kernels.rope import frequencies
from ossia.train.model.autograd import ComputeConfig
from ossia.train.model.elementwise import Steps

QUERIES = 64  # of a tile
LENGTHS = 32  # the padded length is a multiple of this, so that few matrix sizes occur
SCORES = 1 << 18  # of a tile of several sequences, to stay in the CPU's cache
MAX_SCORES = 1 << 23  # of any tile
KEPT_SCORES = 1 << 24  # of a batch; more are recomputed in the backward pass
PADDED_ROWS = 1 << 15  # above this, sequences of different length are padded separately


class Packing(NamedTuple):
    """S sequences padded with zeros to L rows. at_T: index of each row among the S * L. cos, sin: [T, 1, d / 2]."""

    sequences: int
    length: int
    at_T: Tensor
    cos: Tensor
    sin: Tensor


class Packings(NamedTuple):
    """The packings of a batch. rows: the batch's rows of each packing; back_T: the inverse (None: one packing, in order)."""

    parts: tuple[Packing, ...]
    rows: tuple[Tensor, ...] | None
    back_T: Tensor | None


def packings(batch: Batch, shape: AttentionShape, device: str) -> Packings:
    """Sequences padded to a common length, in several packings if one would be mostly padding."""
    lengths_S = np.diff(batch.starts_S1)
    groups = _by_length(lengths_S)
    if len(groups) == 1:
        return Packings((_packing(batch.starts_S1, batch.positions_T, shape, device),), None, None)
    parts, rows = [], []
    for group in groups:
        bounds = [(int(batch.starts_S1[i]), int(batch.starts_S1[i + 1])) for i in group]
        rows.append(np.concatenate([np.arange(first, last) for first, last in bounds]))
        starts = np.cumsum([0, *lengths_S[group]]).astype(np.int32)
        parts.append(_packing(starts, batch.positions_T[rows[-1]], shape, device))
    back_T = np.argsort(np.concatenate(rows))
    on_device = [torch.from_numpy(each).to(device) for each in (*rows, back_T)]
    return Packings(tuple(parts), tuple(on_device[:-1]), on_device[-1])


def _by_length(lengths_S: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """All sequences in one group, or groups of similar length if padding would be several times the rows."""
    padded, total = len(lengths_S) * int(lengths_S.max()), int(lengths_S.sum())
    if padded <= max(PADDED_ROWS, 4 * total):
        return [np.arange(len(lengths_S))]
    order = np.argsort(-lengths_S, kind="stable")
    groups: list[list[int]] = []
    for i in order.tolist():
        if not groups or 2 * lengths_S[i] < lengths_S[groups[-1][0]]:
            groups.append([])
        groups[-1].append(i)
    return [np.array(sorted(group)) for group in groups]


def _packing(
    starts_S1: NDArray[np.int32], positions_T: NDArray[np.int32], shape: AttentionShape, device: str
) -> Packing:
    _, held_SL = padded_rows(starts_S1)
    held_SL = np.pad(held_SL, ((0, 0), (0, -held_SL.shape[1] % LENGTHS)))
    inverse, concentration = frequencies(shape.rope, shape.head_dim)
    angles = torch.from_numpy(positions_T)[:, None, None].float() * torch.from_numpy(inverse)
    parts = (torch.from_numpy(np.flatnonzero(held_SL)), angles.cos() * concentration, angles.sin() * concentration)
    return Packing(*held_SL.shape, *(part.to(device) for part in parts))


def attention(
    qkv_TP: Tensor, sinks_H: Tensor, shape: AttentionShape, packed: Packings, compute: ComputeConfig
) -> Tensor:
    """RoPE and causal attention with sinks, each sequence on its own; [T, H * d]."""
    if packed.rows is None:
        return _Attention.apply(qkv_TP, sinks_H, shape, packed.parts[0], compute)  # type: ignore[no-any-return]
    parts = [
        _Attention.apply(qkv_TP[rows], sinks_H, shape, part, compute) for rows, part in zip(packed.rows, packed.parts)
    ]
    return torch.cat(parts)[packed.back_T]  # type: ignore[arg-type]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv_TP: Tensor, sinks_H: Tensor, shape: AttentionShape, packing: Packing, compute: ComputeConfig
    ) -> Tensor:
        steps = compute.steps
        q, k, v = _heads(qkv_TP, shape, packing, steps)
        out, kept = torch.empty_like(q), list[Tensor]()
        keeps = sum(tile.scores for tile in _tiles(shape, packing)) <= KEPT_SCORES
        for tile in _tiles(shape, packing):
            probabilities = _probabilities(q, k, sinks_H, tile, shape, steps)
            kept += probabilities if keeps else ()
            out[tile.queries] = torch.matmul(probabilities[0], v[tile.keys])
        ctx.save_for_backward(q, k, v, out, sinks_H, *kept)
        ctx.shape, ctx.packing, ctx.steps = shape, packing, steps
        return _rows(out, packing)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        q, k, v, out, sinks_H, *kept = ctx.saved_tensors
        shape, packing, steps = ctx.shape, ctx.packing, ctx.steps
        grad = _by_group(grads[0].to(q.dtype), shape, packing)
        along = steps.dot(grad, out)
        grads_q = torch.empty_like(q)
        grads_k, grads_v = torch.zeros_like(k, dtype=along.dtype), torch.zeros_like(v, dtype=along.dtype)
        of_sinks = along.new_zeros(shape.kv_heads, shape.heads // shape.kv_heads)
        for i, tile in enumerate(_tiles(shape, packing)):
            shares, at_sink = kept[2 * i : 2 * i + 2] if kept else _probabilities(q, k, sinks_H, tile, shape, steps)
            own, along_own = grad[tile.queries], along[tile.queries]
            of_sinks -= (at_sink * along_own).unflatten(2, (tile.size, -1)).sum((0, 2, 4))
            grads_v[tile.keys] += torch.matmul(shares.mT, own)
            slope = steps.slope(torch.matmul(own, v[tile.keys].mT), along_own, shares, shape.head_dim**-0.5)
            grads_q[tile.queries] = torch.matmul(slope, k[tile.keys])
            grads_k[tile.keys] += torch.matmul(slope.mT, q[tile.queries])
        q_T, k_T, v_T = (_rows(each.to(q.dtype), packing) for each in (grads_q, grads_k, grads_v))
        turned_T = torch.cat([q_T, k_T], 1).view(len(q_T), -1, shape.head_dim)
        back_T = steps.rotate(turned_T, packing.cos, -packing.sin).flatten(1)
        return torch.cat([back_T, v_T], 1), of_sinks.view(-1), None, None, None


def _probabilities(
    q: Tensor, k: Tensor, sinks_H: Tensor, tile: "_Tile", shape: AttentionShape, steps: Steps
) -> tuple[Tensor, Tensor]:
    """Probabilities of the keys [.., C * M, n], and of the sink [.., C * M, 1]."""
    sinks = sinks_H.view(shape.kv_heads, -1).repeat(1, tile.size)[..., None]
    scores = torch.matmul(q[tile.queries], k[tile.keys].mT)
    return steps.shares(scores, sinks, _hidden(tile, shape, q.device), shape.head_dim**-0.5)


class _Tile(NamedTuple):
    """Queries [begin, begin + size) of some sequences, and the keys [seen, ...) that they attend to, as indices."""

    queries: tuple[slice, slice, slice]
    keys: tuple[slice, slice, slice]
    begin: int
    size: int
    seen: int
    scores: int


def _tiles(shape: AttentionShape, packing: Packing) -> Iterator[_Tile]:
    repeats, every = shape.heads // shape.kv_heads, slice(None)
    for begin, end, seen in query_tiles(packing.length, shape.window, shape.heads):
        scores = shape.heads * (end - begin) * (end - seen)
        step = max(1, SCORES // scores)
        for first in range(0, packing.sequences, step):
            own = slice(first, first + step)
            queries, keys = (own, every, slice(begin * repeats, end * repeats)), (own, every, slice(seen, end))
            count = min(step, packing.sequences - first)
            yield _Tile(queries, keys, begin, end - begin, seen, count * scores)


def query_tiles(length: int, window: int, heads: int) -> Iterator[tuple[int, int, int]]:
    """Queries [begin, end), and the first key that they attend to; at most `MAX_SCORES` scores, or one query."""
    begin = 0
    while begin < length:
        seen = max(0, begin + 1 - window) if window else 0
        size = min(QUERIES, length - begin)
        while size > 1 and heads * size * (begin + size - seen) > MAX_SCORES:
            size //= 2
        yield begin, begin + size, seen
        begin += size


def _hidden(tile: _Tile, shape: AttentionShape, device: torch.device) -> Tensor:
    """[C * M, keys]: the additive mask. -inf for keys after a query and for those outside its window, else 0."""
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
    """Rows of heads to [S, G, L * M, d]; the heads of a group are adjacent."""
    rows_Tw = heads_T.reshape(len(packing.at_T), -1)
    padded = rows_Tw.new_zeros(packing.sequences * packing.length, rows_Tw.shape[1])
    padded.index_copy_(0, packing.at_T, rows_Tw)
    by_row = padded.view(packing.sequences, packing.length, shape.kv_heads, -1, shape.head_dim)
    return by_row.transpose(1, 2).flatten(2, 3)


def _rows(grouped: Tensor, packing: Packing) -> Tensor:
    """[S, G, L * M, d] to rows [T, G * M * d]."""
    by_row = grouped.unflatten(2, (packing.length, -1)).transpose(1, 2)
    return by_row.reshape(packing.sequences * packing.length, -1).index_select(0, packing.at_T)
