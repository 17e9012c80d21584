"""Waiting for something that another thread or process does: it ends with a reason, and never hangs."""

import asyncio
import time
from collections.abc import Callable

PATIENCE = 120  # seconds: a busy machine compiles kernels for long


def until(holds: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Return once it holds; fail after so long, saying what was waited for."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"after {seconds} seconds still not: {what}"
        time.sleep(0.01)


async def until_async(holds: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """The same on an event loop."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"after {seconds} seconds still not: {what}"
        await asyncio.sleep(0.002)
