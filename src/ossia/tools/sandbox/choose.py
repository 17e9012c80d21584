"""Which form of the sandbox this machine offers, and why not another.

In: nothing, or one form by name. Out: a `Sandbox`, or a SandboxError with the remedy. A Linux form is chosen only after a
program ran in it.
"""

import os
import shutil
import sys
from dataclasses import dataclass

from ossia.tools.sandbox.folders import private_folder, remove_folder
from ossia.tools.sandbox.helper import run_once
from ossia.tools.sandbox.plans import plan_for
from ossia.tools.sandbox.settings import FORMS, Form, SandboxError, SandboxSettings

_MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A form that works on this machine. reasons: why the forms that were tried before it were not chosen."""

    form: Form
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for people: the form, and why not a better one."""
        reasons = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"{self.form}: {FORMS[self.form]}{reasons}"

    @property
    def shows_data(self) -> bool:
        """Programs find their folder at /mnt/data. Without namespaces it has the host's path."""
        return self.form in ("root", "user")


def find(form: Form | None = None, unsafe: bool = False) -> Sandbox:
    """The best form that works here. form: only this one. unsafe: no sandbox at all. Raises SandboxError.

    Starts a short program in each form that is tried: about 0.1 s.
    """
    if unsafe or form == "none":
        if sys.platform == "win32":
            raise SandboxError("programs of tools do not run on Windows: use WSL 2, where the Linux sandbox works")
        return Sandbox("none")
    reasons: list[str] = []
    candidates: list[Form] = [form] if form else _candidates()
    for candidate in candidates:
        if not (reason := _why_not(candidate, named=form is not None)):
            return Sandbox(candidate, tuple(reasons))
        reasons.append(f"{candidate}: {reason}")
    remedy = f"{_remedy()}, or run programs without a sandbox (unsafe tools) if you trust all prompts and pages"
    raise SandboxError(f"no sandbox works here: {'; '.join(reasons)}. To use the tool, {remedy}")


def _candidates() -> list[Form]:
    if sys.platform == "darwin":
        return ["seatbelt"]
    if sys.platform == "win32":
        return ["job"]
    return ["root" if os.geteuid() == 0 else "user", "landlock"]


def _why_not(form: Form, named: bool) -> str | None:
    """The reason why this form cannot be used here; None if a program ran in it."""
    if form == "job":
        return "a Windows job object limits a program but hides neither files nor network, so no tool uses it"
    if form == "seatbelt":
        return _why_not_seatbelt(named)
    if sys.platform != "linux":
        return f"it needs Linux, this is {sys.platform}"
    if (machine := os.uname().machine) not in _MACHINES:
        return f"the system calls of {machine} are not known; known are {', '.join(_MACHINES)}"
    if form == "root" and os.geteuid() != 0:
        return "it needs root"
    if form == "user" and os.geteuid() == 0:
        return "root has a form of its own (root)"
    return _why_it_fails(form)


def _why_not_seatbelt(named: bool) -> str | None:
    if sys.platform != "darwin":
        return f"it needs macOS, this is {sys.platform}"
    if not named:
        return "it has not been tested on macOS yet; choose it by name (seatbelt) to use it all the same"
    return None if os.path.exists("/usr/bin/sandbox-exec") else "/usr/bin/sandbox-exec is missing"


def _why_it_fails(form: Form) -> str | None:
    if not (program := shutil.which("true", path="/usr/bin:/bin")):
        return "the program `true` is missing"
    root = private_folder()
    temporary = private_folder(root)
    try:
        message = run_once(plan_for(form, [program], SandboxSettings(), root, temporary))
    finally:
        remove_folder(root)
        remove_folder(temporary)
    if message.get("exit") == 0:
        return None
    return str(message.get("failed") or f"a program ended with {message.get('exit')}")


def _remedy() -> str:
    if sys.platform == "win32":
        return "use WSL 2, where the Linux sandbox works"
    if sys.platform != "linux":
        return "run Ossia on Linux or in a Linux container"
    return (
        "enable user namespaces (sysctl user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns=0; in "
        "Docker --security-opt seccomp=unconfined --security-opt systempaths=unconfined), or use Linux 5.13 or newer "
        "with Landlock"
    )
