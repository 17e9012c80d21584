"""The router's choice and the chosen experts: top-k, softmax over the k, up, SwiGLU, down, weighted sum.

In: normed rows; expert weights as in the checkpoint. Out: the experts' sum added to the residual.
It does not know attention or the checkpoint's names.

Shape legend: see ossia.kernels; N = T K pairs of a row and an expert, sorted by expert.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ossia.kernels import SWIGLU_SLOPE
from ossia.kernels.cpu.linear import dot, tasks_for, widen_row

SLOPE = np.float32(SWIGLU_SLOPE)


class Routing(NamedTuple):
    """The normed rows, and the pairs of row and expert: experts_TK ascending in a row, weights beside them."""

    x_TD: NDArray[np.float32]
    experts_TK: NDArray[np.int32]
    weights_TK: NDArray[np.float32]


class Pairs(NamedTuple):
    """Pairs sorted by expert: those of the i-th used expert are starts[i]:starts[i+1]."""

    rows_N: NDArray[np.int32]
    weights_N: NDArray[np.float32]
    used_U: NDArray[np.int32]
    starts_U1: NDArray[np.int32]


def top_k(logits_TE: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k best experts of each row, equal scores by lower number, in ascending order; softmax over the k."""
    best_TK = np.sort(np.argsort(-logits_TE, axis=1, kind="stable")[:, :k], axis=1).astype(np.int32)
    chosen_TK = np.take_along_axis(logits_TE, best_TK, axis=1)
    weights_TK = np.exp(chosen_TK - chosen_TK.max(axis=1, keepdims=True))
    return best_TK, weights_TK / weights_TK.sum(axis=1, keepdims=True)


def sort_pairs(routing: Routing) -> Pairs:
    rows, k = routing.experts_TK.shape
    experts_N = routing.experts_TK.reshape(-1)
    order = np.argsort(experts_N, kind="stable")
    used_U, starts_U = np.unique(experts_N[order], return_index=True)
    starts_U1 = np.append(starts_U, rows * k).astype(np.int32)
    return Pairs((order // k).astype(np.int32), routing.weights_TK.reshape(-1)[order], used_U, starts_U1)


@njit(parallel=True, cache=True, nogil=True)
def up_swiglu(x_TD, pairs, weight, bias_ER, limit, out_NF):  # noqa: ANN001, ANN201 - compiled
    """Gate in the even rows of an expert (clamped above), up in the odd ones (clamped both ways), plus one."""
    features, width = out_NF.shape[1], x_TD.shape[1]
    pieces = tasks_for(2 * features * pairs.used_U.size, width)
    for task in prange(pieces):
        gate_D, up_D = np.empty(width, np.float32), np.empty(width, np.float32)
        for u in range(pairs.used_U.size):
            e = pairs.used_U[u]
            for f in range(task * features // pieces, (task + 1) * features // pieces):
                widen_row(weight, e, 2 * f, gate_D)
                widen_row(weight, e, 2 * f + 1, up_D)
                for n in range(pairs.starts_U1[u], pairs.starts_U1[u + 1]):
                    x_D = x_TD[pairs.rows_N[n]]
                    gate = min(dot(x_D, gate_D) + bias_ER[e, 2 * f], limit)
                    up = min(max(dot(x_D, up_D) + bias_ER[e, 2 * f + 1], -limit), limit)
                    swish = gate / (np.float32(1.0) + np.exp(-SLOPE * gate))
                    out_NF[n, f] = swish * (up + np.float32(1.0))


@njit(parallel=True, cache=True, nogil=True)
def down_add(h_NF, pairs, weight, bias_ER, out_TD):  # noqa: ANN001, ANN201
    """Each output lane is one task's alone; a row's experts are added in the order of their numbers."""
    lanes, width = out_TD.shape[1], h_NF.shape[1]
    pieces = tasks_for(lanes * pairs.used_U.size, width)
    for task in prange(pieces):
        wide_F = np.empty(width, np.float32)
        for u in range(pairs.used_U.size):
            e = pairs.used_U[u]
            for r in range(task * lanes // pieces, (task + 1) * lanes // pieces):
                widen_row(weight, e, r, wide_F)
                for n in range(pairs.starts_U1[u], pairs.starts_U1[u + 1]):
                    y = dot(h_NF[n], wide_F) + bias_ER[e, r]
                    out_TD[pairs.rows_N[n], r] += y * pairs.weights_N[n]
