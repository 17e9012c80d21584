"""humaneval and mbpp: reference solutions pass, wrong ones fail, through the whole benchmark."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ossia.evals.core.benchmark import Ask, Benchmark
from ossia.evals.tasks.programs import BENCHMARKS, load_humaneval, load_mbpp
from tests.support.data_sets import shared
from tests.support.evals import ScriptedAnswers, graded, mean
from tests.tools.sandbox.places import python_sandbox_or_skip

HUMANEVAL, MBPP = BENCHMARKS
FEW = 4


def data_or_skip() -> Path:
    python_sandbox_or_skip()
    return shared("humaneval").parent


def references(benchmark: Benchmark, data: Path) -> dict[str, str]:
    """The reference program of each question."""
    return {
        str(sample.question[0]["content"]): (
            sample.meta["prompt"] + sample.meta["canonical_solution"]
            if "prompt" in sample.meta
            else sample.meta["code"]
        )
        for sample in benchmark.load(data)
    }


class _Spoil(ast.NodeTransformer):
    """Every function gives back a text that no test wants."""

    def visit_Return(self, node: ast.Return) -> ast.Return:
        return ast.copy_location(ast.Return(ast.Constant("not this")), node)


def spoiled(code: str) -> str:
    return ast.unparse(ast.fix_missing_locations(_Spoil().visit(ast.parse(code))))


def model_of(references: dict[str, str], change: Callable[[str], str] = str) -> ScriptedAnswers:
    def answer(ask: Ask) -> str:
        return f"Here:\n\n```python\n{change(references[str(ask.messages[0]['content'])])}\n```\n"

    return ScriptedAnswers(answer)


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda each: each.name)
def test_perfect_and_wrong_models(benchmark: Benchmark):
    data = data_or_skip()
    known = references(benchmark, data)
    assert mean(graded(benchmark, model_of(known), data, limit=FEW)) == 1
    wrong = graded(benchmark, model_of(known, spoiled), data, limit=FEW)
    assert mean(wrong) == 0
    assert {row.grade.metrics["verdict"] for row in wrong} <= {"WA", "RE"}
    silent = graded(benchmark, ScriptedAnswers(lambda ask: "I would rather not."), data, limit=1)
    assert silent[0].grade.metrics == {"extracted": False}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("change", [str, spoiled], ids=["reference", "spoiled"])
@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda each: each.name)
def test_all_reference_solutions_pass_and_spoiled_ones_fail(benchmark: Benchmark, change: Callable[[str], str]):
    data = data_or_skip()
    rows = graded(benchmark, model_of(references(benchmark, data), change), data)
    want = float(change is str)
    assert not [(row.sample, row.grade) for row in rows if row.grade.score != want]


def test_the_data_is_whole():
    data = data_or_skip()
    assert len(list(load_humaneval(data))) == 164
    samples = list(load_mbpp(data))
    assert [sample.id for sample in samples] == [f"mbpp/{number}" for number in range(11, 511)]
    assert all("assert" in str(sample.question[0]["content"]) for sample in samples)
    assert not any(re.search(r"canonical|def ", str(sample.question[0]["content"])) for sample in samples[:20])


def test_missing_data_names_its_source(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"github\.com/openai/human-eval"):
        list(load_humaneval(tmp_path))


def test_the_aggregate_counts_tries_of_one_problem():
    data = data_or_skip()
    known = references(HUMANEVAL, data)
    said = iter([True, False] * FEW)
    right, wrong = model_of(known), model_of(known, spoiled)
    either = ScriptedAnswers(lambda ask: right.answer(ask) if next(said) else wrong.answer(ask))
    figures = HUMANEVAL.aggregate(graded(HUMANEVAL, either, data, limit=2, repeats=2))
    assert figures["pass@1"] == 50
    assert figures["pass@2"] == 100
    assert figures["verdicts"]["AC"] == 2
