"""Hints to the system about files that are mapped into memory.

In: arrays that view one, or do not: then nothing happens. Out: nothing.
It does not know what is stored.
"""

import mmap
import sys
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ASKED = 1 << 17  # bytes that Linux reads at one asking, whatever is asked for


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
