"""How often a judge agrees with labels that people gave: 30 invented items for each kind of judgement.

In: a judge, and a benchmark's prompt and reader. Out: an `Agreement` for the report. A reply that cannot be read is a
disagreement.
"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from ossia.evals.core.benchmark import Agreement
from ossia.evals.core.judging import Judge
from ossia.evals.judges.verdicts import JudgeReplyError, verdict_of

Kind = Literal["facts", "criteria", "exam"]
Item = dict[str, Any]
T = TypeVar("T")


def calibration_items(kind: Kind) -> list[Item]:
    """The items of a kind: their texts, and `label`."""
    items: dict[str, list[Item]] = json.loads(Path(__file__).with_name("calibration.json").read_text("utf-8"))
    return items[kind]


async def agreement(
    judge: Judge,
    kind: Kind,
    prompt: Callable[[Item], str],
    read: Callable[[str], T | None],
    label: Callable[[T], object] = lambda verdict: verdict,
) -> Agreement:
    """Ask the judge about each item. label: of a verdict, to compare with the item's."""

    async def agrees(number: int, item: Item) -> bool:
        try:
            verdict = await verdict_of(judge, (f"{kind}/{number}", 0, "calibration"), prompt(item), read)
        except JudgeReplyError:
            return False
        return label(verdict) == item["label"]

    items = calibration_items(kind)
    agreed = await asyncio.gather(*(agrees(number, item) for number, item in enumerate(items)))
    return Agreement(sum(agreed), len(items))
