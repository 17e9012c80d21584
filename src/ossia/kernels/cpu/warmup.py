# pyright: standard
"""Compiles a model's CPU kernels before the model is loaded, in parallel processes, and reports progress.

In: `Kinds`, which decide the kernels that a model needs. Out: the kernels in the cache folder and in this process.
`ossia.loading` finds the kinds of a checkpoint.

Numba holds one lock per process while it compiles, so threads would not help. Processes share results through the
cache folder. A step calls a few kernels once, on the smallest tensors: Numba compiles per type, not per size.
"""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from ossia.kernels.cpu.codegen.jit import cache_folder, compiled_for, physical_cores
from ossia.kernels.cpu.moe import Routing
from ossia.kernels.cpu.ops import LARGE, SPLIT_CONTEXT, CpuOps, Packed
from ossia.kernels.cpu.pack import INT8, Panels
from ossia.kernels.ops import AttentionShape, Batch, Dense, KeyValues, Rope
from ossia.progress import reported
from ossia.quant import Mxfp4

Say = Callable[[str], None]
_SAVES = 4  # tries per step: each failed write of a kernel raises after it is compiled
_SHAPE = AttentionShape(2, 1, 16, 0, Rope(10000.0, 1.0, 4096, 32.0, 1.0))


class Kinds(NamedTuple):
    """What decides a model's kernels.

    stored: types of the checkpoint's dense weights, "uint16" (bfloat16) or "float32"; router: the type of its router.
    experts: "mxfp4", or their type. far: whether contexts are long enough to split attention by key. reads_ahead:
    whether weights are large enough to prefetch them during attention.
    """

    dense: Dense
    kv: KeyValues
    stored: tuple[str, ...]
    router: str
    experts: str
    far: bool
    reads_ahead: bool
    threads: int


def compile_kernels(kinds: Kinds, say: Say) -> None:
    """Compile all kernels for a model of these kinds, or load them from disk. `say` gets a progress line every two
    seconds.

    Only one process at a time compiles into a cache folder. Others wait for it and load its kernels.
    """
    steps, folder = steps_of(kinds), cache_folder()
    work = _Work(say, len(steps))
    with work.reported():
        if folder is not None and (folder / _complete(kinds)).exists():
            work.loading = True
            work.run(steps)
            return
        if folder is None:
            work.run(steps)
            return
        with _alone(folder, work):
            if not (folder / _complete(kinds)).exists():
                _side_by_side(kinds, list(steps), work)
            work.run(steps)
            with suppress(OSError):  # the next start compiles the missing kernels
                if not work.unsaved:
                    (folder / _complete(kinds)).touch()


def steps_of(kinds: Kinds) -> dict[str, Callable[[], None]]:
    """The compiling calls by name, the longest first."""
    ops = CpuOps(kinds.dense, kinds.kv, kinds.threads)
    steps: dict[str, Callable[[], None]] = {
        "attention": lambda: _attend(ops, 0),
        "experts": lambda: _experts(ops, kinds.experts),
    }
    for stored in kinds.stored:
        steps[f"projections of {stored}"] = lambda stored=stored: _project(ops, stored)
    steps["router"] = lambda: _route(ops, kinds.router)
    if kinds.far:
        steps["attention far back"] = lambda: _attend(ops, SPLIT_CONTEXT)
    if kinds.reads_ahead:
        steps["attention beside large weights"] = lambda: _attend(ops, 0, large=True)
    return steps


class _Work:
    """The progress of compile steps, here and in other processes, and its report."""

    def __init__(self, say: Say, count: int) -> None:
        self._say, self._count, self._started = say, count, time.monotonic()
        self.waiting, self.loading, self.unsaved = False, False, False
        self.done: set[str] = set()

    def run(self, steps: dict[str, Callable[[], None]]) -> None:
        for name, step in steps.items():
            for _ in range(_SAVES):
                try:
                    step()
                    break
                except OSError as error:  # compiled but not written: the disk is full, or the folder is gone
                    self.unsaved = True
                    self._say(f"compiled kernels cannot be kept ({error.strerror}): the next start compiles them again")
            self.done.add(name)

    def reported(self) -> AbstractContextManager[None]:
        return reported(self._line, self._say)

    def _line(self) -> str:
        seconds = time.monotonic() - self._started
        if self.waiting:
            return f"waiting for another process that compiles the kernels ({seconds:.0f} s)"
        if self.loading:
            return f"loading the kernels: {len(self.done)} of {self._count} ({seconds:.0f} s)"
        return f"compiling kernels for this processor, once: {len(self.done)} of {self._count} ({seconds:.0f} s)"


