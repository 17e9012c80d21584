"""The python tool of one conversation: cells run in a sandboxed process that keeps its variables.

In: code as text. Out: what the cell printed, with the value of its last expression and errors, as text for the model and
as a `PythonResult`. A cell that runs too long is interrupted; if it does not stop, its process is replaced.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from ossia.harmony.messages import ToolNamespace
from ossia.tools.data_folder import DataFolder
from ossia.tools.functions import ToolOutput
from ossia.tools.output import CallOutput
from ossia.tools.python.declaration import code_of, python_namespace
from ossia.tools.python.results import PythonResult
from ossia.tools.sandbox.choose import Sandbox, find
from ossia.tools.sandbox.process import finish
from ossia.tools.sandbox.settings import MIB, SandboxError, SandboxExit, SandboxSettings
from ossia.tools.session import Report, ignore
from ossia.tools.worker_process import NoReply, WorkerProcess

_WORKER = Path(__file__).with_name("worker.py").read_text("utf-8")
_MOST_CODE = 1 << 20  # characters
NO_OUTPUT = "[WARN] No output available. Use print() to output anything to stdout to receive the output"
TIMED_OUT = "[ERROR] Timed out waiting for Jupyter kernel output."


@dataclass(frozen=True, slots=True)
class PythonSettings:
    """seconds: of one cell. interrupt_seconds: how long a cell may take to stop after that. output_characters: kept of
    what a cell prints, half from its beginning and half from its end. flood_characters: a cell that prints more is
    stopped. short_description: for small models; gpt-oss was trained with the long one. sandbox: the limits of the
    process; its root is the data folder."""

    seconds: float = 120.0
    interrupt_seconds: float = 1.0
    output_characters: int = 40_000
    flood_characters: int = 64 * MIB
    short_description: bool = False
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)


def _logs(output: CallOutput) -> str:
    """Standard output first, then errors, as in a notebook's answer."""
    out, err = output.out.text(), output.err.text()
    return f"{out.rstrip()}\n{err}" if out and err else out or err


class PythonSession:
    """A `ToolSession` for code. data: the folder at /mnt/data, shared with other tools; None for its own.

    sandbox: None for the best that this machine has, looked for in `open`.
    """

    def __init__(
        self, data: DataFolder | None = None, settings: PythonSettings | None = None, sandbox: Sandbox | None = None
    ) -> None:
        self._settings = settings or PythonSettings()
        self._own_data = data is None
        self.data = data or DataFolder()
        self._sandbox = sandbox
        self._process: WorkerProcess | None = None
        self._lost = False
        self._lock = asyncio.Lock()

    @property
    def namespace(self) -> ToolNamespace:
        return python_namespace(self._settings.seconds, self._settings.short_description)

    async def open(self) -> None:
        """Find a sandbox. The process starts with the first cell. Raises SandboxError."""
        if self._sandbox is None:
            self._sandbox = await asyncio.to_thread(find)

    async def run(self, name: str, text: str, report: Report = ignore) -> ToolOutput:
        """Run one cell. Raises SandboxError if the sandbox itself failed."""
        code = code_of(text)
        if len(code) > _MOST_CODE:
            return ToolOutput(f"[ERROR] the code is longer than {_MOST_CODE} characters", failed=True)
        async with self._lock:
            process = await self._running()
            try:
                return await self._cell(process, code, report)
            except BaseException:
                await self._end()
                self._lost = True
                raise

    async def _running(self) -> WorkerProcess:
        if self._process is None:
            await self.open()
            assert self._sandbox is not None
            root = await asyncio.to_thread(lambda: self.data.root)
            self._process = await _start(self._sandbox, replace(self._settings.sandbox, root=root))
        return self._process

    async def _cell(self, process: WorkerProcess, code: str, report: Report) -> ToolOutput:
        settings, began = self._settings, time.monotonic()
        output = CallOutput(settings.output_characters, settings.flood_characters, report)
        reply = _answer(await process.run(_message(code), output, settings.seconds))
        stopped = reply in ("time", "flood")
        if stopped:
            process.interrupt()
            reply = _answer(await process.run(None, output, settings.interrupt_seconds))
        problem = None
        if isinstance(reply, str):
            problem = _died(await self._end(), output, stopped, settings)
        elif stopped:
            problem = f"{TIMED_OUT} {_why(output, settings)} and was interrupted. Its variables were kept."
        lost, self._lost = self._lost, False
        notes = ["[WARN] The previous call was stopped; all variables were lost."] if lost else []
        output.closed = True
        logs = _logs(output)
        shown = "\n".join(filter(None, [*notes, logs.rstrip("\n") if problem else logs, problem]))
        answer = reply if isinstance(reply, dict) else {}
        details = PythonResult(
            code=code,
            logs=logs,
            files=_names(answer.get("files")),
            images=_names(answer.get("images")),
            seconds=time.monotonic() - began,
            timed_out=stopped,
            state_lost=self._process is None,
        )
        return ToolOutput(shown or NO_OUTPUT, failed=not answer.get("ok", False), details=details)

    async def _end(self) -> SandboxExit | None:
        process, self._process = self._process, None
        return await process.close() if process else None

    async def close(self) -> None:
        """End the process. Remove the data folder if it was made here."""
        await finish(self._close)

    async def _close(self) -> None:
        await self._end()
        if self._own_data:
            await asyncio.to_thread(self.data.close)


