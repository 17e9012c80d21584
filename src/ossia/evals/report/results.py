"""The result of a run: the score with both intervals, published values, and the shares that explain a score.

In: graded rows of each effort. Out: a JSON object. Rows with errors are left out of the score, and counted.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from ossia.evals.core.benchmark import Benchmark, GradedRow, PublishedScore
from ossia.evals.stats.comparison import against_published
from ossia.evals.stats.intervals import Interval, Question, mean_of, same_questions, sampled_questions
from ossia.harmony.messages import Effort

FEW_REPEATS = 8  # below it, the interval of the same questions covers less than it says
CUT_WARNING = 0.02


def questions_of(rows: Sequence[GradedRow]) -> dict[str, Question]:
    """The scores of each question, in the order of their repeats. Rows with errors are left out."""
    scores: dict[str, list[float]] = {}
    clusters: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: (row.sample, row.repeat)):
        if not row.outcome.error:
            scores.setdefault(row.sample, []).append(row.grade.score)
            clusters[row.sample] = row.cluster or row.sample
    return {name: Question(tuple(each), clusters[name]) for name, each in scores.items()}


def result_of(benchmark: Benchmark, model: str, rows: Mapping[Effort, Sequence[GradedRow]]) -> dict[str, Any]:
    """The result by effort. model: its name, to find its published values."""
    return {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "version": benchmark.version,
        "model": model,
        "comparable": benchmark.comparable,
        "efforts": {effort: _effort_result(benchmark, model, effort, each) for effort, each in rows.items() if each},
    }


def _effort_result(benchmark: Benchmark, model: str, effort: Effort, rows: Sequence[GradedRow]) -> dict[str, Any]:
    ordered = sorted(rows, key=lambda row: (row.sample, row.repeat))
    questions = list(questions_of(ordered).values())
    errors = sum(bool(row.outcome.error) for row in ordered)
    result: dict[str, Any] = {"questions": len(questions), "tries": len(ordered) - errors, "errors": errors}
    if questions:
        scale = benchmark.scale
        same = same_questions(questions)
        result |= {
            "score": scale * mean_of(questions),
            "same_questions": _scaled(same, scale) if same else None,
            "questions_as_sample": _scaled(sampled_questions(questions, binary=benchmark.binary), scale),
            "score_with_errors_as_0": scale * sum(row.grade.score for row in ordered if not row.outcome.error)
            / len(ordered),
            "published": [
                _published(each, model, questions, scale)
                for each in benchmark.published
                if each.effort in (effort, "")
            ],
            "further": benchmark.aggregate([row for row in ordered if not row.outcome.error]),
        }  # fmt: skip
    answered = [row for row in ordered if not row.outcome.error]
    shares = shares_of(answered)
    return {**result, **shares, "warnings": warnings_of(questions, shares, errors, len(ordered))}


def shares_of(rows: Sequence[GradedRow]) -> dict[str, Any]:
    """What stands beside a score, over the rows without errors."""
    count = max(len(rows), 1)
    reasoning = [row.outcome.usage.reasoning for row in rows]
    final = [row.outcome.usage.output - row.outcome.usage.reasoning for row in rows]
    return {
        "cut": sum(row.outcome.finish == "length" for row in rows) / count,
        "unanswered": sum(row.outcome.text is None and not row.outcome.calls for row in rows) / count,
        "unextracted": sum(row.grade.metrics.get("extracted") is False for row in rows) / count,
        "malformed": sum(bool(row.outcome.flaws) for row in rows) / count,
        "reasoning_tokens": {"mean": sum(reasoning) / count, "p95": percentile(reasoning, 0.95)},
        "final_tokens": {"mean": sum(final) / count, "p95": percentile(final, 0.95)},
        "calls": sum(map(calls_in, rows)) / count,
    }


def calls_in(row: GradedRow) -> int:
    """Calls of a try: of functions, and of tools that ran inside an answer."""
    said = [message for message in row.outcome.messages if message.get("role") == "assistant"]
    return sum(_length(message.get("tool_calls")) + _length(message.get("executed_tools")) for message in said)


def _length(value: object) -> int:
    return len(value) if isinstance(value, Sequence) else 0


def percentile(values: Sequence[int], share: float) -> int:
    """The smallest value that this share of all values does not exceed. 0 of none."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)] if values else 0


def warnings_of(questions: Sequence[Question], shares: Mapping[str, Any], errors: int, count: int) -> list[str]:
    """What a reader of the score must know first."""
    warnings: list[str] = []
    if shares["cut"] > CUT_WARNING:
        warnings.append(
            f"{shares['cut']:.1%} of the answers were cut at the limit of tokens or of the context: the score is too low"
        )
    if errors:
        warnings.append(f"{errors} of {count} tries ended in errors and are not in the score")
    if questions and 1 < min(len(each.scores) for each in questions) < FEW_REPEATS:
        warnings.append("fewer than 8 tries a question: the interval on the same questions is too narrow")
    return warnings


def _scaled(interval: Interval, scale: float) -> list[float]:
    return [scale * interval.low, scale * interval.high]


def _published(published: PublishedScore, model: str, questions: Sequence[Question], scale: float) -> dict[str, Any]:
    verdict = None
    if same_model(published.model, model):
        verdict = against_published(questions, published.value / scale)
    return {**published._asdict(), "verdict": verdict}


def same_model(published: str, model: str) -> bool:
    """Whether a model's name is that of a published value: gpt-oss-20b also in openai/gpt-oss-20b."""
    return published.lower() == model.lower().rstrip("/").rsplit("/", 1)[-1]
