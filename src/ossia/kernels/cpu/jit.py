"""How the CPU's kernels are compiled, cached on disk, and shared out over threads.

In: functions in Numba's Python. Out: compiled ones, found again at the next start.
It does not know what they compute.

Work is cut into small tasks that threads take from a counter, so that a core that is slowed by a neighbour takes fewer.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
import psutil
from llvmlite import ir
from numba.core import config as numba_config
from numba.core import types
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import overload

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "boundscheck": False}
_HERE = Path(__file__).parent


def kernel(function: Function) -> Function:
    """Compiled, on one thread."""
    with _cache_folder():
        return numba.njit(**_OPTIONS)(function)  # type: ignore[return-value]


def parallel(function: Function) -> Function:
    """Compiled; its `prange` runs on `workers` threads, the last argument, or on the caller's alone when that is None.

    Two compilations, each made when it is first needed: waking a thread can take longer than a small model's step. Another
    kernel may call it, too.
    """
    with _cache_folder("threaded"):  # Numba would file both under one name, and give one for the other
        threaded = numba.njit(parallel=True, **_OPTIONS)(function)
    with _cache_folder():
        alone = numba.njit(**_OPTIONS)(function)

    @wraps(function)
    def run(*args: Any) -> Any:
        return alone(*args[:-1], 1) if args[-1] is None else threaded(*args)

    @overload(run, strict=False)
    def run_compiled(*args: Any) -> Any:
        if isinstance(args[-1], types.NoneType):
            return lambda *args: alone(*args[:-1], 1)
        return lambda *args: threaded(*args)

    return run  # type: ignore[return-value]


@cache
def physical_cores() -> int:
    """Cores this process may run on, each counted once however many threads it offers: the kernels leave no gap to fill."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, min(cores, allowed, numba.get_num_threads()))


def _take(typingctx: Any, counter: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


# the counter's value, which goes up by one: each caller, on whatever thread, gets another number
take: Any = numba_intrinsic(_take)


def _peek(typingctx: Any, counter: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(place, "monotonic", 8)

    return types.int64(counter), generate


# the counter's value as other threads left it
peek: Any = numba_intrinsic(_peek)


@contextmanager
def _cache_folder(within: str = "") -> Iterator[None]:
    """Numba stamps a compiled function with its own file only; here, with all that it is made of."""
    config: Any = numba_config  # its settings come from the environment, unseen by type checkers
    before = config.CACHE_DIR
    folder = _folder(before)
    if folder:
        config.CACHE_DIR = str(Path(folder, within))
    try:
        yield
    finally:
        config.CACHE_DIR = before


@cache
def _folder(given: str) -> str:
    """NUMBA_CACHE_DIR where it is set, else beside the source, else in the user's cache; in it, a folder by content."""
    sources = sorted(_HERE.glob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    places = [Path(given)] if given else [_HERE / "__pycache__", Path.home() / ".cache" / "ossia"]
    for place in places:
        folder = place / f"kernels-{digest}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return str(folder)
    return ""


@kernel
def shares(count, workers, least):  # noqa: ANN201 - compiled: types are Numba's
    """Bounds of pieces of a range, half a thread's even share of what is left at a time, down to `least`.

    Long pieces keep a core's reads in one stream, which memory answers fastest; the short ones at the end even things out.
    """
    bounds = np.empty(count + 1, np.int64)
    bounds[0], pieces = 0, 0
    while bounds[pieces] < count:
        left = count - bounds[pieces]
        size = max(left // (2 * workers), least) if workers > 1 else left
        bounds[pieces + 1] = bounds[pieces] + min(size, left)
        pieces += 1
    return bounds[: pieces + 1]
