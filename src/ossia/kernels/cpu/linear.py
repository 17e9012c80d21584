"""Rows of a weight times rows of activations: bfloat16, float32 or MXFP4 weights, float32 activations and sums.

In: a weight of E matrices [E, R, D], as stored in the checkpoint, never unpacked as a whole. Out: float32.
It does not know what a layer or an expert's job is.

Shape legend: see ossia.kernels. A weight row is widened to float32 once and used for every row of activations, and one
`dot` serves them all, so that a row's bits do not depend on the rows beside it.
"""

import numpy as np
from numba import njit, prange, types
from numba.extending import overload
from numpy.typing import NDArray

from ossia.quant import E2M1

FAST = {"reassoc", "contract", "nsz"}
GRAIN = 8192  # weights a task handles at least: below it, starting a thread costs more than it saves
MOST_TASKS = 64


def widen_row(weight, e, r, out_D):  # noqa: ANN001, ANN201 - a Numba overload: types are Numba's
    """Row r of matrix e as float32, into out_D."""
    raise NotImplementedError("called from compiled code only")


@overload(widen_row)
def _widen_row(weight, e, r, out_D):  # noqa: ANN001, ANN202
    if isinstance(weight, types.BaseTuple):
        return _widen_mxfp4
    return _widen_bf16 if weight.dtype == types.uint16 else _widen_f32


def _widen_mxfp4(weight, e, r, out_D):  # noqa: ANN001, ANN202
    blocks, scales = weight
    for b in range(scales.shape[2]):
        scale = np.float32(2.0) ** (np.int32(scales[e, r, b]) - np.int32(127))
        for j in range(16):
            byte = blocks[e, r, b, j]
            out_D[32 * b + 2 * j] = E2M1[byte & np.uint8(15)] * scale
            out_D[32 * b + 2 * j + 1] = E2M1[byte >> np.uint8(4)] * scale


def _widen_bf16(weight, e, r, out_D):  # noqa: ANN001, ANN202
    bits_D = out_D.view(np.uint32)
    for i in range(out_D.size):
        bits_D[i] = np.uint32(weight[e, r, i]) << np.uint32(16)


def _widen_f32(weight, e, r, out_D):  # noqa: ANN001, ANN202
    for i in range(out_D.size):
        out_D[i] = weight[e, r, i]


@njit(fastmath=FAST, cache=True, nogil=True)
def dot(a_D: NDArray[np.float32], b_D: NDArray[np.float32]) -> np.float32:
    total = np.float32(0.0)
    for i in range(a_D.size):
        total += a_D[i] * b_D[i]
    return total


@njit(cache=True, nogil=True)
def tasks_for(rows: int, width: int) -> int:
    """How many pieces to cut `rows` weight rows into, none too small to be worth a thread."""
    return max(1, min(MOST_TASKS, rows * width // GRAIN))


@njit(parallel=True, cache=True, nogil=True)
def linear(x_TD, weight, bias_R, out_TR):  # noqa: ANN001, ANN201
    """out[t, r] += bias[r] + x[t] . weight[0, r]; `out` holds zeros, or a residual to add to."""
    rows, width = out_TR.shape[1], x_TD.shape[1]
    tasks = tasks_for(rows, width)
    for task in prange(tasks):
        wide_D = np.empty(width, np.float32)
        for r in range(task * rows // tasks, (task + 1) * rows // tasks):
            widen_row(weight, 0, r, wide_D)
            for t in range(x_TD.shape[0]):
                out_TR[t, r] += dot(x_TD[t], wide_D) + bias_R[r]
