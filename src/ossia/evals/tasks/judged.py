"""SimpleQA and HealthBench: answers that a judge grades.

In: the user's CSV and JSON lines. Out: `simpleqa`, `healthbench`, `healthbench_hard`, `healthbench_consensus`.
The judge's prompts are in our own words.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ossia.evals.core.benchmark import (
    Agreement,
    Benchmark,
    BenchmarkFile,
    GradedRow,
    Outcome,
    PublishedScore,
    Sample,
    ask_once,
)
from ossia.evals.core.data_files import check_data
from ossia.evals.core.judging import Judge
from ossia.evals.judges.calibration import agreement
from ossia.evals.judges.verdicts import criterion_met, three_way, verdict_of
from ossia.evals.tasks.card import card_row
from ossia.evals.tasks.mathematics import json_lines
from ossia.evals.tasks.multiple_choice import identity, records, user
from ossia.task import Grade

SIMPLEQA_FILE = BenchmarkFile("simpleqa/simple_qa_test_set.csv", source="github.com/openai/simple-evals (SimpleQA)")
HEALTH_SOURCE = "github.com/openai/simple-evals (HealthBench)"
HEALTH_NAMES = {
    "healthbench": "2025-05-07-06-14-12_oss_eval.jsonl",
    "healthbench_hard": "hard_2025-05-08-21-00-10.jsonl",
    "healthbench_consensus": "consensus_2025-05-09-20-00-46.jsonl",
}
SIMPLEQA_PROMPT = """Compare an answer with the reference answer of a question about a fact.

A: the answer states all that the reference states, and nothing that contradicts it.
B: the answer contradicts the reference anywhere, even if it hedges.
C: the answer leaves the fact open and contradicts nothing.

Other wording, and more detail than asked for, is fine. Numbers must agree to the last digit of the reference.

Question: {question}
Reference answer: {target}
Answer: {answer}

Reply with one letter alone: A, B or C."""
HEALTH_PROMPT = """Decide whether the last message of a conversation meets one criterion.

Conversation:
{conversation}

Criterion: {criterion}

A criterion with several parts is met only if all are. Examples after "such as" need not all appear.
A criterion may describe a fault: it is met if the message has that fault.

