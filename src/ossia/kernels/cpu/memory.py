"""Memory for packed weights, in large pages where the system has them.

In: sizes. Out: arrays.
It does not know what is stored.
"""

import mmap

import numpy as np
from numpy.typing import NDArray

_LARGE = 1 << 21  # bytes of a large page
ALIGNMENT = 64


def aligned(size: int) -> NDArray[np.uint8]:
    """`size` bytes of zeros, at a cache line's start; in large pages when there are several of them.

    Small pages cost a quarter of the read bandwidth where memory is fast.
    """
    if size >= _LARGE and hasattr(mmap, "MADV_HUGEPAGE"):
        # private: pages that could be shared with a child are never large
        area = mmap.mmap(-1, size + _LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.madvise(mmap.MADV_HUGEPAGE)
        whole, step = np.frombuffer(area, np.uint8), _LARGE
    else:
        whole, step = np.zeros(size + ALIGNMENT, np.uint8), ALIGNMENT
    start = -whole.ctypes.data % step
    return whole[start : start + size]
