"""Programs in the sandbox from the event loop: streams, exit codes, failures, ends."""

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from subprocess import PIPE

import pytest

from ossia.tools.sandbox.choose import Sandbox
from ossia.tools.sandbox.folders import private_folder, remove_folder
from ossia.tools.sandbox.linux.watch import usage
from ossia.tools.sandbox.process import SandboxProcess, start
from ossia.tools.sandbox.settings import MIB, SandboxError, SandboxExit, SandboxSettings
from tests.tools.sandbox.driver import still_running
from tests.tools.sandbox.places import sandbox_or_skip


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return sandbox_or_skip()


@pytest.fixture(autouse=True)
def own_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """Other programs make folders of sandboxes, too."""
    tmp_path_factory.getbasetemp()  # pytest's own folder, which stays elsewhere
    with tempfile.TemporaryDirectory(prefix="tests-") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]


async def output(process: SandboxProcess) -> tuple[bytes, bytes]:
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
    return out, err


def test_streams_and_the_exit_code_are_the_programs(sandbox: Sandbox):
    async def work():
        process = await start(sandbox, ["sh", "-c", "cat; echo err >&2; exit 3"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
        assert process.stdin is not None
        process.stdin.write(b"in")
        process.stdin.close()
        assert await output(process) == (b"in", b"err\n")
        assert await process.wait() == SandboxExit(3)
        await process.close()

    run(work)


def test_a_signal_is_a_negative_code(sandbox: Sandbox):
    async def work():
        process = await start(sandbox, ["sh", "-c", "kill -TERM $$"])
        assert await process.wait() == SandboxExit(-15)
        await process.close()

    run(work)


def test_a_program_that_is_not_there_is_an_error_of_the_program(sandbox: Sandbox):
    async def work():
        with pytest.raises(FileNotFoundError):
            await start(sandbox, ["no-such-program"])
        with pytest.raises(ValueError, match="empty"):
            await start(sandbox, [])
        with pytest.raises(FileNotFoundError):
            await start(sandbox, ["true"], folder="no-such-folder")

    run(work)


def test_a_failure_of_the_sandbox_is_no_output(sandbox: Sandbox, tmp_path: Path):
    """Nothing of it is on the program's streams, and it names what is wrong."""

    async def work():
        with pytest.raises(SandboxError, match="not there"):
            await start(sandbox, ["true"], SandboxSettings(root=tmp_path / "missing"))
        read, write = os.pipe()
        broken = tmp_path / "python"
        broken.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
        broken.chmod(0o755)
        executable, sys.executable = sys.executable, str(broken)
        try:
            with pytest.raises(SandboxError, match="helper"):
                await start(sandbox, ["true"], stdout=write)
        finally:
            sys.executable = executable
        os.close(write)
        assert os.read(read, 100) == b""
        os.close(read)

    run(work)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="needs root")
def test_a_folder_of_root_is_writable_for_a_program_that_is_not_root(sandbox: Sandbox, tmp_path: Path):
    """Its files are root's on disk."""
    (tmp_path / "old").write_text("old")

    async def work():
        settings = SandboxSettings(root=tmp_path)
        try:
            process = await start(
                sandbox, ["sh", "-c", "id -u; cat old; echo new > new; rm old"], settings, stdout=PIPE
            )
        except SandboxError as error:
            pytest.skip(str(error))
        assert process.stdout is not None
        user, _, text = (await process.stdout.read()).decode().partition("\n")
        await process.close()
        assert int(user) != 0
        assert text == "old"
        assert [(path.name, path.stat().st_uid) for path in tmp_path.iterdir()] == [("new", 0)]

    run(work)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="needs root")
def test_without_namespaces_a_folder_of_root_is_refused_with_the_remedy(tmp_path: Path):
    async def work():
        with pytest.raises(SandboxError, match="chown"):
            await start(Sandbox("landlock"), ["true"], SandboxSettings(root=tmp_path))

    run(work)


def test_interrupt_is_ctrl_c(sandbox: Sandbox):
    code = "import time\ntry:\n    print('ready', flush=True)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('interrupted')"

    async def work():
        process = await start(sandbox, ["python3", "-I", "-c", code], stdout=PIPE, stderr=PIPE)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        process.interrupt()
        assert await output(process) == (b"interrupted\n", b"")
        assert await process.wait() == SandboxExit(0)
        await process.close()

    run(work)