Reply with a JSON object alone: {{"explanation": "why, in a sentence", "criteria_met": true or false}}"""


class Criterion(NamedTuple):
    """One item of a rubric. tags: what it measures, as "axis:accuracy"."""

    text: str
    points: float
    tags: tuple[str, ...] = ()


def load_simpleqa(folder: Path) -> Iterator[Sample]:
    check_data((SIMPLEQA_FILE,), folder)
    for _, row in records(folder / SIMPLEQA_FILE.path, ("problem", "answer")):
        ident = identity(row["problem"], row["answer"])
        yield Sample(ident, user(row["problem"]), row["answer"], ident, meta={"question": row["problem"]})


async def grade_simpleqa(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
    """1 for a correct answer. Metrics: the verdict. No final answer is not attempted, without a judge."""
    verdict = "not_attempted"
    if outcome.text and outcome.text.strip():
        prompt = SIMPLEQA_PROMPT.format(question=sample.meta["question"], target=sample.target, answer=outcome.text)
        verdict = await verdict_of(needed(judge), (sample.id, 0, identity(outcome.text)), prompt, three_way)
    return Grade(float(verdict == "correct"), verdict, {"verdict": verdict, "extracted": bool(outcome.text)})


async def calibrate_simpleqa(judge: Judge) -> Agreement:
    return await agreement(
        judge,
        "facts",
        lambda item: SIMPLEQA_PROMPT.format(question=item["question"], target=item["reference"], answer=item["answer"]),
        three_way,
    )


def simpleqa_figures(rows: Sequence[GradedRow]) -> dict[str, Any]:
    """Shares of the verdicts, and the harmonic mean of correct and correct given attempted."""
    counts = Counter(str(row.grade.metrics["verdict"]) for row in rows if "verdict" in row.grade.metrics)
    total, attempted = counts.total(), counts["correct"] + counts["incorrect"]
    if not total:
        return {}
    correct, given = counts["correct"] / total, counts["correct"] / attempted if attempted else 0.0
    shares = {name: counts[name] / total for name in ("correct", "incorrect", "not_attempted")}
    f_score = 2 * correct * given / (correct + given) if correct + given else 0.0
    return {**shares, "correct_given_attempted": given, "f_score": f_score}


def load_healthbench(name: str, folder: Path) -> Iterator[Sample]:
    file = health_file(name)
    check_data((file,), folder)
    path = folder / file.path
    for row in map(dict[str, Any], json_lines(path, "prompt_id", "prompt", "rubrics", "example_tags")):
        rubrics = [
            Criterion(str(item["criterion"]), float(item["points"]), tuple(map(str, item.get("tags") or ())))
            for item in row["rubrics"]
        ]
        if not any(each.points > 0 for each in rubrics):
            raise ValueError(f"{path}, prompt {row['prompt_id']}: no criterion with positive points")
        ident = str(row["prompt_id"])
        yield Sample(ident, tuple(row["prompt"]), None, ident, tuple(row["example_tags"]), {"rubrics": rubrics})


async def grade_healthbench(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
    """Points of the criteria that are met, over all positive points; may be below 0. No final answer meets none."""
    rubrics: list[Criterion] = list(sample.meta["rubrics"])
    met = [False] * len(rubrics)
    if outcome.text and outcome.text.strip():
        said = [*sample.question, {"role": "assistant", "content": outcome.text}]
        conversation = "\n\n".join(f"{message['role']}: {message['content']}" for message in said)
        for number, (criterion, points, _) in enumerate(rubrics):
            prompt = HEALTH_PROMPT.format(conversation=conversation, criterion=f"[{points:g} points] {criterion}")
            key = (sample.id, 0, f"{number}/{identity(outcome.text)}")
            met[number] = await verdict_of(needed(judge), key, prompt, criterion_met)
    gained, possible = _points(rubrics, met)
    tags = sorted({tag for each in rubrics for tag in each.tags})
    parts = {tag: _points(rubrics, met, tag) for tag in tags}
    by_tag = {tag: got / most for tag, (got, most) in parts.items() if most}
    metrics = {"met": met, "by_tag": by_tag, "extracted": bool(outcome.text)}
    return Grade(gained / possible, f"{gained:g} of {possible:g} points", metrics)


def _points(rubrics: Sequence[Criterion], met: Sequence[bool], tag: str = "") -> tuple[float, float]:
    """The points of the criteria that are met, and all positive points; of those with a tag, if one is given."""
    chosen = [(each.points, good) for each, good in zip(rubrics, met, strict=True) if not tag or tag in each.tags]
    return sum(points for points, good in chosen if good), sum(points for points, _ in chosen if points > 0)


async def calibrate_healthbench(judge: Judge) -> Agreement:
    return await agreement(
        judge,
        "criteria",
        lambda item: HEALTH_PROMPT.format(
            conversation=item["conversation"], criterion=f"[1 points] {item['criterion']}"
        ),
        criterion_met,
    )


def healthbench_figures(rows: Sequence[GradedRow]) -> dict[str, Any]:
    """The mean, clipped to 0 and 1 after averaging as OpenAI does, and its bootstrap error over 1,000 draws.

    by_tag: the same mean of each theme (of samples), and of each axis and level (of criteria).
    """
    scores = [row.grade.score for row in rows]
    if not scores:
        return {}
    rng = random.Random("healthbench")
    draws = [clipped_mean(rng.choices(scores, k=len(scores))) for _ in range(1_000)]
    middle = sum(draws) / len(draws)
    error = (sum((draw - middle) ** 2 for draw in draws) / len(draws)) ** 0.5
    figures: dict[str, Any] = {"clipped_mean": clipped_mean(scores), "bootstrap_error": error}
    by_tag: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for tag, score in (*row.grade.metrics.get("by_tag", {}).items(), *((tag, row.grade.score) for tag in row.tags)):
            by_tag[tag].append(score)
    return {**figures, "by_tag": {tag: clipped_mean(found) for tag, found in sorted(by_tag.items())}}


def clipped_mean(scores: Sequence[float]) -> float:
    return min(1.0, max(0.0, sum(scores) / len(scores)))


def health_file(name: str) -> BenchmarkFile:
    return BenchmarkFile(f"healthbench/{HEALTH_NAMES[name]}", source=HEALTH_SOURCE)


def needed(judge: Judge | None) -> Judge:
    if judge is None:
        raise ValueError("this benchmark needs a judge: name one with --judge")
    return judge


def healthbench(
    name: str, title: str, large: Sequence[float], small: Sequence[float], others: tuple[float, float, float]
) -> Benchmark:
    return Benchmark(
        name, "1", title, partial(load_healthbench, name), ask_once, grade_healthbench,
        data=(health_file(name),), needs=frozenset({"judge"}), aggregate=healthbench_figures, binary=False,
        calibrate=calibrate_healthbench,
        published=card_row(large, small, o3_mini=others[0], o4_mini=others[1], o3=others[2]),
        comparable="Same data and points; the judge and the words of its prompt are not OpenAI's (gpt-4.1), and"
        " judges differ by several points. Compare `clipped_mean`.",
    )  # fmt: skip


BENCHMARKS = (
    Benchmark(
        "simpleqa", "1", "SimpleQA", load_simpleqa, ask_once, grade_simpleqa,
        data=(SIMPLEQA_FILE,), needs=frozenset({"judge"}), aggregate=simpleqa_figures, calibrate=calibrate_simpleqa,
        published=(
            PublishedScore("gpt-oss-120b", "high", 16.8, "gpt-oss model card"),
            PublishedScore("gpt-oss-20b", "high", 6.7, "gpt-oss model card"),
        ),
        comparable="Same data and three verdicts; the judge and the words of its prompt are not OpenAI's.",
    ),
    healthbench("healthbench", "HealthBench", (53.0, 55.9, 57.6), (40.4, 41.8, 42.5),
                (37.8, 50.1, 59.8)),
    healthbench("healthbench_hard", "HealthBench Hard", (22.8, 26.9, 30.0), (9.0, 12.9, 10.8),
                (4.0, 17.5, 31.6)),
    healthbench("healthbench_consensus", "HealthBench Consensus", (90.6, 90.8, 89.9), (84.9, 83.0, 82.6),
                (91.1, 91.8, 92.8)),
)  # fmt: skip
