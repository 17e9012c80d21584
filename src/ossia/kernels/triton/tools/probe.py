# pyright: standard
"""Measures the GPU's current limits: bytes of a plain copy, and bfloat16 products of the vendor's matrix library.

In: sizes. Out: bytes per second (read plus written) and multiply-accumulates per second, by the GPU's events.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch

COPIED = 1 << 30  # bytes, far more than any cache
SIDE = 8192


def copy_bandwidth(size: int = COPIED, repeat: int = 5) -> float:
    """Bytes read and written per second by a copy of `size` bytes within the GPU."""
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * size / median_seconds(partial(target.copy_, source), repeat)


def matmul_rate(side: int = SIDE, repeat: int = 5) -> float:
    """Multiply-accumulates per second of square bfloat16 matrices."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return side**3 / median_seconds(lambda: torch.mm(a, b, out=out), repeat)


def median_seconds(work: Callable[[], object], repeat: int = 5, warm_up: int = 2) -> float:
    """Median seconds of GPU time for `work`."""
    for _ in range(warm_up):
        work()
    spans: list[float] = []
    for _ in range(repeat):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        spans.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(spans)
