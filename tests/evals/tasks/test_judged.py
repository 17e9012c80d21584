"""SimpleQA and HealthBench over invented rows, with a scripted judge."""

import json
from pathlib import Path

import pytest

from ossia.evals.tasks.judged import BENCHMARKS
from tests.support.evals import ScriptedAnswers, ScriptedJudge, graded, mean

SIMPLEQA, *HEALTH = BENCHMARKS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for benchmark in BENCHMARKS:
        (folder / benchmark.data[0].path).parent.mkdir(exist_ok=True)
    rows = "".join(f"Who found moon {n}?,Ada {n}\n" for n in range(5))
    (folder / SIMPLEQA.data[0].path).write_text("problem,answer\n" + rows, "utf-8")
    rubrics = [
        {"criterion": "Names water", "points": 6, "tags": ["axis:accuracy", "level:example"]},
        {"criterion": "Names rest", "points": 4, "tags": ["axis:completeness"]},
        {"criterion": "Names dust", "points": -5},
    ]
    for benchmark in HEALTH:
        rows = [
            {
                "prompt_id": f"p{n}",
                "prompt": [{"role": "user", "content": f"Ache {n}?"}],
                "rubrics": rubrics,
                "example_tags": ["theme:aches"],
            }
            for n in range(5)
        ]
        (folder / benchmark.data[0].path).write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return folder


def judge_fact(prompt: str) -> str:
    target, answer = (prompt.split(f"{name}: ")[1].split("\n")[0] for name in ("Reference answer", "\nAnswer"))
    return "A" if target in answer else "C" if "know" in answer else "B"


def judge_criterion(prompt: str) -> str:
    word = prompt.split("Names ")[1].split("\n")[0]
    return json.dumps({"explanation": "", "criteria_met": word in prompt.split("assistant: ")[1].split("\n")[0]})


def test_simpleqa_counts_three_verdicts(data: Path):
    judge = ScriptedJudge(judge_fact)
    right = graded(SIMPLEQA, ScriptedAnswers(lambda ask: f"Ada {ask.messages[-1]['content'][-2]}"), data, judge=judge)
    wrong = graded(SIMPLEQA, ScriptedAnswers(lambda ask: "Bob"), data, judge=judge)
    unsure = graded(SIMPLEQA, ScriptedAnswers(lambda ask: "I do not know."), data, judge=judge)
    assert (mean(right), mean(wrong), mean(unsure)) == (1, 0, 0)
    figures = SIMPLEQA.aggregate([*right, *wrong, *unsure, *unsure])
    assert (figures["correct"], figures["not_attempted"], figures["correct_given_attempted"]) == (0.25, 0.5, 0.5)
    assert figures["f_score"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("benchmark", HEALTH, ids=lambda each: each.name)
def test_healthbench_sums_points_and_clips_after_averaging(benchmark, data: Path):
    judge = ScriptedJudge(judge_criterion)
    right = graded(benchmark, ScriptedAnswers(lambda ask: "water and rest"), data, judge=judge)
    wrong = graded(benchmark, ScriptedAnswers(lambda ask: "dust"), data, judge=judge)
    assert (mean(right), mean(wrong)) == (1, -0.5)
    assert benchmark.aggregate(wrong)["clipped_mean"] == 0
    assert benchmark.aggregate([*right, *wrong])["clipped_mean"] == 0.25
    assert mean(graded(benchmark, ScriptedAnswers(lambda ask: ""), data)) == 0


def test_healthbench_has_a_mean_of_each_theme_and_axis(data: Path):
    rows = graded(HEALTH[0], ScriptedAnswers(lambda ask: "water"), data, judge=ScriptedJudge(judge_criterion))
    assert HEALTH[0].aggregate(rows)["by_tag"] == {
        "axis:accuracy": 1.0,
        "axis:completeness": 0.0,
        "level:example": 1.0,
        "theme:aches": pytest.approx(0.6),
    }
