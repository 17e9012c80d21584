r"""AIME 2024 and 2025, and GSM8K: a number.

In: JSON lines. Out: `aime24`, `aime25` and `gsm8k`. The number is read from the final text.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ossia.evals.answers.numbers import (
    decimal_answer,
    decimal_of,
    integer_in,
    integer_of,
    simple_integer,
    strict_decimal,
)
from ossia.evals.core.benchmark import Benchmark, BenchmarkFile, GradedRow, Outcome, Sample, ask_once
from ossia.evals.core.data_files import check_data
from ossia.evals.core.judging import Judge
from ossia.evals.tasks.card import card_row
from ossia.evals.tasks.multiple_choice import identity, user
from ossia.harmony.messages import JsonObject
from ossia.task import Grade

GSM8K_FILE = BenchmarkFile(
    "gsm8k/test.jsonl",
    "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    "github.com/openai/grade-school-math (grade_school_math/data/test.jsonl)",
)
GSM8K_LAST_LINE = "Work through the problem step by step. End with a line of the form '#### N', where N is the number."


def aime_files(year: int) -> tuple[BenchmarkFile, ...]:
    source = (
        f"the AIME {year} problems, as JSON lines with question and answer (such as opencompass/AIME{year} on the hub)"
    )
    return tuple(BenchmarkFile(f"aime{year % 100}/aime{year}-{part}.jsonl", source=source) for part in ("I", "II"))


def json_lines(path: Path, *keys: str) -> Iterator[JsonObject]:
    """The objects of a file. Raises ValueError for a line that is no object, or has a key too few."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
            missing = [key for key in keys if not isinstance(row, dict) or key not in row]
            if missing:
                raise ValueError(f"{path}, line {number}: no {missing[0]!r}")
            yield row


def load_aime(year: int, folder: Path) -> Iterator[Sample]:
    files = aime_files(year)
    check_data(files, folder)
    for file in files:
        for number, row in enumerate(json_lines(folder / file.path, "question", "answer"), 1):
            question, answer = str(row["question"]), integer_in(str(row["answer"]))
            if answer is None:
                raise ValueError(f"{folder / file.path}, record {number}: the answer {row['answer']!r} is no integer")
            text = f"{question}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
            ident = identity(question)
            yield Sample(ident, user(text), answer, ident, (Path(file.path).stem,))


async def grade_aime(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
    """1 for the right integer. Metrics: the integer, and the score of OpenAI's simpler reading."""
    del judge
    text = outcome.text or ""
    found = integer_of(text)
    metrics = {"extracted": found is not None, "simple_score": float(simple_integer(text) == sample.target)}
    return Grade(float(found == sample.target), f"{found}; right is {sample.target}", metrics)


def load_gsm8k(folder: Path) -> Iterator[Sample]:
    check_data((GSM8K_FILE,), folder)
    path = folder / GSM8K_FILE.path
    for number, row in enumerate(json_lines(path, "question", "answer"), 1):
        target = decimal_of(str(row["answer"]).rsplit("####", 1)[-1].strip())
        if target is None:
            raise ValueError(f"{path}, record {number}: the answer does not end in '#### N'")
        ident = identity(str(row["question"]))
        yield Sample(ident, user(f"{GSM8K_LAST_LINE}\n\n{row['question']}"), str(target), ident)


async def grade_gsm8k(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
    """1 for the right number, wherever it stands. Metrics: the score if only '#### N' counts."""
    del judge
    text, target = outcome.text or "", decimal_of(str(sample.target))
    found = decimal_answer(text)
    metrics = {"extracted": found is not None, "strict_score": float(strict_decimal(text) == target)}
    return Grade(float(found is not None and found == target), f"{found}; right is {target}", metrics)


def mean_metric(name: str) -> Callable[..., dict[str, float]]:
    """An aggregate: the mean of one of the grades' metrics, under its name."""

    def mean(rows: list[GradedRow]) -> dict[str, float]:
        values = [float(row.grade.metrics.get(name, 0.0)) for row in rows]
        return {name: sum(values) / len(values)} if values else {}

    return mean


AIME_COMPARABLE = (
    "Same problems, prompt and number of tries; the questions are the user's copy, and 30 questions move a score by"
    " several points. `simple_score` is the reading of OpenAI's public grader."
)
BENCHMARKS = (
    Benchmark(
        "aime24", "1", "AIME 2024, no tools", partial(load_aime, 2024), ask_once, grade_aime,
        data=aime_files(2024), repeats=8, aggregate=mean_metric("simple_score"), comparable=AIME_COMPARABLE,
        published=card_row((56.3, 80.4, 95.8), (42.1, 80.0, 92.1), o3_mini=87.3),
    ),
    Benchmark(
        "aime25", "1", "AIME 2025, no tools", partial(load_aime, 2025), ask_once, grade_aime,
        data=aime_files(2025), repeats=8, aggregate=mean_metric("simple_score"), comparable=AIME_COMPARABLE,
        published=card_row((50.4, 80.0, 92.5), (37.1, 72.1, 91.7), o3_mini=86.5),
    ),
    Benchmark(
        "gsm8k", "1", "GSM8K, no examples in the prompt", load_gsm8k, ask_once, grade_gsm8k,
        data=(GSM8K_FILE,), aggregate=mean_metric("strict_score"),
        comparable="Same data; the model card prints no GSM8K score, and the prompt's words are ours.",
    ),
)  # fmt: skip
