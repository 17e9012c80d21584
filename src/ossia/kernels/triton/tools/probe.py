"""What a card can do at the moment: bytes of a plain copy, and bfloat16 products of the vendor's own matrix library.

In: sizes. Out: bytes a second, read and written counted; multiply-accumulates a second. Measured with the card's events.
It does not know models: these are the two limits that kernels are compared with.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch

COPIED = 1 << 30  # far beyond every cache
SIDE = 8192


def copy_bandwidth(size: int = COPIED, repeat: int = 5) -> float:
    """Bytes read and written a second by copying `size` bytes within the card."""
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * size / median_seconds(partial(target.copy_, source), repeat)


def matmul_rate(side: int = SIDE, repeat: int = 5) -> float:
    """Multiply-accumulates a second of square bfloat16 matrices."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return side**3 / median_seconds(lambda: torch.mm(a, b, out=out), repeat)


def median_seconds(work: Callable[[], object], repeat: int = 5, warm_up: int = 2) -> float:
    """Seconds that the card takes for `work`, by its own clock."""
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
