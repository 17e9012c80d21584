"""Where tested programs run: the sandbox of this machine, and how many programs run at once.

In: nothing. Out: `CodeSandbox`, found when it is first used; its slots keep programs from taking each other's time.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakKeyDictionary

from ossia.tools.sandbox.choose import Sandbox, find

Verdict = Literal["AC", "WA", "TLE", "MLE", "RE", "CE"]
VERDICTS: dict[Verdict, str] = {
    "AC": "accepted",
    "WA": "wrong answer",
    "TLE": "over the time limit",
    "MLE": "over the memory limit",
    "RE": "ended with an error",
    "CE": "could not be compiled, or lacks what is asked for",
}


@dataclass
class CodeSandbox:
    """The sandbox of a run's tested programs. together: programs at once on one event loop, at most one a core."""

    together: int = field(default_factory=lambda: max(1, os.cpu_count() or 1))
    _found: Sandbox | None = None
    _slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = field(
        default_factory=WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]
    )

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[Sandbox]:
        """Wait for a free slot. Raises SandboxError where no sandbox works."""
        slots = self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.together))
        async with slots:
            if self._found is None:
                self._found = await asyncio.to_thread(find)
            yield self._found
