"""Rows of activations times a weight: packed panels with int8 activations, or rows as stored with float32 ones.

In: rows [T, D], a weight's arrays. Out: float32 [T, R], biases added.
It does not know what a layer is or how a weight was packed.

Shape legend: see ossia.kernels. Few rows: a task is a run of panels, read once from memory, in one stream. Many: a task
is some panels, and rows come in portions that stay in the core's cache while the panels pass over them.
"""

import numpy as np
from numba import prange

from ossia.kernels.cpu.exact import dots
from ossia.kernels.cpu.jit import kernel, parallel, shares, take
from ossia.kernels.cpu.norm import norm_row, rms_norm
from ossia.kernels.cpu.panels import BLOCK_BYTES, INPUTS, INT8
from ossia.kernels.cpu.simd import TARGET
from ossia.kernels.cpu.tiles import (
    MOST,
    RECORD_WORDS,
    add_row,
    ask_line,
    ask_row,
    join_terms,
    part_of,
    round_row,
    tile,
    tile_again,
    tile_size,
)

FEW_ROWS = 16  # of a decode step
PORTION = 96  # rows whose records (346 kB at a width of 2880, 311 for int8) stay in a core's second cache
GROUP = 4  # panels of a task when rows are many
_FETCHES = TARGET.fetches


@kernel
def _round(kind, x_TD, t, blocks, records, terms, bias):  # noqa: ANN001, ANN202 - compiled: types are Numba's
    """Row t of x, as it is, to its records."""
    padded = np.zeros(blocks * INPUTS[kind], np.float32)
    width = min(padded.size, x_TD.shape[1])
    padded[:width] = x_TD[t, :width]
    round_row(kind, padded, blocks, records, t, terms, bias)


@kernel
def _round_normed(kind, x_TD, t, scale_D, eps, blocks, records, terms, bias):  # noqa: ANN001, ANN202
    """Row t of x, normed, to its records."""
    padded = np.zeros(blocks * INPUTS[kind], np.float32)
    norm_row(x_TD, t, scale_D, eps, padded)
    round_row(kind, padded, blocks, records, t, terms, bias)


@parallel
def to_records(kind, x_TD, blocks, terms, bias, workers):  # noqa: ANN001, ANN201
    """Rows rounded to int8, as weights of this kind take them."""
    rows = x_TD.shape[0]
    records = np.empty(rows * terms * blocks * RECORD_WORDS[kind], np.int32)
    counter = np.zeros(1, np.int64)
    for _ in prange(workers):
        t = take(counter)
        while t < rows:
            _round(kind, x_TD, t, blocks, records, terms, bias)
            t = take(counter)
    return records


@parallel
def normed_records(kind, x_TD, scale_D, eps, blocks, terms, bias, workers):  # noqa: ANN001, ANN201
    """Rows normed and rounded to int8, as weights of this kind take them."""
    rows = x_TD.shape[0]
    records = np.empty(rows * terms * blocks * RECORD_WORDS[kind], np.int32)
    counter = np.zeros(1, np.int64)
    for _ in prange(workers):
        t = take(counter)
        while t < rows:
            _round_normed(kind, x_TD, t, scale_D, eps, blocks, records, terms, bias)
            t = take(counter)
    return records


