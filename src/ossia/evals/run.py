"""Runs a benchmark: asks every try that the log does not hold yet, grades it, appends its row, and reports.

In: a benchmark, a solver, a plan, a folder. Out: the result, also in the folder. A run that was killed continues there.
"""

import asyncio
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from ossia.evals.core.asked_judge import JudgeModel
from ossia.evals.core.benchmark import Agreement, Ask, Benchmark, GradedRow, Outcome, Reply, Sample, TestedModel
from ossia.evals.core.data_files import CheckedData, check_data
from ossia.evals.core.run_log import RunLog, RunLogError, SampleRow, sample_row
from ossia.evals.core.solver import SamplingSettings, Solver, TryKey, tries_of
from ossia.evals.report.results import result_of
from ossia.harmony.messages import Effort, JsonObject
from ossia.task import EFFORTS, Grade
from ossia.tools.sandbox.choose import find
from ossia.tools.sandbox.settings import SandboxError

Progress = Callable[[int, int], None]
NOT_IN_ROWS = ("endpoint", "left_out")  # facts of a solver that make no other run: where it is, what it refused


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """What is run.

    - limit: this many samples, the same ones at every effort, spread over the data. repeats: None is the benchmark's own.
    - together: tries at once. force: discard the rows of another run in the folder.
    """

    efforts: tuple[Effort, ...] = ("high",)
    limit: int | None = None
    repeats: int | None = None
    seed: int = 0
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    together: int = 128
    force: bool = False


@dataclass(frozen=True, slots=True)
class OtherModels:
    """Models beside the tested one. judged_by_itself: the judge is the tested model."""

    judge: Solver | None = None
    judge_effort: Effort = "medium"
    judged_by_itself: bool = False
    user: Solver | None = None


class _Try(NamedTuple):
    key: TryKey
    sample: Sample


def chosen_samples(benchmark: Benchmark, data: Path, limit: int | None) -> list[Sample]:
    """The samples, in the data's order. A limit takes those with the lowest hashes: a larger one adds to a smaller one's."""
    samples = list(benchmark.load(data))
    if len({sample.id for sample in samples}) < len(samples):
        raise ValueError(f"{benchmark.name}: two samples of the data have one id")
    if limit is None or limit >= len(samples):
        return samples
    ranks = sorted(range(len(samples)), key=lambda i: sha256(samples[i].id.encode()).digest())
    return [samples[i] for i in sorted(ranks[:limit])]


