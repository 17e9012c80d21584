"""Programs with streams get the verdict that they deserve, and cannot print themselves another."""

import asyncio

import pytest

from ossia.evals.code.place import CodeSandbox
from ossia.evals.code.programs import ProgramLimits, StreamTest, judge_program, same_output
from tests.tools.sandbox.places import python_sandbox_or_skip

DOUBLES = [StreamTest("2\n", "4\n"), StreamTest("21\n", "42")]
RIGHT = "print(2 * int(input()))"


def verdict_of(code: str, seconds: float = 6.0, memory_bytes: int = 1 << 30) -> str:
    python_sandbox_or_skip()
    limits = ProgramLimits(seconds, memory_bytes)
    return asyncio.run(judge_program(CodeSandbox(), code, DOUBLES, limits)).verdict


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (RIGHT, "AC"),
        ("n = int(input())\nprint(4 if n == 2 else 43)", "WA"),
        ("", "WA"),
        ("print(AC)", "RE"),
        ("print('AC')", "WA"),
        (RIGHT + "\nimport sys; sys.exit(3)", "RE"),
        ("import os\nos._exit(0)", "WA"),
        ("import os; os.kill(os.getpid(), 9)", "RE"),
        ("print(4", "CE"),
        ("x = 1\n  y = 2", "CE"),
        ("#" * 200_000, "CE"),
        ("import sys\nsys.stderr.write('noise ' * 1000000)\n" + RIGHT, "AC"),
    ],
)
def test_verdicts(code: str, verdict: str):
    assert verdict_of(code) == verdict


def test_limits():
    assert verdict_of("while True: pass", seconds=1.0) == "TLE"
    assert verdict_of("import time\ntime.sleep(60)", seconds=1.0) == "TLE"
    assert verdict_of("x = bytearray(1 << 33)") == "MLE"
    assert verdict_of("x = bytearray(600 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nimport time; time.sleep(3)\n" + RIGHT, memory_bytes=300 << 20) == "MLE"  # fmt: skip
    assert verdict_of("import sys\nwhile True: sys.stdout.write('4' * (1 << 16))", seconds=20.0) == "RE"


@pytest.mark.parametrize(
    ("said", "wanted", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("1  2 \n3\n\n", "1 2\n3", True),
        ("1.0\n", "1", True),
        ("1e0", "1", True),
        ("1 2 3", "1 2\n3", False),
        ("1.0000001", "1", False),
        ("yes", "YES", False),
        ("", "", True),
        ("", "0", False),
    ],
)
def test_outputs_are_compared_by_words_and_values(said: str, wanted: str, same: bool):
    assert same_output(said, wanted) is same
