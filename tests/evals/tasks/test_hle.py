"""Humanity's Last Exam over invented rows, with a scripted judge."""

import json
from pathlib import Path

import pytest

from ossia.evals.core.benchmark import GradedRow, Outcome
from ossia.evals.tasks.hle import BENCHMARKS, FILE, HleVerdict, figures, read_verdict
from ossia.task import Grade
from tests.support.evals import ScriptedAnswers, ScriptedJudge, graded, mean

(HLE,) = BENCHMARKS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / FILE.path).parent.mkdir()
    rows = [
        {"id": f"q{n}", "question": f"How many moons has planet {n}?", "answer": f"{n} moons", "category": "Physics"}
        for n in range(5)
    ]
    pictured = {"id": "p", "question": "What is this?", "answer": "a cat", "image": "data:image/png;base64,AAAA"}
    (folder / FILE.path).write_text("\n".join(map(json.dumps, [*rows, pictured])), "utf-8")
    return folder


def judge_answer(prompt: str) -> str:
    target = prompt.split("Correct answer: ")[1].split("\n")[0]
    answer = prompt.split("\nAnswer: ")[1].split("\n\nTake")[0]
    return json.dumps(
        {"final_answer": "", "reason": "", "correct": "yes" if target in answer else "no", "confidence": "80%"}
    )


def test_right_answers_are_1_wrong_and_missing_ones_0_and_pictures_are_left_out(data: Path):
    judge = ScriptedJudge(judge_answer)
    right = graded(
        HLE, ScriptedAnswers(lambda ask: f"Answer: {ask.messages[-1]['content'][-2]} moons"), data, judge=judge
    )
    wrong = graded(HLE, ScriptedAnswers(lambda ask: "Answer: none\nConfidence: 80%"), data, judge=judge)
    assert (len(right), mean(right), mean(wrong)) == (5, 1, 0)
    assert mean(graded(HLE, ScriptedAnswers(lambda ask: ""), data)) == 0
    assert HLE.aggregate(right) == {"calibration_error": pytest.approx(0.2), "mean_confidence": pytest.approx(0.8)}


def test_the_calibration_error_is_taken_in_bins_by_confidence():
    def row(confidence: float, score: float) -> GradedRow:
        return GradedRow("q", 0, "q", (), Grade(score, "", {"confidence": confidence}), Outcome("x", ()))

    sure, unsure = [row(1.0, 1.0)] * 100, [row(0.2, 0.0)] * 50
    # the first bin has all 50 unsure and 50 of the sure answers
    assert figures([*sure, *unsure])["calibration_error"] == pytest.approx((100 / 150 * 0.1**2) ** 0.5)
    assert figures([row(0.5, 1.0), row(0.5, 0.0)])["calibration_error"] == 0


@pytest.mark.parametrize(
    "text",
    [
        "", "yes", "correct: yes", '{"correct": true}', '{"correct": "maybe"}', '{"correct": "yes", "confidence": 140}',
        '{"correct": "yes", "confidence": "high"}', '{"correct": "no", "confidence": true}', '["yes"]', '{"correct": "yes"',
        '{"correct": "yes", "confidence": null}', 'I say {"correct": "yes"}',
    ],
)  # fmt: skip
def test_a_malformed_verdict_is_none(text: str):
    assert read_verdict(text) is None


def test_a_verdict_may_stand_in_a_fence_and_lack_a_confidence():
    assert read_verdict('```json\n{"correct": "no", "confidence": 35}\n```') == HleVerdict(False, 0.35)
    assert read_verdict('{"correct": "yes"}') == HleVerdict(True, 1.0)
