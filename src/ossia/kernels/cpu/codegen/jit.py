# pyright: standard
"""Compiles the CPU kernels, caches them on disk, and distributes their work over threads.

In: functions in Numba's Python. Out: compiled functions, loaded from the cache at the next start.

Work is cut into small tasks. Threads take tasks from a counter, so a core that is slowed down takes fewer.
"""

import hashlib
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core import config as numba_config
from numba.extending import intrinsic as numba_intrinsic
from numba.np.ufunc.parallel import threading_layer

from ossia.kernels.machine import usable_cores

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}
# called from compiled code only: no Python wrapper, which takes as long to compile as a small kernel
_INNER = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_ONE_CALLER = Lock()
_CPU = Path(__file__).parents[1]
_SIZE, _BYTE = ir.IntType(8 * np.intp(0).itemsize), ir.IntType(8)
_POINTER = ir.PointerType(_BYTE)


def entry(function: Function) -> Function:
    """A kernel that Python calls, from any thread. Its code, with all kernels it calls, is cached on disk."""
    with _kept() as is_kept:
        compiled = numba.njit(cache=is_kept, **_OPTIONS)(function)

    @wraps(function)
    def run(*args: Any) -> Any:
        if _threads_take_several():
            return compiled(*args)
        with _ONE_CALLER:
            return compiled(*args)

    return run  # type: ignore[return-value]


@cache
def _threads_take_several() -> bool:
    """Whether Numba's threading layer accepts several callers at once. The `workqueue` layer aborts the process.

    Reading the number of threads starts them. Kernels can be linked to them from then on.
    """
    numba.get_num_threads()
    return threading_layer() != "workqueue"


def kernel(function: Function) -> Function:
    """A kernel that other kernels call, on their thread."""
    return numba.njit(**_INNER)(function)  # type: ignore[return-value]


@numba_intrinsic
def share(typingctx: Any, workers: Any, task: Any, *given: Any) -> Any:
    """Call the kernel `task(*given)` once on each of `workers` threads. For one worker, on the caller's thread.

    Numba's `prange` does the same, but it compiles the loop body's callees four times, and tries to parallelize other
    loops.
    """
    kinds = tuple(given)
    signature = task.get_call_type(typingctx, kinds, {})

    def generate(context: Any, builder: ir.IRBuilder, _: Any, args: Any) -> Any:
        compiled = task.dispatcher.overloads[signature.args]
        context.add_linking_libs([compiled.library])
        called = (context, compiled.fndesc, signature)
        values = cgutils.unpack_tuple(builder, args[2])
        is_one = builder.icmp_signed("<=", args[0], ir.Constant(args[0].type, 1))
        with builder.if_else(is_one) as (alone, threaded):
            with alone:
                context.call_internal(builder, compiled.fndesc, signature, values)
            with threaded:
                _launch(builder, called, builder.sext(args[0], _SIZE) if args[0].type != _SIZE else args[0], values)
        return context.get_dummy_value()

    return types.void(types.unliteral(workers), task, types.StarArgTuple(kinds)), generate


def _launch(builder: ir.IRBuilder, called: Any, workers: Any, values: Any) -> None:
    """Start Numba's threads on a function that reads the values from memory. MemoryError if a task ran out of memory."""
    context, flag = called[0], cgutils.alloca_once_value(builder, ir.Constant(_BYTE, 0))
    held = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [flag, *values]))
    unused = cgutils.alloca_once_value(builder, ir.Constant(_SIZE, 0))
    arrays = cgutils.alloca_once_value(builder, builder.bitcast(unused, _POINTER))
    count = cgutils.alloca_once_value(builder, workers)
    module = builder.module
    threads = builder.call(cgutils.get_or_insert_function(module, ir.FunctionType(_SIZE, []), "get_num_threads"), [])
    kind = ir.FunctionType(ir.VoidType(), [_POINTER] * 5 + [_SIZE] * 3)
    pointers = [_body(module, called, held.type), arrays, count, unused, held]
    given = [builder.bitcast(each, _POINTER) for each in pointers]
    numbers = [ir.Constant(_SIZE, 0), ir.Constant(_SIZE, 1), threads]  # one dimension, one (unused) array
    builder.call(cgutils.get_or_insert_function(module, kind, "numba_parallel_for"), [*given, *numbers])
    with builder.if_then(builder.icmp_unsigned("!=", builder.load(flag), ir.Constant(_BYTE, 0)), likely=False):
        context.call_conv.return_user_exc(builder, MemoryError, ("a kernel's thread failed: no memory is left",))


