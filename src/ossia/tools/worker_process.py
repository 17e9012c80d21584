"""A program in the sandbox that answers messages on a socket, while its output goes to two pipes.

In: messages, one after another. Out: for each a line of the program, or the reason why there is none. The python tool and
the shell's named sessions are such programs.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from ossia.tools.output import CallOutput, OutputPipes
from ossia.tools.sandbox.choose import Sandbox
from ossia.tools.sandbox.process import SandboxProcess, start
from ossia.tools.sandbox.settings import SandboxExit, SandboxSettings

NoReply: TypeAlias = Literal["time", "flood", "ended"]
_MOST_REPLY = 1 << 20  # bytes


class WorkerProcess:
    """A running program. Made by `start`."""

    def __init__(self, process: SandboxProcess, channel: socket.socket, pipes: OutputPipes) -> None:
        self._process, self._channel, self._pipes = process, channel, pipes
        self._rest = b""
        self._ended = False

    @classmethod
    async def start(
        cls,
        sandbox: Sandbox,
        command: Callable[[int], Sequence[str]],
        settings: SandboxSettings,
        folder: str | None = None,
    ) -> "WorkerProcess":
        """Start a program. command: its command line, given the number of the socket. Raises as `process.start`."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        pipes = OutputPipes()
        try:
            with theirs:
                process = await start(
                    sandbox,
                    command(theirs.fileno()),
                    settings,
                    stdout=pipes.out.writer,
                    stderr=pipes.err.writer,
                    pass_fds=[theirs.fileno()],
                    folder=folder,
                )
        except BaseException:
            ours.close()
            pipes.close()
            raise
        pipes.started()
        return cls(process, ours, pipes)

    def interrupt(self) -> None:
        self._process.interrupt()

    async def run(self, message: bytes | None, output: CallOutput, seconds: float) -> bytes | NoReply:
        """Send a message (None: it was sent before) and wait for the program's line."""
        self._pipes.call = output
        self._pipes.flooded.clear()
        try:
            async with asyncio.timeout(seconds):
                if message is not None:
                    await asyncio.get_running_loop().sock_sendall(self._channel, message)
                return await self._line_or_flood()
        except TimeoutError:
            return "time"
        except OSError:
            return "ended"
        finally:
            self._pipes.drain()

    async def _line_or_flood(self) -> bytes | NoReply:
        line = asyncio.ensure_future(self._line())
        flood = asyncio.ensure_future(self._pipes.flooded.wait())
        try:
            await asyncio.wait([line, flood], return_when=asyncio.FIRST_COMPLETED)
            return line.result() if line.done() else "flood"
        finally:
            for task in (line, flood):
                task.cancel()
            await asyncio.gather(line, flood, return_exceptions=True)

    async def _line(self) -> bytes | NoReply:
        loop = asyncio.get_running_loop()
        while b"\n" not in self._rest:
            if not (piece := await loop.sock_recv(self._channel, 1 << 16)) or len(self._rest) > _MOST_REPLY:
                self._ended = True
                return "ended"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def close(self) -> SandboxExit:
        """End the program and everything that it started. Returns how it ended."""
        if self._ended:  # it closed its socket: it may be about to end by itself, and then says how
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), 1)
        try:
            await self._process.close()
            self._pipes.drain()
        finally:
            self._pipes.close()
            self._channel.close()
        return await self._process.wait()
