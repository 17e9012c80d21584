"""Where the tests of the sandbox run: as this user, as an unprivileged one, and with which Python.

In: a form. Out: `run_driver`, which makes the attempts of `driver.py` there, or a reason to skip.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import ossia
from ossia.tools.sandbox.choose import Sandbox, find
from ossia.tools.sandbox.process import start
from ossia.tools.sandbox.settings import SandboxError

PACKAGE = Path(ossia.__file__).parent
HERE = Path(__file__).parent
OTHER_USER = 65534
FORMS = [("root", 0), ("landlock", 0), ("user", OTHER_USER), ("landlock", OTHER_USER)]


def sandbox_or_skip() -> Sandbox:
    """The sandbox of this machine; tests that need one are skipped where there is none."""
    try:
        return find()
    except SandboxError as error:
        pytest.skip(str(error))


def python_sandbox_or_skip() -> Sandbox:
    """The same, for tests whose programs run this Python: without namespaces its folder may be closed to others."""
    sandbox = sandbox_or_skip()

    async def run() -> None:
        await (await start(sandbox, [sys.executable, "-I", "-c", ""])).close()

    try:
        asyncio.run(run())
    except OSError as error:
        pytest.skip(f"sandboxed programs cannot run {sys.executable}: {error}")
    return sandbox


def run_driver(form: str, user: int, *floods: str) -> dict[str, dict[str, object]]:
    """The results of `driver.py` as this user. 0: as root, for which the tests must run as root."""
    root = os.geteuid() == 0
    if user == 0 and not root:
        pytest.skip("needs root")
    other = user if root and user else None
    with _readable_copy() as folder:
        python = sys.executable if form == "root" else _python_for_all(other)
        done = subprocess.run(
            [python, f"{folder}/driver.py", form, *floods],
            env={"PYTHONPATH": folder, "PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            **({"user": other, "group": other, "extra_groups": []} if other else {}),
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if "refused" in found:
        pytest.skip(found["refused"])
    return found


@contextmanager
def _readable_copy() -> Iterator[str]:
    """The sandbox's sources and the driver in a folder that every user may read. They need nothing else of Ossia."""
    with tempfile.TemporaryDirectory(prefix="copy-") as name:
        folder = Path(name)
        tools = folder / "ossia" / "tools"
        shutil.copytree(PACKAGE / "tools" / "sandbox", tools / "sandbox", ignore=shutil.ignore_patterns("__pycache__"))
        (tools / "errors.py").write_bytes((PACKAGE / "tools" / "errors.py").read_bytes())
        for path in (tools / "__init__.py", folder / "ossia" / "__init__.py"):
            path.write_text("")
        for path in ("driver.py", "attempts.py", "floods.py"):
            shutil.copy(HERE / path, folder)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        yield name


def _python_for_all(user: int | None) -> str:
    """A Python that this user can execute, and that a program of another user can, too."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            done = subprocess.run(
                [python, "-I", "-c", "import sys, ctypes; print(sys.version_info >= (3, 11))"],
                capture_output=True,
                user=user or OTHER_USER if os.geteuid() == 0 else None,
                check=False,
            )
        except OSError:
            continue
        if done.stdout.strip() == b"True":
            return python
    pytest.skip("no Python 3.11 here that other users can execute")
