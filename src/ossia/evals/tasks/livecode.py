"""livecode: problems of programming contests, from the user's own file with LiveCodeBench's columns.

In: JSON lines, whose tests are plain or packed. Out: the benchmark; a try's score is 1 if its program passes all tests.
"""

import asyncio
import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ossia.evals.code.blocks import block_with
from ossia.evals.code.functions import FunctionTest, Tested, test_functions
from ossia.evals.code.passing import passing
from ossia.evals.code.place import CodeSandbox
from ossia.evals.code.programs import ProgramLimits, StreamTest, judge_program
from ossia.evals.core.benchmark import Benchmark, BenchmarkFile, Outcome, Sample, ask_once
from ossia.evals.core.data_files import check_data
from ossia.evals.core.judging import Judge
from ossia.task import Grade

_FILE = BenchmarkFile(
    "livecode/problems.jsonl", "", "huggingface.co/datasets/livecodebench/code_generation_lite (a test*.jsonl)"
)
_COLUMNS = ("question_id", "question_content", "starter_code", "public_test_cases", "private_test_cases", "metadata")
_MOST_TESTS = 512 << 20  # bytes of a problem's unpacked tests
_SECONDS = 6.0  # of a test
_MOST_SECONDS = 120.0  # of all calls of a function
_PLACE = CodeSandbox()
_IMPORTS = "import math\nfrom collections import *\nfrom typing import *\n"
_CALLS = """
import json
for given, wanted in json.loads(CASES):
    said = target(*[json.loads(line) for line in given.split("\\n")])
    assert (list(said) if isinstance(said, tuple) else said) == json.loads(wanted)
"""


class LivecodeTests(NamedTuple):
    """The tests of a problem. function: the method of `Solution` that is called; "" for programs with streams."""

    tests: list[StreamTest]
    function: str


class _TextOnly(pickle.Unpickler):
    """Reads a pickled text. Whatever names a class is refused, so that no code of the file runs."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def load_livecode(data: Path) -> Iterator[Sample]:
    """The problems in the file's order. Raises ValueError for a row without the columns."""
    check_data((_FILE,), data)
    path = data / _FILE.path
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                row: dict[str, Any] = json.loads(line)
                if missing := [name for name in _COLUMNS if name not in row]:
                    raise ValueError(f"{path}, line {number}: no column {missing[0]!r}; rows are as LiveCodeBench's")
                yield _sample(row)


def _sample(row: dict[str, Any]) -> Sample:
    starter = row["starter_code"].strip("\n")
    how = (
        f"Complete this Python code; keep its names:\n\n```python\n{starter}\n```"
        if starter.strip()
        else "Write a Python program that reads standard input and writes standard output."
    )
    text = f"{row['question_content'].strip()}\n\n{how}\n\nAnswer with the whole program in one ```python block."
    ident = str(row["question_id"])
    tags = tuple(str(row[name]) for name in ("difficulty", "platform") if row.get(name))
    cluster = str(row.get("contest_id") or ident)
    return Sample(ident, ({"role": "user", "content": text},), cluster=cluster, tags=tags, meta=row)


def livecode_tests(row: Mapping[str, Any]) -> LivecodeTests:
    """All tests of a problem, public and private. Raises ValueError if they cannot be read."""
    try:
        cases = [*json.loads(row["public_test_cases"]), *_private(row["private_test_cases"])]
        function = json.loads(row["metadata"] or "{}").get("func_name") or ""
        tests = [StreamTest(case["input"], case["output"]) for case in cases]
        functional = any(case.get("testtype") == "functional" for case in cases)
    except (ValueError, KeyError, TypeError, zlib.error, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"livecode {row['question_id']}: the tests cannot be read: {error}") from error
    if functional and not function:
        raise ValueError(f"livecode {row['question_id']}: metadata holds no func_name")
    return LivecodeTests(tests, str(function) if functional else "")


def _private(text: str) -> list[dict[str, Any]]:
    """Private tests: JSON, or JSON that was pickled, compressed and written in base64."""
    if text.lstrip().startswith("["):
        return json.loads(text)
    try:
        packed = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"neither JSON nor base64 ({error})") from error
    unpacking = zlib.decompressobj()
    plain = unpacking.decompress(packed, _MOST_TESTS)
    if unpacking.unconsumed_tail:
        raise ValueError(f"they are longer than {_MOST_TESTS} bytes")
    value: Any = _TextOnly(io.BytesIO(plain)).load()
    return json.loads(value) if isinstance(value, str | bytes) else value


async def grade_livecode(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
    """1 if all tests pass. The last block of the answer counts, or the last one that defines what is called."""
    del judge
    tests, function = await asyncio.to_thread(livecode_tests, sample.meta)
    owner = "Solution" if "class Solution" in sample.meta["starter_code"] else function
    code = block_with(outcome.text or "", owner, last=True)
    if code is None:
        return Grade(0.0, "no code in the answer", {"extracted": False})
    if function:
        tested = await _call(code, tests, function, owner)
    else:
        tested = await judge_program(_PLACE, code, tests, ProgramLimits(_SECONDS))
    return Grade(float(tested.verdict == "AC"), tested.reason, {"verdict": tested.verdict, "tests": len(tests)})


async def _call(code: str, tests: list[StreamTest], function: str, owner: str) -> Tested:
    cases = json.dumps([[given.strip(), wanted] for given, wanted in tests])
    target = f"Solution().{function}" if owner == "Solution" else function
    # what annotations of starter code use without importing it
    program = code if "from __future__" in code else f"{_IMPORTS}{code}"
    source = f"CASES = {cases!r}\ntarget = {target}\n{_CALLS}"
    seconds = min(_SECONDS * max(len(tests), 1), _MOST_SECONDS)
    test = FunctionTest(source, {owner: owner}, seconds=seconds, call_seconds=_SECONDS)
    return await test_functions(_PLACE, program, test)


BENCHMARKS = (
    Benchmark(
        name="livecode",
        version="1",
        title="Problems of programming contests, from your own file in LiveCodeBench's form",
        load=load_livecode,
        converse=ask_once,
        grade=grade_livecode,
        data=(_FILE,),
        needs=frozenset({"sandbox"}),
        aggregate=passing,
        comparable=(
            "Tests and time limit are LiveCodeBench's where the file is; prompt and judge are our own, and scores depend on "
            "the months of the problems: compare only runs on one file."
        ),
    ),
)
