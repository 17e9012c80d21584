"""`ossia sandbox`: run a command in the sandbox that the tools use.

The exit code is the command's. The sandbox's own failures have others, as in `env` and container runtimes: 125 if it
could not be set up, 126 and 127 if the command cannot be executed or is not there, 124 if it ran too long.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ossia.cli.app import app

if TYPE_CHECKING:
    from ossia.tools.sandbox.process import SandboxProcess
    from ossia.tools.sandbox.settings import Form, SandboxExit, SandboxSettings

_FAILED, _NOT_EXECUTABLE, _NOT_FOUND, _TOO_LONG = 125, 126, 127, 124


@app.command(context_settings={"allow_interspersed_args": False})
def sandbox(
    command: Annotated[
        list[str] | None, typer.Argument(help="The command, after --. Without one, the form of the sandbox is shown.")
    ] = None,
    network: Annotated[bool, typer.Option("--network", help="Share the host's network, also its loopback.")] = False,
    root: Annotated[
        Path | None, typer.Option(help="The folder at /mnt/data; a new one that is removed, unless given.")
    ] = None,
    bind: Annotated[
        list[Path] | None, typer.Option(help="One more file or folder, read-only at its own path. Repeatable.")
    ] = None,
    memory: Annotated[float, typer.Option(min=0.04, help="GiB of memory of all its processes.")] = 2.0,
    processes: Annotated[int, typer.Option(min=1, help="Processes and threads.")] = 128,
    disk: Annotated[float, typer.Option(min=0.001, help="GiB that it may add to the folder.")] = 1.0,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="Time limit; none unless given.")] = None,
    form: Annotated[
        str | None, typer.Option(help="root, user, landlock, seatbelt or job; the best, unless given.")
    ] = None,
) -> None:
    """Run a command in the sandbox of the tools: no network, few files, limits."""
    from ossia.tools.sandbox.settings import FORMS, GIB, SandboxSettings

    if form is not None and form not in FORMS:
        _fail(f"form {form!r} is none of {', '.join(name for name in FORMS if name != 'none')}")
    if form == "none":
        _fail("without a sandbox, run the command itself")
    missing = [path for path in [*(bind or []), *([root] if root else [])] if not path.exists()]
    if missing:
        _fail(f"{missing[0]} does not exist")
    settings = SandboxSettings(
        root=root.absolute() if root else None,
        network=network,
        memory_bytes=int(memory * GIB),
        processes=processes,
        disk_bytes=int(disk * GIB),
        seconds=seconds,
        binds=tuple(path.absolute() for path in bind or ()),
        environment={"TERM": os.environ.get("TERM", "dumb")},
    )
    if form == "job" and command and sys.platform == "win32":
        raise typer.Exit(_run_in_job(command, settings))
    try:
        code = asyncio.run(_run(form, command or [], settings))  # type: ignore[arg-type]
    except asyncio.CancelledError:
        code = 128 + signal.SIGINT  # before the command ran
    raise typer.Exit(code)


async def _run(form: "Form | None", command: list[str], settings: "SandboxSettings") -> int:
    from ossia.tools.sandbox.choose import find
    from ossia.tools.sandbox.process import start
    from ossia.tools.sandbox.settings import SandboxError

    running: list[SandboxProcess] = []
    _pass_signals(running)
    try:
        chosen = find(form)
        if not command:
            typer.echo(str(chosen))
            return 0
        running.append(await start(chosen, command, settings, stdin=None, stdout=None, stderr=None))
    except SandboxError as error:
        _fail(str(error))
    except (OSError, ValueError) as error:
        _fail_to_execute(command[0], error)
    try:
        ended = await running[0].wait()
    finally:
        await running[0].close()
    return _code(ended)


def _run_in_job(command: list[str], settings: "SandboxSettings") -> int:
    """On Windows. Files and network stay open, so it is said each time."""
    from ossia.tools.sandbox.folders import private_folder, remove_folder
    from ossia.tools.sandbox.job import run_in_job
    from ossia.tools.sandbox.settings import SandboxError

    typer.secho("warning: a job object limits the command, but files and network stay open", err=True, fg="yellow")
    root = settings.root or private_folder()
    try:
        return _code(run_in_job(command, settings, root))
    except SandboxError as error:
        _fail(str(error))
    except (OSError, ValueError) as error:
        _fail_to_execute(command[0], error)
    finally:
        if settings.root is None:
            remove_folder(root)


def _fail_to_execute(program: str, error: Exception) -> NoReturn:
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    reason = "command not found" if missing else getattr(error, "strerror", None) or str(error)
    _fail(f"{program}: {reason}", _NOT_FOUND if missing else _NOT_EXECUTABLE)


def _code(ended: "SandboxExit") -> int:
    """The exit code for the shell. A limit that was exceeded is named."""
    if ended.limit:
        typer.secho(f"error: stopped: it exceeded the limit of {ended.limit}", err=True, fg="red")
    if ended.limit == "seconds":
        return _TOO_LONG
    return ended.code if ended.code >= 0 else 128 - ended.code


def _pass_signals(running: "list[SandboxProcess]") -> None:
    """Ctrl-C interrupts the command, other signals end it; before it runs, any of them ends this process."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def pass_on(number: int) -> None:
        if not running:
            task.cancel()
        elif number == signal.SIGINT:
            running[0].interrupt()
        else:
            running[0].kill()

    if sys.platform != "win32":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, pass_on, number)


def _fail(message: str, code: int = _FAILED) -> NoReturn:
    typer.secho(f"error: {message}", err=True, fg="red")
    raise typer.Exit(code)
