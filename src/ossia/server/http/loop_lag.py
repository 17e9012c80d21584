"""Measures the lag of the event loop, for which each request waits.

In: a running loop. Out: seconds of lag, every ten milliseconds, to a callback.
"""

import asyncio
from collections.abc import Callable

TICK_SECONDS = 0.01


async def measure_lag(observe: Callable[[float], None]) -> None:
    """Sleep repeatedly, and report how late each sleep ends. Cancel it to stop."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        observe(max(0.0, loop.time() - due))
