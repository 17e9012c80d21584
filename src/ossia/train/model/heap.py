"""Returns freed memory of the C library's heap to the system.

Torch allocates aligned buffers, and glibc before 2.38 rarely reuses a freed one. Its heap grows by 100 MB with each block
of gpt-oss-20b. Other C libraries do not need this.
"""

import ctypes
import sys
from typing import Any

import psutil

GROWTH = 1 << 29  # bytes between two trims: new pages cost time


class Heap:
    """The heap of this process, and its size at the last trim."""

    def __init__(self) -> None:
        self._library, self._before = _glibc(), _own_bytes()

    def trim(self) -> None:
        """Return freed memory to the system, if the process has grown by `GROWTH` since the last trim."""
        if self._library and _own_bytes() - self._before > GROWTH:
            self._library.malloc_trim(0)
            self._before = _own_bytes()


def _own_bytes() -> int:
    """Resident memory, without mapped files where the system reports them separately."""
    info: Any = psutil.Process().memory_info()
    return info.rss - getattr(info, "shared", 0)


def _glibc() -> Any:
    """The C library if it has malloc_trim, else None."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        return None
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    return library
