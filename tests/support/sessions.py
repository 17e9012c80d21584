"""A built-in tool whose results a test writes. It notes what was done with it.

In: a namespace and a function from the call's name and text to the result. Out: a `ToolSession`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from ossia.harmony.messages import JsonObject, ToolNamespace, ToolSpec
from ossia.tools.functions import ToolOutput
from ossia.tools.session import Report, ToolProgress, ToolUnavailableError, ignore

QUERY: JsonObject = {
    "type": "object",
    "properties": {"query": {"type": "string"}, "topn": {"type": "integer"}},
    "required": ["query"],
}


class FakeDetails(msgspec.Struct):
    """Details that surfaces would show."""

    name: str


@dataclass
class FakeSession:
    """answer: the result of a call. progress: reported before it. seconds: how long a call takes.

    broken: `open` fails. events: "open", "run NAME", "cancelled", "close", as they happen.
    """

    namespace: ToolNamespace
    answer: Callable[[str, str], str | Exception] = lambda name, text: f"{name}: {text}"
    progress: tuple[str, ...] = ()
    seconds: float = 0.0
    broken: bool = False
    events: list[str] = field(default_factory=list)
    loops: list[asyncio.AbstractEventLoop] = field(default_factory=list)
    running: asyncio.Event | None = None

    async def open(self) -> None:
        self.events.append("open")
        if self.broken:
            raise ToolUnavailableError("no sandbox on this machine: install bubblewrap")

    async def run(self, name: str, text: str, report: Report = ignore) -> ToolOutput:
        self.events.append(f"run {name}".strip())
        self.loops.append(asyncio.get_running_loop())
        for piece in self.progress:
            report(ToolProgress(piece))
        try:
            if self.running:
                self.running.set()
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        result = self.answer(name, text)
        if isinstance(result, Exception):
            raise result
        return ToolOutput(result, details=FakeDetails(name))

    async def close(self) -> None:
        self.events.append("close")


def fake_python(**settings: object) -> FakeSession:
    """Called by its own name, with free text."""
    return FakeSession(ToolNamespace("python", "Runs code."), **settings)  # type: ignore[arg-type]


def fake_browser(**settings: object) -> FakeSession:
    """Two tools with JSON arguments."""
    tools = (ToolSpec("search", "Search.", QUERY), ToolSpec("open", "Open."))
    return FakeSession(ToolNamespace("browser", None, tools), **settings)  # type: ignore[arg-type]
