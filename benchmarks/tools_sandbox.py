"""What the sandbox costs: start, cell, command, kill, cleanup. A part of `benchmarks/tools.py`.

Times include the event loop. "longest block" is the longest time that the event loop could not run anything else.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from subprocess import PIPE

from ossia.tools.container.session import ContainerSession
from ossia.tools.python.session import PythonSession
from ossia.tools.sandbox.choose import Sandbox, find
from ossia.tools.sandbox.process import start

TIMES = 50
CELLS = 500


async def measured(work: Callable[[], Awaitable[float]], times: int) -> list[float]:
    return sorted([await work() for _ in range(times)])


def row(name: str, seconds: list[float]) -> str:
    p95 = seconds[int(0.95 * (len(seconds) - 1))]
    return f"| {name} | {1e3 * statistics.median(seconds):.2f} ms | {1e3 * p95:.2f} ms |"


async def start_of(sandbox: Sandbox, argv: list[str]) -> float:
    """Until the program's first output."""
    began = time.perf_counter()
    process = await start(sandbox, argv, stdout=PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    spent = time.perf_counter() - began
    await process.close()
    return spent


async def kill_of(sandbox: Sandbox) -> float:
    """Until a program with a child in another session has ended."""
    process = await start(sandbox, ["sh", "-c", "setsid sleep 600 & echo ready; sleep 600"], stdout=PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    began = time.perf_counter()
    process.kill()
    await process.wait()
    spent = time.perf_counter() - began
    await process.close()
    return spent


async def close_of(sandbox: Sandbox) -> float:
    """End of a running program, and removal of its folder with 100 files."""
    files = "for i in $(seq 100); do echo x > f$i; done; echo ready; sleep 600"
    process = await start(sandbox, ["sh", "-c", files], stdout=PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    began = time.perf_counter()
    await process.close()
    return time.perf_counter() - began


async def longest_block(work: Awaitable[object]) -> float:
    """The longest time between two turns of the event loop while `work` runs."""
    worst, last = 0.0, time.perf_counter()
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0)
        worst, last = max(worst, time.perf_counter() - last), time.perf_counter()
    return worst


async def first_cell(sandbox: Sandbox) -> float:
    session = PythonSession(sandbox=sandbox)
    began = time.perf_counter()
    await session.run("", "1")
    spent = time.perf_counter() - began
    await session.close()
    return spent


async def _sandbox() -> None:
    sandbox = find()
    print(f"{sandbox}\n\n| what | median | 95th percentile |\n|---|---|---|")
    print(row("start of sh", await measured(lambda: start_of(sandbox, ["echo", "x"]), TIMES)))
    python = [sys.executable, "-I", "-c", "print(1)"]
    print(row("start of Python", await measured(lambda: start_of(sandbox, python), TIMES)))
    print(row("first cell of a python session", await measured(lambda: first_cell(sandbox), TIMES)))
    print(row("kill of all processes", await measured(lambda: kill_of(sandbox), TIMES)))
    print(row("end and removal of 100 files", await measured(lambda: close_of(sandbox), TIMES)))
    session, container = PythonSession(sandbox=sandbox), ContainerSession(sandbox=sandbox)
    await container.open()

    async def cell() -> float:
        began = time.perf_counter()
        await session.run("", "x = 1")
        return time.perf_counter() - began

    async def command(**more: str) -> float:
        began = time.perf_counter()
        await container.run("exec", json.dumps({"cmd": ["true"], **more}))
        return time.perf_counter() - began

    await cell()
    await command(session_name="a")
    print(row("cell", await measured(cell, CELLS)))
    print(row("command in a sandbox of its own", await measured(command, TIMES)))
    print(row("command in a bash session", await measured(lambda: command(session_name="a"), CELLS)))
    blocks = [await longest_block(start_of(sandbox, ["echo", "x"])) for _ in range(TIMES)]
    print(row("longest block of the event loop in a start", sorted(blocks)))
    await session.close()
    await container.close()


def sandbox_part() -> None:
    """The figures of this machine's sandbox."""
    asyncio.run(_sandbox())
