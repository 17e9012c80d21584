"""Scripted models and judges for benchmarks, and a small run without a log.

In: a function from what is asked to an answer. Out: a `TestedModel`, a `Judge`, or graded rows.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ossia.evals.core.benchmark import Ask, Benchmark, CallRequest, GradedRow, Reply, TestedModel, Tries
from ossia.evals.core.judging import Judge, JudgeReply
from ossia.harmony.messages import JsonObject


def reply_of(text: str | None = None, calls: Sequence[tuple[str, str]] = (), reasoning: str = "") -> Reply:
    """A reply with this final text, or with calls as (name, arguments)."""
    named = tuple(CallRequest(f"call_{number}", name, arguments) for number, (name, arguments) in enumerate(calls))
    message: JsonObject = {"role": "assistant", "content": text}
    if reasoning:
        message["reasoning"] = reasoning
    if named:
        message["tool_calls"] = [
            {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": each.arguments}}
            for each in named
        ]
    return Reply(text, message, named, reasoning, "tool_calls" if named else "stop")


@dataclass
class ScriptedAnswers:
    """A `TestedModel` made from a function. asked: every ask, in order."""

    answer: Callable[[Ask], str | Reply]
    asked: list[Ask] = field(default_factory=list[Ask])

    async def __call__(self, ask: Ask) -> Reply:
        self.asked.append(ask)
        await asyncio.sleep(0)
        said = self.answer(ask)
        return reply_of(said) if isinstance(said, str) else said


@dataclass
class ScriptedJudge:
    """A `Judge` made from a function of the prompt's last text."""

    answer: Callable[[str], str | JudgeReply]
    name: str = "scripted judge"
    asked: list[tuple[tuple[str, int, str], int]] = field(default_factory=list[tuple[tuple[str, int, str], int]])

    async def __call__(
        self, key: tuple[str, int, str], messages: Sequence[JsonObject], attempt: int = 0, max_tokens: int = 2048
    ) -> JudgeReply:
        self.asked.append((key, attempt))
        said = self.answer(str(messages[-1]["content"]))
        return JudgeReply(said) if isinstance(said, str) else said


def graded(
    benchmark: Benchmark,
    model: TestedModel,
    data: Path,
    *,
    judge: Judge | None = None,
    user_model: TestedModel | None = None,
    limit: int | None = None,
    repeats: int = 1,
) -> list[GradedRow]:
    """Every sample of a benchmark, asked and graded in order."""

    async def all_rows() -> list[GradedRow]:
        rows: list[GradedRow] = []
        for sample in islice(benchmark.load(data), limit):
            for repeat in range(repeats):
                tries = Tries(repeat, f"0/{benchmark.name}/{sample.id}/{repeat}", user_model)
                outcome = await benchmark.converse(model, sample, tries)
                grade = await benchmark.grade(sample, outcome, judge)
                rows.append(GradedRow(sample.id, repeat, sample.cluster, sample.tags, grade, outcome))
        return rows

    return asyncio.run(all_rows())


def mean(rows: Sequence[GradedRow]) -> float:
    """The mean score of rows."""
    return sum(row.grade.score for row in rows) / len(rows)
