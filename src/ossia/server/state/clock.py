"""The time by which kept things age: one jump of the system's clock, forward or back, does not move it.

In: the system's clock and what was kept of this one. Out: seconds since 1970. It does not know what ages.

It runs with the machine's uptime, follows the system's clock while both agree, and believes a clock that jumped only once
that clock itself has gone on for a day.
"""

import time
from typing import NamedTuple

AGREE_SECONDS = 300.0
BELIEVED_SECONDS = 86400.0
MIN_TICK = 1e-3  # between two moments, so that timestamps before a doubt differ from those after it
_UPTIME = next((getattr(time, name) for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC") if hasattr(time, name)), None)


class ClockState(NamedTuple):
    """now: of this clock. doubted: the system's time when it was first off; begun: this clock's at that moment."""

    now: float
    doubted: float | None = None
    begun: float | None = None


class Move(NamedTuple):
    """The clock jumped after all: what was stamped at `begun` or later belongs `seconds` later."""

    begun: float
    seconds: float


class Clock:
    """kept: of an earlier process; else `newest`, the time of the newest thing that ages; else the system's time."""

    def __init__(self, kept: ClockState | None, newest: float | None) -> None:
        self._kept = kept or ClockState(time.time() if newest is None else newest)
        self._read_at = _uptime()

    @property
    def kept(self) -> ClockState:
        return self._kept

    @property
    def doubts(self) -> bool:
        """Whether the system's clock is off and not yet believed."""
        return self._kept.doubted is not None

    def tick(self) -> Move | None:
        """Go on to this moment. A `Move` where the system's clock is believed from now on."""
        uptime, system = _uptime(), time.time()
        now = self._kept.now + max(MIN_TICK, uptime - self._read_at)
        self._read_at = uptime
        _, doubted, begun = self._kept
        if abs(system - now) <= AGREE_SECONDS:
            self._kept = ClockState(max(now, system))
        elif doubted is None or begun is None or system < doubted:
            self._kept = ClockState(now, system, now)
        elif system - doubted >= BELIEVED_SECONDS:
            self._kept = ClockState(system)
            return Move(begun, system - now)
        else:
            self._kept = ClockState(now, doubted, begun)
        return None


def _uptime() -> float:
    """Seconds that pass while the machine sleeps, too."""
    return time.monotonic() if _UPTIME is None else time.clock_gettime(_UPTIME)
