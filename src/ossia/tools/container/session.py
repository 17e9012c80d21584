"""The container tool of one conversation: `container.exec` runs commands in the sandbox.

In: a call's JSON. Out: the command's output and exit code, as text for the model and as a `ShellResult`. A command without
a session name has a sandbox of its own; a named bash session keeps its folder, variables and background processes.
"""

import asyncio
import time
from dataclasses import dataclass, field, replace
from shlex import join
from typing import Literal

import msgspec

from ossia.harmony.messages import ToolNamespace
from ossia.tools.container.arguments import ExecCall, container_namespace, exec_call
from ossia.tools.container.results import ShellResult
from ossia.tools.data_folder import DataFolder
from ossia.tools.functions import ToolOutput
from ossia.tools.output import CallOutput, OutputPipes
from ossia.tools.sandbox.choose import Sandbox, find
from ossia.tools.sandbox.process import finish, start
from ossia.tools.sandbox.settings import DATA, MIB, SandboxExit, SandboxSettings
from ossia.tools.session import Report, ignore
from ossia.tools.signature import ArgumentsError
from ossia.tools.worker_process import WorkerProcess

# Commands come on a descriptor of their own, ended by a null character; after each, its exit code goes back.
_BASH = """trap : INT
while IFS= read -r -d '' -u {fd} ossia_command; do
    eval "$ossia_command" </dev/null {fd}>&-
    printf '%d\\n' "$?" >&{fd}
done"""
_MOST_SESSIONS = 8
_TIMED_OUT, _NOT_FOUND, _NOT_EXECUTABLE = 124, 127, 126


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """seconds: of a command, unless the model asks for less; most_seconds: what it may ask for at most.

    form: how the model sees a result: "json" as Codex has it, "tags", or "plain" output. output_characters: kept of the
    output, half from its beginning and half from its end. flood_characters: a command that prints more is stopped.
    sandbox: the limits; its root is the data folder.
    """

    seconds: float = 120.0
    most_seconds: float = 600.0
    form: Literal["json", "tags", "plain"] = "json"
    output_characters: int = 40_000
    flood_characters: int = 64 * MIB
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)


@dataclass(frozen=True, slots=True)
class _Ended:
    """code: of the command. note: what the model must know besides the output."""

    code: int
    note: str = ""