def test_kill_ends_all_processes(sandbox: Sandbox):
    async def work():
        process = await start(sandbox, ["sh", "-c", "sleep 600 & setsid sleep 600 & echo ready; wait"], stdout=PIPE)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        process.kill()
        assert (await process.wait()).code == -9
        assert await process.stdout.read() == b""  # all writers have ended
        await process.close()
        assert still_running() == []

    run(work)


NETWORK = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as made:
    print(made.recv(10).decode())
for attempt in (
    lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + sys.argv[2]),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
):
    try:
        attempt()
        print("ESCAPED")
    except OSError:
        print("held")
"""


def test_the_network_is_the_hosts_if_asked_and_nothing_more(sandbox: Sandbox):
    """TCP works; abstract sockets of the host, raw sockets and the like stay out of reach."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter):
        writer.write(b"hello")
        writer.close()

    async def work():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        with socket.socket(socket.AF_UNIX) as abstract:
            name = f"ossia-test-{os.getpid()}"
            abstract.bind("\0" + name)
            abstract.listen()
            port = str(server.sockets[0].getsockname()[1])
            command = ["python3", "-I", "-c", NETWORK, port, name]
            process = await start(sandbox, command, SandboxSettings(network=True), stdout=PIPE, stderr=PIPE)
            out, err = await output(process)
            await process.close()
        server.close()
        assert out.decode().split() == ["hello", "held", "held", "held", "held"], err

    run(work)


def test_the_limits_are_those_of_the_settings(sandbox: Sandbox):
    async def work():
        settings = SandboxSettings(memory_bytes=64 * MIB, seconds=0.3)
        slow = await start(sandbox, ["sleep", "60"], settings)
        assert await slow.wait() == SandboxExit(-9, "seconds")
        await slow.close()

    run(work)


def test_the_folder_stays_when_it_was_given(sandbox: Sandbox):
    async def work():
        root = private_folder()
        for word in ("one", "two"):
            process = await start(sandbox, ["sh", "-c", f"echo {word} >> notes"], SandboxSettings(root=root))
            assert await process.wait() == SandboxExit(0)
            await process.close()
        assert (root / "notes").read_text() == "one\ntwo\n"
        remove_folder(root)
        assert not root.exists()

    run(work)


def test_a_cancelled_start_leaves_nothing(sandbox: Sandbox):
    async def work():
        for delay in (0.0, 0.01, 0.03, 0.06):
            task = asyncio.create_task(start(sandbox, ["sleep", "600"]))
            await asyncio.sleep(delay)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await task).close()
        assert still_running() == []

    before = folders()
    run(work)
    assert folders() == before


def folders() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("ossia-*")}


def mounts() -> int:
    return Path("/proc/self/mountinfo").read_text().count("\n")


async def many(sandbox: Sandbox, count: int) -> None:
    async def one(number: int):
        process = await start(sandbox, ["sh", "-c", "echo x > file; sleep 60 & sleep 0.01"])
        if number % 2:
            await process.wait()
        await process.close()

    for first in range(0, count, 4):
        await asyncio.gather(*map(one, range(first, min(first + 4, count))))


@pytest.mark.parametrize("count", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_programs_leave_no_process_mount_file_or_descriptor(sandbox: Sandbox, count: int):
    async def work():
        await many(sandbox, 1)
        open_files = len(os.listdir("/proc/self/fd"))
        await many(sandbox, count)
        await asyncio.sleep(0.05)
        assert len(os.listdir("/proc/self/fd")) == open_files

    before = folders(), mounts()
    run(work)
    assert (folders(), mounts()) == before
    assert still_running() == []


def test_usage_counts_files_and_not_what_links_name(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "big").write_bytes(b"x" * 100_000)
    (tmp_path / "link").symlink_to("/usr")
    size, files = usage([str(tmp_path)], 1000)
    assert files == 3
    assert 100_000 <= size < 150_000


def test_settings_are_checked():
    with pytest.raises(ValueError, match="processes"):
        SandboxSettings(processes=0)
    with pytest.raises(ValueError, match="seconds"):
        SandboxSettings(seconds=-1)
