"""MMLU, MMMLU and GPQA: one of four options.

In: CSV files. Out: `mmlu`, `mmmlu` and `gpqa`. The letter is read from the final text by `choice_of`.
"""

import csv
import random
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from ossia.evals.answers.choices import choice_of
from ossia.evals.core.benchmark import (
    Ask,
    Benchmark,
    BenchmarkFile,
    GradedRow,
    Outcome,
    Sample,
    TestedModel,
    Tries,
    ask_once,
    outcome_of,
)
from ossia.evals.core.data_files import check_data
from ossia.evals.core.judging import Judge
from ossia.evals.tasks.card import by_tag, card_row, means_by_tag
from ossia.harmony.messages import JsonObject
from ossia.task import Grade

GROUPS = {
    "stem": """abstract_algebra astronomy college_biology college_chemistry college_computer_science college_mathematics
        college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics
        high_school_biology high_school_chemistry high_school_computer_science high_school_mathematics
        high_school_physics high_school_statistics machine_learning""".split(),
    "humanities": """formal_logic high_school_european_history high_school_us_history high_school_world_history
        international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory
        professional_law world_religions""".split(),
    "social_sciences": """econometrics high_school_geography high_school_government_and_politics
        high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality
        professional_psychology public_relations security_studies sociology us_foreign_policy""".split(),
    "other": """anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging management
        marketing medical_genetics miscellaneous nutrition professional_accounting professional_medicine
        virology""".split(),
}
GROUP_OF = {subject: group for group, subjects in GROUPS.items() for subject in subjects}
LANGUAGES = "AR-XY BN-BD DE-DE ES-LA FR-FR HI-IN ID-ID IT-IT JA-JP KO-KR PT-BR SW-KE YO-NG ZH-CN".split()
MMLU_FILES = tuple(
    BenchmarkFile(f"mmlu/test/{subject}_test.csv", source="github.com/hendrycks/test (data/test)")
    for subject in sorted(GROUP_OF)
)
MMMLU_FILES = tuple(
    BenchmarkFile(f"mmmlu/mmlu_{language}.csv", source="openai/simple-evals (MMLU in 14 languages) or openai/MMMLU")
    for language in LANGUAGES
)
GPQA_FILE = BenchmarkFile("gpqa/gpqa_diamond.csv", source="github.com/idavidrein/gpqa (198 questions, GPQA Diamond)")
LAST_LINE = (
    "Think it through, then choose one option. End with a line of the form 'Answer: X', where X is A, B, C or D."
)
WRONG_ANSWERS = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def user(text: str) -> tuple[JsonObject, ...]:
    return ({"role": "user", "content": text},)


def identity(*parts: str) -> str:
    """An id from the content, stable across orders and versions of the data."""
    return sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def mmlu_question(question: str, options: Sequence[str]) -> str:
    lines = "\n".join(f"{letter}) {option}" for letter, option in zip("ABCD", options, strict=True))
    return f"{LAST_LINE}\n\n{question}\n\n{lines}"


def load_mmlu(folder: Path) -> Iterator[Sample]:
    check_data(MMLU_FILES, folder)
    for subject in sorted(GROUP_OF):
        path = folder / f"mmlu/test/{subject}_test.csv"
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if len(row) != 6 or row[5] not in "ABCD":
                    raise ValueError(f"{path}, record {number}: want question, four options and a letter")
                text = mmlu_question(row[0], row[1:5])
                ident = f"{subject}-{number}"
                yield Sample(ident, user(text), row[5], ident, (GROUP_OF[subject], subject))


def records(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The records of a CSV file with a header. Raises ValueError if a column is missing."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: no column {missing[0]!r}: there are {', '.join(reader.fieldnames or ())}")
        yield from enumerate(reader, 1)