def _side_by_side(kinds: Kinds, names: list[str], work: _Work) -> None:
    """Compile the steps in one process per core. This process compiles later what another one failed to compile."""
    shares = _shares(names, 1 if getattr(sys, "frozen", False) else physical_cores())
    others = [_start(kinds, share, work) for share in shares[1:]]
    try:
        steps = steps_of(kinds)
        work.run({name: steps[name] for name in shares[0]})
        for process, reader in others:
            process.wait()
            reader.join()
    finally:
        for process, _ in others:
            process.kill()
            process.wait()


def _shares(names: list[str], processes: int) -> list[list[str]]:
    """Divide the steps over processes: long steps apart, and attention steps together, because they share kernels."""
    attending = [name for name in names if name.startswith("attention")]
    others = [name for name in names if not name.startswith("attention")]
    if processes == 1:
        return [names]
    if processes == 2:
        return [[*attending, "router"], [name for name in others if name != "router"]]
    return [attending, ["experts"], [name for name in others if name != "experts"]]


def _start(kinds: Kinds, names: list[str], work: _Work) -> tuple[subprocess.Popen[str], Thread]:
    """A process that compiles these steps, and a thread that reads its progress."""
    command = [sys.executable, "-m", "ossia.kernels.cpu.warmup", json.dumps(kinds), json.dumps(names)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def read() -> None:
        assert process.stdout is not None, "stdout is a pipe"
        for line in process.stdout:
            work.done.add(line.strip())

    reader = Thread(target=read, daemon=True)
    reader.start()
    return process, reader


def _compile_here(kinds: Kinds, names: list[str]) -> None:
    """Run in a child process: compile each step, and print its name when it is done."""
    steps = steps_of(kinds)
    for name in names:
        steps[name]()
        print(name, flush=True)


@contextmanager
def _alone(folder: Path, work: _Work) -> Generator[None]:
    """Hold the folder's lock. A file system without locks is used without one."""
    lock = FileLock(folder / "compiling.lock")
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            work.waiting = True
        except (OSError, NotImplementedError):
            break
    work.waiting = False
    try:
        yield
    finally:
        lock.release()


def _complete(kinds: Kinds) -> str:
    """The name of the marker file: all kernels of these kinds are in the folder, for this processor and Numba."""
    digest = hashlib.sha256(json.dumps([kinds, compiled_for()]).encode()).hexdigest()[:16]
    return f"complete-{digest}"


# the steps


def _zeros(stored: str, *shape: int) -> Any:
    """Zeros, read-only like a checkpoint's tensors."""
    zeros = np.zeros(shape, stored)
    zeros.flags.writeable = False
    return zeros


def _rows(width: int) -> Any:
    return np.zeros((1, width), np.float32)


def _attend(ops: CpuOps, position: int, large: bool = False) -> None:
    """Attention of one row at this position."""
    heads = _SHAPE.heads + 2 * _SHAPE.kv_heads
    attention = ops.attention(_SHAPE, np.zeros(_SHAPE.heads, np.float32))
    blocks = position // 16 + 1
    number, starts = np.array([position], np.int32), np.array([0, 1], np.int32)
    table = np.arange(blocks, dtype=np.int32)[None]
    batch = Batch(number, number, starts, table, table, number)
    prefetch = Packed(Panels(np.zeros(LARGE + 1, np.int8), INT8, 1, 32, 64, 1, 2112), _rows(32)[0]) if large else None
    ops.attend(_rows(heads * _SHAPE.head_dim), attention, ops.cache([_SHAPE], blocks, 1)[0], batch, prefetch)


def _project(ops: CpuOps, stored: str) -> None:
    weight, ones = ops.linear(_zeros(stored, 32, 64), None), np.ones(64, np.float32)
    ops.norm_linear(_rows(64), ones, 1e-5, weight)
    ops.linear_add(_rows(64), weight, _rows(32))


def _route(ops: CpuOps, stored: str) -> None:
    router = ops.router(_zeros(stored, 4, 64), None)
    ops.route(_rows(64), np.ones(64, np.float32), 1e-5, router, 2)


def _experts(ops: CpuOps, stored: str) -> None:
    bias = np.zeros((4, 64), np.float32)
    if stored == "mxfp4":
        weight: Any = Mxfp4(_zeros("uint8", 4, 64, 2, 16), _zeros("uint8", 4, 64, 2))
        down: Any = Mxfp4(_zeros("uint8", 4, 64, 1, 16), _zeros("uint8", 4, 64, 1))
    else:
        weight, down = (_zeros(stored, 4, 64, width) for width in (64, 32))
    routing = Routing(_rows(64), np.array([[0, 1]], np.int32), _rows(2))
    ops.experts_add(routing, ops.experts(weight, bias, True), ops.experts(down, bias, False), 7.0, _rows(64))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    _compile_here(Kinds(*given)._replace(stored=tuple(given[2])), json.loads(sys.argv[2]))