async def _start(sandbox: Sandbox, settings: SandboxSettings) -> WorkerProcess:
    try:
        return await WorkerProcess.start(sandbox, lambda fd: [sys.executable, "-I", "-c", _WORKER, str(fd)], settings)
    except OSError as error:
        raise SandboxError(
            f"programs in the sandbox cannot run {sys.executable} ({error.strerror}): use a Python that all users can "
            "read, such as one in /usr or /opt"
        ) from error


def _message(code: str) -> bytes:
    return json.dumps({"code": code.encode("utf-8", "replace").decode()}).encode() + b"\n"


def _answer(reply: bytes | NoReply) -> dict[str, object] | NoReply:
    """The worker's reply; a process that writes something else there is not our worker any more."""
    if isinstance(reply, str):
        return reply
    try:
        value = json.loads(reply)
    except ValueError:
        return "ended"
    return value if isinstance(value, dict) else "ended"


def _why(output: CallOutput, settings: PythonSettings) -> str:
    if output.flooded:
        return f"The cell printed more than {settings.flood_characters} characters"
    return f"The cell ran longer than {settings.seconds:g} s"


def _died(ended: SandboxExit | None, output: CallOutput, stopped: bool, settings: PythonSettings) -> str:
    lost = "A new Python process runs the next cell; all variables were lost."
    if stopped and not (ended and ended.limit):
        return f"{TIMED_OUT} {_why(output, settings)} and did not stop when interrupted. {lost}"
    limits = settings.sandbox
    reasons = {
        "memory": f"it used more than {limits.memory_bytes / MIB:.0f} MiB of memory",
        "disk": f"it wrote more than {limits.disk_bytes / MIB:.0f} MiB to disk",
        "processes": f"it started more than {limits.processes} processes",
        "seconds": f"it ran longer than {limits.seconds} s",
    }
    if ended and ended.limit:
        return f"[ERROR] The Python process was stopped: {reasons[ended.limit]}. {lost}"
    how = f"signal {-ended.code}" if ended and ended.code < 0 else f"exit code {ended.code if ended else 'unknown'}"
    return f"[ERROR] The Python process ended with {how}. {lost}"


def _names(value: object) -> tuple[str, ...]:
    """Names of files from the worker, which may be anything: only short ones that stay inside."""
    if not isinstance(value, list):
        return ()
    good = [name for name in value if isinstance(name, str) and len(name) < 1024 and not name.startswith("/")]
    return tuple(name for name in good if ".." not in name.split("/"))[:1000]
