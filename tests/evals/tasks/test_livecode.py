"""livecode over five invented rows in LiveCodeBench's columns: streams, methods, packed tests, and files that attack."""

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from ossia.evals.core.benchmark import Ask
from ossia.evals.tasks.livecode import BENCHMARKS, livecode_tests, load_livecode
from tests.support.evals import ScriptedAnswers, graded, mean
from tests.tools.sandbox.places import python_sandbox_or_skip

(LIVECODE,) = BENCHMARKS


def packed(cases: object) -> str:
    """As the release packs its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def stream(given: str, wanted: str) -> dict[str, str]:
    return {"input": given, "output": wanted, "testtype": "stdin"}


def call(wanted: object, *arguments: object) -> dict[str, str]:
    given = "\n".join(map(json.dumps, arguments))
    return {"input": given, "output": json.dumps(wanted), "testtype": "functional"}


def row(name: str, content: str, public: object, private: object, **more: Any) -> dict[str, Any]:
    return {
        "question_title": name, "question_content": content, "platform": "invented", "question_id": name,
        "contest_id": f"round-{name[0]}", "contest_date": "2026-01-02T00:00:00", "starter_code": "",
        "difficulty": "easy", "public_test_cases": json.dumps(public), "private_test_cases": private,
        "metadata": "{}", **more,
    }  # fmt: skip


def starter(line: str) -> str:
    return f"class Solution:\n    {line}\n        "


ROWS = [
    row("a1", "Print the sum of the n numbers of the second line.", [stream("2\n3 4\n", "7\n")], packed([stream("1\n-5\n", "-5\n")])),
    row("a2", "Print the line backwards.", [stream("abc\n", "cba\n")], json.dumps([stream("x y\n", "y x\n")])),
    row("b1", "Print n lines: i and i squared.", [stream("2\n", "1 1\n2 4\n")], packed([stream("0\n", "")]), difficulty="medium"),
    row("c1", "Return the largest gap between neighbours.", [call(4, [1, 5, 2])], packed([call(0, [7]), call(9, [0, 9])]),
        starter_code=starter("def largestGap(self, values: List[int]) -> int:"), metadata='{"func_name": "largestGap"}'),
    row("c2", "Return how often each word stands in the text, at least `least` times.", [call({"a": 2}, "a b a", 2)], packed([call({}, "", 1)]),
        starter_code=starter("def often(self, text: str, least: int) -> Dict[str, int]:"), metadata='{"func_name": "often"}'),
]  # fmt: skip
RIGHT = {
    "Print the sum": "input()\nprint(sum(map(int, input().split())))",
    "Print the line": "print(input()[::-1])",
    "Print n lines": "for i in range(1, int(input()) + 1): print(i, i * i)",
    "Return the largest": "class Solution:\n    def largestGap(self, values: List[int]) -> int:\n        return max((abs(a - b) for a, b in zip(values, values[1:])), default=0)",
    "Return how often": "class Solution:\n    def often(self, text: str, least: int) -> Dict[str, int]:\n        return {w: n for w, n in Counter(text.split()).items() if n >= least}",
}  # fmt: skip
WRONG = {
    "Print the sum": "input()\nprint(max(map(int, input().split()), default=0))",
    "Print the line": "print(input())",
    "Print n lines": "for i in range(1, int(input())): print(i, i * i)",
    "Return the largest": "class Solution:\n    def largestGap(self, values): return values[-1] - values[0]",
    "Return how often": "class Solution:\n    def often(self, text, least): return dict(Counter(text.split()))",
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    python_sandbox_or_skip()
    return written(tmp_path, ROWS)


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "livecode" / "problems.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder


def model_of(known: dict[str, str]) -> ScriptedAnswers:
    def answer(ask: Ask) -> str:
        question = str(ask.messages[0]["content"])
        return "```python\n" + next(code for start, code in known.items() if question.startswith(start)) + "\n```"

    return ScriptedAnswers(answer)


def test_perfect_and_wrong_models(data: Path):
    perfect = graded(LIVECODE, model_of(RIGHT), data)
    assert mean(perfect) == 1
    assert [(row.sample, row.cluster, row.tags) for row in perfect][2] == ("b1", "round-b", ("medium", "invented"))
    wrong = graded(LIVECODE, model_of(WRONG), data)
    assert mean(wrong) == 0
    assert {row.grade.metrics["verdict"] for row in wrong} == {"WA"}
    assert LIVECODE.aggregate(perfect) == {"pass@1": 100.0, "verdicts": {"AC": 5}}
    assert graded(LIVECODE, ScriptedAnswers(lambda ask: "No."), data, limit=1)[0].grade.metrics == {"extracted": False}


@pytest.mark.slow
def test_a_slow_method_is_over_the_time_limit(data: Path):
    slow = {
        **RIGHT,
        "Return the largest": "class Solution:\n    def largestGap(self, values):\n        while True: pass",
    }
    verdicts = [row.grade.metrics["verdict"] for row in graded(LIVECODE, model_of(slow), data)]
    assert verdicts == ["AC", "AC", "AC", "TLE", "AC"]


def test_packed_tests_run_no_code_of_the_file(tmp_path: Path):
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "harmed"),)

    attack = base64.b64encode(zlib.compress(pickle.dumps(Attack()))).decode()
    with pytest.raises(ValueError, match=r"livecode x: the tests cannot be read: it names .*mkdir"):
        livecode_tests(row("x", "", [], attack))
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("private", ["%%%", "aGVsbG8=", packed([{"in": 1}]), '["text"]'])
def test_tests_that_cannot_be_read_name_the_problem(private: str):
    with pytest.raises(ValueError, match="livecode x: the tests cannot be read"):
        livecode_tests(row("x", "", [], private))


def test_rows_without_columns_and_missing_files_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="livecodebench/code_generation_lite"):
        list(load_livecode(tmp_path))
    written(tmp_path, [ROWS[0], {"question_id": "x"}])
    with pytest.raises(ValueError, match=r"problems\.jsonl, line 2: no column 'question_content'"):
        list(load_livecode(tmp_path))
