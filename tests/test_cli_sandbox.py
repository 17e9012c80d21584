"""`ossia sandbox`: a command's streams and exit code pass through; the sandbox's own failures have other codes."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ossia.tools.sandbox.choose import Sandbox
from ossia.tools.sandbox.folders import private_folder, remove_folder
from tests.tools.sandbox.places import sandbox_or_skip


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return sandbox_or_skip()


def ossia_sandbox(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ossia", "sandbox", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)


def test_streams_and_the_exit_code_pass_through(sandbox: Sandbox):
    done = ossia_sandbox("--", "sh", "-c", "cat; echo err >&2; exit 7", text="in")
    assert (done.stdout, done.stderr, done.returncode) == ("in", "err\n", 7)


def test_options_of_the_command_are_its_own(sandbox: Sandbox):
    assert ossia_sandbox("echo", "--network", "-x").stdout == "--network -x\n"


def test_without_a_command_the_form_is_shown(sandbox: Sandbox):
    done = ossia_sandbox()
    assert done.stdout.startswith(f"{sandbox.form}: ")


def test_failures_have_codes_of_their_own(sandbox: Sandbox):
    missing = ossia_sandbox("--", "no-such-program")
    assert (missing.returncode, missing.stdout) == (127, "")
    assert missing.stderr == "error: no-such-program: command not found\n"
    for arguments, word in (
        (["--form", "nothing"], "is none of"),
        (["--form", "none"], "itself"),
        (["--form", "seatbelt"], "needs macOS"),
        (["--root", "/no/such/folder"], "does not exist"),
        (["--bind", "/no/such/folder"], "does not exist"),
    ):
        done = ossia_sandbox(*arguments, "--", "true")
        assert (done.returncode, done.stdout) == (125, ""), arguments
        assert word in done.stderr
    slow = ossia_sandbox("--seconds", "0.2", "--", "sleep", "60")
    assert slow.returncode == 124
    assert "limit of seconds" in slow.stderr


def test_a_signal_is_reported_as_by_shells(sandbox: Sandbox):
    assert ossia_sandbox("--", "sh", "-c", "kill -9 $$").returncode == 137


def test_the_root_and_binds_are_visible(sandbox: Sandbox, tmp_path: Path):
    if sandbox.form == "landlock":
        pytest.skip("without namespaces the program's user must be able to reach the path")
    root = private_folder()
    note = tmp_path / "note"
    note.write_text("bound")
    try:
        done = ossia_sandbox(
            "--root", str(root), "--bind", str(note), "--", "sh", "-c", f"cat {note}; echo made > made"
        )
        assert (done.stdout, done.stderr) == ("bound", "")
        assert (root / "made").read_text() == "made\n"
    finally:
        remove_folder(root)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 9), (signal.SIGTERM, 137)])
def test_signals_reach_the_command(sandbox: Sandbox, number: int, code: int):
    script = "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done"
    command = [sys.executable, "-m", "ossia", "sandbox", "--", "sh", "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    started = psutil.Process(process.pid).children(recursive=True)
    assert started
    process.send_signal(number)
    # before `ossia` knows that the command runs, an interrupt ends it
    assert process.wait(30) in (code, 130)
    process.stdout.close()
    assert psutil.wait_procs(started, timeout=10)[1] == []
