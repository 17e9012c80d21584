"""The eval of ossia-mini's tasks: an expert has full marks, a silent model none, and figures carry their intervals."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ossia.cli import app
from ossia.evals import mini
from ossia.evals.mini import Score, cases_of, evaluate
from ossia.evals.report.mini_scores import as_json, as_table
from ossia.evals.stats.intervals import wilson
from ossia.mini.tasks.catalogue import TASKS, tasks_named
from ossia.task import EFFORTS, SPLITS
from tests.evals.expert import Expert
from tests.support.engine import scripted_model
from tests.support.vocabularies import small
from tests.test_cli import ossia
from tests.test_docs import ROOT, blocks


def expert_scores(monkeypatch: pytest.MonkeyPatch, count: int = 2) -> tuple[list[Score], Any]:
    cases = cases_of(TASKS, EFFORTS, count, seed=7)
    expert = Expert([case.example for case in cases])
    monkeypatch.setattr(mini, "Engine", lambda *_, **__: expert)
    return evaluate(scripted_model(name="expert"), cases, seed=7), expert


def test_an_expert_has_full_marks_through_the_loop_and_its_tools(monkeypatch: pytest.MonkeyPatch):
    scores, expert = expert_scores(monkeypatch)
    assert {(score.family, score.split, score.effort) for score in scores} == {
        (task.name, split, effort) for task in TASKS for split in SPLITS for effort in EFFORTS
    }
    assert all(score.points == score.total == 2 for score in scores)
    assert expert.submitted > len(TASKS) * 2 * 3 * 2  # some go on after a tool's answer


def test_thinking_is_counted_in_tokens_of_analysis(monkeypatch: pytest.MonkeyPatch):
    scores, _ = expert_scores(monkeypatch)
    (story,) = [score for score in scores if (score.family, score.split, score.effort) == ("story", "train", "high")]
    examples = [
        case.example for case in cases_of(tasks_named(["story"]), ["high"], 2, seed=7) if case.example.split == "train"
    ]
    thought = sum(len(small().encode(each.thoughts["high"])) for each in examples)
    assert thought <= story.analysis_tokens <= thought + len(examples)


def test_a_model_that_says_nothing_has_no_points(monkeypatch: pytest.MonkeyPatch):
    class Silent:
        context = 4096

        def submit(self, *_: Any) -> Any:
            return SilentStream()

    class SilentStream:
        cached_tokens, written_tokens, ended = 0, 0, True

        def ready(self) -> list[Any]:
            return []

    monkeypatch.setattr(mini, "Engine", lambda *_, **__: Silent())
    scores = evaluate(scripted_model(name="expert"), cases_of(TASKS, ["low"], 1, seed=1), seed=1)
    assert all(score.points == 0 for score in scores)


def test_problems_are_the_same_at_every_effort_and_others_for_another_seed():
    cases = cases_of(TASKS, EFFORTS, 3, seed=1)
    by_effort = [[case.example for case in cases if case.effort == effort] for effort in EFFORTS]
    assert by_effort[0] == by_effort[1] == by_effort[2]
    assert [case.example for case in cases_of(TASKS, ["low"], 3, seed=2)] != by_effort[0]


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_intervals_are_those_of_the_tables(right: int, total: int, low: float, high: float):
    assert wilson(right, total) == pytest.approx((low, high), abs=1e-4)


def test_no_tries_have_no_interval():
    with pytest.raises(ValueError, match="without tries"):
        wilson(0, 0)


SCORES = [
    Score("addition", "train", "low", 1, 4, 0),
    Score("addition", "train", "high", 4, 4, 200),
    Score("addition", "held", "low", 0, 2, 0),
    Score("addition", "held", "high", 1, 2, 60),
    Score("one function", "train", "low", 2, 4, 0),
    Score("one function", "train", "high", 3, 4, 40),
    Score("one function", "held", "low", 1, 2, 0),
    Score("one function", "held", "high", 2, 2, 20),
]


def test_the_json_has_the_figures_by_effort_and_the_families_beneath():
    told = as_json(SCORES, "m", 3, 1.0)
    assert told["accuracy"] == {"low": 3 / 8, "high": 7 / 8}
    assert told["held_accuracy"] == {"low": 1 / 4, "high": 3 / 4}
    assert told["mean_analysis_tokens"] == {"low": 0.0, "high": 30.0}
    assert told["families"]["addition"]["held"]["high"]["accuracy"] == 0.5
    assert told["families"]["addition"]["train"]["high"]["interval"] == pytest.approx(list(wilson(4, 4)))
    assert told["calls_accuracy"] == {"train": {"low": 0.5, "high": 0.75}, "held": {"low": 0.5, "high": 1.0}}
    assert told["no_call_accuracy"] == {"train": {}, "held": {}}
    assert json.loads(json.dumps(told)) == told


def test_the_table_has_a_row_a_family_and_one_for_all():
    rows = as_table(SCORES).splitlines()
    assert rows[0] == "| family | low | low held | high | high held |"
    assert rows[2].startswith("| addition | 25 % [5, 70] (0) | 0 % ")
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| addition", "| one function", "| all", "| right calls"]


def test_the_command_judges_the_embedded_model_the_same_way_twice():
    arguments = (
        "eval",
        "mini",
        "--family",
        "addition",
        "--family",
        "python",
        "--count",
        "3",
        "--effort",
        "medium",
        "--seed",
        "5",
        "--json",
    )
    first, again = ossia(*arguments), ossia(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout
    told = json.loads(first.stdout)
    assert set(told["families"]) == {"addition", "python"}
    assert 0 < told["accuracy"]["medium"] <= 1  # it can add
    assert told["mean_analysis_tokens"]["medium"] > 10


def test_tasks_of_ones_own_are_judged_by_their_modules_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The module lies where the command is given, as the page on evals says."""
    (code,) = [code for code in blocks(ROOT / "docs" / "evals.md", "python") if "DOUBLES =" in code]
    (tmp_path / "doubles.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    words = ["eval", "doubles:DOUBLES", "--count", "2", "--effort", "high", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert set(told["families"]) == {"doubles"}
    assert told["families"]["doubles"]["train"]["high"]["count"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("eval", "maths"), "no benchmark 'maths': there are mini"),
        (("eval", "maths:TASKS"), "'maths:TASKS' names nothing"),
        (("eval", "ossia.task:EFFORTS"), "'ossia.task:EFFORTS' names no tasks"),
        (("eval", "tests.support.training:LETTERS"), "names what is no ossia.task.Task"),
        (("eval", "ossia.mini.tasks.catalogue:TASKS", "--family", "singing"), "no task family 'singing'"),
        (("eval", "mini", "--effort", "huge"), "effort 'huge' is none of low, medium, high"),
        (("eval", "mini", "--family", "singing"), "no task family 'singing'"),
        (("eval", "mini", "-m", "nowhere"), "no model at 'nowhere'"),
    ],
)
def test_what_cannot_be_judged_is_one_line(arguments: tuple[str, ...], said: str):
    done = ossia(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
