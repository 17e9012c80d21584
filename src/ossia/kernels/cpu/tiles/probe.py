# pyright: standard
"""Measures the machine's current limits, as ceilings for a benchmark: bytes read and int8 products per second.

In: the number of threads. Out: rates, each the median of a few short runs. Shared machines drift: probe between the
runs that are to be compared.
"""

import time
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from ossia.kernels.cpu.codegen.aligned import aligned
from ossia.kernels.cpu.codegen.jit import entry, kernel, physical_cores, share, take
from ossia.kernels.cpu.codegen.simd import BYTES, WORDS, Emit, emitter, intrinsic, wants
from ossia.kernels.cpu.tiles.gemm_tiles import read_through

_PIECE = 1 << 20  # bytes that a thread reads at a time
_CHAINS = 12  # independent products, enough to hide an instruction's latency
_ROUNDS = 200_000
_RUNS = 5


@intrinsic
def _multiply(typingctx, seed, count):
    """`count` rounds of 12 independent dot products from registers."""

    def body(e: Emit, seed: Any, count: Any) -> Any:
        values = e.splat(e.b.trunc(seed, WORDS.element), WORDS)
        weights = e.b.bitcast(values, BYTES)
        with e.loop(count, [values] * _CHAINS) as loop:
            loop.carry(
                *(e.dot4(sofar, weights, e.b.xor(values, e.constant(WORDS, i))) for i, sofar in enumerate(loop.carried))
            )
        total = loop.out[0]
        for part in loop.out[1:]:
            total = e.b.xor(total, part)
        return e.reduce(total, e.b.xor)

    return wants(seed, count, gives=types.int32), emitter(body)


@kernel
def _read_pieces(counter, data, digest):
    piece = take(counter)
    while piece < digest.size:
        digest[piece] = read_through(data, piece * 1048576, 2048)
        piece = take(counter)


@entry
def _read_all(data, pieces, workers):
    counter, digest = np.zeros(1, np.int64), np.zeros(pieces, np.int32)
    share(workers, _read_pieces, counter, data, digest)
    return digest.sum()


@kernel
def _multiply_one(counter, rounds, digest):
    worker = take(counter)
    digest[worker] = _multiply(worker + 1, rounds)


@entry
def _multiply_all(rounds, workers):
    counter, digest = np.zeros(1, np.int64), np.zeros(workers, np.int32)
    share(workers, _multiply_one, counter, rounds, digest)
    return digest.sum()


def read_bandwidth(gib: float = 0.5, threads: int | None = None) -> float:
    """Bytes per second that all threads together read from memory, each thread in one stream."""
    data = _area(int(gib * 1024))
    return data.size / _typical(lambda: _read_all(data, data.size // _PIECE, threads or physical_cores()))


def int8_peak(threads: int | None = None) -> float:
    """int8 multiply-accumulates per second, with operands in registers."""
    workers = threads or physical_cores()
    return workers * _ROUNDS * _CHAINS * 64 / _typical(lambda: _multiply_all(_ROUNDS, workers))


@cache
def _area(mebibytes: int) -> NDArray[np.int8]:
    data = aligned(max(1, mebibytes) * _PIECE)
    data[:] = 1
    return data.view(np.int8)


def _typical(work: Any) -> float:
    work()
    spent = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return sorted(spent)[_RUNS // 2]
