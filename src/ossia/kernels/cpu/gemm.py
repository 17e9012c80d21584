# pyright: standard
"""Activations times a weight: packed panels with int8 activations, or stored rows with float32 activations.

In: rows [T, D] and a weight's arrays. Out: float32 [T, R], with biases added.

Shape suffixes: see `ossia.kernels.ops`. With few rows, a task is a run of panels, each read once from memory in one
stream. With many rows, a task is a few panels, and rows come in portions that stay in the core's cache.
"""

import numpy as np

from ossia.kernels.cpu.codegen.jit import entry, kernel, share, shares, take
from ossia.kernels.cpu.codegen.simd import TARGET
from ossia.kernels.cpu.gemm_exact import dots
from ossia.kernels.cpu.norm import norm_row, rms_norm
from ossia.kernels.cpu.pack import BLOCK_BYTES, INPUTS, INT8
from ossia.kernels.cpu.tiles.gemm_tiles import (
    MAX_TILE_ROWS,
    QUANTIZED_WORDS,
    RUN,
    add_row,
    part_of,
    prefetch_line,
    prefetch_row,
    quantize_row,
    tile,
    tile_cached,
    tile_size,
)

FEW_ROWS = 16  # up to this many rows, each panel is read once in one stream
PORTION = 96  # quantized rows that stay in a core's L2 cache: 346 kB at a width of 2880, 311 kB for int8
GROUP = 4  # panels of a task with many rows
_run_tile = tile_cached if TARGET.auto_prefetch else tile


@kernel
def _quantize(kind, x_TD, t, blocks, quantized, limbs, bias):
    """Quantize row t of x."""
    padded = np.zeros(blocks * INPUTS[kind], np.float32)
    for i in range(min(padded.size, x_TD.shape[1])):
        padded[i] = x_TD[t, i]
    quantize_row(kind, padded, blocks, quantized, t, limbs, bias)


@kernel
def _norm_and_quantize(kind, x_TD, t, scale_D, eps, blocks, quantized, bias):
    """Norm row t of x and quantize it."""
    padded = np.zeros(blocks * INPUTS[kind], np.float32)
    norm_row(x_TD, t, scale_D, eps, padded)
    quantize_row(kind, padded, blocks, quantized, t, 1, bias)


@kernel
def _quantize_tasks(counter, kind, x_TD, blocks, quantized, limbs, bias):
    t = take(counter)
    while t < x_TD.shape[0]:
        _quantize(kind, x_TD, t, blocks, quantized, limbs, bias)
        t = take(counter)


@kernel
def quantize_rows(kind, x_TD, blocks, limbs, bias, workers):
    """Rows quantized to int8 in the layout for weights of this kind."""
    quantized = np.empty(x_TD.shape[0] * limbs * blocks * QUANTIZED_WORDS[kind], np.int32)
    counter = np.zeros(1, np.int64)
    share(workers, _quantize_tasks, counter, kind, x_TD, blocks, quantized, limbs, bias)
    return quantized


@kernel
def _norm_and_quantize_tasks(counter, kind, x_TD, scale_D, eps, blocks, quantized, bias):
    t = take(counter)
    while t < x_TD.shape[0]:
        _norm_and_quantize(kind, x_TD, t, scale_D, eps, blocks, quantized, bias)
        t = take(counter)


@kernel
def norm_and_quantize_rows(kind, x_TD, scale_D, eps, blocks, bias, workers):
    """Rows normed and quantized to int8 in the layout for weights of this kind."""
    quantized = np.empty(x_TD.shape[0] * blocks * QUANTIZED_WORDS[kind], np.int32)
    counter = np.zeros(1, np.int64)
    share(workers, _norm_and_quantize_tasks, counter, kind, x_TD, scale_D, eps, blocks, quantized, bias)
    return quantized


