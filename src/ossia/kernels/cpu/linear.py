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
from ossia.kernels.cpu.tiles import WORDS_A_BLOCK, add_row, ask_row, round_row, row_sums

FEW_ROWS = 16  # of a decode step
PORTION = 96  # rows whose records (346 kB at a width of 2880) stay in a core's second cache
GROUP = 4  # panels of a task when rows are many


@kernel
def _round(x_TD, t, blocks, records, terms, bias):  # noqa: ANN001, ANN202 - compiled: types are Numba's
    """Row t of x, as it is, to its records."""
    padded = np.zeros(blocks * 32, np.float32)
    width = min(padded.size, x_TD.shape[1])
    padded[:width] = x_TD[t, :width]
    round_row(padded, blocks, records, t, terms, bias)


@kernel
def _round_normed(x_TD, t, scale_D, eps, blocks, records, terms, bias):  # noqa: ANN001, ANN202
    """Row t of x, normed, to its records."""
    padded = np.zeros(blocks * 32, np.float32)
    norm_row(x_TD, t, scale_D, eps, padded)
    round_row(padded, blocks, records, t, terms, bias)


@parallel
def to_records(x_TD, blocks, terms, bias, workers):  # noqa: ANN001, ANN201
    """Rows rounded to int8."""
    rows = x_TD.shape[0]
    records = np.empty(rows * terms * blocks * WORDS_A_BLOCK, np.int32)
    counter = np.zeros(1, np.int64)
    for _ in prange(workers):
        t = take(counter)
        while t < rows:
            _round(x_TD, t, blocks, records, terms, bias)
            t = take(counter)
    return records


@parallel
def normed_records(x_TD, scale_D, eps, blocks, terms, bias, workers):  # noqa: ANN001, ANN201
    """Rows normed and rounded to int8."""
    rows = x_TD.shape[0]
    records = np.empty(rows * terms * blocks * WORDS_A_BLOCK, np.int32)
    counter = np.zeros(1, np.int64)
    for _ in prange(workers):
        t = take(counter)
        while t < rows:
            _round_normed(x_TD, t, scale_D, eps, blocks, records, terms, bias)
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
def panel_rows(kind, data, start, blocks, records, numbers, terms, first, last, bias_R, column, y_TR):  # noqa: ANN001, ANN201
    """y[t, column:column + 32] += the panel times row t, plus bias, for first <= t < last."""
    out = np.empty((last - first) * terms * 32, np.float32)
    y, columns = y_TR.reshape(-1), y_TR.shape[1]
    for t in range(first, last):
        ask_row(y, t * columns + column)
    row_sums(kind, data, start, blocks, records, numbers, first, last - first, terms, out)
    for i in range(last - first):
        if column + 32 <= columns:
            add_row(out, 32 * i, bias_R, column, np.float32(1.0), y, (first + i) * columns + column)
        else:
            for r in range(columns - column):
                y_TR[first + i, column + r] += out[32 * i + r] + bias_R[column + r]


@parallel
def multiply(kind, data, stride, blocks, records, terms, bias_R, y_TR, workers):  # noqa: ANN001, ANN201
    """y[t] += W x[t] + bias."""
    rows = y_TR.shape[0]
    numbers = np.arange(rows * terms).astype(np.int32)
    panels = -(-y_TR.shape[1] // 32)
    bounds = shares(panels, workers, 1) if rows <= FEW_ROWS else even_shares(panels, workers)
    counter = np.zeros(1, np.int64)
    for _ in prange(workers):
        task = take(counter)
        while task < bounds.size - 1:
            for first in range(0, rows, PORTION):
                for p in range(bounds[task], bounds[task + 1]):
                    last = min(first + PORTION, rows)
                    panel_rows(kind, data, p * stride, blocks, records, numbers, terms, first, last, bias_R, 32 * p, y_TR)
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
    records = normed_records(x_TD, scale_D, eps, blocks, terms, code_bias, rounders)
    multiply(kind, data, stride, blocks, records, terms, bias_R, y_TR, workers)


@kernel
def rounded_multiply(x_TD, rounders, kind, data, stride, blocks, terms, code_bias, bias_R, y_TR, workers):  # noqa: ANN001, ANN201
    """y[t] += W x[t] + bias."""
    records = to_records(x_TD, blocks, terms, code_bias, rounders)
    multiply(kind, data, stride, blocks, records, terms, bias_R, y_TR, workers)


@kernel
def normed_exact(x_TD, scale_D, eps, padded, rounders, weight, bias_R, y_TR, workers):  # noqa: ANN001, ANN201
    """y[t] += W norm(x[t]) + bias, W as stored. The normed rows, `padded` wide."""
    normed_TD = rms_norm(x_TD, scale_D, eps, padded, rounders)
    multiply_exact(weight, bias_R, normed_TD, y_TR.reshape(-1), workers)
    return normed_TD
