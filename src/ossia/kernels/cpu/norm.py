# pyright: standard
"""RMSNorm over float32 rows.

In: rows [T, D] and a scale [D]. Out: normed rows, zero-padded to whole vectors.
"""

import numpy as np

from ossia.kernels.cpu.codegen.jit import kernel, share, take
from ossia.kernels.cpu.gemm_exact import sum_squares


@kernel
def norm_row(x_TD, t, scale_D, eps, out):
    """out = row t divided by its root mean square, times the scale. out: flat, D padded to 16, zeros at the end."""
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
    """Normed rows [T, padded]; the columns beyond D are zeros."""
    out = np.zeros((x_TD.shape[0], padded), np.float32)
    counter = np.zeros(1, np.int64)
    share(workers, _norm_tasks, counter, x_TD, scale_D, eps, out)
    return out
