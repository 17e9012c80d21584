"""Rows of activations times a weight: packed panels with int8 activations, or rows as stored with float32 ones.

In: rows [T, D], a weight's arrays. Out: float32 [T, R], biases added.
It does not know what a layer is or how a weight was packed.

Shape legend: see ossia.kernels. Few rows: a task is a run of panels, read once from memory, in one stream. Many: a task
is some panels, and rows come in portions that stay in the core's cache while the panels pass over them.
"""

import numpy as np

from ossia.kernels.cpu.codegen.jit import entry, kernel, share, shares, take
from ossia.kernels.cpu.codegen.simd import TARGET
from ossia.kernels.cpu.gemm_exact import dots
from ossia.kernels.cpu.norm import norm_row, rms_norm
from ossia.kernels.cpu.pack import BLOCK_BYTES, INPUTS, INT8
from ossia.kernels.cpu.tiles.gemm_tiles import (
    MOST,
    RECORD_WORDS,
    RUN,
    add_row,
    ask_line,
    ask_row,
    part_of,
    round_row,
    tile,
    tile_again,
    tile_size,
)

FEW_ROWS = 16  # of a decode step
PORTION = 96  # rows whose records (346 kB at a width of 2880, 311 for int8) stay in a core's second cache
GROUP = 4  # panels of a task when rows are many
_run_tile = tile_again if TARGET.fetches else tile


@kernel
def _round(kind, x_TD, t, blocks, records, terms, bias):
    """Row t of x, as it is, to its records."""
    padded = np.zeros(blocks * INPUTS[kind], np.float32)
    for i in range(min(padded.size, x_TD.shape[1])):
        padded[i] = x_TD[t, i]
    round_row(kind, padded, blocks, records, t, terms, bias)


@kernel
def _round_normed(kind, x_TD, t, scale_D, eps, blocks, records, bias):
    """Row t of x, normed, to its record."""
    padded = np.zeros(blocks * INPUTS[kind], np.float32)
    norm_row(x_TD, t, scale_D, eps, padded)
    round_row(kind, padded, blocks, records, t, 1, bias)


@kernel
def _round_tasks(counter, kind, x_TD, blocks, records, terms, bias):
    t = take(counter)
    while t < x_TD.shape[0]:
        _round(kind, x_TD, t, blocks, records, terms, bias)
        t = take(counter)


@kernel
def to_records(kind, x_TD, blocks, terms, bias, workers):
    """Rows rounded to int8, as weights of this kind take them."""
    records = np.empty(x_TD.shape[0] * terms * blocks * RECORD_WORDS[kind], np.int32)
    counter = np.zeros(1, np.int64)
    share(workers, _round_tasks, counter, kind, x_TD, blocks, records, terms, bias)
    return records


@kernel
def _round_normed_tasks(counter, kind, x_TD, scale_D, eps, blocks, records, bias):
    t = take(counter)
    while t < x_TD.shape[0]:
        _round_normed(kind, x_TD, t, scale_D, eps, blocks, records, bias)
        t = take(counter)


@kernel
def normed_records(kind, x_TD, scale_D, eps, blocks, bias, workers):
    """Rows normed and rounded to int8, as weights of this kind take them."""
    records = np.empty(x_TD.shape[0] * blocks * RECORD_WORDS[kind], np.int32)
    counter = np.zeros(1, np.int64)
    share(workers, _round_normed_tasks, counter, kind, x_TD, scale_D, eps, blocks, records, bias)
    return records


