"""The verdict on a function comes from outside of its process, whatever its code does."""

import asyncio

import pytest

from ossia.evals.code.functions import FunctionTest, names_used, test_functions
from ossia.evals.code.passing import pass_at
from ossia.evals.code.place import CodeSandbox
from tests.tools.sandbox.places import python_sandbox_or_skip

test_functions.__test__ = False  # it is no test of ours
SECRET = 7919
ADD = FunctionTest(f"assert add(1, 2) == 3\nassert add([1], [2]) == [1, 2]\nassert add({SECRET}, 1) == {SECRET + 1}", {"add": "add"})  # fmt: skip
RIGHT = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return 3\n"


def verdict_of(code: str, test: FunctionTest = ADD, **limits: float) -> str:
    python_sandbox_or_skip()
    test = FunctionTest(test.test, test.remote, test.before, test.modules, **{"seconds": test.seconds, **limits})  # type: ignore[arg-type]
    return asyncio.run(test_functions(CodeSandbox(), code, test)).verdict


FORGERIES = {
    "prints a pass": WRONG + "print('AC'); print('[\"AC\", \"\"]', flush=True)",
    "exits with 0": WRONG + "import sys; sys.exit(0)",
    "exits at once": WRONG + "import os; os._exit(0)",
    "exits when called": "import os\ndef add(a, b):\n    os._exit(0)",
    "raises SystemExit when called": "def add(a, b):\n    raise SystemExit(0)",
    "replaces assert's error": WRONG + "import builtins\nbuiltins.AssertionError = type('Quiet', (BaseException,), {})",
    "equals everything": "class Same(int):\n    __eq__ = lambda s, o: True\n    __hash__ = int.__hash__\ndef add(a, b): return Same(3)",
    "equals everything, as an object": "class Same:\n    __eq__ = lambda s, o: True\ndef add(a, b): return Same()",
    "equals everything, as a list": "class Same(list):\n    __eq__ = lambda s, o: True\ndef add(a, b): return Same([3])",
    "writes a verdict on every descriptor": "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'[\"AC\", \"\"]\\n' * 9)\n    except OSError: pass\n" + WRONG,
    "closes every descriptor": "import os\nos.closerange(3, 64)\n" + WRONG,
    "reads the tests": "import glob\ndef add(a, b):\n    found = [open(p, 'rb').read() for p in glob.glob('/proc/*/cmdline') + glob.glob('/mnt/data/**') + glob.glob('/tmp/**')]\n    return a + b if any(b'7919' in each for each in found) else 3",
    "looks at the frames above": "import sys\ndef add(a, b):\n    f = sys._getframe()\n    while f:\n        if any('7920' in str(v) for v in f.f_locals.values()): return a + b\n        f = f.f_back\n    return 3",
    "a huge answer": "def add(a, b):\n    return 'x' * (40 << 20)",
    "a nested answer": "def add(a, b):\n    x = []\n    for _ in range(100000): x = [x]\n    return x",
    "an answer that cannot be read": WRONG + "import json\nreal = json.dumps\njson.dumps = lambda v: '[\"value\", [\"no\", 1]]'",
    "swaps the builtins of the tests": WRONG + "import builtins\nbuiltins.list = builtins.int = lambda *a: 3",
}  # fmt: skip


def test_a_right_function_passes_and_a_wrong_one_fails():
    assert verdict_of(RIGHT) == "AC"
    assert verdict_of(WRONG) == "WA"


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES)
def test_no_forgery_passes(code: str):
    assert verdict_of(code) in ("WA", "RE", "CE")


@pytest.mark.parametrize(
    ("code", "limits", "verdict"),
    [
        ("def add(a, b:\n", {}, "CE"),
        ("def sub(a, b): return a - b", {}, "CE"),
        ("def add(a, b): return a / 0", {}, "RE"),
        ("def add(a, b):\n    while True: pass", {"seconds": 1.5}, "TLE"),
        ("while True: pass", {"seconds": 1.5}, "TLE"),
        ("x = bytearray(400 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\n" + RIGHT + "import time; time.sleep(2)", {"memory_bytes": 200 << 20}, "MLE"),
        ("#" * (1 << 20) + "\n" + RIGHT, {}, "CE"),
    ],
)  # fmt: skip
def test_verdicts(code: str, limits: dict[str, float], verdict: str):
    assert verdict_of(code, **limits) in (verdict, *(["RE"] if verdict == "MLE" else []))


def test_values_and_objects_travel():
    test = """
class_made = Pair(1, 2)
class_made.b = 5
assert total([class_made, Pair(3, 4)]) == 13
assert list(lazy(3)) == [0, 1, 2]
values = [None, True, -3, 2.5, 1j, "x\\ud800", b"y", (1,), {1}, frozenset({2}), {"k": [1]}, range(3), float("inf"), int]
assert same(values) == values and [type(each) for each in same(values)] == [type(each) for each in values]
try:
    fails()
    assert False
except KeyError:
    pass
"""
    code = """
class Pair:
    def __init__(self, a, b): self.a, self.b = a, b
def total(pairs): return sum(p.a + p.b for p in pairs)
def lazy(n): return (i for i in range(n))
def same(x): return x
def fails(): raise KeyError("k")
"""
    remote, modules = names_used(test, code)
    assert {*remote} == {"Pair", "total", "lazy", "same", "fails"}
    assert not modules
    assert verdict_of(code, FunctionTest(test, remote)) == "AC"


def test_names_of_modules_are_told_from_names_of_the_code():
    remote, modules = names_used("assert math.isclose(sum(1, 2), math.pi)", "def sum(a, b): return a + b")
    assert remote == {"sum": "sum"}
    assert modules == ("math",)


def test_pass_at_k():
    assert pass_at(1, 4, 1) == 0.25
    assert pass_at(4, 4, 1) == 1.0
    assert pass_at(2, 4, 2) == pytest.approx(1 - 1 / 6)
    with pytest.raises(ValueError, match="pass@5 needs at least 5 tries, and there are 4"):
        pass_at(5, 4, 1)