class ContainerSession:
    """A `ToolSession` for commands. data: the folder at /mnt/data, shared with other tools; None for its own.

    sandbox: None for the best that this machine has, looked for in `open`.
    """

    def __init__(
        self,
        data: DataFolder | None = None,
        settings: ContainerSettings | None = None,
        sandbox: Sandbox | None = None,
    ) -> None:
        self._settings = settings or ContainerSettings()
        self._own_data = data is None
        self.data = data or DataFolder()
        self._sandbox = sandbox
        self._sessions: dict[str, WorkerProcess] = {}
        self._lock = asyncio.Lock()

    @property
    def namespace(self) -> ToolNamespace:
        return container_namespace()

    async def open(self) -> None:
        """Find a sandbox. Raises SandboxError."""
        if self._sandbox is None:
            self._sandbox = await asyncio.to_thread(find)

    async def run(self, name: str, text: str, report: Report = ignore) -> ToolOutput:
        """Run one command. Raises SandboxError if the sandbox itself failed."""
        if name != "exec":
            return ToolOutput(f"error: container has no function {name}; use container.exec", failed=True)
        try:
            call = exec_call(text)
        except ArgumentsError as error:
            return ToolOutput(f"error: invalid arguments for container.exec: {error}", failed=True)
        await self.open()
        settings, began = self._settings, time.monotonic()
        output = CallOutput(settings.output_characters, settings.flood_characters, report)
        seconds = min(call.seconds or settings.seconds, settings.most_seconds)
        async with self._lock:
            ended = await (
                self._in_session(call, output, seconds) if call.session else self._alone(call, output, seconds)
            )
        output.closed = True
        result = ShellResult(
            command=call.argv,
            stdout=output.out.text(),
            stderr=output.err.text(),
            exit_code=ended.code,
            seconds=time.monotonic() - began,
            timed_out=ended.code == _TIMED_OUT and bool(ended.note),
            workdir=call.workdir or DATA,
            session=call.session,
        )
        shown = "\n".join(
            filter(None, [output.both.text().rstrip("\n") if ended.note else output.both.text(), ended.note])
        )
        return ToolOutput(_formed(shown, result, settings.form), failed=ended.code != 0, details=result)

    async def _alone(self, call: ExecCall, output: CallOutput, seconds: float) -> _Ended:
        """A command in a sandbox of its own: nothing of it runs afterwards."""
        pipes = OutputPipes()
        pipes.call = output
        try:
            sandbox, settings = await self._place()
            try:
                process = await start(
                    sandbox,
                    call.argv,
                    settings,
                    stdout=pipes.out.writer,
                    stderr=pipes.err.writer,
                    folder=self._folder(call),
                )
            except (OSError, ValueError) as error:
                return _not_started(call, error)
            pipes.started()
            try:
                waiting = {asyncio.ensure_future(process.wait()), asyncio.ensure_future(pipes.flooded.wait())}
                done, _ = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                for task in waiting:
                    task.cancel()
                ended = None if not done or pipes.flooded.is_set() else await process.wait()
            finally:
                await process.close()
            pipes.drain()
            return self._ended(ended or await process.wait(), output, seconds, stopped=ended is None)
        finally:
            pipes.close()

    async def _in_session(self, call: ExecCall, output: CallOutput, seconds: float) -> _Ended:
        """A command in a named bash session."""
        assert call.session is not None
        name, words = call.session, call.argv
        shell = words[2] if words[:2] == ("bash", "-lc") and len(words) == 3 else join(words)
        if call.workdir:
            shell = f"cd -- {join([self._folder(call) or '.'])} && eval {join([shell])}"
        try:
            process = await self._session(name)
        except OSError as error:
            return _Ended(_NOT_FOUND, f"sessions need bash, which cannot run here: {error.strerror}")
        if process is None:
            return _Ended(
                1, f"there are {_MOST_SESSIONS} sessions already: {', '.join(self._sessions)}. Use one of them."
            )
        try:
            reply = await process.run(shell.encode("utf-8", "replace") + b"\0", output, seconds)
            stopped = reply in ("time", "flood")
            if stopped:
                process.interrupt()
                reply = await process.run(None, output, 1.0)
            if isinstance(reply, bytes) and reply.strip().isdigit():
                note = f"{self._why(output, seconds)} and was interrupted. The session is kept." if stopped else ""
                return _Ended(_TIMED_OUT if stopped else int(reply), note)
            ended = await self._end(name)
        except BaseException:
            await self._end(name)
            raise
        after = self._ended(ended, output, seconds, stopped)
        lost = f"The session {name!r} has ended; its variables and processes are gone."
        return _Ended(after.code, f"{after.note} {lost}".strip())

    async def _session(self, name: str) -> WorkerProcess | None:
        if name not in self._sessions:
            if len(self._sessions) >= _MOST_SESSIONS:
                return None
            sandbox, settings = await self._place()
            command = lambda fd: ["bash", "--noprofile", "--norc", "-c", _BASH.replace("{fd}", str(fd))]  # noqa: E731
            self._sessions[name] = await WorkerProcess.start(sandbox, command, settings)
        return self._sessions[name]

    async def _place(self) -> tuple[Sandbox, SandboxSettings]:
        assert self._sandbox is not None
        root = await asyncio.to_thread(lambda: self.data.root)
        return self._sandbox, replace(self._settings.sandbox, root=root)

    def _folder(self, call: ExecCall) -> str | None:
        """Where a command runs. Without namespaces /mnt/data has the host's path."""
        assert self._sandbox is not None
        if call.workdir and not self._sandbox.shows_data and (call.workdir + "/").startswith(DATA + "/"):
            return "." + call.workdir[len(DATA) :]
        return call.workdir

    def _ended(self, ended: SandboxExit, output: CallOutput, seconds: float, stopped: bool) -> _Ended:
        limits = self._settings.sandbox
        if stopped and not ended.limit:
            return _Ended(_TIMED_OUT, f"{self._why(output, seconds)} and was stopped.")
        reasons = {
            "memory": f"used more than {limits.memory_bytes / MIB:.0f} MiB of memory",
            "disk": f"wrote more than {limits.disk_bytes / MIB:.0f} MiB to disk",
            "processes": f"started more than {limits.processes} processes",
            "seconds": f"ran longer than {limits.seconds} s",
        }
        code = ended.code if ended.code >= 0 else 128 - ended.code
        return _Ended(code, f"The command {reasons[ended.limit]} and was stopped." if ended.limit else "")

    def _why(self, output: CallOutput, seconds: float) -> str:
        if output.flooded:
            return f"The command printed more than {self._settings.flood_characters} characters"
        return f"The command ran longer than {seconds:g} s"

    async def _end(self, name: str) -> SandboxExit:
        return await self._sessions.pop(name).close()

    async def close(self) -> None:
        """End all sessions. Remove the data folder if it was made here."""
        await finish(self._close)

    async def _close(self) -> None:
        for name in list(self._sessions):
            await self._end(name)
        if self._own_data:
            await asyncio.to_thread(self.data.close)


def _not_started(call: ExecCall, error: OSError | ValueError) -> _Ended:
    """A command that could not be executed is an error of the call, as in a shell."""
    if isinstance(error, OSError) and error.filename == "folder":
        return _Ended(1, f"workdir {call.workdir}: {error.strerror}")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _Ended(_NOT_FOUND, f"{call.argv[0]}: command not found")
    return _Ended(_NOT_EXECUTABLE, f"{call.argv[0]}: {error.strerror if isinstance(error, OSError) else error}")


def _formed(shown: str, result: ShellResult, form: str) -> str:
    """The result as the model sees it."""
    if form == "plain":
        return shown
    if form == "tags":
        return f"<returncode>{result.exit_code}</returncode>\n<output>\n{shown}</output>"
    metadata = {"exit_code": result.exit_code, "duration_seconds": round(result.seconds, 1)}
    return msgspec.json.encode({"output": shown, "metadata": metadata}).decode()