@kernel
def even_shares(panels, workers):  # noqa: ANN001, ANN201
    """Bounds of groups of panels, for many rows; the last ones smaller, so that threads end together."""
    bounds = np.empty(panels + 1, np.int64)
    bounds[0], groups = 0, 0
    while bounds[groups] < panels:
        left = panels - bounds[groups]
        bounds[groups + 1] = bounds[groups] + min(GROUP, max(1, left // (2 * workers)))
        groups += 1
    return bounds[: groups + 1]


@kernel
def _add_tile(out, at, size, terms, bias_R, column, columns, y, row):  # noqa: ANN001, ANN202
    """y[row:row + size, column:column + 32] += sums of so many rows at out[at:], plus bias. y flat, so many columns a row."""
    join_terms(out, at, size, terms)
    for i in range(size):
        place = (row + i) * columns + column
        if column + 32 <= columns:
            add_row(out, at + 32 * i, bias_R, column, np.float32(1.0), y, place)
        else:
            for r in range(columns - column):
                y[place + r] += out[at + 32 * i + r] + bias_R[column + r]


@kernel
def _ask_share(data, start, size, t, rows, count):  # noqa: ANN001, ANN202
    """Ask for so many rows' share of `size` bytes: by the last of `count` rows, all of them."""
    for line in range(t * size // count // 64, (t + rows) * size // count // 64):
        ask_line(data, start + 64 * line)


@kernel
def panel_rows(kind, data, start, blocks, records, numbers, terms, first, last, bias_R, column, columns, y, out):  # noqa: ANN001, ANN201
    """y[t, column:column + 32] += the panel times row t, plus bias, for first <= t < last. y: flat, so many columns a row.

    A part of the panel at a time, which stays in the first cache while the rows pass; meanwhile they ask for the part after
    it. `out` has room for every row's terms: taken anew for each panel, it would cost a third of what reading one costs.
    """
    count = last - first
    is_stream = _FETCHES and count * terms <= MOST  # one tile passes over the panel, front to back
    out[: count * terms * 32] = np.float32(0.0)
    part = part_of(kind, blocks, count * terms)
    for skip in range(0, blocks, part):
        taken, is_last, t = min(part, blocks - skip), skip + part >= blocks, 0
        after = start + (skip + taken) * BLOCK_BYTES[kind]
        while t < count:
            rows, at = tile_size(kind, count - t, terms), t * terms * 32
            if is_last:
                for row in range(first + t, first + t + rows):
                    ask_row(y, row * columns + column)
            if kind == INT8 and (count > FEW_ROWS or is_stream):
                if not is_stream:
                    _ask_share(data, after, part * BLOCK_BYTES[kind], t, rows, count)
                tile_again(kind, data, start, blocks, skip, taken, records, numbers, (first + t) * terms, rows * terms, out, at)
            else:
                tile(kind, data, start, blocks, skip, taken, records, numbers, (first + t) * terms, rows * terms, out, at)
            if is_last:
                _add_tile(out, at, rows, terms, bias_R, column, columns, y, first + t)
            t += rows


@parallel
def multiply(kind, data, stride, blocks, records, terms, bias_R, y_TR, workers):  # noqa: ANN001, ANN201
    """y[t] += W x[t] + bias."""
    rows = y_TR.shape[0]
    numbers = np.arange(rows * terms).astype(np.int32)
    panels = -(-y_TR.shape[1] // 32)
    bounds = shares(panels, workers, 1) if rows <= FEW_ROWS else even_shares(panels, workers)
    counter, columns, y = np.zeros(1, np.int64), y_TR.shape[1], y_TR.reshape(-1)
    for _ in prange(workers):
        out = np.empty(min(rows, PORTION) * terms * 32, np.float32)
        task = take(counter)
        while task < bounds.size - 1:
            for first in range(0, rows, PORTION):
                for p in range(bounds[task], bounds[task + 1]):
                    last = min(first + PORTION, rows)
                    panel_rows(
                        kind, data, p * stride, blocks, records, numbers, terms, first, last, bias_R, 32 * p, columns, y, out
                    )  # fmt: skip
            task = take(counter)


@parallel
def multiply_exact(weight, bias_R, x_TD, y, workers):  # noqa: ANN001, ANN201
    """y[t, r] += bias[r] + x[t] . weight[r]; weight and y flat, x and the weight's rows padded to 16."""
    rows, width, count = bias_R.size, x_TD.shape[1], x_TD.shape[0]
    x = x_TD.reshape(-1)
    counter = np.zeros(1, np.int64)
    for _ in prange(workers):
        task = take(counter)
        while task * 16 < rows:
            first = task * 16
            taken = min(16, rows - first)
            for t in range(count):
                for r in range(first, first + taken):
                    y[t * rows + r] += bias_R[r]
            dots(x, 0, count, weight, first * width, taken, width, y, first, rows)
            task = take(counter)


@kernel
def normed_multiply(x_TD, scale_D, eps, rounders, kind, data, stride, blocks, terms, code_bias, bias_R, y_TR, workers):  # noqa: ANN001, ANN201
    """y[t] += W norm(x[t]) + bias. `rounders`: the workers that norm and round."""
    records = normed_records(kind, x_TD, scale_D, eps, blocks, terms, code_bias, rounders)
    multiply(kind, data, stride, blocks, records, terms, bias_R, y_TR, workers)


@kernel
def rounded_multiply(x_TD, rounders, kind, data, stride, blocks, terms, code_bias, bias_R, y_TR, workers):  # noqa: ANN001, ANN201
    """y[t] += W x[t] + bias."""
    records = to_records(kind, x_TD, blocks, terms, code_bias, rounders)
    multiply(kind, data, stride, blocks, records, terms, bias_R, y_TR, workers)


@kernel
def normed_exact(x_TD, scale_D, eps, padded, rounders, weight, bias_R, y_TR, workers):  # noqa: ANN001, ANN201
    """y[t] += W norm(x[t]) + bias, W as stored. The normed rows, `padded` wide."""
    normed_TD = rms_norm(x_TD, scale_D, eps, padded, rounders)
    multiply_exact(weight, bias_R, normed_TD, y_TR.reshape(-1), workers)
    return normed_TD
