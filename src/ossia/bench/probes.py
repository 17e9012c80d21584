"""What this machine can do at the moment: a processor's read bandwidth and int8 peak, a card's copies and bf16 products.

In: a number of threads, or the backend whose card it is. Out: bytes and multiply-accumulates a second.
It does not know models. On the host the probe has a process of its own: its buffer must not count as the model's memory.
"""

from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from types import TracebackType
from typing import NamedTuple, Protocol


class Rates(NamedTuple):
    """Bytes a second, and multiply-accumulates a second of the kind that the backend computes with."""

    bandwidth: float
    peak: float


class Probe(Protocol):
    def __call__(self) -> Rates: ...


class ProcessProbe:
    """The kernels' own probes; the process starts with the first call and ends with the `with` block."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))

    def __enter__(self) -> "ProcessProbe":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __call__(self) -> Rates:
        return self._pool.submit(_rates, self.threads).result()


def _rates(threads: int) -> Rates:
    probe = import_module("ossia.kernels.cpu.tiles.probe")
    return Rates(probe.read_bandwidth(threads=threads), probe.int8_peak(threads=threads))


class CardProbe:
    """Bytes that a copy reads and writes, and bfloat16 products by the vendor's own library, on the card in use."""

    def __call__(self) -> Rates:
        probe = import_module("ossia.kernels.triton.tools.probe")
        return Rates(probe.copy_bandwidth(), probe.matmul_rate())