@kernel
def even_shares(panels, workers):
    """Bounds of groups of panels, for many rows; the last ones smaller, so that threads end together."""
    bounds = np.empty(panels + 1, np.int64)
    bounds[0], groups = 0, 0
    while bounds[groups] < panels:
        left = panels - bounds[groups]
        bounds[groups + 1] = bounds[groups] + min(GROUP, max(1, left // (2 * workers)))
        groups += 1
    return bounds[: groups + 1]


@kernel
def _add_tile(out, at, size, bias_R, column, columns, y, row):
    """y[row:row + size, column:column + 32] += sums of so many rows at out[at:], plus bias. y flat, so many columns a row."""
    for i in range(size):
        place = (row + i) * columns + column
        if column + 32 <= columns:
            add_row(out, at + 32 * i, bias_R, column, np.float32(1.0), y, place)
        else:
            for r in range(columns - column):
                y[place + r] += out[at + 32 * i + r] + bias_R[column + r]


@kernel
def _ask_share(data, start, size, t, rows, count):
    """Ask for so many rows' share of `size` bytes: by the last of `count` rows, all of them."""
    for line in range(t * size // count // 64, (t + rows) * size // count // 64):
        ask_line(data, start + 64 * line)


@kernel
def panel_rows(kind, data, start, blocks, records, numbers, first, last, bias_R, column, columns, y, out):
    """y[t, column:column + 32] += the panel times row t, plus bias, for first <= t < last. y: flat, so many columns a row.

    A part of the panel at a time, which stays in the first cache while the rows pass; meanwhile they ask for the part after it.
    """
    count = last - first
    out[: count * 32] = np.float32(0.0)
    part = part_of(kind, blocks, count)
    for skip in range(0, blocks, part):
        taken, is_last, t = min(part, blocks - skip), skip + part >= blocks, 0
        after = start + (skip + taken) * BLOCK_BYTES[kind]
        while t < count:
            size, place = tile_size(kind, count - t, 1), first + t
            if is_last:
                for row in range(place, place + size):
                    ask_row(y, row * columns + column)
            if kind == INT8 and count > FEW_ROWS:
                _ask_share(data, after, part * BLOCK_BYTES[kind], t, size, count)
                tile_again(kind, data, start, 0, 1, blocks, skip, taken, records, numbers, place, size, out, 32 * t, 0)
            else:
                tile(kind, data, start, 0, 1, blocks, skip, taken, records, numbers, place, size, out, 32 * t, 0)
            if is_last:
                _add_tile(out, 32 * t, size, bias_R, column, columns, y, place)
            t += size


@kernel
def _run_rows(kind, data, start, stride, panels, blocks, records, numbers, rows, bias_R, column, columns, y, out):
    """Some panels times the few rows of one tile, which reads them front to back without a pause."""
    apart = 32 * rows
    out[: panels * apart] = np.float32(0.0)
    for p in range(panels):
        for row in range(rows):
            ask_row(y, row * columns + column + 32 * p)
    _run_tile(kind, data, start, stride, panels, blocks, 0, blocks, records, numbers, 0, rows, out, 0, apart)
    for p in range(panels):
        _add_tile(out, p * apart, rows, bias_R, column + 32 * p, columns, y, 0)


@kernel
def _multiply_tasks(counter, bounds, kind, data, stride, blocks, records, bias_R, y_TR):
    rows, columns, y = y_TR.shape[0], y_TR.shape[1], y_TR.reshape(-1)
    numbers, is_one_tile = np.arange(rows).astype(np.int32), rows > 0 and tile_size(kind, rows, 1) == rows
    out = np.empty(max(PORTION, RUN * MOST) * 32, np.float32)
    task = take(counter)
    while task < bounds.size - 1:
        p, end = bounds[task], bounds[task + 1]
        while is_one_tile and p < end:
            run = min(RUN, end - p)
            _run_rows(
                kind, data, p * stride, stride, run, blocks, records, numbers, rows, bias_R, 32 * p, columns, y, out
            )  # fmt: skip
            p += run
        for first in range(0, rows, PORTION):
            last = min(first + PORTION, rows)
            for q in range(p, end):
                panel_rows(
                    kind, data, q * stride, blocks, records, numbers, first, last, bias_R, 32 * q, columns, y, out
                )  # fmt: skip
        task = take(counter)


@kernel
def multiply(kind, data, stride, blocks, records, bias_R, y_TR, workers):
    """y[t] += W x[t] + bias."""
    panels = -(-y_TR.shape[1] // 32)
    bounds = shares(panels, workers, 1) if y_TR.shape[0] <= FEW_ROWS else even_shares(panels, workers)
    counter = np.zeros(1, np.int64)
    share(workers, _multiply_tasks, counter, bounds, kind, data, stride, blocks, records, bias_R, y_TR)


@kernel
def _exact_tasks(counter, weight, bias_R, x_TD, y):
    rows, width, count = bias_R.size, x_TD.shape[1], x_TD.shape[0]
    x = x_TD.reshape(-1)
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
def _multiply_exact(weight, bias_R, x_TD, y, workers):
    counter = np.zeros(1, np.int64)
    share(workers, _exact_tasks, counter, weight, bias_R, x_TD, y)


@entry
def multiply_exact(weight, bias_R, x_TD, y, workers):
    """y[t, r] += bias[r] + x[t] . weight[r]; weight and y flat, x and the weight's rows padded to 16."""
    _multiply_exact(weight, bias_R, x_TD, y, workers)


@entry
def normed_multiply(x_TD, scale_D, eps, rounders, kind, data, stride, blocks, code_bias, bias_R, y_TR, workers):
    """y[t] += W norm(x[t]) + bias. `rounders`: the workers that norm and round."""
    records = normed_records(kind, x_TD, scale_D, eps, blocks, code_bias, rounders)
    multiply(kind, data, stride, blocks, records, bias_R, y_TR, workers)


@entry
def rounded_multiply(x_TD, rounders, kind, data, stride, blocks, code_bias, bias_R, y_TR, workers):
    """y[t] += W x[t] + bias."""
    records = to_records(kind, x_TD, blocks, 1, code_bias, rounders)
    multiply(kind, data, stride, blocks, records, bias_R, y_TR, workers)


@kernel
def norm_and_multiply(x_TD, scale_D, eps, padded, rounders, weight, bias_R, y_TR, workers):
    """y[t] += W norm(x[t]) + bias, W as stored. The normed rows, `padded` wide."""
    normed_TD = rms_norm(x_TD, scale_D, eps, padded, rounders)
    _multiply_exact(weight, bias_R, normed_TD, y_TR.reshape(-1), workers)
    return normed_TD


@entry
def normed_exact(x_TD, scale_D, eps, padded, rounders, weight, bias_R, y_TR, workers):
    """`norm_and_multiply`, called from Python."""
    norm_and_multiply(x_TD, scale_D, eps, padded, rounders, weight, bias_R, y_TR, workers)
