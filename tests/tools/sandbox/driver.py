"""Makes all attempts in one form of the sandbox, from the host's side, and prints what came of them as JSON.

Run as a program, `python driver.py FORM`, so that the tests can run it as another user. Imports nothing of the tests.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE

from ossia.tools.sandbox.choose import Sandbox, find
from ossia.tools.sandbox.linux.watch import descendants
from ossia.tools.sandbox.process import start
from ossia.tools.sandbox.settings import MIB, SandboxError, SandboxSettings

HERE = Path(__file__).parent
MARKER = "ossia-sandbox-marker"
DAEMON = f"{MARKER}-daemon-{os.getpid()}"
SMALL = SandboxSettings(
    memory_bytes=96 * MIB,
    processes=24,
    file_bytes=4 * MIB,
    disk_bytes=16 * MIB,
    tmp_bytes=8 * MIB,
    seconds=3,
)


class Host:
    """What a program could find outside: a secret, open ports, a process of the same user."""

    def __init__(self, stack: ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="host-")))
        folder.chmod(0o755)
        self.secret = folder / "secret"
        self.secret.write_text("secret")
        self.secret.chmod(0o644)
        self.victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", MARKER])
        stack.callback(self.victim.kill)
        self.facts: dict[str, object] = {
            "secret": str(self.secret),
            "home": os.path.expanduser("~/.bashrc"),
            "victim": self.victim.pid,
            "marker": MARKER,
            "abstract": f"ossia-{os.getpid()}",
            "unix": str(folder / "socket"),
        }
        for name, family, kind, address in (
            ("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            ("tcp6", socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)),
            ("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            ("", socket.AF_UNIX, socket.SOCK_STREAM, "\0" + str(self.facts["abstract"])),
            ("", socket.AF_UNIX, socket.SOCK_STREAM, str(self.facts["unix"])),
        ):
            made = stack.enter_context(socket.socket(family, kind))
            made.bind(address)
            if kind == socket.SOCK_STREAM:
                made.listen()
            if name:
                self.facts[name] = made.getsockname()[1]
        (folder / "socket").chmod(0o777)

    def unchanged(self) -> bool:
        found = self.secret.stat()
        ours = self.secret.read_text() == "secret" and found.st_mode & 0o777 == 0o644 and found.st_mtime > 1000
        return ours and self.victim.poll() is None and os.getpriority(os.PRIO_PROCESS, self.victim.pid) == 0


async def attempts(sandbox: Sandbox, host: Host) -> dict[str, object]:
    code = (HERE / "attempts.py").read_text()
    program = [sys.executable, "-I", "-c", code, json.dumps(host.facts)]
    process = await start(sandbox, program, SandboxSettings(), stdout=PIPE, stderr=PIPE)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
        assert out, err
        return json.loads(out)
    finally:
        await process.close()


async def flood(sandbox: Sandbox, code: str) -> dict[str, object]:
    """Run a program that goes too far. Its output is read as fast as it comes and thrown away."""
    began = time.monotonic()
    code = code.replace("MARKER", repr(DAEMON))
    process = await start(sandbox, [sys.executable, "-I", "-c", code], SMALL, stdout=PIPE, stderr=PIPE)
    escaped = 0
    try:
        assert process.stdout is not None
        while piece := await process.stdout.read(1 << 16):
            escaped += piece.count(b"ESCAPED")
        ended = await process.wait()
        size = sum(path.stat().st_size for path in process.root.glob("*") if path.is_file())
    finally:
        await process.close()
    return {
        "code": ended.code,
        "limit": ended.limit,
        "seconds": time.monotonic() - began,
        "escaped": escaped,
        "bytes": size,
        "left": process.root.exists(),
    }


def still_running() -> list[str]:
    """Processes that the sandboxes of this process left: helpers below it, and daemons that left it."""
    mine = {os.getpid(), *descendants(os.getpid())}
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        helper = b"ossia.tools.sandbox.linux.enter" in command and int(name) in mine
        if helper or DAEMON.encode() in command:
            found.append(command.decode(errors="replace"))
    return found


async def main(form: str, wanted: list[str]) -> dict[str, object]:
    try:
        if form == "none":
            raise SandboxError("the attempts are never made without a sandbox")
        sandbox = find(form)  # type: ignore[arg-type]
    except SandboxError as error:
        return {"refused": str(error)}
    sys.path.insert(0, str(HERE))
    from floods import FLOODS, GUARD

    os.environ["OSSIA_SECRET"] = MARKER
    leak = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(leak, True)
    with ExitStack() as stack:
        host = Host(stack)
        found: dict[str, object] = {"attempts": await attempts(sandbox, host)}
        found["floods"] = {name: await flood(sandbox, GUARD + code) for name, code in FLOODS.items() if name in wanted}
        found["unchanged"] = host.unchanged()
    found["running"] = still_running()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2:]))))