@kernel
def even_shares(panels, workers):
    """Bounds of groups of panels, for many rows. The last groups are smaller, so that threads end together."""
    bounds = np.empty(panels + 1, np.int64)
    bounds[0], groups = 0, 0
    while bounds[groups] < panels:
        left = panels - bounds[groups]
        bounds[groups + 1] = bounds[groups] + min(GROUP, max(1, left // (2 * workers)))
        groups += 1
    return bounds[: groups + 1]


@kernel
def _add_tile(out, at, size, bias_R, column, columns, y, row):
    """y[row:row + size, column:column + 32] += the sums at out[at:], plus bias. y: flat, `columns` columns."""
    for i in range(size):
        place = (row + i) * columns + column
        if column + 32 <= columns:
            add_row(out, at + 32 * i, bias_R, column, np.float32(1.0), y, place)
        else:
            for r in range(columns - column):
                y[place + r] += out[at + 32 * i + r] + bias_R[column + r]


@kernel
def _prefetch_slice(data, start, size, t, rows, count):
    """Prefetch part of `size` bytes: the slice that belongs to these rows. After the last of `count` rows, all of it."""
    for line in range(t * size // count // 64, (t + rows) * size // count // 64):
        prefetch_line(data, start + 64 * line)


@kernel
def panel_rows(kind, data, start, blocks, quantized, numbers, first, last, bias_R, column, columns, y, out):
    """y[t, column:column + 32] += panel times row t, plus bias, for first <= t < last. y: flat, `columns` columns.

    The panel is used in parts that fit the L1 cache while the rows pass. Meanwhile the next part is prefetched.
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
                    prefetch_row(y, row * columns + column)
            if kind == INT8 and count > FEW_ROWS:
                _prefetch_slice(data, after, part * BLOCK_BYTES[kind], t, size, count)
                tile_cached(
                    kind, data, start, 0, 1, blocks, skip, taken, quantized, numbers, place, size, out, 32 * t, 0
                )
            else:
                tile(kind, data, start, 0, 1, blocks, skip, taken, quantized, numbers, place, size, out, 32 * t, 0)
            if is_last:
                _add_tile(out, 32 * t, size, bias_R, column, columns, y, place)
            t += size


@kernel
def _run_rows(kind, data, start, stride, panels, blocks, quantized, numbers, rows, bias_R, column, columns, y, out):
    """Several panels times the few rows of one tile. The panels are read front to back without a pause."""
    apart = 32 * rows
    out[: panels * apart] = np.float32(0.0)
    for p in range(panels):
        for row in range(rows):
            prefetch_row(y, row * columns + column + 32 * p)
    _run_tile(kind, data, start, stride, panels, blocks, 0, blocks, quantized, numbers, 0, rows, out, 0, apart)
    for p in range(panels):
        _add_tile(out, p * apart, rows, bias_R, column + 32 * p, columns, y, 0)


@kernel
def _multiply_tasks(counter, bounds, kind, data, stride, blocks, quantized, bias_R, y_TR):
    rows, columns, y = y_TR.shape[0], y_TR.shape[1], y_TR.reshape(-1)
    numbers, is_one_tile = np.arange(rows).astype(np.int32), rows > 0 and tile_size(kind, rows, 1) == rows
    out = np.empty(max(PORTION, RUN * MAX_TILE_ROWS) * 32, np.float32)
    task = take(counter)
    while task < bounds.size - 1:
        p, end = bounds[task], bounds[task + 1]
        while is_one_tile and p < end:
            run = min(RUN, end - p)
            _run_rows(
                kind, data, p * stride, stride, run, blocks, quantized, numbers, rows, bias_R, 32 * p, columns, y, out
            )  # fmt: skip
            p += run
        for first in range(0, rows, PORTION):
            last = min(first + PORTION, rows)
            for q in range(p, end):
                panel_rows(
                    kind, data, q * stride, blocks, quantized, numbers, first, last, bias_R, 32 * q, columns, y, out
                )  # fmt: skip
        task = take(counter)


@kernel
def multiply(kind, data, stride, blocks, quantized, bias_R, y_TR, workers):
    """y[t] += W x[t] + bias."""
    panels = -(-y_TR.shape[1] // 32)
    bounds = shares(panels, workers, 1) if y_TR.shape[0] <= FEW_ROWS else even_shares(panels, workers)
    counter = np.zeros(1, np.int64)
    share(workers, _multiply_tasks, counter, bounds, kind, data, stride, blocks, quantized, bias_R, y_TR)


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
    """y[t, r] += bias[r] + x[t] . weight[r]. weight and y are flat; x and the weight's rows are padded to 16 columns."""
    _multiply_exact(weight, bias_R, x_TD, y, workers)


@entry
def normed_multiply(x_TD, scale_D, eps, quantize_workers, kind, data, stride, blocks, code_bias, bias_R, y_TR, workers):
    """y[t] += W norm(x[t]) + bias. quantize_workers: threads that norm and quantize."""
    quantized = norm_and_quantize_rows(kind, x_TD, scale_D, eps, blocks, code_bias, quantize_workers)
    multiply(kind, data, stride, blocks, quantized, bias_R, y_TR, workers)


@entry
def quantize_and_multiply(x_TD, quantize_workers, kind, data, stride, blocks, code_bias, bias_R, y_TR, workers):
    """y[t] += W x[t] + bias."""
    quantized = quantize_rows(kind, x_TD, blocks, 1, code_bias, quantize_workers)
    multiply(kind, data, stride, blocks, quantized, bias_R, y_TR, workers)


@kernel
def norm_and_multiply(x_TD, scale_D, eps, padded, quantize_workers, weight, bias_R, y_TR, workers):
    """y[t] += W norm(x[t]) + bias, with W as stored. Returns the normed rows, padded to `padded` columns."""
    normed_TD = rms_norm(x_TD, scale_D, eps, padded, quantize_workers)
    _multiply_exact(weight, bias_R, normed_TD, y_TR.reshape(-1), workers)
    return normed_TD


@entry
def normed_exact(x_TD, scale_D, eps, padded, quantize_workers, weight, bias_R, y_TR, workers):
    """`norm_and_multiply` for callers in Python."""
    norm_and_multiply(x_TD, scale_D, eps, padded, quantize_workers, weight, bias_R, y_TR, workers)
