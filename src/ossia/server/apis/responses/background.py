"""Background responses: they run without a client, and their events can be streamed later.

Input: a `ResponseRun`. Output: its events as frames, from any event on.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ossia.server.apis.responses import wire
from ossia.server.apis.responses.run import BROKEN, ResponseRun
from ossia.server.http.requests import sse

log = logging.getLogger("ossia.server")
STOPPED = "The server was stopped before this response was finished."
KEPT_BYTES = 64 << 20  # of frames that only a late listener may still want


def frame(event: wire.StreamEvent) -> bytes:
    return sse(event, str(event.__struct_config__.tag))


class Job:
    """One response in the background. A frame's place in `frames` is its event's sequence number."""

    def __init__(self, making: ResponseRun) -> None:
        self._making = making
        self.frames: list[bytes] = []
        self.ended = False
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def response(self) -> wire.Response:
        return self._making.response

    async def begun(self) -> None:
        """Wait until it is queued, and kept if it is to be."""
        while not (self.frames or self.ended):
            await self._more()

    async def settle(self) -> None:
        """Wait while the response has ended but is not stored: what continues it must find its end."""
        while self.response.status not in ("queued", "in_progress") and not (self._making.settled or self.ended):
            await self._more()

    async def follow(self, after: int = -1) -> AsyncGenerator[bytes, None]:
        """The frames behind that sequence number, as they come, to the last."""
        at = after + 1
        while True:
            for each in self.frames[at:]:
                at += 1
                yield each
            if at >= len(self.frames):
                if self.ended:
                    return
                await self._more()

    async def stop(self, reason: str | None = None) -> None:
        """End it now: cancelled, or failed for a reason."""
        if not self._making.ended:
            self._task.cancel()
        await asyncio.wait([self._task])
        self._add(await self._making.break_off(reason))
        self._close()

    async def _run(self) -> None:
        try:
            async with aclosing(self._making.events()) as events:
                async for told in events:
                    self._add(told)
            self._close()
        except Exception:
            log.exception("a response in the background failed")
            self._add(await self._making.break_off(BROKEN))
            self._close()

    def _add(self, told: Sequence[wire.StreamEvent]) -> None:
        self.frames += [frame(event) for event in told]
        self._tell()

    def _close(self) -> None:
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _more(self) -> None:
        await self._news.wait()


class Jobs:
    """All of them by their response's id, the finished ones for a while."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def start(self, making: ResponseRun) -> Job:
        self._forget()
        job = self._jobs[making.response.id] = Job(making)
        return job

    def find(self, response: str) -> Job | None:
        return self._jobs.get(response)

    async def remove(self, response: str) -> bool:
        """Stop it if it goes on, and forget it."""
        if (job := self._jobs.pop(response, None)) is None:
            return False
        if not job.ended:
            await job.stop()
        return True

    async def close(self) -> None:
        """The server stops."""
        await asyncio.gather(*(job.stop(STOPPED) for job in self._jobs.values() if not job.ended))

    def _forget(self) -> None:
        ended = [(response, job) for response, job in self._jobs.items() if job.ended]
        size = sum(len(each) for _, job in ended for each in job.frames)
        for response, job in ended:
            if size <= KEPT_BYTES:
                return
            size -= sum(len(each) for each in job.frames)
            del self._jobs[response]
