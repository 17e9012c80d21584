"""The Windows form: a job object. It limits processes, memory and time, and ends all of them together. Untested on Windows.

In: a command and `SandboxSettings`. Out: `run_in_job`: its `SandboxExit`. A job object hides neither files nor network, so
the tools do not use it: `ossia sandbox --form job` runs a command in it, with a warning.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from ctypes import Structure, c_int64, c_size_t, c_uint16, c_uint32, c_uint64, c_void_p, c_wchar_p
from pathlib import Path
from typing import Any, Protocol

from ossia.tools.sandbox.settings import Limit, SandboxError, SandboxExit, SandboxSettings

# numbers of winnt.h and winbase.h
EXTENDED_LIMITS, UI_RESTRICTIONS = 9, 4  # classes of information about a job
JOB_TIME, ACTIVE_PROCESS, JOB_MEMORY = 0x4, 0x8, 0x200
DIE_ON_UNHANDLED_EXCEPTION, KILL_ON_JOB_CLOSE = 0x400, 0x2000
ALL_UI = 0xFF  # handles, clipboard, settings of system and display, atoms, desktops, end of session
CREATE_SUSPENDED, CREATE_UNICODE_ENVIRONMENT = 0x4, 0x400
STARTF_USESTDHANDLES, HANDLE_FLAG_INHERIT = 0x100, 0x1
STANDARD_HANDLES = (-10, -11, -12)  # input, output, errors
WAIT_OBJECT_0, WAIT_TIMEOUT, INFINITE = 0x0, 0x102, 0xFFFFFFFF
FILE_NOT_FOUND, PATH_NOT_FOUND = 2, 3
STOPPED = 1  # the exit code of what is ended
TICKS = 10_000_000  # of 100 ns, in a second
INHERITED = ("SYSTEMROOT", "SYSTEMDRIVE", "COMSPEC", "PATH", "PATHEXT")


class BasicLimits(Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION."""

    _fields_ = [
        ("PerProcessUserTimeLimit", c_int64),
        ("PerJobUserTimeLimit", c_int64),
        ("LimitFlags", c_uint32),
        ("MinimumWorkingSetSize", c_size_t),
        ("MaximumWorkingSetSize", c_size_t),
        ("ActiveProcessLimit", c_uint32),
        ("Affinity", c_size_t),
        ("PriorityClass", c_uint32),
        ("SchedulingClass", c_uint32),
    ]


