"""Hints to the system about memory-mapped files.

In: arrays. Only views of a mapped file have an effect. Out: nothing.
"""

import mmap
import sys
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

_READ_AHEAD = 1 << 17  # bytes: Linux reads at most this much per MADV_WILLNEED


def drop_pages(host: NDArray[Any]) -> None:
    """Remove a mapped file's pages from this process's memory. They stay valid, and in the system's cache."""
    _advise(host, "MADV_DONTNEED", sys.maxsize)


def prefetch_pages(host: NDArray[Any]) -> None:
    """Ask the system to read a mapped file into its cache. Otherwise the first use of a row waits for the disk."""
    _advise(host, "MADV_WILLNEED", _READ_AHEAD)


def _advise(host: NDArray[Any], advice: str, step: int) -> None:
    """Give a hint to the system. No effect if the array views no mapped file, or the system has no such hint."""
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
