"""What a sandboxed program may use, the forms of the sandbox, and the error of the sandbox itself.

In: numbers and paths of the caller. Out: `SandboxSettings`, checked; `SandboxError` names what is missing and what to do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from ossia.tools.errors import ToolUnavailableError

Form: TypeAlias = Literal["root", "user", "landlock", "seatbelt", "job", "none"]
Limit: TypeAlias = Literal["memory", "processes", "disk", "seconds"]
FORMS: dict[Form, str] = {
    "root": "namespaces made as root, the program runs as another user",
    "user": "user namespaces",
    "landlock": "Landlock and seccomp, without namespaces",
    "seatbelt": "macOS seatbelt (sandbox-exec)",
    "job": "Windows job object: limits and a common end, but files and network stay open",
    "none": "no sandbox",
}
MIB, GIB = 1 << 20, 1 << 30
DATA = "/mnt/data"  # where the program finds its files


class SandboxError(ToolUnavailableError):
    """The sandbox could not be set up. This is a failure of the tool, never a program's output."""


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Limits of one sandboxed program and of all processes that it starts.

    root: the folder at /mnt/data, readable and writable; None for a new one that is removed at the end. network: share
    the host's network, its loopback services included. memory_bytes: resident memory of all processes; each process
    may reserve twice as much address space. file_bytes: one file. disk_bytes: what the program may add to `root`.
    tmp_bytes: /tmp and /dev/shm, each. seconds: wall clock of the whole program. binds: more files and folders,
    read-only at their own paths. environment: added to a minimal one.
    """

    root: Path | None = None
    network: bool = False
    memory_bytes: int = 2 * GIB
    processes: int = 128
    file_bytes: int = 256 * MIB
    disk_bytes: int = 1 * GIB
    tmp_bytes: int = 256 * MIB
    open_files: int = 256
    seconds: float | None = None
    binds: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "processes", "file_bytes", "disk_bytes", "tmp_bytes", "open_files"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number above 0")
        if self.memory_bytes < 32 * MIB:
            raise ValueError(f"memory_bytes is {self.memory_bytes}: a program needs at least 32 MiB")
        if self.seconds is not None and self.seconds <= 0:
            raise ValueError(f"seconds is {self.seconds}: give a number above 0, or None for no limit")


@dataclass(frozen=True, slots=True)
class SandboxExit:
    """How the program ended. code: its exit code, or minus a signal's number. limit: the limit it was killed for."""

    code: int
    limit: Limit | None = None
