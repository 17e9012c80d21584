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
KEPT_BYTES = 64 << 20  # of frames of finished responses, for clients that connect later


def frame(event: wire.StreamEvent) -> bytes:
    return sse(event, str(event.__struct_config__.tag))


class Job:
    """One response in the background. A frame's place in `frames` is its event's sequence number."""

    def __init__(self, run: ResponseRun) -> None:
        self._run = run
        self.frames: list[bytes] = []
        self.ended = False
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._write_frames())

    @property
    def response(self) -> wire.Response:
        return self._run.response

    async def begun(self) -> None:
        """Wait until it is queued, and stored if it is to be."""
        while not (self.frames or self.ended):
            await self._next_change()

    async def settle(self) -> None:
        """Wait until an ended response is stored: a request that continues it needs its end."""
        while self.response.status not in ("queued", "in_progress") and not (self._run.settled or self.ended):
            await self._next_change()

    async def follow(self, after: int = -1) -> AsyncGenerator[bytes, None]:
        """The frames after that sequence number, as they are made, up to the last."""
        at = after + 1
        while True:
            for each in self.frames[at:]:
                at += 1
                yield each
            if at >= len(self.frames):
                if self.ended:
                    return
                await self._next_change()

    async def stop(self, reason: str | None = None) -> None:
        """End it now: cancelled, or with a reason failed."""
        if not self._run.ended:
            self._task.cancel()
        await asyncio.wait([self._task])
        self._add(await self._run.break_off(reason))
        self._close()

    async def _write_frames(self) -> None:
        try:
            async with aclosing(self._run.events()) as events:
                async for batch in events:
                    self._add(batch)
            self._close()
        except Exception:
            log.exception("a response in the background failed")
            self._add(await self._run.break_off(BROKEN))
            self._close()

    def _add(self, events: Sequence[wire.StreamEvent]) -> None:
        self.frames += [frame(event) for event in events]
        self._notify()

    def _close(self) -> None:
        self.ended = True
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _next_change(self) -> None:
        await self._changed.wait()


class Jobs:
    """All background responses by id. Finished ones stay until their frames take too much memory."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def start(self, run: ResponseRun) -> Job:
        self._forget()
        job = self._jobs[run.response.id] = Job(run)
        return job

    def find(self, response: str) -> Job | None:
        return self._jobs.get(response)

    async def remove(self, response: str) -> bool:
        """Stop it if it runs, and drop it."""
        if (job := self._jobs.pop(response, None)) is None:
            return False
        if not job.ended:
            await job.stop()
        return True

    async def close(self) -> None:
        """Fail all that run: the server stops."""
        await asyncio.gather(*(job.stop(STOPPED) for job in self._jobs.values() if not job.ended))

    def _forget(self) -> None:
        ended = [(response, job) for response, job in self._jobs.items() if job.ended]
        size = sum(len(each) for _, job in ended for each in job.frames)
        for response, job in ended:
            if size <= KEPT_BYTES:
                return
            size -= sum(len(each) for each in job.frames)
            del self._jobs[response]
