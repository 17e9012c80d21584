"""How late the event loop runs what is due: each request waits at least as long.

In: a running loop. Out: seconds of lag, ten milliseconds apart, to a callback. It does not know why.
"""

import asyncio
from collections.abc import Callable

TICK_SECONDS = 0.01


async def measure_lag(observe: Callable[[float], None]) -> None:
    """Sleep over and over, and observe how much later each sleep ends than it should. Cancel it to stop."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        observe(max(0.0, loop.time() - due))
