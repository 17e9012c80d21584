"""Memory that the C library holds and nobody uses, given back to the system before it adds up.

In: when to look. Out: fewer bytes held. It does not know tensors.

Torch asks for aligned buffers, and glibc before 2.38 rarely uses a freed one for the next of its size: its heap grows by
100 MB with every block of a 20b that is run. Elsewhere nothing is held to speak of, and nothing is done.
"""

import ctypes
import sys
from typing import Any

import psutil

GROWTH = 1 << 29  # bytes before the heap is emptied: taking pages anew costs time


class Heap:
    """The process's own memory, as it was when the heap was last emptied of what is idle."""

    def __init__(self) -> None:
        self._library, self._before = _glibc(), _own_bytes()

    def give_back(self) -> None:
        """Idle memory to the system, if the process has grown by `GROWTH` since it last did."""
        if self._library and _own_bytes() - self._before > GROWTH:
            self._library.malloc_trim(0)
            self._before = _own_bytes()


def _own_bytes() -> int:
    """Resident memory that is not of files, where the system tells them apart."""
    info: Any = psutil.Process().memory_info()
    return info.rss - getattr(info, "shared", 0)


def _glibc() -> Any:
    """The C library where it can give back idle memory, else None."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        return None
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    return library
