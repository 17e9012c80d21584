"""Compares the answers that Ossia extracts with those of gpt-oss's and simple-evals' graders.

    python benchmarks/answer_extraction.py DATA/answer_extraction/extract.jsonl [--all]

In: JSON lines {kind, text, gpt_oss_gpqa, simple_evals_mmlu} or {kind, text, boxed}, made by running the originals.
Out: a table of the kinds of differences with a count and an example of each; with --all, every difference.
docs/log/006-answer-extraction.md judges each kind.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from ossia.evals.answers.choices import LABELLED, MARKUP, choice_of, plain
from ossia.evals.answers.numbers import integer_of, simple_integer

Difference = tuple[str, str, str, str, str]


def main(path: str, *options: str) -> None:
    rows = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    kinds: dict[tuple[str, str], list[Difference]] = defaultdict(list)
    for row in rows:
        for difference in differences(row):
            kinds[difference[:2]].append(difference)
    print(f"{len(rows)} replies")
    for (original, kind), found in sorted(kinds.items()):
        print(f"| {original} | {kind} | {len(found)} | {found[0][2]!r} | {found[0][3]} | {found[0][4]} |")
        if "--all" in options:
            print("".join(f"    {text!r}: {theirs} | {ours}\n" for _, _, text, theirs, ours in found), end="")


def differences(row: dict[str, Any]) -> list[Difference]:
    text = str(row["text"])
    if row["kind"] == "integer":
        ours, theirs = integer_of(text), as_integer(row["boxed"])
        assert simple_integer(text) == theirs, text
        return (
            []
            if ours == theirs
            else [("gpt-oss aime", integer_kind(text, row["boxed"]), text, row["boxed"], f"{ours}")]
        )
    found = choice_of(text)
    ours = found.letter if found else ""
    rule = found.rule if found else "none"
    given = {"gpt-oss gpqa": row["gpt_oss_gpqa"] or "", "simple-evals mmlu": row["simple_evals_mmlu"] or ""}
    return [
        (name, choice_kind(text, theirs, ours, rule), text, theirs, ours)
        for name, theirs in given.items()
        if (theirs if theirs in "ABCD" else "") != ours
    ]


def as_integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def integer_kind(text: str, theirs: str) -> str:
    signs = {"circ": "degrees", "text{": "nested braces", "=": "an equation"}
    for sign, kind in signs.items():
        if sign in theirs:
            return kind
    return "thousands" if re.search(r"\d,\d{3}\b", text) else "negative" if re.search(r"-\d", text) else "other"


def choice_kind(text: str, theirs: str, ours: str, rule: str) -> str:
    if "should be 'Answer" in text and theirs:
        return "takes the quoted form of an answer"
    if theirs and theirs.upper() == ours:
        return "small letter"
    if not theirs or theirs not in "ABCD":
        return f"finds nothing, ours by rule {rule}"
    statements = {match[0] for match in LABELLED.finditer(MARKUP.sub("", plain(text)))}
    if rule == "declared" and len(statements) < 2 and theirs not in "".join(re.findall(r"boxed\S*", text)):
        return "takes a letter that is no statement, ours a label"
    return "two statements, ours the last of the surest rule" if rule != "none" else "takes a letter, ours none"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