def _body(module: ir.Module, called: Any, held: ir.Type) -> ir.Function:
    """The function that Numba's threads call: fn(arrays, counts, steps, data). The first count is the number of
    workers.
    """
    context, description, signature = called
    pointer = ir.PointerType(_SIZE)
    kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(_POINTER), pointer, pointer, _POINTER])
    function = ir.Function(module, kind, module.get_unique_name(f"{description.mangled_name}.shared"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    flag, *values = cgutils.unpack_tuple(builder, builder.load(builder.bitcast(function.args[3], held)))
    with cgutils.for_range(builder, builder.load(function.args[1])):
        status, _ = context.call_internal_no_propagate(builder, description, signature, values)
        with builder.if_then(status.is_error, likely=False):
            builder.store(ir.Constant(_BYTE, 1), flag)
    builder.ret_void()
    return function


@cache
def physical_cores() -> int:
    """Physical cores this process may use. The kernels keep a core busy, so hardware threads do not help."""
    return max(1, min(usable_cores(), numba.get_num_threads()))


def _take(typingctx: Any, counter: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


# atomic fetch and add of 1: each caller gets a different number
take: Any = numba_intrinsic(_take)


def _peek(typingctx: Any, counter: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(place, "monotonic", 8)

    return types.int64(counter), generate


# atomic load of the counter
peek: Any = numba_intrinsic(_peek)


@contextmanager
def _kept() -> Generator[bool]:
    """Compile with the cache folder of these sources. False: there is none, so nothing is cached.

    Numba checks only the function's own file for changes; the folder's name covers all sources.
    """
    config: Any = numba_config  # its settings come from the environment; type checkers do not see them
    before, folder = config.CACHE_DIR, cache_folder()
    config.CACHE_DIR = str(folder or before)
    try:
        yield folder is not None
    finally:
        config.CACHE_DIR = before


def cache_folder() -> Path | None:
    """The folder with compiled kernels of these sources; None if no folder can be written."""
    return _folder(str(numba_config.CACHE_DIR))  # type: ignore[attr-defined]


@cache
def _folder(given: str) -> Path | None:
    """NUMBA_CACHE_DIR if set, else beside the source, else in the user's cache. Inside it, a folder named by the
    sources' hash.
    """
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in _sources())).hexdigest()[:12]
    places = [Path(given)] if given else [_CPU / "__pycache__"]
    if not given:
        with suppress(RuntimeError):  # no home directory, as in some containers
            places.append(Path.home() / ".cache" / "ossia")
    for place in places:
        folder = place / f"kernels-{digest}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return None


def _sources() -> list[Path]:
    return sorted([*_CPU.glob("*.py"), *_CPU.glob("codegen/*.py"), *_CPU.glob("tiles/*.py")])


def compiled_for() -> list[object]:
    """What must be equal for a cached kernel to be used: Numba's version, the processor, the sources' modification
    times.
    """
    processor = [numba_config.CPU_NAME or binding.get_host_cpu_name(), numba_config.CPU_FEATURES]  # type: ignore[attr-defined]
    features = sorted(name for name, there in binding.get_host_cpu_features().items() if there)
    return [numba.__version__, *processor, features, [source.stat().st_mtime_ns for source in _sources()]]


@kernel
def shares(count, workers, least):
    """Bounds of pieces of a range. Each piece is half of a thread's even share of the rest, but at least `least`.

    Long pieces give each core one long stream of reads, which is fastest. Short pieces at the end balance the threads.
    """
    bounds = np.empty(count + 1, np.int64)
    bounds[0], pieces = 0, 0
    while bounds[pieces] < count:
        left = count - bounds[pieces]
        size = max(left // (2 * workers), least) if workers > 1 else left
        bounds[pieces + 1] = bounds[pieces] + min(size, left)
        pieces += 1
    return bounds[: pieces + 1]
