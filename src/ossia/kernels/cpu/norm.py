"""RMSNorm over float32 rows.

In: rows [T, D] and a scale [D]. Out: normed rows.
It does not know what follows.
"""

import numpy as np
from numba import njit

from ossia.kernels.cpu.linear import dot


@njit(cache=True, nogil=True)
def rms_norm(x_TD, scale_D, eps):  # noqa: ANN001, ANN201 - compiled: types are Numba's
    """Each row divided by its root mean square, then scaled."""
    out_TD = np.empty_like(x_TD)
    for t in range(x_TD.shape[0]):
        mean = dot(x_TD[t], x_TD[t]) / np.float32(x_TD.shape[1])
        inverse = np.float32(1.0) / np.sqrt(mean + np.float32(eps))
        for i in range(x_TD.shape[1]):
            out_TD[t, i] = x_TD[t, i] * inverse * scale_D[i]
    return out_TD
