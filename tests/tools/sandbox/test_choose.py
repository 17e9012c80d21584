"""Which form is chosen, what is refused with which remedy, and what other systems get."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from ossia.tools.sandbox.choose import Sandbox, find
from ossia.tools.sandbox.linux.plan import Plan, python_paths
from ossia.tools.sandbox.linux.watch import Watch
from ossia.tools.sandbox.plans import plan_for
from ossia.tools.sandbox.process import start
from ossia.tools.sandbox.seatbelt import profile, seatbelt_command
from ossia.tools.sandbox.settings import GIB, SandboxError, SandboxSettings
from tests.tools.sandbox.driver import still_running


def test_a_form_is_shown_with_the_reasons_against_others():
    chosen = Sandbox("landlock", ("user: unshare: Operation not permitted",))
    assert str(chosen) == (
        "landlock: Landlock and seccomp, without namespaces (user: unshare: Operation not permitted)"
    )
    assert not chosen.shows_data


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize(
    ("form", "word"),
    [
        ("seatbelt", "needs macOS"),
        ("job", "neither files nor network"),
        ("user" if os.geteuid() == 0 else "root", "root"),
    ],
)
def test_a_form_that_is_not_for_this_machine_is_refused(form: str, word: str):
    with pytest.raises(SandboxError, match=word) as refused:
        find(form)  # type: ignore[arg-type]
    assert "unsafe tools" in str(refused.value)


def test_a_machine_where_no_program_runs_in_a_sandbox_gets_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ossia.tools.sandbox.choose.run_once", lambda plan: {"failed": f"{plan.form} does not work"})
    with pytest.raises(SandboxError, match="landlock does not work") as refused:
        find()
    assert "max_user_namespaces" in str(refused.value)


def test_the_second_form_is_chosen_if_only_that_works(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "ossia.tools.sandbox.choose.run_once",
        lambda plan: {"exit": 0} if plan.form == "landlock" else {"failed": "unshare: Operation not permitted"},
    )
    chosen = find()
    assert chosen.form == "landlock"
    assert "Operation not permitted" in chosen.reasons[0]


@pytest.mark.parametrize(("platform", "word"), [("darwin", "seatbelt"), ("win32", "WSL 2")])
def test_other_systems_are_refused_until_they_are_tested(monkeypatch: pytest.MonkeyPatch, platform: str, word: str):
    monkeypatch.setattr("ossia.tools.sandbox.choose.sys.platform", platform)
    with pytest.raises(SandboxError, match=word):
        find()


def test_the_tools_can_be_imported_where_unix_modules_are_missing():
    code = """
import sys
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
import ossia.tools.python.session, ossia.tools.container.session
assert "ossia.tools.sandbox.linux.calls" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_sandbox_programs_are_still_ended_with_all_they_started():
    """Only what is harmless runs here."""

    async def work():
        chosen = find(unsafe=True)
        assert str(chosen) == "none: no sandbox"
        process = await start(chosen, ["sh", "-c", "setsid sleep 600 & pwd; wait"], stdout=PIPE)
        assert process.stdout is not None
        assert Path((await process.stdout.readline()).decode().strip()).resolve() == process.root.resolve()
        process.kill()
        assert await process.stdout.read() == b""  # the orphan has ended too
        await process.close()
        assert not process.root.exists()
        assert still_running() == []

    asyncio.run(work())


@pytest.mark.parametrize(
    ("prefix", "shown"),
    [("/usr", ["/usr"]), ("/home/u/venv", ["/home/u/venv"]), ("/home/u2", ["/home/u2"]),
     ("/home/u", ["/home/u/bin", "/home/u/lib", "/home/u/lib64", "/home/u/pyvenv.cfg"]),
     ("/", ["/bin", "/lib", "/lib64", "/pyvenv.cfg"])],
)  # fmt: skip
def test_a_home_is_not_shown_because_python_is_installed_in_it(prefix: str, shown: list[str]):
    assert python_paths(prefix, "/home/u") == shown


def test_the_macos_profile_denies_all_but_what_it_names(tmp_path: Path):
    root, temporary = tmp_path / 'a "quoted" folder', tmp_path / "temporary"
    text = profile(SandboxSettings(), root, temporary)
    assert text.startswith("(version 1)\n(deny default)\n")
    assert text.count("(") == text.count(")")
    written = next(line for line in text.splitlines() if line.startswith("(allow file-write*"))
    assert written.count("subpath") == 2
    assert '\\"quoted\\"' in written
    assert "network" not in text
    assert "(allow network*)" in profile(SandboxSettings(network=True), root, temporary)
    command = seatbelt_command(["ls", "-l"], SandboxSettings(), root, temporary)
    assert command == ["/usr/bin/sandbox-exec", "-p", text, "ls", "-l"]


# words of Apple's and Chromium's published profiles
OPERATIONS = {"process-exec", "process-fork", "signal", "sysctl-read", "file-read*", "file-read-metadata", "file-write*",
              "file-write-data", "file-map-executable", "ipc-posix-sem", "mach-lookup", "network*", "default"}  # fmt: skip
FILTERS = {"subpath": '"', "literal": '"', "global-name": '"', "target": "same-sandbox"}  # with how their value begins


@pytest.mark.parametrize("network", [False, True])
def test_the_macos_profile_has_the_grammar_of_sandbox_profiles(tmp_path: Path, network: bool):
    """(version 1), then (allow or deny, operations, filters): as far as it can be checked away from macOS."""
    text = profile(SandboxSettings(network=network), tmp_path / 'a ")( b', tmp_path)
    version, *rules = expressions(text)
    assert version == ["version", "1"]
    assert rules[0] == ["deny", "default"]
    for action, *rest in rules:
        operations = [each for each in rest if isinstance(each, str)]
        filters = [each for each in rest if isinstance(each, list)]
        assert action in ("allow", "deny")
        assert operations
        assert rest == [*operations, *filters]
        assert set(operations) <= OPERATIONS
        for name, value in filters:
            assert value.startswith(FILTERS[name])


def expressions(text: str) -> list:
    """The S-expressions of a text: lists of words, strings with their quotes, and lists."""
    stack: list[list] = [[]]
    for token in re.findall(r'[()]|"(?:[^"\\]|\\.)*"|[^\s()"]+', text):
        if token == "(":
            stack.append([])
        elif token == ")":
            stack[-2].append(stack.pop())
        else:
            stack[-1].append(token)
    (whole,) = stack
    return whole


def plan(**changes: object) -> Plan:
    values: dict[str, object] = {"processes": 3, "memory_bytes": 10 * GIB, "disk_bytes": GIB}
    made = plan_for("none", ["true"], SandboxSettings(**(values | changes)), Path("/"), Path("/"))  # type: ignore[arg-type]
    return made


def test_processes_are_also_counted_where_the_kernel_does_not(tmp_path: Path):
    """RLIMIT_NPROC does not hold for root, so the watcher has a count of its own."""
    running = [os.getpid()]
    watch = Watch(plan(), lambda: running, [str(tmp_path)])
    assert watch.exceeded() is None
    running *= 4
    assert watch.exceeded() == "processes"


def test_memory_is_that_of_all_processes(tmp_path: Path):
    assert Watch(plan(memory_bytes=1 << 25), lambda: [os.getpid()], [str(tmp_path)]).exceeded() == "memory"
    assert Watch(plan(), lambda: [os.getpid(), 999_999_999], [str(tmp_path)]).exceeded() is None
