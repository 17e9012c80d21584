"""Tests of functions that a model wrote, with the verdict out of the code's reach.

In: the code and trusted tests. Out: a verdict. The code runs in one sandbox and the tests in another: the code gets
calls and returns plain data. It sees neither the tests nor the socket on which the verdict goes out.
"""

import ast
import asyncio
import builtins
import json
import socket
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ossia.evals.code.place import CodeSandbox, Verdict
from ossia.tools.sandbox.choose import Sandbox
from ossia.tools.sandbox.process import SandboxProcess, start
from ossia.tools.sandbox.settings import GIB, MIB, SandboxSettings

_INSIDE = Path(__file__).parent / "inside"
_MOST_CODE = 1 << 20  # characters
_CHECKER = SandboxSettings(memory_bytes=1 * GIB, processes=16, disk_bytes=1 * MIB)


@dataclass(frozen=True, slots=True)
class FunctionTest:
    """Tests of functions.

    - before: trusted code that the tests use. test: statements that raise where the code is wrong.
    - remote: names in the test, and the names in the tested code that they stand for.
    - modules: modules of Python that the test uses without importing them.
    - seconds: wall clock, of loading the code and all calls together. call_seconds: of each; None for no limit.
    """

    test: str
    remote: Mapping[str, str]
    before: str = ""
    modules: tuple[str, ...] = ()
    seconds: float = 10.0
    call_seconds: float | None = None
    memory_bytes: int = 4 * GIB


class Tested(NamedTuple):
    """A verdict. reason: for people; may hold text of the tested program."""

    verdict: Verdict
    reason: str = ""


@dataclass
class _Sockets:
    """Two socket pairs: the checker's link to the program, and ours to the checker."""

    pairs: list[socket.socket] = field(default_factory=list[socket.socket])

    def pair(self) -> tuple[socket.socket, socket.socket]:
        made = socket.socketpair()
        self.pairs += made
        return made

    def close(self) -> None:
        for each in self.pairs:
            each.close()


async def test_functions(place: CodeSandbox, code: str, test: FunctionTest) -> Tested:
    """Run the tests. Raises SandboxError if the sandbox itself failed."""
    if len(code) > _MOST_CODE:
        return Tested("CE", f"the code is longer than {_MOST_CODE} characters")
    async with place.slot() as sandbox, AsyncExitStack() as stack:
        sockets = _Sockets()
        stack.callback(sockets.close)
        link, link_of_checker = sockets.pair()
        ours, channel = sockets.pair()
        ours.setblocking(False)
        limits = SandboxSettings(memory_bytes=test.memory_bytes, seconds=test.seconds + 5)
        program = await _started(sandbox, "tested.py", [link], limits)
        stack.push_async_callback(program.close)
        checker = await _started(sandbox, "checker.py", [channel, link_of_checker], _CHECKER)
        stack.push_async_callback(checker.close)
        for each in (link, link_of_checker, channel):
            each.close()
        job = {
            "solution": code.encode("utf-8", "replace").decode(),
            "before": test.before,
            "test": test.test,
            "remote": dict(test.remote),
            "modules": test.modules,
            "call_seconds": test.call_seconds,
        }
        try:
            async with asyncio.timeout(test.seconds):
                said = await _verdict(ours, job)
        except TimeoutError:
            return Tested("TLE", f"ran longer than {test.seconds:g} s")
        if said.verdict != "AC" and (limit := await _limit_of(program)):
            return limit
        return said


async def _started(
    sandbox: Sandbox, name: str, sockets: list[socket.socket], settings: SandboxSettings
) -> SandboxProcess:
    text = await asyncio.to_thread(lambda: "".join((_INSIDE / each).read_text("utf-8") for each in ("values.py", name)))
    numbers = [each.fileno() for each in sockets]
    return await start(sandbox, [sys.executable, "-I", "-c", text, *map(str, numbers)], settings, pass_fds=numbers)


async def _verdict(channel: socket.socket, job: dict[str, Any]) -> Tested:
    loop = asyncio.get_running_loop()
    text = b""
    try:
        await loop.sock_sendall(channel, json.dumps(job).encode() + b"\n")
        while not text.endswith(b"\n") and (piece := await loop.sock_recv(channel, 1 << 16)):
            text += piece
    except OSError:
        text = b""
    if not text.endswith(b"\n"):
        return Tested("RE", "the checker ended: the program's answers were more than it could hold")
    verdict, reason = json.loads(text)
    return Tested(verdict, reason)


async def _limit_of(program: SandboxProcess) -> Tested | None:
    """The limit that the program was stopped for, if it has ended."""
    try:
        async with asyncio.timeout(1.0):
            ended = await program.wait()
    except TimeoutError:
        return None
    if ended.limit == "memory":
        return Tested("MLE", "used more memory than it may")
    return Tested("RE", f"stopped: too many {ended.limit}") if ended.limit else None


def names_used(source: str, code: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The names that a test takes from the tested code, and the modules that it uses without importing them.

    code: a solution that passes; what it defines hides Python's own names.
    """
    nodes = list(ast.walk(ast.parse(source)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    used = dict.fromkeys(node.id for node in names if node.id not in made)
    wanted = [name for name in used if name in defined or not hasattr(builtins, name)]
    modules = tuple(name for name in wanted if name not in defined and name in sys.stdlib_module_names)
    return {name: name for name in wanted if name not in modules}, modules
