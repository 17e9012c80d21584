"""The Windows job object: layouts and numbers as documented, and the order of calls at the border to kernel32.

Nothing here runs on Windows: the kernel is a fake that keeps what it is given.
"""

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ossia.cli import app
from ossia.tools.sandbox import job
from ossia.tools.sandbox.settings import MIB, SandboxError, SandboxExit, SandboxSettings

JOB, PROCESS, THREAD = 0x7FF0_0000_0010, 0x20, 0x30  # a handle may need 64 bits
needs_64_bits = pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="sizes are those of 64-bit Windows")


def pointed(reference: Any, kind: Any) -> Any:
    """What a reference that is given to the kernel points at."""
    return ctypes.cast(reference, ctypes.POINTER(kind)).contents


class FakeKernel:
    """kernel32 that says yes. fail: a function that fails, with error 5. wait, code: how the process ends."""

    def __init__(self, fail: str = "", error: int = 5, wait: int = job.WAIT_OBJECT_0, code: int = 7) -> None:
        self.fail, self.error, self.wait, self.code = fail, error, wait, code
        self.calls: list[str] = []
        self.given: dict[str, Any] = {}

    def last_error(self) -> int:
        return self.error

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            handles = [each.value for each in arguments if isinstance(each, ctypes.c_void_p)]
            self.calls.append(f"{name} {hex(handles[0])}" if name in ("CloseHandle", "ResumeThread") else name)
            self.given[name] = arguments
            return self._answer(name, arguments)

        return call

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> int:
        if name == self.fail:
            return job.INFINITE if name in ("ResumeThread", "WaitForSingleObject") else 0
        match name:
            case "CreateJobObjectW":
                return JOB
            case "GetStdHandle":
                return 100 - arguments[0]
            case "SetInformationJobObject":
                _, kind, value, size = arguments
                self.given[f"information {kind}"] = ctypes.string_at(value, size)
            case "CreateProcessW":
                started = pointed(arguments[-1], job.ProcessInformation)
                started.hProcess, started.hThread = PROCESS, THREAD
            case "WaitForSingleObject":
                return self.wait
            case "ResumeThread":
                return 1  # it was suspended once
            case "GetExitCodeProcess":
                pointed(arguments[1], ctypes.c_uint32).value = self.code
            case _:
                pass
        return 1


@needs_64_bits
@pytest.mark.parametrize(
    ("structure", "size"),
    [(job.BasicLimits, 64), (job.ExtendedLimits, 144), (job.StartupInfo, 104), (job.ProcessInformation, 24)],
)
def test_structures_have_the_sizes_of_the_windows_headers(structure: type[ctypes.Structure], size: int):
    assert ctypes.sizeof(structure) == size


@needs_64_bits
def test_fields_are_where_the_windows_headers_have_them():
    basic, extended, startup = job.BasicLimits, job.ExtendedLimits, job.StartupInfo
    assert (basic.LimitFlags.offset, basic.ActiveProcessLimit.offset, basic.SchedulingClass.offset) == (16, 40, 60)
    assert (extended.IoInfo.offset, extended.JobMemoryLimit.offset) == (64, 120)
    assert (startup.dwFlags.offset, startup.lpReserved2.offset, startup.hStdError.offset) == (60, 72, 96)


def test_limits_are_those_of_the_settings():
    limits = job.extended_limits(SandboxSettings(memory_bytes=64 * MIB, processes=3, seconds=1.5), processors=4)
    assert limits.JobMemoryLimit == 64 * MIB
    assert limits.BasicLimitInformation.ActiveProcessLimit == 3
    assert limits.BasicLimitInformation.PerJobUserTimeLimit == 60_000_000  # 6 s, in units of 100 ns
    assert limits.BasicLimitInformation.LimitFlags == 0x2000 | 0x400 | 0x200 | 0x8 | 0x4
    assert job.extended_limits(SandboxSettings(), 4).BasicLimitInformation.LimitFlags == 0x2000 | 0x400 | 0x200 | 0x8


