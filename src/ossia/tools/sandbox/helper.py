"""How the helper process is started, and one run of it without an event loop.

In: a `Plan`. Out: the command line of the helper, and `run_once`, which says whether a program ran.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from ossia.tools.sandbox.linux.plan import Plan

_BOOT = "import sys; sys.path.insert(0, sys.argv[2]); from ossia.tools.sandbox.linux.enter import main; main()"
_SOURCES = str(Path(__file__).resolve().parents[3])
_SECONDS = 20


def helper_command(control: int) -> list[str]:
    """The helper, which finds its plan on this socket. -S: without site-packages, so that it starts quickly."""
    return [sys.executable, "-I", "-S", "-c", _BOOT, str(control), _SOURCES]


def helper_environment() -> dict[str, str]:
    """Nothing of Ossia's environment but where this Python finds its own libraries."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if name in os.environ}


def run_once(plan: Plan) -> dict[str, object]:
    """Run a short program without its streams. Returns the last message of the helper: how it failed or ended."""
    ours, theirs = socket.socketpair()
    messages: list[dict[str, object]] = []
    with ours:
        process = subprocess.Popen(
            helper_command(theirs.fileno()),
            env=helper_environment(),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        ours.settimeout(_SECONDS)
        try:
            ours.sendall(plan.line())
            with ours.makefile("rb") as lines:
                messages = [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            messages = [{"failed": f"the helper did not answer: {error}"}]
            process.kill()
        _, errors = process.communicate()
    if messages:
        return messages[-1]
    return {"failed": errors.decode("utf-8", "replace").strip() or "the helper ended"}
