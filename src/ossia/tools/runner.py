"""Runs one call of a tool: with a time limit, progress while it runs, and an end as soon as the caller leaves.

In: a `CallTool`. Out: `ToolProgressed` while it runs, then its `ToolOutput`. `run_on` is for callers without an event
loop, `run_async` for those on one.
"""

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeAlias

from ossia.tools.functions import Tool, ToolOutput
from ossia.tools.session import Report, ToolProgress
from ossia.tools.toolset import ToolSet

CLOSING_SECONDS = 30.0  # how long a cancelled call may take to end its processes


class CallTool(NamedTuple):
    """Request to run a tool. Reply with its `ToolOutput`.

    seconds: its time limit; plain functions have none. approved: a user approved the call.
    """

    tool: Tool | ToolSet
    recipient: str
    text: str
    seconds: float | None = None
    approved: bool = False


@dataclass(frozen=True, slots=True)
class ToolProgressed:
    """A running call wrote something."""

    recipient: str
    progress: ToolProgress


Ran: TypeAlias = ToolProgressed | ToolOutput  # what running a call gives; the output comes last


def is_plain(call: CallTool) -> bool:
    """Whether the tool is a plain function, which runs in a thread and cannot be stopped."""
    return isinstance(call.tool, Tool) and call.tool.call_async is None


async def run_async(call: CallTool) -> AsyncGenerator[Ran, None]:
    """Run a call on this event loop. Closing the generator cancels the call and waits for its end.

    Raises ToolUnavailableError if the tool itself broke.
    """
    async with aclosing(with_progress(lambda report: _run(call, report))) as running:
        async for each in running:
            yield ToolProgressed(call.recipient, each) if isinstance(each, ToolProgress) else _output(call, each)


async def with_progress(
    start: Callable[[Report], Coroutine[Any, Any, ToolOutput]],
) -> AsyncGenerator[ToolProgress | asyncio.Task[ToolOutput], None]:
    """The progress of a call while it runs, and its task when it has ended. Closing the generator cancels the call.

    start: makes the call, given where to report.
    """
    reports: asyncio.Queue[ToolProgress | None] = asyncio.Queue()
    task = asyncio.create_task(start(reports.put_nowait))
    task.add_done_callback(lambda _: reports.put_nowait(None))
    try:
        while (progress := await reports.get()) is not None:
            yield progress
        yield task
    finally:
        if not task.done():
            task.cancel()
            with suppress(BaseException):
                await asyncio.wait([task], timeout=CLOSING_SECONDS)


def run_on(call: CallTool, loop: Callable[[], AbstractEventLoop]) -> Generator[Ran, None, None]:
    """Run a call on the event loop that `loop` gives, in another thread. A plain function runs in this thread.

    Closing the generator cancels the call and waits for its end. Raises ToolUnavailableError if the tool itself broke.
    """
    if isinstance(call.tool, Tool) and call.tool.call_async is None:
        yield call.tool.call(call.text)
        return
    running = RunningCall(call, loop())
    try:
        yield from running.events()
    finally:
        running.cancel()


class RunningCall:
    """A call on an event loop in another thread."""

    def __init__(self, call: CallTool, loop: AbstractEventLoop) -> None:
        self._call, self._loop = call, loop
        self._news: SimpleQueue[ToolProgress | asyncio.Task[ToolOutput]] = SimpleQueue()
        self._task: asyncio.Task[ToolOutput] | None = None
        self._ended = False
        loop.call_soon_threadsafe(self._start, _run(call, self._news.put))

    def events(self) -> Generator[Ran, None, None]:
        while isinstance(news := self._news.get(), ToolProgress):
            yield ToolProgressed(self._call.recipient, news)
        self._ended = True
        yield _output(self._call, news)

    def cancel(self) -> None:
        """End the call, and wait until it has ended. Nothing happens if it has."""
        if self._ended:
            return
        self.stop()
        with suppress(Exception):  # queue.Empty: the call does not end
            while isinstance(self._news.get(timeout=CLOSING_SECONDS), ToolProgress):
                pass
        self._ended = True

    def stop(self) -> None:
        """End the call without waiting. For any thread."""
        self._loop.call_soon_threadsafe(self._cancel_task)

    def _start(self, work: Coroutine[Any, Any, ToolOutput]) -> None:
        self._task = self._loop.create_task(work)
        self._task.add_done_callback(self._news.put)

    def _cancel_task(self) -> None:
        if self._task:
            self._task.cancel()


async def _run(call: CallTool, report: Report) -> ToolOutput:
    limit = asyncio.timeout(call.seconds)
    try:
        async with limit:
            if isinstance(call.tool, ToolSet):
                return await call.tool.run(call.recipient, call.text, report, call.approved)
            if call.tool.call_async is None:
                return await asyncio.to_thread(call.tool.call, call.text)
            return await call.tool.call_async(call.text)
    except TimeoutError:
        if not limit.expired():
            raise
        return ToolOutput(f"error: {call.recipient} ran longer than {call.seconds:g} s and was stopped", failed=True)


def _output(call: CallTool, task: asyncio.Task[ToolOutput]) -> ToolOutput:
    if task.cancelled():
        return ToolOutput(f"error: {call.recipient.removeprefix('functions.')} was cancelled", failed=True)
    return task.result()
