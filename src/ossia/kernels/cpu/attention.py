"""RoPE, and attention with sinks over a paged cache or over the batch's own rows.

In: projections [T, (H+2G)d]; the cache's blocks of each sequence. Out: heads' outputs [T, H d].
It does not know projections' weights or where blocks come from.

Shape legend: see ossia.kernels; C cache blocks, W tokens in a block.
"""

import numpy as np
from numba import njit, prange

from ossia.kernels.cpu.linear import FAST, dot


@njit(cache=True, nogil=True)
def rotate(qkv, heads, head_dim, positions_T, inverse, concentration):  # noqa: ANN001, ANN201 - compiled
    """Rotate the first `heads` heads (queries, then keys) of each row, in place: lane i with lane i + d/2."""
    half = head_dim // 2
    for t in range(qkv.shape[0]):
        for i in range(half):
            angle = np.float32(positions_T[t]) * inverse[i]
            cos, sin = np.cos(angle) * concentration, np.sin(angle) * concentration
            for h in range(heads):
                a, b = qkv[t, h * head_dim + i], qkv[t, h * head_dim + half + i]
                qkv[t, h * head_dim + i] = a * cos - b * sin
                qkv[t, h * head_dim + half + i] = b * cos + a * sin


@njit(cache=True, nogil=True)
def store(qkv, first_key, keys_CWGd, values_CWGd, positions_T, sequence_T, blocks_SB):  # noqa: ANN001, ANN201
    """Write each row's keys and values to their place in the cache."""
    width, groups, d = keys_CWGd.shape[1:]
    for t in range(qkv.shape[0]):
        block = blocks_SB[sequence_T[t], positions_T[t] // width]
        offset = positions_T[t] % width
        for g in range(groups):
            for i in range(d):
                keys_CWGd[block, offset, g, i] = qkv[t, first_key + g * d + i]
                values_CWGd[block, offset, g, i] = qkv[t, first_key + (groups + g) * d + i]


@njit(fastmath=FAST, cache=True, nogil=True)
def add_scaled(out_d, x_d, factor):  # noqa: ANN001, ANN201
    for i in range(out_d.size):
        out_d[i] += x_d[i] * factor


@njit(parallel=True, cache=True, nogil=True)
def attend(qkv, keys_CWGd, values_CWGd, positions_T, sequence_T, blocks_SB, sinks_H, window, out):  # noqa: ANN001, ANN201
    """Two passes over the keys a row sees: scores, then the softmax-weighted sum; the sink only adds to its denominator."""
    rows, heads = qkv.shape[0], sinks_H.size
    width, groups, d = keys_CWGd.shape[1:]
    scale = np.float32(1.0 / np.sqrt(d))
    for task in prange(rows * heads):
        t, h = task // heads, task % heads
        g, s, last = h // (heads // groups), sequence_T[t], positions_T[t]
        first = max(0, last - window + 1) if window else 0
        query_d = qkv[t, h * d : (h + 1) * d]
        scores = np.empty(last - first + 1, np.float32)
        top = sinks_H[h]
        for p in range(first, last + 1):
            score = dot(query_d, keys_CWGd[blocks_SB[s, p // width], p % width, g]) * scale
            scores[p - first] = score
            top = max(top, score)
        total = np.exp(sinks_H[h] - top)
        out_d = out[t, h * d : (h + 1) * d]
        out_d[:] = np.float32(0.0)
        for p in range(first, last + 1):
            weight = np.exp(scores[p - first] - top)
            total += weight
            add_scaled(out_d, values_CWGd[blocks_SB[s, p // width], p % width, g], weight)
        for i in range(d):
            out_d[i] /= total
