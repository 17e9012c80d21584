# pyright: standard
"""The router's choice, and the experts chosen for each row: top-k, softmax over the k, up, SwiGLU, down, weighted sum.

In: normed rows; expert weights as packed panels, or dense as stored. Out: the residual with the experts' sum added.

Shape suffixes: see `ossia.kernels.ops`; N = T K pairs of a row and an expert, sorted by expert. The first half of a
packed expert's panel holds gates and the second half their ups, so SwiGLU reads both from one tile of sums.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossia.kernels.cpu.codegen.jit import entry, kernel, share, shares, take
from ossia.kernels.cpu.codegen.simd import FLOATS, Emit, emitter, intrinsic, wants
from ossia.kernels.cpu.gemm import FEW_ROWS, PORTION, even_shares, norm_and_multiply, quantize_rows
from ossia.kernels.cpu.gemm_exact import dots
from ossia.kernels.cpu.pack import MXFP4
from ossia.kernels.cpu.tiles.gemm_tiles import (
    MAX_TILE_ROWS,
    QUANTIZED_WORDS,
    RUN,
    add_row,
    limb_rows,
    prefetch_row,
    put_row,
    quantize_block,
    row_sums,
    run_of,
)
from ossia.kernels.ops import SWIGLU_SLOPE

_WORTH_SHARING = 1 << 16  # numbers to add up, from which all threads work


class Routing(NamedTuple):
    """The normed rows (columns beyond D are zeros), and the experts of each row with weights. experts_TK ascends in a
    row.
    """

    x_TD: NDArray[np.float32]
    experts_TK: NDArray[np.int32]
    weights_TK: NDArray[np.float32]


class Pairs(NamedTuple):
    """Pairs sorted by expert. Expert e has pairs starts[e]:starts[e+1]. used: experts that have any pairs, ascending."""

    rows_N: NDArray[np.int32]
    weights_N: NDArray[np.float32]
    starts_E1: NDArray[np.int32]
    used_U: NDArray[np.int32]


@kernel
def choose(logits_TE, k):
    """The k best experts of each row in ascending order, with softmax weights over the k. Ties go to the lower number."""
    rows, experts = logits_TE.shape
    best_TK, weights_TK = np.empty((rows, k), np.int32), np.empty((rows, k), np.float32)
    for t in range(rows):
        chosen = np.zeros(experts, np.bool_)
        for _ in range(k):
            best = -1
            for e in range(experts):
                if not chosen[e] and (best < 0 or logits_TE[t, e] > logits_TE[t, best]):
                    best = e
            chosen[best] = True
        top, total, i = np.float32(-np.inf), np.float32(0.0), 0
        for e in range(experts):
            if chosen[e]:
                best_TK[t, i] = e
                top = max(top, logits_TE[t, e])
                i += 1
        for i in range(k):
            weights_TK[t, i] = np.exp(logits_TE[t, best_TK[t, i]] - top)
            total += weights_TK[t, i]
        for i in range(k):
            weights_TK[t, i] /= total
    return best_TK, weights_TK


@kernel
def _sort_pairs(experts_TK, weights_TK, experts):
    """Counting sort of the pairs by expert. The pairs of an expert keep the order of their rows."""
    rows, k = experts_TK.shape
    starts = np.zeros(experts + 1, np.int32)
    for t in range(rows):
        for i in range(k):
            starts[experts_TK[t, i] + 1] += 1
    used = np.empty(experts, np.int32)
    count = 0
    for e in range(experts):
        if starts[e + 1]:
            used[count] = e
            count += 1
        starts[e + 1] += starts[e]
    rows_N, weights_N = np.empty(rows * k, np.int32), np.empty(rows * k, np.float32)
    place = starts[:-1].copy()
    for t in range(rows):
        for i in range(k):
            e = experts_TK[t, i]
            rows_N[place[e]] = t
            weights_N[place[e]] = weights_TK[t, i]
            place[e] += 1
    return rows_N, weights_N, starts, used[:count].copy()


@entry
def routed(x_TD, scale_D, eps, padded, quantize_workers, weight, bias_E, k, workers):
    """The fields of `Routing`: norm the rows, score them with the router, and choose experts."""
    logits_TE = np.zeros((x_TD.shape[0], bias_E.size), np.float32)
    normed_TD = norm_and_multiply(x_TD, scale_D, eps, padded, quantize_workers, weight, bias_E, logits_TE, workers)
    best_TK, weights_TK = choose(logits_TE, k)
    return normed_TD, best_TK, weights_TK


def _emit_swiglu(e: Emit, sums: Any, at: Any, bias: Any, bias_at: Any, limit: Any, out: Any, to: Any) -> None:
    """SwiGLU of 16 gates at sums[at] and the 16 ups after them, with biases in the same layout. Writes 16 floats to
    out[to].
    """
    b = e.b
    source, biases = e.at(sums, b.mul(at, e.whole(4))), e.at(bias, b.mul(bias_at, e.whole(4)))
    high, low = e.splat(limit, FLOATS), e.splat(b.fneg(limit), FLOATS)
    gate = e.minimum(b.fadd(e.load(source, FLOATS), e.load(biases, FLOATS)), high)
    up = b.fadd(e.load(e.at(source, 64), FLOATS), e.load(e.at(biases, 64), FLOATS))
    up = e.maximum(e.minimum(up, high), low)
    slowed = e.exp(b.fmul(gate, e.floats(-SWIGLU_SLOPE)))
    swish = b.fdiv(gate, b.fadd(slowed, e.floats(1.0)))
    e.store(b.fmul(swish, b.fadd(up, e.floats(1.0))), e.at(out, b.mul(to, e.whole(4))))


@intrinsic
def swiglu(typingctx, sums, at, bias, bias_at, limit, out, to):
    """gate, up = sums + bias; clamp(gate) * sigmoid(1.702 gate) * (clamp(up) + 1)."""
    return wants(sums, at, bias, bias_at, limit, out, to), emitter(_emit_swiglu)


@kernel
def _up_pairs(
    data, start, stride, run, blocks, quantized, numbers, limbs, first, last,
    bias, bias_at, limit, to_blocks, b, code_bias, out, sums, h,
):  # fmt: skip
    """Up and SwiGLU of the pairs first..last for `run` times two panels (32 features each). Writes quantized blocks
    from b on.
    """
    count = last - first
    row_sums(MXFP4, data, start, stride, 2 * run, blocks, quantized, numbers, first, count, limbs, sums)
    for r in range(run):
        for i in range(count):
            for half in range(2):
                panel = 2 * r + half
                swiglu(sums, 32 * (panel * count + i), bias, bias_at + 32 * panel, limit, h, 16 * half)
            quantize_block(MXFP4, h, 0, to_blocks, b + r, out, first + i, limbs, code_bias)


@kernel
def _up_tasks(
    counter, bounds, data, stride, blocks, quantized, numbers, limbs, pairs, bias_EPR, limit, code_bias, out
):  # fmt: skip
    _, _, starts, used = pairs
    panels, bias = bias_EPR.shape[1], bias_EPR.reshape(-1)
    to_blocks = panels // 2
    sums, h = np.empty(2 * max(PORTION * limbs, RUN * MAX_TILE_ROWS) * 32, np.float32), np.empty(32, np.float32)
    task = take(counter)
    while task < bounds.size - 1:
        place = bounds[task]
        while place < bounds[task + 1]:
            e, b = used[place // to_blocks], place % to_blocks
            panel = e * panels + 2 * b
            run = run_of(MXFP4, (starts[e + 1] - starts[e]) * limbs, min(bounds[task + 1] - place, to_blocks - b))
            for first in range(starts[e], starts[e + 1], PORTION):
                last = min(first + PORTION, starts[e + 1])
                _up_pairs(
                    data, panel * stride, stride, run, blocks, quantized, numbers, limbs, first, last,
                    bias, 32 * panel, limit, to_blocks, b, code_bias, out, sums, h,
                )  # fmt: skip
            place += run
        task = take(counter)


@kernel
def up_packed(data, stride, blocks, quantized, limbs, pairs, bias_EPR, limit, code_bias, workers):
    """The quantized features of all pairs. bias_EPR: float32 [E, panels, 32], gates before ups in a panel."""
    to_blocks = bias_EPR.shape[1] // 2
    numbers = limb_rows(pairs[0], limbs)
    out = np.empty(pairs[0].size * limbs * to_blocks * QUANTIZED_WORDS[MXFP4], np.int32)
    bounds = shares(pairs[3].size * to_blocks, workers, 1)
    counter = np.zeros(1, np.int64)
    share(
        workers,
        _up_tasks,
        counter,
        bounds,
        data,
        stride,
        blocks,
        quantized,
        numbers,
        limbs,
        pairs,
        bias_EPR,
        limit,
        code_bias,
        out,
    )
    return out


@kernel
def _add_parts(counter, parts, rows_N, panels, workers, out, columns):
    """Add one worker's share of the panels: each pair's part to its row, in the order of the pairs."""
    worker = take(counter)
    begin, end = panels * worker // workers, panels * (worker + 1) // workers
    for n in range(rows_N.size):
        source, target = 32 * n * panels, rows_N[n] * columns
        for lane in range(32 * begin, 32 * end):
            out[target + lane] += parts[source + lane]


@kernel
def _down_few_tasks(counter, bounds, data, stride, blocks, quantized, numbers, limbs, pairs, bias_EPR, parts):
    _, weights_N, starts, used = pairs
    panels, bias = bias_EPR.shape[1], bias_EPR.reshape(-1)
    sums = np.empty(max(FEW_ROWS * limbs, RUN * MAX_TILE_ROWS) * 32, np.float32)
    task = take(counter)
    while task < bounds.size - 1:
        place = bounds[task]
        while place < bounds[task + 1]:
            e, p = used[place // panels], place % panels
            first, count, panel = np.int64(starts[e]), np.int64(starts[e + 1] - starts[e]), e * panels + p
            run = run_of(MXFP4, count * limbs, min(bounds[task + 1] - place, panels - p))
            row_sums(MXFP4, data, panel * stride, stride, run, blocks, quantized, numbers, first, count, limbs, sums)
            for r in range(run):
                for i in range(count):
                    to = 32 * ((first + i) * panels + p + r)
                    put_row(sums, 32 * (r * count + i), bias, 32 * (panel + r), weights_N[first + i], parts, to)
            place += run
        task = take(counter)


@kernel
def down_few(data, stride, blocks, quantized, limbs, pairs, bias_EPR, out_TD, workers):
    """`down_many` for few rows, with the same bits: each expert's panels are read in one stream, and all parts are
    added last.
    """
    rows_N, panels = pairs[0], bias_EPR.shape[1]
    columns, out = np.int64(out_TD.shape[1]), out_TD.reshape(-1)
    numbers = np.arange(rows_N.size * limbs).astype(np.int32)
    parts = np.empty(rows_N.size * panels * 32, np.float32)
    bounds = shares(pairs[3].size * panels, workers, 1)
    counter = np.zeros(1, np.int64)
    share(
        workers,
        _down_few_tasks,
        counter,
        bounds,
        data,
        stride,
        blocks,
        quantized,
        numbers,
        limbs,
        pairs,
        bias_EPR,
        parts,
    )
    counter[0], adders = 0, workers if parts.size > _WORTH_SHARING else 1
    share(adders, _add_parts, counter, parts, rows_N, panels, adders, out, columns)


@kernel
def _down_pairs(
    data, start, blocks, quantized, numbers, limbs, first, last, rows_N, weights_N, bias, bias_at, column, columns, out, sums
):  # fmt: skip
    count = last - first
    for n in range(first, last):
        prefetch_row(out, rows_N[n] * columns + column)
    row_sums(MXFP4, data, start, 0, 1, blocks, quantized, numbers, first, count, limbs, sums)
    for i in range(count):
        add_row(sums, 32 * i, bias, bias_at, weights_N[first + i], out, rows_N[first + i] * columns + column)


@kernel
def _down_many_tasks(counter, bounds, data, stride, blocks, quantized, numbers, limbs, pairs, bias_EPR, out_TD):
    rows_N, weights_N, starts, used = pairs
    panels, bias = bias_EPR.shape[1], bias_EPR.reshape(-1)
    columns, out = np.int64(out_TD.shape[1]), out_TD.reshape(-1)
    sums = np.empty(PORTION * limbs * 32, np.float32)
    task = take(counter)
    while task < bounds.size - 1:
        for u in range(used.size):
            e = used[u]
            for first in range(starts[e], starts[e + 1], PORTION):
                last = min(first + PORTION, starts[e + 1])
                for p in range(bounds[task], bounds[task + 1]):
                    panel = e * panels + p
                    _down_pairs(
                        data, panel * stride, blocks, quantized, numbers, limbs, first, last,
                        rows_N, weights_N, bias, 32 * panel, 32 * p, columns, out, sums,
                    )  # fmt: skip
        task = take(counter)


@kernel
def down_many(data, stride, blocks, quantized, limbs, pairs, bias_EPR, out_TD, workers):
    """out[row] += weight * (down + bias). One task has all rows of a panel, and experts come in ascending order."""
    numbers = np.arange(pairs[0].size * limbs).astype(np.int32)
    bounds = even_shares(bias_EPR.shape[1], workers)
    counter = np.zeros(1, np.int64)
    share(
        workers,
        _down_many_tasks,
        counter,
        bounds,
        data,
        stride,
        blocks,
        quantized,
        numbers,
        limbs,
        pairs,
        bias_EPR,
        out_TD,
    )


@entry
def add_packed(x_TD, experts_TK, weights_TK, limbs, code_bias, quantize_workers, up, down, limit, out_TD, workers):
    """out[t] += the weighted sum of the experts of row t. up, down: (data, stride, blocks, biases in panel order)."""
    pairs = _sort_pairs(experts_TK, weights_TK, up[3].shape[0])
    quantized = quantize_rows(MXFP4, x_TD, up[2], limbs, code_bias, quantize_workers)
    h = up_packed(up[0], up[1], up[2], quantized, limbs, pairs, up[3], limit, code_bias, workers)
    if x_TD.shape[0] <= FEW_ROWS:
        down_few(down[0], down[1], down[2], h, limbs, pairs, down[3], out_TD, workers)
    else:
        down_many(down[0], down[1], down[2], h, limbs, pairs, down[3], out_TD, workers)


@kernel
def _up_dense_tasks(counter, x_TD, pairs, weight, bias_ER, limit, out_NF):
    rows_N, _, starts, used = pairs
    features, width = bias_ER.shape[1] // 2, x_TD.shape[1]
    x = x_TD.reshape(-1)
    sums = np.empty(2, np.float32)
    task = take(counter)
    while task < used.size * features:
        e, f = used[task // features], task % features
        for n in range(starts[e], starts[e + 1]):
            sums[0], sums[1] = bias_ER[e, 2 * f], bias_ER[e, 2 * f + 1]
            dots(x, rows_N[n] * width, 1, weight, (e * 2 * features + 2 * f) * width, 2, width, sums, 0, 2)
            gate, up = min(sums[0], limit), min(max(sums[1], -limit), limit)
            out_NF[n, f] = gate / (np.float32(1.0) + np.exp(np.float32(-SWIGLU_SLOPE) * gate)) * (up + np.float32(1.0))
        task = take(counter)


@kernel
def _up_dense(x_TD, pairs, weight, bias_ER, limit, out_NF, workers):
    counter = np.zeros(1, np.int64)
    share(workers, _up_dense_tasks, counter, x_TD, pairs, weight, bias_ER, limit, out_NF)


@kernel
def _down_dense_tasks(counter, h_NF, pairs, weight, bias_ER, out_TD):
    rows_N, weights_N, starts, used = pairs
    lanes, width = bias_ER.shape[1], h_NF.shape[1]
    h = h_NF.reshape(-1)
    sums = np.empty(1, np.float32)
    r = take(counter)
    while r < lanes:
        for u in range(used.size):
            e = used[u]
            for n in range(starts[e], starts[e + 1]):
                sums[0] = bias_ER[e, r]
                dots(h, n * width, 1, weight, (e * lanes + r) * width, 1, width, sums, 0, 1)
                out_TD[rows_N[n], r] += sums[0] * weights_N[n]
        r = take(counter)


@kernel
def _down_dense(h_NF, pairs, weight, bias_ER, out_TD, workers):
    counter = np.zeros(1, np.int64)
    share(workers, _down_dense_tasks, counter, h_NF, pairs, weight, bias_ER, out_TD)


@entry
def add_dense(x_TD, experts_TK, weights_TK, up, down, limit, h_NF, out_TD, workers):
    """`add_packed` for dense experts. up, down: (weight, bias [E, R]); weights flat, rows padded to the width of x or
    h_NF.

    Gate and up rows of an expert alternate. h_NF: zeros on entry; receives the pairs' features.
    """
    pairs = _sort_pairs(experts_TK, weights_TK, up[1].shape[0])
    _up_dense(x_TD, pairs, up[0], up[1], limit, h_NF, workers)
    _down_dense(h_NF, pairs, down[0], down[1], out_TD, workers)
