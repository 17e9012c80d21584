"""A run: resumed after kill -9, refused for another configuration, clear when the disk is full, judged once."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ossia.evals.core.asked_judge import JudgeModel
from ossia.evals.core.benchmark import (
    Agreement,
    Ask,
    Benchmark,
    BenchmarkFile,
    Outcome,
    PublishedScore,
    Reply,
    Sample,
    TokenCounts,
    ask_once,
)
from ossia.evals.core.judging import Judge
from ossia.evals.core.run_log import JUDGE, SAMPLES, RunLogError, read_rows
from ossia.evals.core.solver import SamplingSettings, TryKey
from ossia.evals.report.text import as_text
from ossia.evals.run import EvalPlan, OtherModels, chosen_samples, run_benchmark
from ossia.task import Grade
from ossia.tools.sandbox.settings import SandboxError
from tests.support.evals import reply_of

if TYPE_CHECKING:
    from ossia.evals.core.benchmark import TestedModel


def load_sums(data: Path) -> Iterator[Sample]:
    for number in range(40):
        question = ({"role": "user", "content": f"{number}+1"},)
        yield Sample(f"q{number}", question, str(number + 1), f"c{number // 2}", ("even",) if number % 2 == 0 else ())


async def grade_equal(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
    return Grade(float(outcome.text == sample.target), "compared", {"extracted": outcome.text is not None})


SUMS = Benchmark(
    "sums",
    "1",
    "Sums",
    load_sums,
    ask_once,
    grade_equal,
    repeats=2,
    published=(PublishedScore("gpt-oss-20b", "high", 90.0, "card"),),
    comparable="Made up.",
)


@dataclass
class ScriptedSolver:
    """A solver made from a function of the ask and its key."""

    answer: Callable[[Ask, TryKey], Reply | str]
    name: str = "gpt-oss-20b"
    asked: list[TryKey] = field(default_factory=list[TryKey])
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        return {"model": self.name}

    def model(self, key: TryKey, seed: int, sampling: SamplingSettings) -> "TestedModel":
        async def answer(ask: Ask) -> Reply:
            self.asked.append(key)
            await asyncio.sleep(self.seconds)
            said = self.answer(ask, key)
            return replace(reply_of(said), usage=TokenCounts(5, 9, 4)) if isinstance(said, str) else said

        return answer

    async def close(self) -> None:
        pass


def right(ask: Ask, key: TryKey) -> str:
    first, second = str(ask.messages[-1]["content"]).split("+")
    return str(int(first) + int(second))


def half_right(ask: Ask, key: TryKey) -> str:
    return right(ask, key) if random.Random(f"{key}").random() < 0.5 else "wrong"


def run(solver: ScriptedSolver, folder: Path, benchmark: Benchmark = SUMS, **plan: Any) -> dict[str, Any]:
    others = plan.pop("others", None)
    return asyncio.run(run_benchmark(benchmark, solver, EvalPlan(**plan), folder, folder, others))


def rows_of(folder: Path) -> dict[Any, dict[str, Any]]:
    """Rows by key, without the time that they took."""
    lines = [json.loads(line) for line in (folder / SAMPLES).read_text().splitlines()]
    return {(row["sample"], row["repeat"], row["effort"]): {**row, "seconds": 0} for row in lines}


def test_a_perfect_model_has_100_and_a_wrong_one_0(tmp_path: Path):
    perfect = run(ScriptedSolver(right), tmp_path / "right", efforts=("low", "high"))
    assert [each["score"] for each in perfect["efforts"].values()] == [100.0, 100.0]
    high = perfect["efforts"]["high"]
    assert (high["questions"], high["tries"], high["errors"]) == (40, 80, 0)
    assert high["published"][0]["verdict"] == "above"
    assert (high["reasoning_tokens"], high["final_tokens"]) == ({"mean": 4.0, "p95": 4}, {"mean": 5.0, "p95": 5})
    assert not perfect["efforts"]["low"]["published"]
    wrong = run(ScriptedSolver(lambda *_: "no"), tmp_path / "wrong")
    assert wrong["efforts"]["high"]["score"] == 0.0
    assert "same questions" in as_text(wrong)
    assert "below the published value" in as_text(wrong)


def test_long_figures_are_cut_in_the_terminal(tmp_path: Path):
    by_subject = replace(SUMS, aggregate=lambda rows: {"by_tag": {f"t{n}": 0.5 for n in range(40)}})
    text = as_text(run(ScriptedSolver(right), tmp_path, by_subject))
    assert "t11 0.5, and 28 more in result.json" in text


def test_a_run_that_was_done_asks_nothing_again(tmp_path: Path):
    first, second = ScriptedSolver(half_right), ScriptedSolver(half_right)
    assert run(first, tmp_path) == run(second, tmp_path)
    assert (len(first.asked), len(second.asked)) == (80, 0)
    more = ScriptedSolver(half_right)
    run(more, tmp_path, repeats=3)
    assert len(more.asked) == 40


def test_a_torn_last_line_is_asked_again(tmp_path: Path):
    run(ScriptedSolver(half_right), tmp_path)
    before = rows_of(tmp_path)
    text = (tmp_path / SAMPLES).read_bytes()
    (tmp_path / SAMPLES).write_bytes(text[:-30])
    assert len(read_rows(tmp_path)) == 79
    again = ScriptedSolver(half_right)
    run(again, tmp_path)
    assert len(again.asked) == 1
    assert rows_of(tmp_path) == before


def test_another_configuration_is_refused_until_forced(tmp_path: Path):
    run(ScriptedSolver(right), tmp_path)
    with pytest.raises(RunLogError, match="seed is 0 there and 1 here"):
        run(ScriptedSolver(right), tmp_path, seed=1)
    forced = ScriptedSolver(right)
    run(forced, tmp_path, seed=1, force=True)
    assert len(forced.asked) == 80


def test_errors_are_rows_that_are_left_out_and_asked_again(tmp_path: Path):
    def failing(ask: Ask, key: TryKey) -> Reply | str:
        return replace(reply_of(), finish="error", error="HTTP 500") if key.sample == "q3" else right(ask, key)

    result = run(ScriptedSolver(failing), tmp_path)["efforts"]["high"]
    assert (result["score"], result["errors"], result["tries"]) == (100.0, 2, 78)
    assert result["score_with_errors_as_0"] == pytest.approx(97.5)
    assert "2 of 80 tries ended in errors" in result["warnings"][0]
    later = ScriptedSolver(right)
    assert run(later, tmp_path)["efforts"]["high"]["errors"] == 0
    assert len(later.asked) == 2


def test_a_missing_library_stops_the_run(tmp_path: Path):
    async def without_library(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
        if sample.id == "q5":
            raise ImportError("sums need abacus: pip install abacus")
        return await grade_equal(sample, outcome, judge)

    with pytest.raises(ImportError, match="abacus"):
        run(ScriptedSolver(right), tmp_path, replace(SUMS, grade=without_library))
    assert run(ScriptedSolver(right), tmp_path)["efforts"]["high"]["score"] == 100.0


def test_cut_answers_are_warned_about(tmp_path: Path):
    def cut(ask: Ask, key: TryKey) -> Reply | str:
        return replace(reply_of(), finish="length") if key.sample in ("q1", "q2") else right(ask, key)

    result = run(ScriptedSolver(cut), tmp_path)["efforts"]["high"]
    assert (result["cut"], result["unanswered"], result["unextracted"]) == (0.05, 0.05, 0.05)
    assert "5.0% of the answers were cut" in result["warnings"][0]


def test_a_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write = os.write
    written: list[int] = []

    def filling(file: int, data: bytes) -> int:
        if data.startswith(b'{"sample"'):
            written.append(1)
            if len(written) > 10:
                return write(file, data[:7])
        return write(file, data)

    monkeypatch.setattr(os, "write", filling)
    with pytest.raises(RunLogError, match=r"No space left on device\. The rows so far are kept"):
        run(ScriptedSolver(half_right), tmp_path)
    monkeypatch.undo()
    assert len(rows_of(tmp_path)) == 10
    run(ScriptedSolver(half_right), tmp_path)
    run(ScriptedSolver(half_right), tmp_path / "unbroken")
    assert rows_of(tmp_path) == rows_of(tmp_path / "unbroken")


def test_two_processes_do_not_write_one_log(tmp_path: Path):
    run(ScriptedSolver(right), tmp_path)
    with (tmp_path / SAMPLES).open() as file:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunLogError, match="another process"):
            run(ScriptedSolver(right), tmp_path)


async def grade_by_judge(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
    assert judge is not None
    said = await judge((sample.id, 0, "equal"), [{"role": "user", "content": f"{outcome.text}={sample.target}"}])
    return Grade(float(said.text == "yes"), said.text)


async def calibrate(judge: Judge) -> Agreement:
    said = [await judge((str(n), 0, "known"), [{"role": "user", "content": f"{n}=2"}]) for n in (1, 2)]
    return Agreement(sum(one.text == known for one, known in zip(said, ("no", "yes"), strict=True)), 2)


def test_a_judges_answer_is_asked_once_and_kept(tmp_path: Path):
    def equal(ask: Ask, key: TryKey) -> str:
        first, second = str(ask.messages[-1]["content"]).split("=")
        return "yes" if first == second else "no"

    judged = replace(SUMS, grade=grade_by_judge, needs=frozenset(("judge",)), calibrate=calibrate)
    with pytest.raises(ValueError, match="--judge"):
        run(ScriptedSolver(right), tmp_path, judged)
    judge = ScriptedSolver(equal, "judge")
    result = run(ScriptedSolver(right), tmp_path, judged, others=OtherModels(judge=judge, judged_by_itself=True))
    assert result["efforts"]["high"]["score"] == 100.0
    assert result["judge"]["agreement"] == [2, 2]
    assert "self-judged" in as_text(result)
    asked = len(judge.asked)
    assert asked == 42  # equal prompts of both repeats, and the calibration
    # a new grade asks neither the model nor the judge
    (tmp_path / SAMPLES).write_text("")
    again = ScriptedSolver(right)
    run(again, tmp_path, judged, others=OtherModels(judge=judge))
    assert (len(again.asked), len(judge.asked)) == (80, asked)
    assert len((tmp_path / JUDGE).read_text().splitlines()) == asked


def test_a_judges_error_is_asked_again_at_the_next_start():
    model = JudgeModel(ScriptedSolver(lambda *_: replace(reply_of(), error="down"), "judge"), 0)

    async def ask() -> str:
        return (await model.at("high")(("s", 0, "p"), [{"role": "user", "content": "?"}])).error

    assert asyncio.run(ask()) == "down"


def test_data_that_is_missing_or_differs_is_named(tmp_path: Path):
    known = BenchmarkFile("sums.csv", "ab" * 32, "https://example.org/sums")
    benchmark = replace(SUMS, data=(known,))
    with pytest.raises(FileNotFoundError, match=r"sums\.csv is missing \(sha256 abab.*https://example\.org/sums"):
        run(ScriptedSolver(right), tmp_path, benchmark)
    (tmp_path / "sums.csv").write_text("other")
    assert "data differs" in as_text(run(ScriptedSolver(right), tmp_path, benchmark))


def test_a_larger_limit_adds_to_a_smaller_one(tmp_path: Path):
    few = [sample.id for sample in chosen_samples(SUMS, tmp_path, 10)]
    more = [sample.id for sample in chosen_samples(SUMS, tmp_path, 20)]
    assert len(few) == 10
    assert set(few) < set(more)


KILLED = """
import sys
from pathlib import Path
from tests.evals.test_run import ScriptedSolver, half_right, run
run(ScriptedSolver(half_right, seconds=0.02), Path(sys.argv[1]), together=4)
"""


def killed_and_resumed(folder: Path, kills: int, seed: int) -> None:
    """Runs that are killed at random moments, then one that may finish."""
    rng = random.Random(seed)
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)])
        end = time.monotonic() + 60
        before = (folder / SAMPLES).stat().st_size if (folder / SAMPLES).exists() else 0
        while process.poll() is None and time.monotonic() < end:
            if (folder / SAMPLES).exists() and (folder / SAMPLES).stat().st_size > before:
                time.sleep(rng.random() * 0.02)
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(ScriptedSolver(half_right), folder)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_and_resume_gives_the_rows_of_an_unbroken_run(tmp_path: Path, kills: int):
    killed_and_resumed(tmp_path / "killed", kills, seed=kills)
    result = run(ScriptedSolver(half_right), tmp_path / "unbroken")
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "unbroken")
    assert json.loads((tmp_path / "killed" / "result.json").read_text()) == result


def test_code_is_not_asked_for_where_no_sandbox_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def none_works() -> None:
        raise SandboxError("no sandbox works here: user: namespaces are off")

    monkeypatch.setattr("ossia.evals.run.find", none_works)
    solver = ScriptedSolver(right)
    with pytest.raises(ValueError, match="sums runs the model's code: no sandbox works here: user: namespaces are off"):
        run(solver, tmp_path, replace(SUMS, needs=frozenset(("sandbox",))))
    assert not solver.asked