async def run_benchmark(
    benchmark: Benchmark,
    solver: Solver,
    plan: EvalPlan,
    folder: Path,
    data: Path,
    others: OtherModels | None = None,
    say: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Run what is missing and return the result. Raises RunLogError, FileNotFoundError for data, ValueError.

    say: called with the tries done and all of them.
    """
    others = others or OtherModels()
    _check_needs(benchmark, others)
    if "sandbox" in benchmark.needs:
        await asyncio.to_thread(_check_sandbox, benchmark)
    checked = check_data(benchmark.data, data)
    samples = chosen_samples(benchmark, data, plan.limit)
    config = _config(benchmark, solver, plan, checked, others)
    facts = {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "solver": solver.facts(), **machine()}
    with RunLog(folder, config, facts, force=plan.force) as log:
        judge = None
        if others.judge is not None:
            judge = JudgeModel(others.judge, plan.seed, others.judge_effort, log.add_judged)
            judge.remember(log.judged())
        await _Run(benchmark, solver, plan, log, judge, others.user, say).all(samples)
        result = await _result(benchmark, solver, log, judge, others)
        result |= {"data_warnings": checked.warnings, "seed": plan.seed, "solver": _facts_of_all_starts(solver, log)}
        log.finish(result)
    return result


def _facts_of_all_starts(solver: Solver, log: RunLog) -> dict[str, Any]:
    """The solver's facts, with the fields that an endpoint refused at earlier starts."""
    facts = solver.facts()
    if "left_out" in facts:
        earlier = log.earlier_result().get("solver", {}).get("left_out", ())
        facts["left_out"] = sorted({*facts["left_out"], *earlier})
    return facts


def _check_needs(benchmark: Benchmark, others: OtherModels) -> None:
    if "judge" in benchmark.needs and others.judge is None:
        raise ValueError(f"{benchmark.name} is graded by a model: give --judge MODEL or --judge URL")
    if "user_model" in benchmark.needs and others.user is None:
        raise ValueError(f"{benchmark.name} needs a model that plays the user: give --user-model MODEL or URL")


def _check_sandbox(benchmark: Benchmark) -> None:
    """Before any try: without a sandbox every row would be an error."""
    try:
        find()
    except SandboxError as error:
        raise ValueError(f"{benchmark.name} runs the model's code: {error}") from error


def _config(
    benchmark: Benchmark, solver: Solver, plan: EvalPlan, checked: CheckedData, others: OtherModels
) -> JsonObject:
    """What changes the rows."""
    sampling = plan.sampling
    return {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "data": checked.hashes,
        "model": solver.name,
        "solver": {name: value for name, value in solver.facts().items() if name not in NOT_IN_ROWS},
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": min(sampling.max_tokens, benchmark.max_tokens),
        "seed": plan.seed,
        "judge": f"{others.judge.name} ({others.judge_effort})" if others.judge else None,
        "user_model": others.user.name if others.user else None,
    }


def machine() -> dict[str, str]:
    """Where and with what version a run was made."""
    from importlib.metadata import version

    return {"ossia": version("ossia"), "python": platform.python_version(), "machine": platform.machine()}


@dataclass
class _Run:
    """The tries of one run, many at once."""

    benchmark: Benchmark
    solver: Solver
    plan: EvalPlan
    log: RunLog
    judge: JudgeModel | None
    user: Solver | None
    say: Progress
    done: int = 0
    total: int = 0

    async def all(self, samples: Sequence[Sample]) -> None:
        """Ask and grade every try that the log does not hold. Tries that ended in errors are asked again."""
        held = {row.key for row in self.log.rows() if not row.error}
        tries = list(self._tries(samples))
        missing = [each for each in tries if (each.key.sample, each.key.repeat, each.key.effort) not in held]
        self.total, self.done = len(tries), len(tries) - len(missing)
        self.say(self.done, self.total)
        left = iter(missing)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.plan.together, len(missing))):
                    group.create_task(self._work(left))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed

    def _tries(self, samples: Sequence[Sample]) -> Iterator[_Try]:
        repeats = self.plan.repeats or self.benchmark.repeats
        for repeat in range(repeats):
            for effort in self.plan.efforts:
                for sample in samples:
                    yield _Try(TryKey(self.benchmark.name, sample.id, repeat, effort), sample)

    async def _work(self, left: Iterator[_Try]) -> None:
        for key, sample in left:
            row = await self._row(key, sample)
            self.log.add(row)
            self.done += 1
            self.say(self.done, self.total)

    async def _row(self, key: TryKey, sample: Sample) -> SampleRow:
        """One try. What its own code raises becomes an error of its row."""
        sampling = replace(self.plan.sampling, max_tokens=min(self.plan.sampling.max_tokens, self.benchmark.max_tokens))
        began = time.perf_counter()
        model = _Watched(self.solver.model(key, self.plan.seed, sampling))
        user = self.user.model(key, self.plan.seed + 1, SamplingSettings()) if self.user else None
        watched_user = _Watched(user) if user else None
        outcome, grade = Outcome(None, sample.question, finish="error"), Grade(0.0, "not graded")
        try:
            outcome = await self.benchmark.converse(model, sample, tries_of(self.plan.seed, key, watched_user))
            error = model.error or (watched_user.error if watched_user else "") or outcome.error
            outcome = replace(outcome, error=error, seconds=time.perf_counter() - began)
            if not error:
                grade = await self.benchmark.grade(sample, outcome, self.judge.at(key.effort) if self.judge else None)
        except (RunLogError, ImportError):  # every sample's: without a library, the score would leave samples out
            raise
        except Exception as failed:  # a sample's own: the run goes on, and the row says what failed
            outcome = replace(outcome, error=f"{type(failed).__name__}: {failed}")
        return sample_row(key, sample.cluster, sample.tags, outcome, grade)


@dataclass
class _Watched:
    """A tested model. error: of the first ask that got no answer; then the try is not graded."""

    model: TestedModel
    error: str = field(default="")

    async def __call__(self, ask: Ask) -> Reply:
        reply = await self.model(ask)
        self.error = self.error or reply.error
        return reply


async def _result(
    benchmark: Benchmark, solver: Solver, log: RunLog, judge: JudgeModel | None, others: OtherModels
) -> dict[str, Any]:
    rows = log.rows()
    by_effort: dict[Effort, list[GradedRow]] = {
        effort: [row.graded() for row in rows if row.effort == effort] for effort in EFFORTS
    }
    result = result_of(benchmark, solver.name, by_effort)
    if judge is not None:
        agreement: Agreement | None = None
        if benchmark.calibrate is not None:
            agreement = await benchmark.calibrate(judge.at("calibration"))
        result["judge"] = {
            "name": judge.name,
            "self_judged": others.judged_by_itself,
            "prompts": judge.prompts_hash(),
            "agreement": list(agreement) if agreement else None,
        }
    return result