class ExtendedLimits(Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION; IoInfo is an IO_COUNTERS."""

    _fields_ = [
        ("BasicLimitInformation", BasicLimits),
        ("IoInfo", c_uint64 * 6),
        ("ProcessMemoryLimit", c_size_t),
        ("JobMemoryLimit", c_size_t),
        ("PeakProcessMemoryUsed", c_size_t),
        ("PeakJobMemoryUsed", c_size_t),
    ]


class StartupInfo(Structure):
    """STARTUPINFOW."""

    _fields_ = [
        ("cb", c_uint32),
        *((name, c_wchar_p) for name in ("lpReserved", "lpDesktop", "lpTitle")),
        *((name, c_uint32) for name in ("dwX", "dwY", "dwXSize", "dwYSize")),
        *((name, c_uint32) for name in ("dwXCountChars", "dwYCountChars", "dwFillAttribute", "dwFlags")),
        *((name, c_uint16) for name in ("wShowWindow", "cbReserved2")),
        *((name, c_void_p) for name in ("lpReserved2", "hStdInput", "hStdOutput", "hStdError")),
    ]


class ProcessInformation(Structure):
    """PROCESS_INFORMATION."""

    _fields_ = [("hProcess", c_void_p), ("hThread", c_void_p), ("dwProcessId", c_uint32), ("dwThreadId", c_uint32)]


class Kernel(Protocol):
    """The functions of kernel32.dll that are called, and the last error."""

    def __getattr__(self, name: str) -> Any: ...
    def last_error(self) -> int: ...


class _Kernel32:
    """kernel32.dll, with handles as pointers and not as the int of 32 bits that ctypes takes by default."""

    HANDLES = ("CreateJobObjectW", "GetStdHandle")

    def __init__(self) -> None:
        self._library: Any = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        function.restype = c_void_p if name in self.HANDLES else c_uint32
        return function

    def last_error(self) -> int:
        return int(ctypes.get_last_error())  # type: ignore[attr-defined]


def extended_limits(settings: SandboxSettings, processors: int) -> ExtendedLimits:
    """The limits of a job. Its time is that of all processors, a second net beside the clock of `run_in_job`."""
    limits = ExtendedLimits()
    basic = limits.BasicLimitInformation
    basic.LimitFlags = ACTIVE_PROCESS | JOB_MEMORY | DIE_ON_UNHANDLED_EXCEPTION | KILL_ON_JOB_CLOSE
    basic.ActiveProcessLimit = settings.processes
    limits.JobMemoryLimit = settings.memory_bytes
    if settings.seconds is not None:
        basic.LimitFlags |= JOB_TIME
        basic.PerJobUserTimeLimit = int(settings.seconds * processors * TICKS)
    return limits


def environment_block(settings: SandboxSettings, root: Path, own: Mapping[str, str]) -> str:
    """The environment as CreateProcessW takes it: sorted, each value ended by a null character, and one more."""
    kept = {name.upper(): value for name, value in own.items() if name.upper() in INHERITED}
    folders = dict.fromkeys(("TEMP", "TMP", "USERPROFILE"), str(root))
    values = {**kept, **folders, **{name.upper(): value for name, value in settings.environment.items()}}
    if wrong := [name for name, value in values.items() if "\0" in name + value or "=" in name or not name]:
        raise ValueError(f"environment variable {wrong[0]!r}: a name has no '=', and nothing a null character")
    return "".join(f"{name}={values[name]}\0" for name in sorted(values)) + "\0"


def run_in_job(argv: Sequence[str], settings: SandboxSettings, root: Path, kernel: Kernel | None = None) -> SandboxExit:
    """Run a command with this process's streams, until it and all that it started have ended.

    The process begins suspended and is resumed in the job, so no instruction of it runs outside. Raises SandboxError if
    the job cannot be made, FileNotFoundError or OSError if the program cannot be executed, ValueError for the command.
    """
    if not argv or any("\0" in word for word in argv):
        raise ValueError("the command is empty or holds a null character")
    if kernel is None:
        if sys.platform != "win32":
            raise SandboxError(f"a job object needs Windows, this is {sys.platform}")
        kernel = _Kernel32()
    job = _made(kernel, settings)
    try:
        return _run(kernel, job, argv, settings, root)
    finally:
        kernel.CloseHandle(c_void_p(job))  # ends what is left in it


def _made(kernel: Kernel, settings: SandboxSettings) -> int:
    job = kernel.CreateJobObjectW(None, None)
    if not job:
        raise _failure(kernel, "CreateJobObject")
    limits, restrictions = extended_limits(settings, os.cpu_count() or 1), c_uint32(ALL_UI)
    for kind, value in ((EXTENDED_LIMITS, limits), (UI_RESTRICTIONS, restrictions)):
        if not kernel.SetInformationJobObject(c_void_p(job), kind, ctypes.byref(value), ctypes.sizeof(value)):
            error = _failure(kernel, "SetInformationJobObject")
            kernel.CloseHandle(c_void_p(job))
            raise error
    return int(job)


def _run(kernel: Kernel, job: int, argv: Sequence[str], settings: SandboxSettings, root: Path) -> SandboxExit:
    started = _suspended(kernel, argv, environment_block(settings, root, os.environ), root)
    process, thread = c_void_p(started.hProcess), c_void_p(started.hThread)
    try:
        if not kernel.AssignProcessToJobObject(c_void_p(job), process):
            raise _ended(kernel, process, "AssignProcessToJobObject")
        if kernel.ResumeThread(thread) == INFINITE:
            raise _ended(kernel, process, "ResumeThread")
        return _waited(kernel, job, process, settings)
    finally:
        kernel.CloseHandle(thread)
        kernel.CloseHandle(process)


def _suspended(kernel: Kernel, argv: Sequence[str], environment: str, root: Path) -> ProcessInformation:
    startup, started = StartupInfo(), ProcessInformation()
    startup.cb, startup.dwFlags = ctypes.sizeof(startup), STARTF_USESTDHANDLES
    streams = [kernel.GetStdHandle(number) for number in STANDARD_HANDLES]
    for stream in streams:
        kernel.SetHandleInformation(c_void_p(stream), HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT)
    startup.hStdInput, startup.hStdOutput, startup.hStdError = streams
    line = ctypes.create_unicode_buffer(subprocess.list2cmdline(argv))  # CreateProcessW may write into it
    block = ctypes.create_unicode_buffer(environment)
    flags = CREATE_SUSPENDED | CREATE_UNICODE_ENVIRONMENT
    if not kernel.CreateProcessW(
        None, line, None, None, True, flags, block, str(root), ctypes.byref(startup), ctypes.byref(started)
    ):
        number = kernel.last_error()
        if number in (FILE_NOT_FOUND, PATH_NOT_FOUND):
            raise FileNotFoundError(f"{argv[0]}: no such program")
        raise OSError(f"{argv[0]}: it cannot be executed (Windows error {number})")
    return started


def _waited(kernel: Kernel, job: int, process: c_void_p, settings: SandboxSettings) -> SandboxExit:
    limit: Limit | None = None
    milliseconds = INFINITE if settings.seconds is None else min(int(1000 * settings.seconds), INFINITE - 1)
    if (waited := kernel.WaitForSingleObject(process, milliseconds)) == WAIT_TIMEOUT:
        limit = "seconds"
    elif waited != WAIT_OBJECT_0:
        raise _failure(kernel, "WaitForSingleObject")
    code = c_uint32(STOPPED)
    if limit is None:
        kernel.GetExitCodeProcess(process, ctypes.byref(code))
    kernel.TerminateJobObject(c_void_p(job), STOPPED)  # also the children that it left
    return SandboxExit(code.value, limit)


def _ended(kernel: Kernel, process: c_void_p, call: str) -> SandboxError:
    """The error of a call, after the suspended process was ended."""
    error = _failure(kernel, call)
    kernel.TerminateProcess(process, STOPPED)
    return error


def _failure(kernel: Kernel, call: str) -> SandboxError:
    return SandboxError(f"the job object could not be set up: {call} failed with Windows error {kernel.last_error()}")
