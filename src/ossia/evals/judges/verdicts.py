"""Reads a judge's verdict, and asks again if it cannot be read.

In: a judge, a prompt and a reader. Out: the verdict; JudgeReplyError after five attempts. A malformed reply never counts.
"""

import json
import re
from collections.abc import Callable
from typing import TypeVar

from ossia.evals.core.judging import Judge

ATTEMPTS = 5
T = TypeVar("T")
VERDICTS = {"A": "correct", "B": "incorrect", "C": "not_attempted"}


class JudgeReplyError(Exception):
    """A judge gave no verdict that can be read. The sample becomes an error row."""


async def verdict_of(judge: Judge, key: tuple[str, int, str], prompt: str, read: Callable[[str], T | None]) -> T:
    """The first reply that can be read, of five at most. Raises JudgeReplyError."""
    last = ""
    for attempt in range(ATTEMPTS):
        reply = await judge(key, [{"role": "user", "content": prompt}], attempt)
        found = None if reply.error else read(reply.text)
        if found is not None:
            return found
        last = reply.error or reply.text[:200]
    raise JudgeReplyError(f"the judge {judge.name} gave no verdict on {key} in {ATTEMPTS} attempts; the last: {last!r}")


def three_way(text: str) -> str | None:
    """ "correct", "incorrect" or "not_attempted", from a reply that is one letter or its word alone."""
    bare = re.sub(r"[\s*_`.\"'():]+", " ", text).strip().lower().removeprefix("answer ").removeprefix("grade ")
    for letter, verdict in VERDICTS.items():
        word = verdict.replace("_", " ")
        if bare in (letter.lower(), word, f"{letter.lower()} {word}"):
            return verdict
    return None


def criterion_met(text: str) -> bool | None:
    """The boolean `criteria_met` of a JSON object, with or without a fence; None for anything else."""
    bare = re.sub(r"\A\s*```(?:json)?\s*|\s*```\s*\Z", "", text, flags=re.IGNORECASE)
    try:
        value = json.loads(bare)
    except (ValueError, RecursionError):
        return None
    met = value.get("criteria_met") if isinstance(value, dict) else None
    return met if isinstance(met, bool) else None