def test_the_process_is_in_the_job_before_it_runs(tmp_path: Path):
    kernel = FakeKernel()
    assert job.run_in_job(["a b.exe", 'say "hi"'], SandboxSettings(), tmp_path, kernel) == SandboxExit(7)
    assert [call for call in kernel.calls if not call.startswith(("GetStd", "SetHandle"))] == [
        "CreateJobObjectW", "SetInformationJobObject", "SetInformationJobObject", "CreateProcessW",
        "AssignProcessToJobObject", "ResumeThread 0x30", "WaitForSingleObject", "GetExitCodeProcess",
        "TerminateJobObject", "CloseHandle 0x30", "CloseHandle 0x20", "CloseHandle 0x7ff000000010",
    ]  # fmt: skip
    program, line, _, _, inherit, flags, _, folder, reference, _ = kernel.given["CreateProcessW"]
    assert (program, line.value, folder) == (None, '"a b.exe" "say \\"hi\\""', str(tmp_path))
    assert inherit
    assert flags == 0x4 | 0x400
    startup = pointed(reference, job.StartupInfo)
    assert (startup.cb, startup.dwFlags) == (ctypes.sizeof(job.StartupInfo), 0x100)
    assert (startup.hStdInput, startup.hStdOutput, startup.hStdError) == (110, 111, 112)
    assert kernel.given["information 4"] == b"\xff\0\0\0"
    assert kernel.given["information 9"] == bytes(job.extended_limits(SandboxSettings(), job.os.cpu_count() or 1))


def test_time_that_is_over_ends_the_whole_job(tmp_path: Path):
    kernel = FakeKernel(wait=job.WAIT_TIMEOUT)
    assert job.run_in_job(["x"], SandboxSettings(seconds=2), tmp_path, kernel) == SandboxExit(1, "seconds")
    assert kernel.given["WaitForSingleObject"][1] == 2000
    assert "TerminateJobObject" in kernel.calls


@pytest.mark.parametrize("fail", ["CreateJobObjectW", "SetInformationJobObject"])
def test_without_a_job_nothing_is_started(fail: str, tmp_path: Path):
    kernel = FakeKernel(fail)
    with pytest.raises(SandboxError, match="Windows error 5"):
        job.run_in_job(["x"], SandboxSettings(), tmp_path, kernel)
    assert "CreateProcessW" not in kernel.calls


@pytest.mark.parametrize("fail", ["AssignProcessToJobObject", "ResumeThread"])
def test_a_process_that_cannot_be_put_into_the_job_never_runs(fail: str, tmp_path: Path):
    kernel = FakeKernel(fail)
    with pytest.raises(SandboxError, match=fail):
        job.run_in_job(["x"], SandboxSettings(), tmp_path, kernel)
    assert "TerminateProcess" in kernel.calls
    assert kernel.calls[-3:] == ["CloseHandle 0x30", "CloseHandle 0x20", "CloseHandle 0x7ff000000010"]


@pytest.mark.parametrize(("error", "kind"), [(2, FileNotFoundError), (3, FileNotFoundError), (193, OSError)])
def test_a_program_that_cannot_be_executed_is_not_a_failure_of_the_sandbox(error: int, kind: type, tmp_path: Path):
    with pytest.raises(kind, match=r"x: ") as raised:
        job.run_in_job(["x"], SandboxSettings(), tmp_path, FakeKernel("CreateProcessW", error))
    assert type(raised.value) is kind


def test_the_environment_is_a_small_one_in_the_form_of_windows(tmp_path: Path):
    own = {"Path": "C:\\Windows", "SECRET": "x", "SystemRoot": "C:\\Windows"}
    block = job.environment_block(SandboxSettings(environment={"Lang": "C"}), tmp_path, own)
    assert block.endswith("\0\0")
    names = [each.partition("=")[0] for each in block.rstrip("\0").split("\0")]
    assert names == ["LANG", "PATH", "SYSTEMROOT", "TEMP", "TMP", "USERPROFILE"]
    with pytest.raises(ValueError, match="null character"):
        job.environment_block(SandboxSettings(environment={"A": "b\0C=d"}), tmp_path, {})


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has them")
def test_elsewhere_a_job_is_refused(tmp_path: Path):
    with pytest.raises(SandboxError, match="needs Windows"):
        job.run_in_job(["x"], SandboxSettings(), tmp_path)


def test_the_command_line_runs_a_command_in_a_job_on_windows_only(monkeypatch: pytest.MonkeyPatch):
    kernel = FakeKernel()
    run = job.run_in_job
    monkeypatch.setattr("ossia.cli.sandbox.sys.platform", "win32")
    monkeypatch.setattr("ossia.tools.sandbox.job.run_in_job", lambda *given: run(*given, kernel))
    done = CliRunner().invoke(app, ["sandbox", "--form", "job", "--", "x", "-y"])
    assert done.exit_code == 7
    assert "files and network stay open" in done.stderr
    assert kernel.given["CreateProcessW"][1].value == "x -y"
    assert not Path(kernel.given["CreateProcessW"][7]).exists()  # the new folder is removed
