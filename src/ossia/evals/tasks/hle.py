"""Humanity's Last Exam: short answers that a judge compares, and how well the model's confidence fits.

In: the user's JSON lines. Out: `hle`. Questions with a picture are left out and counted by the loader's error if none
is left: the model reads text. The judge's prompt is in our own words.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ossia.evals.core.benchmark import Agreement, Benchmark, BenchmarkFile, GradedRow, Outcome, Sample, ask_once
from ossia.evals.core.data_files import check_data
from ossia.evals.core.judging import Judge
from ossia.evals.judges.calibration import agreement
from ossia.evals.judges.verdicts import verdict_of
from ossia.evals.tasks.card import card_row
from ossia.evals.tasks.judged import needed
from ossia.evals.tasks.mathematics import json_lines
from ossia.evals.tasks.multiple_choice import identity
from ossia.task import Grade

FILE = BenchmarkFile("hle/test.jsonl", source="huggingface.co/datasets/cais/hle (ask for access), as JSON lines")
BIN = 100  # answers of one bin of the calibration error
SYSTEM = """Answer in this form:
Explanation: why
Answer: the answer, short
Confidence: how sure you are, from 0% to 100%"""
PROMPT = """Compare an answer with the correct answer of a question. Do not solve the question yourself.

Question: {question}
Correct answer: {target}
Answer: {answer}

Take the final answer from the text. It is correct if it means the same as the correct answer; numbers may differ by
rounding alone. An answer that is missing, or that leaves the choice open, is not correct.

Reply with a JSON object alone:
{{"final_answer": "as in the text, or none", "reason": "a sentence", "correct": "yes" or "no", "confidence": 0 to 100}}
Confidence is the one that the text states, and 100 if it states none."""


class HleVerdict(NamedTuple):
    """confidence: the model's own, from 0 to 1."""

    correct: bool
    confidence: float


def read_verdict(text: str) -> HleVerdict | None:
    """The verdict of a JSON object, with or without a fence; None for anything else."""
    bare = re.sub(r"\A\s*```(?:json)?\s*|\s*```\s*\Z", "", text, flags=re.IGNORECASE)
    try:
        value = json.loads(bare)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("correct") not in ("yes", "no"):
        return None
    confidence = value.get("confidence", 100)
    if isinstance(confidence, str) and re.fullmatch(r"\d{1,3}(\.\d+)? ?%?", confidence):
        confidence = float(confidence.rstrip(" %"))
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 <= confidence <= 100:
        return None
    return HleVerdict(value["correct"] == "yes", confidence / 100)


def load(folder: Path) -> Iterator[Sample]:
    check_data((FILE,), folder)
    path, found = folder / FILE.path, 0
    for row in map(dict[str, Any], json_lines(path, "id", "question", "answer")):
        if row.get("image"):
            continue
        found += 1
        question = str(row["question"])
        asked = ({"role": "system", "content": SYSTEM}, {"role": "user", "content": question})
        tags = tuple(str(row[key]) for key in ("category", "answer_type") if row.get(key))
        ident = str(row["id"])
        yield Sample(ident, asked, str(row["answer"]), ident, tags, {"question": question})
    if not found:
        raise ValueError(f"{path}: every question has a picture, which this model cannot read")


async def grade(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
    """1 for a correct answer. Metrics: the confidence. No final answer is wrong, without a judge."""
    if not (outcome.text and outcome.text.strip()):
        return Grade(0.0, "no final answer", {"extracted": False})
    prompt = PROMPT.format(question=sample.meta["question"], target=sample.target, answer=outcome.text)
    key = (sample.id, 0, identity(outcome.text))
    verdict = await verdict_of(needed(judge), key, prompt, read_verdict)
    return Grade(float(verdict.correct), "right" if verdict.correct else "wrong", {"confidence": verdict.confidence})


async def calibrate(judge: Judge) -> Agreement:
    return await agreement(
        judge,
        "exam",
        lambda item: PROMPT.format(question=item["question"], target=item["target"], answer=item["answer"]),
        read_verdict,
        lambda verdict: verdict.correct,
    )


def figures(rows: Sequence[GradedRow]) -> dict[str, Any]:
    """The calibration error: the root of the mean squared gap between confidence and accuracy, in bins of 100."""
    judged = sorted(
        (float(row.grade.metrics["confidence"]), row.grade.score) for row in rows if "confidence" in row.grade.metrics
    )
    if not judged:
        return {}
    total = 0.0
    for first in range(0, len(judged), BIN):
        part = judged[first : first + BIN]
        gap = sum(confidence - score for confidence, score in part) / len(part)
        total += len(part) / len(judged) * gap**2
    return {"calibration_error": total**0.5, "mean_confidence": sum(each for each, _ in judged) / len(judged)}


BENCHMARKS = (
    Benchmark(
        "hle", "1", "Humanity's Last Exam, text only, no tools", load, ask_once, grade,
        data=(FILE,), needs=frozenset({"judge"}), aggregate=figures, calibrate=calibrate,
        published=card_row((5.2, 8.6, 14.9), (4.2, 7.0, 10.9), o3_mini=13.4),
        comparable="Same questions without those with pictures (14 % of them); the judge and the words of its prompt are"
        " not OpenAI's (o3-mini).",
    ),
)  # fmt: skip
