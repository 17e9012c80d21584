"""MMLU, MMMLU and GPQA: a perfect model scores 1, a wrong one 0, and the data's faults are named."""

import csv
from pathlib import Path

import pytest

from ossia.evals.core.benchmark import Ask
from ossia.evals.tasks.multiple_choice import BENCHMARKS, GROUP_OF, LANGUAGES, MMLU_FILES
from tests.support.data_sets import shared
from tests.support.evals import ScriptedAnswers, graded, mean

MMLU, MMMLU, GPQA = BENCHMARKS
# Invented: the right option is the even number.
ROWS = [(f"Which number is even? ({start})", [start, start + 2, start + 1, start + 4]) for start in (1, 3, 5, 7, 9)]


def write_csv(path: Path, rows: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for file in MMLU_FILES:
        write_csv(folder / file.path, [[question, *options, "C"] for question, options in ROWS[:1]])
    header = ["Question", "A", "B", "C", "D", "Answer", "Subject"]
    for language in LANGUAGES:
        rows = [[question, *options, "C", "anatomy"] for question, options in ROWS]
        write_csv(folder / f"mmmlu/mmlu_{language}.csv", [header, *rows])
    right_first = [[question, options[2], options[0], options[1], options[3]] for question, options in ROWS]
    names = ["Question", "Correct Answer", *(f"Incorrect Answer {number}" for number in (1, 2, 3))]
    write_csv(folder / "gpqa/gpqa_diamond.csv", [names, *right_first])
    return folder


def letters(ask: Ask) -> tuple[str, str]:
    """The letters of the even option and of an odd one, read from the question."""
    lines = [line.strip("(").split(")") for line in str(ask.messages[-1]["content"]).splitlines()]
    options = {line[0]: int(line[1]) for line in lines if line[0] in ("A", "B", "C", "D") and len(line) == 2}
    return next(k for k, v in options.items() if v % 2 == 0), next(k for k, v in options.items() if v % 2)


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda each: each.name)
def test_a_perfect_model_is_always_right_and_a_wrong_one_never(benchmark, data: Path):
    right = graded(
        benchmark, ScriptedAnswers(lambda ask: f"Evenness decides.\n\nAnswer: {letters(ask)[0]}"), data, repeats=2
    )
    wrong = graded(benchmark, ScriptedAnswers(lambda ask: f"Answer: {letters(ask)[1]}"), data)
    silent = graded(benchmark, ScriptedAnswers(lambda ask: "I do not know."), data)
    assert mean(right) == 1
    assert mean(wrong) == mean(silent) == 0
    assert not any(row.grade.metrics["extracted"] for row in silent)
    assert len({row.sample for row in right}) * 2 == len(right), "ids are unique"


def test_figures_by_group_and_by_language(data: Path):
    rows = graded(MMLU, ScriptedAnswers(lambda ask: "Answer: C"), data)
    assert {"stem", "humanities", "social_sciences", "other", "anatomy"} <= MMLU.aggregate(rows)["by_tag"].keys()
    assert len(GROUP_OF) == 57
    rows = graded(MMMLU, ScriptedAnswers(lambda ask: "Answer: C"), data)
    assert MMMLU.aggregate(rows)["mean_of_languages"] == 1
    assert len(MMMLU.aggregate(rows)["by_tag"]) == 14


def test_gpqa_shuffles_options_for_each_try_and_equally_for_equal_seeds(data: Path):
    rows = graded(GPQA, ScriptedAnswers(lambda ask: "Answer: A"), data, repeats=8)
    again = graded(GPQA, ScriptedAnswers(lambda ask: "Answer: A"), data, repeats=8)
    orders = [row.outcome.meta["order"] for row in rows]
    assert len({tuple(order) for order in orders}) > 8
    assert orders == [row.outcome.meta["order"] for row in again]


def test_missing_and_malformed_data_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"gpqa_diamond\.csv is missing: get it from"):
        list(GPQA.load(tmp_path))
    write_csv(tmp_path / "gpqa/gpqa_diamond.csv", [["Question", "Answer"], ["?", "!"]])
    with pytest.raises(ValueError, match="no column 'Correct Answer'"):
        list(GPQA.load(tmp_path))


def test_the_held_mmlu_loads_whole():
    samples = list(MMLU.load(shared("mmlu").parent))
    assert len(samples) == len({sample.id for sample in samples}) == 14_080