def load_mmmlu(folder: Path) -> Iterator[Sample]:
    check_data(MMMLU_FILES, folder)
    for language in LANGUAGES:
        path = folder / f"mmmlu/mmlu_{language}.csv"
        for number, row in records(path, ("Question", "A", "B", "C", "D", "Answer", "Subject")):
            if row["Answer"] not in ("A", "B", "C", "D"):
                raise ValueError(f"{path}, record {number}: the answer is {row['Answer']!r}, not A, B, C or D")
            text = mmlu_question(row["Question"], [row[letter] for letter in "ABCD"])
            yield Sample(f"{language}-{number}", user(text), row["Answer"], f"question-{number}", (language,))


def by_language(rows: Sequence[GradedRow]) -> dict[str, Any]:
    """The mean of each language, and the mean of those, as the card has it."""
    means = means_by_tag(rows)
    return {"by_tag": means, "mean_of_languages": sum(means.values()) / len(means) if means else None}


def load_gpqa(folder: Path) -> Iterator[Sample]:
    check_data((GPQA_FILE,), folder)
    path = folder / GPQA_FILE.path
    for _, row in records(path, ("Question", "Correct Answer", *WRONG_ANSWERS)):
        options = [row[name].strip() for name in ("Correct Answer", *WRONG_ANSWERS)]
        question = row["Question"].strip()
        ident = identity(question, *options)
        yield Sample(ident, user(question), options[0], ident, meta={"question": question, "options": options})


async def ask_shuffled(ask: TestedModel, sample: Sample, tries: Tries) -> Outcome:
    """The options in an order drawn for this try; `meta` tells the grader which letter is right."""
    order = random.Random(tries.seed).sample(range(4), 4)
    options = [sample.meta["options"][place] for place in order]
    lines = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", options, strict=True))
    end = "Express your final answer as the corresponding option 'A', 'B', 'C', or 'D'."
    question = user(f"{sample.meta['question']}\n\n{lines}\n\n{end}")
    reply = await ask(Ask(question))
    outcome = outcome_of(reply, (*question, reply.message))
    return Outcome(
        outcome.text, outcome.messages, outcome.calls, outcome.finish, outcome.usage, outcome.flaws,
        error=outcome.error, meta={"order": order, "letter": "ABCD"[order.index(0)]},
    )  # fmt: skip


async def grade_choice(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
    """1 for the right letter. Metrics: the letter, and the rule that found it."""
    del judge
    target = str(outcome.meta.get("letter", sample.target))
    found = choice_of(outcome.text or "")
    if found is None:
        return Grade(0.0, f"no option found; right is {target}", {"extracted": False})
    score = float(found.letter == target)
    metrics = {"extracted": True, "letter": found.letter, "rule": found.rule}
    return Grade(score, f"{found.letter} by rule {found.rule}; right is {target}", metrics)


BENCHMARKS = (
    Benchmark(
        "mmlu", "1", "MMLU (57 subjects, before the release's corrections)", load_mmlu, converse=ask_once,
        grade=grade_choice, data=MMLU_FILES, aggregate=by_tag,
        published=card_row((85.9, 88.0, 90.0), (80.4, 84.0, 85.3), o3_mini=87.0, o4_mini=93.0, o3=93.4),
        comparable="Same kind of question and grader; the prompt's words are ours, and the held data has 14,080 rows"
        " where the release has 14,042.",
    ),
    Benchmark(
        "mmmlu", "1", "MMMLU (MMLU in 14 languages)", load_mmmlu, converse=ask_once,
        grade=grade_choice, data=MMMLU_FILES, aggregate=by_language,
        published=card_row((74.1, 79.3, 81.3), (67.0, 73.5, 75.7), o3_mini=80.7, o4_mini=85.2, o3=88.8,
                           note="mean of the languages' means"),
        comparable="Same data and rule of grading; the prompt's words are ours. Compare `mean_of_languages`.",
    ),
    Benchmark(
        "gpqa", "1", "GPQA Diamond", load_gpqa, converse=ask_shuffled,
        grade=grade_choice, data=(GPQA_FILE,), repeats=8,
        published=card_row((67.1, 73.1, 80.1), (56.8, 66.0, 71.5), o3_mini=77.0, o4_mini=81.4, o3=83.3),
        comparable="Same data, prompt and number of tries as OpenAI's public code; another order of options, and an"
        " option is read only where the text states one.",
    ),
)  # fmt: skip
