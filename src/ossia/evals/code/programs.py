"""Programs that read standard input and write standard output, judged on tests one after another.

In: a Python program and tests. Out: the verdict on the first test that it fails, or AC. Each test has a sandbox of its own,
and the wanted output stays outside of it.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from ossia.evals.code.functions import Tested
from ossia.evals.code.place import CodeSandbox
from ossia.tools.sandbox.choose import Sandbox
from ossia.tools.sandbox.process import start
from ossia.tools.sandbox.settings import GIB, MIB, SandboxExit, SandboxSettings

_MOST_CODE = 100_000  # bytes: a program is one argument of a command
_MOST_OUTPUT = 64 * MIB  # of a program: a write beyond it fails
_MOST_ERRORS = 1 << 16  # bytes that are read of standard error, from its end
_SYNTAX = ("SyntaxError:", "IndentationError:", "TabError:")


class StreamTest(NamedTuple):
    """What a program reads, and what it must write."""

    given: str
    wanted: str


@dataclass(frozen=True, slots=True)
class ProgramLimits:
    """seconds: wall clock of one test, with the start of Python."""

    seconds: float = 6.0
    memory_bytes: int = 4 * GIB


class _Ran(NamedTuple):
    """One run. output: None if it was over the time limit."""

    output: bytes | None
    errors: str = ""
    ended: SandboxExit = SandboxExit(0)


async def judge_program(
    place: CodeSandbox, code: str, tests: Sequence[StreamTest], limits: ProgramLimits | None = None
) -> Tested:
    """Run a Python program on tests until it fails one. Raises SandboxError if the sandbox itself failed."""
    limits = limits or ProgramLimits()
    if len(code.encode("utf-8", "replace")) > _MOST_CODE or "\0" in code:
        return Tested("CE", f"the program is longer than {_MOST_CODE} bytes or holds a null character")
    for number, test in enumerate(tests, 1):
        async with place.slot() as sandbox:
            tested = _verdict(await _run(sandbox, code, test.given, limits), test, limits)
        if tested.verdict != "AC":
            return Tested(tested.verdict, f"test {number} of {len(tests)}: {tested.reason}")
    return Tested("AC")


async def _run(sandbox: Sandbox, code: str, given: str, limits: ProgramLimits) -> _Ran:
    settings = SandboxSettings(memory_bytes=limits.memory_bytes, seconds=limits.seconds + 5, file_bytes=_MOST_OUTPUT)
    command = [sys.executable, "-I", "-c", code.encode("utf-8", "replace").decode()]
    with tempfile.TemporaryFile() as input, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        await asyncio.to_thread(input.write, given.encode("utf-8", "replace"))
        input.seek(0)
        process = await start(sandbox, command, settings, stdin=input, stdout=output, stderr=errors)
        try:
            async with asyncio.timeout(limits.seconds):
                ended = await process.wait()
        except TimeoutError:
            return _Ran(None)
        finally:
            await process.close()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _MOST_ERRORS))
        output.seek(0)
        return _Ran(await asyncio.to_thread(output.read), errors.read().decode("utf-8", "replace"), ended)


def _verdict(ran: _Ran, test: StreamTest, limits: ProgramLimits) -> Tested:
    if ran.output is None:
        return Tested("TLE", f"ran longer than {limits.seconds:g} s")
    if ran.ended.limit == "memory":
        return Tested("MLE", f"used more than {limits.memory_bytes / MIB:.0f} MiB")
    if ran.ended.code != 0 or ran.ended.limit:
        last = ran.errors.strip().rpartition("\n")[2][:300]
        how = last or f"ended with {ran.ended.limit or ran.ended.code}"
        if last.startswith("MemoryError"):
            return Tested("MLE", how)
        return Tested("CE" if last.startswith(_SYNTAX) else "RE", how)
    said = ran.output.decode("utf-8", "replace")
    return Tested("AC") if same_output(said, test.wanted) else Tested("WA", "another output is wanted")


def same_output(said: str, wanted: str) -> bool:
    """Equal line by line, where spaces at the ends and between words do not count, and numbers count by value."""
    ours, theirs = said.strip().splitlines(), wanted.strip().splitlines()
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(said: str, wanted: str) -> bool:
    ours, theirs = said.split(), wanted.split()
    return ours == theirs or (len(ours) == len(theirs) and all(map(_same_word, ours, theirs)))


def _same_word(said: str, wanted: str) -> bool:
    if said == wanted:
        return True
    try:
        return Decimal(said) == Decimal(wanted)
    except InvalidOperation:
        return False
