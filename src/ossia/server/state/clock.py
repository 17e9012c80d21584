"""A clock for the age of stored rows. A jump of the system's clock, forward or back, does not change it.

In: the system's clock, and the stored state of this one. Out: seconds since 1970.

It runs with the machine's uptime and follows the system's clock while both agree. After a jump it trusts the system's
clock only after a day.
"""

import time
from typing import NamedTuple

AGREE_SECONDS = 300.0
TRUST_SECONDS = 86400.0
MIN_TICK = 1e-3  # seconds between two readings, so that timestamps before and after a jump differ
_UPTIME = next((getattr(time, name) for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC") if hasattr(time, name)), None)


class ClockState(NamedTuple):
    """now: of this clock. doubted: the system's time when it first disagreed; begun: this clock's time then."""

    now: float
    doubted: float | None = None
    begun: float | None = None


class Move(NamedTuple):
    """The jump is trusted now: timestamps from `begun` on are to be moved by `seconds`."""

    begun: float
    seconds: float


class Clock:
    """state: of an earlier process. Without it, the clock starts at `newest`, the newest timestamp, or the system's time."""

    def __init__(self, state: ClockState | None, newest: float | None) -> None:
        self._state = state or ClockState(time.time() if newest is None else newest)
        self._read_at = _uptime()

    @property
    def state(self) -> ClockState:
        return self._state

    @property
    def doubts(self) -> bool:
        """Whether the system's clock disagrees and is not trusted yet."""
        return self._state.doubted is not None

    def tick(self) -> Move | None:
        """Advance to now. Returns a `Move` when the system's clock becomes trusted."""
        uptime, system = _uptime(), time.time()
        now = self._state.now + max(MIN_TICK, uptime - self._read_at)
        self._read_at = uptime
        _, doubted, begun = self._state
        if abs(system - now) <= AGREE_SECONDS:
            self._state = ClockState(max(now, system))
        elif doubted is None or begun is None or system < doubted:
            self._state = ClockState(now, system, now)
        elif system - doubted >= TRUST_SECONDS:
            self._state = ClockState(system)
            return Move(begun, system - now)
        else:
            self._state = ClockState(now, doubted, begun)
        return None


def _uptime() -> float:
    """Seconds since boot, including sleep."""
    return time.monotonic() if _UPTIME is None else time.clock_gettime(_UPTIME)
