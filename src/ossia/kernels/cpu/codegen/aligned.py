# pyright: standard
"""Memory for packed weights and caches, in large pages if the system has them.

In: sizes. Out: arrays.
"""

import ctypes
import mmap

import numpy as np
from numpy.typing import NDArray

_LARGE = 1 << 21  # bytes of a large page
ALIGNMENT = 64


def aligned(size: int) -> NDArray[np.uint8]:
    """`size` zero bytes, aligned to a cache line; in large pages if there are several of them.

    Small pages cost a quarter of the read bandwidth on machines with fast memory.
    """
    if size >= _LARGE and hasattr(mmap, "MADV_HUGEPAGE"):
        # private: shared anonymous pages are never large
        area = mmap.mmap(-1, size + _LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.madvise(mmap.MADV_HUGEPAGE)
        whole, step = np.frombuffer(area, np.uint8), _LARGE
    else:
        whole, step = np.zeros(size + ALIGNMENT, np.uint8), ALIGNMENT
    start = -whole.ctypes.data % step
    return whole[start : start + size]


def discard(area: NDArray[np.uint8]) -> None:
    """Return the whole pages of part of an `aligned` array to the system, if it supports that. They then read as
    zeros.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    first = -(-area.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (area.ctypes.data + area.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
