"""AIME and GSM8K: a perfect model scores 1, a wrong one 0, and the data's faults are named."""

import json
from pathlib import Path

import pytest

from ossia.evals.core.benchmark import Ask
from ossia.evals.tasks.mathematics import BENCHMARKS
from tests.support.data_sets import shared
from tests.support.evals import ScriptedAnswers, graded, mean

AIME24, AIME25, GSM8K = BENCHMARKS
SUMS = [(2, 3), (40, 60), (7, 0), (500, 99), (0, 12)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Invented problems in the form of each file."""
    folder = tmp_path_factory.mktemp("data")
    for benchmark in BENCHMARKS:
        for file in benchmark.data:
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            end = "We add.\n#### {}" if benchmark is GSM8K else "{}"
            rows = [{"question": f"{path.stem}: {a} plus {b}?", "answer": end.format(a + b)} for a, b in SUMS]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


def total(ask: Ask) -> int:
    problem = next(line for line in str(ask.messages[-1]["content"]).splitlines() if " plus " in line)
    return sum(int(word) for word in problem.strip("?").split(": ")[1].split(" plus "))


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda each: each.name)
@pytest.mark.parametrize(
    "form", ["so \\boxed{{{}}}", "\\boxed{{\\text{{{}}}}}", "Thus 3 + 4.\n\n#### {}", "Answer: **{}**"]
)
def test_a_perfect_model_is_always_right_and_a_wrong_one_never(benchmark, form: str, data: Path):
    assert mean(graded(benchmark, ScriptedAnswers(lambda ask: form.format(total(ask))), data)) == 1
    assert mean(graded(benchmark, ScriptedAnswers(lambda ask: form.format(total(ask) + 1)), data)) == 0
    silent = graded(benchmark, ScriptedAnswers(lambda ask: "I do not know."), data)
    assert mean(silent) == 0
    assert not any(row.grade.metrics["extracted"] for row in silent)


def test_the_stricter_readings_are_reported_beside_the_score(data: Path):
    rows = graded(AIME25, ScriptedAnswers(lambda ask: f"\\boxed{{\\text{{{total(ask)}}}}}"), data)
    assert AIME25.aggregate(rows) == {"simple_score": 0}
    rows = graded(GSM8K, ScriptedAnswers(lambda ask: f"It is {total(ask)}."), data)
    assert (mean(rows), GSM8K.aggregate(rows)) == (1, {"strict_score": 0})


def test_malformed_data_is_named(tmp_path: Path):
    path = tmp_path / "gsm8k/test.jsonl"
    path.parent.mkdir()
    for line, problem in (
        ("[1]", "line 1: no 'question'"),
        ("{", "line 1: not JSON"),
        ('{"question": ""}', "no 'answer'"),
    ):
        path.write_text(line, "utf-8")
        with pytest.raises(ValueError, match=problem):
            list(GSM8K.load(tmp_path))


def test_the_held_gsm8k_loads_whole_and_its_own_answers_are_right():
    folder = shared("gsm8k").parent
    solutions = [json.loads(line)["answer"] for line in (folder / "gsm8k/test.jsonl").read_text("utf-8").splitlines()]
    said = iter(solutions)
    rows = graded(GSM8K, ScriptedAnswers(lambda ask: next(said)), folder)
    assert len(rows) == 1_319
    assert mean(rows) == 1
