"""The helper process: makes the sandbox around itself and starts the program in it.

Run by `process.start` as `python -I -S -c …` with the number of the control socket; its first line there is a `Plan`.
What goes wrong before the program runs is a message on that socket, never on the program's own streams.
"""

import contextlib
import os
import signal
import sys
import time

from ossia.tools.sandbox.linux import calls, landlock, seccomp
from ossia.tools.sandbox.linux.plan import DATA, Plan, plan_of
from ossia.tools.sandbox.linux.root import enter_new_root
from ossia.tools.sandbox.linux.supervise import Control, leave_streams, start, supervise
from ossia.tools.sandbox.linux.watch import Watch, descendants, own_processes, threads_of

_END_SECONDS = 5.0
_COUNTED_BY_NAMESPACE = (5, 14)  # since then RLIMIT_NPROC counts a user's processes in each user namespace alone


def main() -> None:
    """Entry point of the helper process."""
    control = Control(int(sys.argv[1]))
    os.set_inheritable(control.fd, False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the socket says when to end
    try:
        plan = plan_of(control.line())
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("500")  # when the machine is short of memory, this goes before Ossia
        null = os.open(os.devnull, os.O_RDWR)  # now: while the new root is made, there is no /dev
        if plan.form in ("root", "user"):
            _with_namespaces(plan, control, null)
        else:
            _without_namespaces(plan, control, null)
    except Exception as error:
        control.send(failed=f"{type(error).__name__}: {error}", stage="sandbox", errno=getattr(error, "errno", None))
        os._exit(125)
    os._exit(0)


def _with_namespaces(plan: Plan, control: Control, null: int) -> None:
    """This process stays outside and waits; its child is the first process of a new pid namespace."""
    user, group = os.getuid(), os.getgid()
    flags = calls.NEWNS | calls.NEWIPC | calls.NEWUTS | calls.NEWPID | calls.NEWCGROUP
    flags |= (0 if plan.network else calls.NEWNET) | (calls.NEWUSER if plan.form == "user" else 0)
    threads = threads_of(user) if plan.form == "user" and _kernel() < _COUNTED_BY_NAMESPACE else 0
    calls.unshare(flags)
    if plan.form == "user":
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{plan.user} {user} 1")
        _write("/proc/self/gid_map", f"{plan.user} {group} 1")
    child = os.fork()
    if child == 0:
        try:
            _first_process(plan, control, null, threads)
        except Exception as error:
            number = getattr(error, "errno", None)
            control.send(failed=f"{type(error).__name__}: {error}", stage="sandbox", errno=number)
        os._exit(0)
    leave_streams(null)
    os.waitpid(child, 0)  # returns when the whole namespace is gone


def _kernel() -> tuple[int, int]:
    found = os.uname().release.split(".")
    return int(found[0]), int("".join(c for c in found[1] if c.isdigit()))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _first_process(plan: Plan, control: Control, null: int, threads: int) -> None:
    """Process 1 of the namespace: when it ends, the kernel ends all others."""
    enter_new_root(plan)
    calls.set_hostname("sandbox")
    calls.drop_bounding_capabilities()
    if plan.form == "root":
        os.setgroups([])
        os.setresgid(plan.user, plan.user, plan.user)
        os.setresuid(plan.user, plan.user, plan.user)
    calls.drop_capabilities()
    calls.die_with_parent()
    calls.hide_memory()
    calls.no_new_privileges()
    scopes = landlock.scopes() if plan.network else None
    program = start(plan, control, lambda: _confine(plan, scopes, namespaces=True), threads)
    leave_streams(null)
    supervise(plan, control, program, Watch(plan, own_processes, [DATA]), lambda: None)


def _confine(plan: Plan, ruleset: int | None, namespaces: bool) -> None:
    """Last steps of the program's own process."""
    calls.no_new_privileges()
    if ruleset is not None:
        calls.landlock_enforce(ruleset)
    scoped = ruleset is not None and calls.landlock_version() >= landlock.SCOPES_SINCE
    refused = seccomp.rules(plan.network, namespaces, scoped)
    calls.load_filter(seccomp.program(os.uname().machine, refused))


def _without_namespaces(plan: Plan, control: Control, null: int) -> None:
    """Landlock, or nothing at all: this process adopts what the program starts, to be able to end it."""
    here = os.getpid()
    if plan.form != "landlock":
        if sys.platform == "linux":
            calls.adopt_orphans()
        program = start(plan, control, lambda: None)
        leave_streams(null)
        supervise(plan, control, program, None, lambda: _end_all(here, program))
        return
    calls.adopt_orphans()
    ruleset = landlock.ruleset(plan.paths, [plan.data, plan.temporary], plan.network)
    threads = threads_of(plan.user)
    program = start(plan, control, lambda: _drop_and_confine(plan, ruleset), threads)
    leave_streams(null)
    watch = Watch(plan, lambda: descendants(here), [plan.data, plan.temporary])
    supervise(plan, control, program, watch, lambda: _end_all(here, program))


def _drop_and_confine(plan: Plan, ruleset: int) -> None:
    calls.drop_bounding_capabilities()
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(plan.user, plan.user, plan.user)
        os.setresuid(plan.user, plan.user, plan.user)
    calls.drop_capabilities()
    _confine(plan, ruleset, namespaces=False)


def _end_all(supervisor: int, program: int) -> None:
    """Stop everything first, so that nothing is started meanwhile, then end it."""
    with contextlib.suppress(OSError):
        os.killpg(program, signal.SIGKILL)
    deadline = time.monotonic() + _END_SECONDS
    while (running := descendants(supervisor)) and time.monotonic() < deadline:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in running:
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.002)
