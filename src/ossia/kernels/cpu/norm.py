"""RMSNorm over float32 rows.

In: rows [T, D] and a scale [D]. Out: normed rows, padded with zeros to whole vectors.
It does not know what follows.
"""

import numpy as np

from ossia.kernels.cpu.codegen.jit import kernel, share, take
from ossia.kernels.cpu.gemm_exact import sum_squares


@kernel
def norm_row(x_TD, t, scale_D, eps, out):
    """out (flat, as long as D padded to 16, its end zeros) = row t over its root mean square, scaled."""
    width = x_TD.shape[1]
    for i in range(width):
        out[i] = x_TD[t, i]
    inverse = np.float32(1.0) / np.sqrt(sum_squares(out, 0, out.size) / np.float32(width) + np.float32(eps))
    for i in range(width):
        out[i] = out[i] * inverse * scale_D[i]


@kernel
def _norm_tasks(counter, x_TD, scale_D, eps, out):
    t = take(counter)
    while t < x_TD.shape[0]:
        norm_row(x_TD, t, scale_D, eps, out[t])
        t = take(counter)


@kernel
def rms_norm(x_TD, scale_D, eps, padded, workers):
    """[T, padded], the columns beyond D zeros."""
    out = np.zeros((x_TD.shape[0], padded), np.float32)
    counter = np.zeros(1, np.int64)
    share(workers, _norm_tasks, counter, x_TD, scale_D, eps, out)
    return out
