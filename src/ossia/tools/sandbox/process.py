"""A program in the sandbox, for the event loop.

In: a `Sandbox`, a command, `SandboxSettings`. Out: `SandboxProcess`: streams, `interrupt`, `kill`, `wait`, `close`.
A failure of the sandbox is a SandboxError; a program that cannot be executed is an OSError; both before `start` returns.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import DEVNULL
from typing import IO

from ossia.tools.sandbox.choose import Sandbox
from ossia.tools.sandbox.folders import private_folder, remedy_for, remove_folder
from ossia.tools.sandbox.helper import helper_command, helper_environment
from ossia.tools.sandbox.linux.plan import INTERRUPT
from ossia.tools.sandbox.plans import plan_for
from ossia.tools.sandbox.settings import Limit, SandboxError, SandboxExit, SandboxSettings

Stream = int | IO[bytes] | None
_KILL_SECONDS = 2.0
_BUFFER = 1 << 20


async def start(
    sandbox: Sandbox,
    argv: Sequence[str],
    settings: SandboxSettings | None = None,
    *,
    stdin: Stream = DEVNULL,
    stdout: Stream = DEVNULL,
    stderr: Stream = DEVNULL,
    pass_fds: Sequence[int] = (),
    folder: str | None = None,
) -> "SandboxProcess":
    """Start a program and return when it runs.

    stdin, stdout, stderr: as for `subprocess`. pass_fds: descriptors that the program gets besides, with their numbers.
    folder: where it begins, relative to the root. Raises SandboxError if the sandbox failed, OSError if the program
    cannot be executed (not found, not executable), ValueError for a command that no program could have.
    """
    settings = settings or SandboxSettings()
    made: list[Path] = []
    try:
        if settings.root is None:
            made.append(private_folder())
            settings = replace(settings, root=made[0])
        assert settings.root is not None
        if not settings.root.is_dir():
            raise SandboxError(f"the sandbox's folder {settings.root} is not there: make it, or name another")
        if not sandbox.shows_data:
            made.append(private_folder(settings.root))
        plan = plan_for(
            sandbox.form, argv, settings, settings.root, made[-1] if made else settings.root, pass_fds, folder
        )
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *helper_command(theirs.fileno()),
                    env=helper_environment(),
                    pass_fds=[theirs.fileno(), *pass_fds],
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                    limit=_BUFFER,
                )
            except BaseException as error:
                ours.close()
                if isinstance(error, OSError):
                    raise SandboxError(f"the sandbox's helper did not start: {error}") from error
                raise
        started = SandboxProcess(process, ours, settings.root, made)
    except BaseException:
        await asyncio.to_thread(_remove, made)
        raise
    try:
        await started.begin(plan.line())
    except BaseException:
        await started.close()
        raise
    return started


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        remove_folder(folder)


class SandboxProcess:
    """A running program. root: its folder on the host. Made by `start`."""

    def __init__(self, process: Process, control: socket.socket, root: Path, made: list[Path]) -> None:
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self.root = root
        self._process, self._control, self._made = process, control, made
        self._exit: SandboxExit | None = None
        self._waiting: asyncio.Task[SandboxExit] | None = None
        self._rest = b""
        control.setblocking(False)

    @property
    def running(self) -> bool:
        return self._waiting is not None and not self._waiting.done()

    async def begin(self, plan: bytes) -> None:
        """Send the plan and wait until the program runs."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._control, plan)
            message = await self._message()
        except OSError as error:
            raise SandboxError(f"the sandbox's helper failed: {error}") from error
        if message is None:
            raise SandboxError(f"the sandbox's helper ended without a word (exit code {await self._process.wait()})")
        if "failed" in message:
            raise _failure(message, self.root)
        self._waiting = asyncio.create_task(self._wait())

    async def _message(self) -> dict[str, object] | None:
        """The next line of the helper; None at its end."""
        loop = asyncio.get_running_loop()
        while b"\n" not in self._rest:
            if not (piece := await loop.sock_recv(self._control, 1 << 12)):
                return None
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    async def _wait(self) -> SandboxExit:
        """Until nothing of the sandbox runs any more."""
        found = SandboxExit(-9)
        with contextlib.suppress(OSError):
            while (message := await self._message()) is not None:
                if "exit" in message:
                    limit: Limit | None = message["limit"]  # type: ignore[assignment]
                    found = SandboxExit(int(str(message["exit"])), limit)
        await self._process.wait()
        return found

    async def wait(self) -> SandboxExit:
        """Until the program and all that it started have ended."""
        assert self._waiting is not None, "the program was not started"
        return await asyncio.shield(self._waiting)

    def interrupt(self) -> None:
        """SIGINT, as from Ctrl-C, to the program's process group."""
        with contextlib.suppress(OSError):
            self._control.send(INTERRUPT)

    def kill(self) -> None:
        """End the program and everything that it started, at once. `wait` tells when that is done."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        """Kill what runs, wait for its end, and remove the folders that `start` made. Safe to call twice."""
        await finish(self._close)

    async def _close(self) -> None:
        self.kill()
        try:
            await asyncio.wait_for(self._process.wait(), _KILL_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._waiting:
            await self._waiting
        self._control.close()
        if self.stdin:
            self.stdin.close()
        transport = getattr(self._process, "_transport", None)
        if transport:  # its pipes, which a program's orphan may have kept open
            transport.close()
        folders, self._made = self._made, []
        if folders:
            await asyncio.to_thread(_remove, folders)


async def finish(work: Callable[[], Awaitable[None]]) -> None:
    """Run a clean-up to its end even if this task is cancelled meanwhile; the cancellation follows."""
    task = asyncio.ensure_future(work())
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        raise cancelled
    task.result()


def _failure(message: dict[str, object], root: Path) -> Exception:
    """The program's own fault if it, or its folder, cannot be used; otherwise the sandbox's."""
    number, reason = message.get("errno"), str(message["failed"])
    if message.get("stage") in ("program", "folder") and isinstance(number, int):
        return OSError(number, os.strerror(number), "folder" if message["stage"] == "folder" else None)
    hint = " (too many processes of this user)" if number == errno.EAGAIN else ""
    if os.geteuid() == 0 and root.stat().st_uid == 0:
        hint = f". The folder belongs to root, which this file system may not be able to map: {remedy_for(root)}"
    return SandboxError(f"the sandbox could not be set up: {reason}{hint}")
