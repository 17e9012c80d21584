"""Memory for packed weights: large pages where the system has them, and hints about mapped files.

In: sizes, and arrays that view a mapped file. Out: arrays.
It does not know what is stored.
"""

import mmap
import sys
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGE = 1 << 21  # bytes of a large page
ALIGNMENT = 64
_ASKED = 1 << 17  # bytes that Linux reads at one asking, whatever is asked for


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


def let_go(host: NDArray[Any]) -> None:
    """Take the pages of a mapped file out of this process's memory; they stay in the system's cache, and valid."""
    _advise(host, "MADV_DONTNEED", sys.maxsize)


def ask_for(host: NDArray[Any]) -> None:
    """Have the system read a mapped file into its cache, where it has room: a row that is not there takes a disk's time."""
    _advise(host, "MADV_WILLNEED", _ASKED)


def _advise(host: NDArray[Any], advice: str, step: int) -> None:
    """A hint to the system; nothing where the array views no mapped file, or the system takes no hints."""
    owner: Any = host
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if not (isinstance(owner, mmap.mmap) and hasattr(mmap, advice)):
        return
    page = mmap.PAGESIZE
    first = (host.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data) // page * page
    last = min(first + host.nbytes + page, len(owner))
    with suppress(OSError, ValueError):
        for start in range(first, last, step):
            owner.madvise(getattr(mmap, advice), start, min(step, last - start))
