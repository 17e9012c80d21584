"""Starts the program, waits for it, passes signals on, and ends everything when it must.

In: a plan and the control socket. Out: messages on that socket: {"ready": …}, {"failed": …}, {"exit": …}. One byte
from the other side asks for an interrupt; the end of the stream asks for the end of all processes.
"""

import contextlib
import json
import os
import resource
import select
import signal
from collections.abc import Callable

from ossia.tools.sandbox.linux.plan import INTERRUPT, Plan
from ossia.tools.sandbox.linux.watch import Watch

_TICK = 0.05  # seconds between looks at what the processes use
_MOST_FILES = 1 << 20


class Control:
    """The helper's end of the control socket."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def line(self) -> bytes:
        """The plan: the first line that Ossia sends."""
        found = b""
        while not found.endswith(b"\n"):
            if not (piece := os.read(self.fd, 1 << 16)):
                raise OSError(0, "the control socket ended before the plan")
            found += piece
        return found

    def send(self, **message: object) -> None:
        with contextlib.suppress(OSError):  # Ossia is gone
            os.write(self.fd, json.dumps(message).encode() + b"\n")

    def requests(self) -> bytes | None:
        """What was asked for meanwhile; None when the other side closed."""
        try:
            return os.read(self.fd, 64) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None


def start(plan: Plan, control: Control, confine: Callable[[], None], threads: int = 0) -> int:
    """Fork and execute the program. confine: runs in the child before it. Exits with a message if that fails.

    threads: what counts against the limit of processes but is not the program's.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        stage = "sandbox"
        try:
            os.setsid()
            confine()
            stage = "folder"
            os.chdir(plan.folder)
            _limit(plan, threads)
            for number in (
                signal.SIGINT,
                signal.SIGTERM,
                signal.SIGHUP,
                signal.SIGPIPE,
                signal.SIGXFSZ,
                signal.SIGCHLD,
            ):
                signal.signal(number, signal.SIG_DFL)
            stage = "program"
            _execute(plan, write)
        except OSError as error:
            os.write(write, json.dumps([stage, error.errno, f"{error.strerror or error}"]).encode())
        os._exit(125)
    os.close(write)
    with open(read, "rb") as pipe:
        failure = pipe.read()
    if failure:
        stage, number, reason = json.loads(failure)
        control.send(failed=reason, stage=stage, errno=number)
        os._exit(125)
    control.send(ready=True)
    return pid


def _execute(plan: Plan, report: int) -> None:
    """Replace this process by the program. Only the descriptors that it was given stay open."""
    after = 3
    for fd in [*sorted({report, *plan.keep}), _MOST_FILES]:
        os.closerange(after, fd)
        after = fd + 1
    for fd in plan.keep:
        os.set_inheritable(fd, True)
    os.execvpe(plan.argv[0], plan.argv, plan.environment)


def _limit(plan: Plan, threads: int) -> None:
    limits = {
        resource.RLIMIT_AS: 2 * plan.memory_bytes,
        resource.RLIMIT_NPROC: plan.processes + threads,
        resource.RLIMIT_FSIZE: plan.file_bytes,
        resource.RLIMIT_NOFILE: plan.open_files,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, most in limits.items() if plan.form != "none" else ():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def leave_streams(null: int) -> None:
    """The program's streams are its own: when it closes them, they are closed. null: /dev/null, opened."""
    for fd in (0, 1, 2):
        os.dup2(null, fd)


def supervise(plan: Plan, control: Control, program: int, watch: Watch | None, end: Callable[[], None]) -> None:
    """Wait for the program, report how it ended, and end what is left by `end`."""
    read, write = os.pipe()
    for fd in (read, write, control.fd):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    limit = None
    while (code := _reap(program)) is None:
        ready, _, _ = select.select([control.fd, read], [], [], _TICK if watch else None)
        if read in ready:
            os.read(read, 4096)
        if control.fd in ready:
            requests = control.requests()
            if requests is None:
                end()
                os._exit(0)
            if INTERRUPT in requests:
                with contextlib.suppress(OSError):
                    os.killpg(program, signal.SIGINT)
        if watch and (limit := watch.exceeded()):
            code = -int(signal.SIGKILL)
            break
    if limit:
        control.send(exit=code, limit=limit)
        end()
    else:
        end()
        control.send(exit=code, limit=None)


def _reap(program: int) -> int | None:
    """Collect all ended children; the program's code when it is among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == program:
                code = os.waitstatus_to_exitcode(status)
    return code
