"""IFEval: instructions that a program can verify.

In: input_data.jsonl. Out: `ifeval`. The score is that of the whole prompt, read loosely, as gpt-oss's users report it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ossia.evals.core.benchmark import Benchmark, BenchmarkFile, GradedRow, Outcome, PublishedScore, Sample, ask_once
from ossia.evals.core.data_files import check_data
from ossia.evals.core.judging import Judge
from ossia.evals.ifeval.checkers import CHECKERS, follows, follows_loosely
from ossia.evals.tasks.mathematics import json_lines
from ossia.evals.tasks.multiple_choice import user
from ossia.task import Grade

IFEVAL_FILE = BenchmarkFile(
    "ifeval/input_data.jsonl",
    "67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49",
    "github.com/google-research/google-research (instruction_following_eval/data/input_data.jsonl)",
)


def load_ifeval(folder: Path) -> Iterator[Sample]:
    check_data((IFEVAL_FILE,), folder)
    path = folder / IFEVAL_FILE.path
    for row in map(dict[str, Any], json_lines(path, "key", "prompt", "instruction_id_list", "kwargs")):
        names = [str(name) for name in row["instruction_id_list"]]
        if unknown := [name for name in names if name not in CHECKERS]:
            raise ValueError(f"{path}, key {row['key']}: no checker for {unknown[0]!r}")
        pairs = list(zip(names, row["kwargs"], strict=True))
        ident = str(row["key"])
        yield Sample(ident, user(row["prompt"]), None, ident, tuple(dict.fromkeys(names)), {"instructions": pairs})


async def grade_ifeval(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
    """1 if all instructions are followed, read loosely. Metrics: each instruction, strictly and loosely."""
    del judge
    text = outcome.text or ""
    pairs = sample.meta["instructions"]
    strict = [follows(name, text, arguments) for name, arguments in pairs]
    loose = [follows_loosely(name, text, arguments) for name, arguments in pairs]
    missed = [name for (name, _), good in zip(pairs, loose, strict=True) if not good]
    reason = f"not followed: {', '.join(missed)}" if missed else "all instructions followed"
    return Grade(float(all(loose)), reason, {"extracted": bool(text.strip()), "strict": strict, "loose": loose})


def ifeval_figures(rows: Sequence[GradedRow]) -> dict[str, Any]:
    """The four usual figures: by prompt and by instruction, strictly and loosely."""
    figures: dict[str, Any] = {}
    for reading in ("strict", "loose"):
        lists = [[bool(good) for good in row.grade.metrics.get(reading, ())] for row in rows]
        flat = [good for each in lists for good in each]
        if flat:
            figures[f"prompt_{reading}"] = sum(bool(each) and all(each) for each in lists) / len(lists)
            figures[f"instruction_{reading}"] = sum(flat) / len(flat)
    return figures


BENCHMARKS = (
    Benchmark(
        "ifeval", "1", "IFEval (by prompt, loose)", load_ifeval, ask_once, grade_ifeval,
        data=(IFEVAL_FILE,), aggregate=ifeval_figures,
        published=(PublishedScore("gpt-oss-20b", "", 86.5, "a user's run reported to olmo-eval, issue 398"),),
        comparable="Same data and rules as lm-evaluation-harness; the model card prints no IFEval score.",
    ),
)  # fmt: skip
