"""humaneval and mbpp: Python functions, tested in the sandbox.

In: the two data sets, from files. Out: the benchmarks; a try's score is 1 if all tests of its problem pass.
"""

import gzip
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ossia.evals.code.blocks import block_with, defines
from ossia.evals.code.functions import FunctionTest, Tested, names_used, test_functions
from ossia.evals.code.passing import passing
from ossia.evals.code.place import CodeSandbox
from ossia.evals.core.benchmark import Benchmark, BenchmarkFile, Outcome, PublishedScore, Sample, ask_once
from ossia.evals.core.data_files import check_data
from ossia.evals.core.judging import Judge
from ossia.task import Grade

_HUMANEVAL = BenchmarkFile(
    "humaneval/HumanEval.jsonl.gz",
    "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
    "github.com/openai/human-eval, data/HumanEval.jsonl.gz",
)
_MBPP = BenchmarkFile(
    "mbpp/mbpp.jsonl",
    "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f",
    "github.com/google-research/google-research, mbpp/mbpp.jsonl",
)
_MBPP_TEST = range(11, 511)  # task ids of the test split
_PLACE = CodeSandbox()


def load_humaneval(data: Path) -> Iterator[Sample]:
    """The 164 problems."""
    check_data((_HUMANEVAL,), data)
    with gzip.open(data / _HUMANEVAL.path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row: dict[str, Any] = json.loads(line)
            text = (
                "Complete this Python function. Answer with the whole function, its imports included, in one "
                f"```python block.\n\n```python\n{row['prompt'].rstrip()}\n```"
            )
            name = row["task_id"]
            yield Sample(name, ({"role": "user", "content": text},), row["canonical_solution"], name, meta=row)


def humaneval_program(answer: str, prompt: str, name: str) -> str | None:
    """The program of an answer: a whole function behind what stands before it in the prompt, or a body behind the prompt."""
    code = block_with(answer, name)
    if code is None:
        return None
    if defines(code, name):
        start = re.search(rf"^(?:async\s+)?def\s+{re.escape(name)}\b", prompt, re.M)
        before = prompt[: start.start()] if start else ""
        return f"{before}\n{code}\n"
    body = code if code[:1] in (" ", "\t") else textwrap.indent(code, "    ")
    return f"{prompt.rstrip()}\n{body}\n"


async def grade_humaneval(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
    """1 if `check` of the data passes."""
    del judge
    row = sample.meta
    name: str = row["entry_point"]
    program = humaneval_program(outcome.text or "", row["prompt"], name)
    test = FunctionTest(
        f"{row['test']}\ncheck(candidate)\n", remote={"candidate": name, name: name}, before=row["prompt"]
    )
    return await _graded(program, test)


def load_mbpp(data: Path) -> Iterator[Sample]:
    """The 500 problems of the test split."""
    check_data((_MBPP,), data)
    with (data / _MBPP.path).open(encoding="utf-8") as lines:
        for line in lines:
            row: dict[str, Any] = json.loads(line)
            if row["task_id"] in _MBPP_TEST:
                yield mbpp_sample(row)


def mbpp_sample(row: dict[str, Any]) -> Sample:
    """One problem: its text and its three tests, which the model sees."""
    tests = "\n".join(row["test_list"])
    text = (
        f"{row['text']}\n\nYour code should pass these tests:\n\n```python\n{tests}\n```\n\n"
        "Answer with the whole code in one ```python block, without the tests."
    )
    name = f"mbpp/{row['task_id']}"
    return Sample(name, ({"role": "user", "content": text},), row["code"], name, meta=row)


def mbpp_test(row: Any) -> FunctionTest:
    """The asserts of a problem, behind their own preparation."""
    source = "\n".join([row["test_setup_code"], *row["test_list"]]).replace("\r\n", "\n")
    remote, modules = names_used(source, row["code"].replace("\r\n", "\n"))
    return FunctionTest(source, remote, modules=modules)


async def grade_mbpp(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
    """1 if all asserts of the data pass. Of several blocks the last one that defines the function counts."""
    del judge
    test = mbpp_test(sample.meta)
    called = re.search(r"\b(" + "|".join(map(re.escape, test.remote)) + r")\(", sample.meta["test_list"][0])
    return await _graded(block_with(outcome.text or "", called[1] if called else "", last=True), test)


async def _graded(program: str | None, test: FunctionTest) -> Grade:
    if program is None:
        return Grade(0.0, "no code in the answer", {"extracted": False})
    tested: Tested = await test_functions(_PLACE, program, test)
    return Grade(float(tested.verdict == "AC"), tested.reason, {"verdict": tested.verdict})


_SIMPLE_EVALS = "README of simple-evals"
BENCHMARKS = (
    Benchmark(
        name="humaneval",
        version="1",
        title="HumanEval: 164 Python functions from their docstrings",
        load=load_humaneval,
        converse=ask_once,
        grade=grade_humaneval,
        data=(_HUMANEVAL,),
        needs=frozenset({"sandbox"}),
        aggregate=passing,
        published=(
            PublishedScore("o4-mini", "high", 99.3, _SIMPLE_EVALS),
            PublishedScore("o3", "", 88.4, _SIMPLE_EVALS, "default effort"),
            PublishedScore("o3-mini", "high", 97.6, _SIMPLE_EVALS),
        ),
        comparable=(
            "Same problems and tests as the published figures; the prompt is our own, code gets 10 s instead of 3 s, and "
            "nothing is published for gpt-oss."
        ),
    ),
    Benchmark(
        name="mbpp",
        version="1",
        title="MBPP: 500 short Python programs from a sentence and three tests",
        load=load_mbpp,
        converse=ask_once,
        grade=grade_mbpp,
        data=(_MBPP,),
        needs=frozenset({"sandbox"}),
        aggregate=passing,
        comparable="Same problems and tests as others use, asked without examples; nothing is published for these models.",
    ),
)
