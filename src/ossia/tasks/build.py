"""What families have in common when they make an example: templates of a split, and the messages around a question.

In: a seeded random source, a split, a question with its answer. Out: an `Example`.
It does not know any family.
"""

import random
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from ossia.harmony.messages import (
    Developer,
    Effort,
    Message,
    System,
    ToolNamespace,
    assistant,
    developer,
    system,
    user,
)
from ossia.task import Example, Split
from ossia.tasks.toolbox import unrelated_tools

Templates = Mapping[Split, tuple[str, ...]]
OWN_IDENTITY = "You are Ossia-mini, a small reasoning model."
INSTRUCTIONS: Templates = {
    "train": (
        "You are a helpful assistant.", "Be brief.", "Answer the user's question.", "You are a math tutor.", "Help the user.",
        "Be friendly.", "Answer in one sentence.", "You help people with their homework.", "Give short answers.",
    ),
    "held": ("You are a patient teacher.", "Keep your answers short.", "Reply to the user."),
}  # fmt: skip


def pick(rng: random.Random, templates: Templates, split: Split) -> tuple[str, str]:
    """A template of the split, and the end of its name."""
    number = rng.randrange(len(templates[split]))
    return templates[split][number], f"{split}/{number}"


def thoughts(low: str, medium: str, high: str) -> dict[Effort, str]:
    return {"low": low, "medium": medium, "high": high}


def opening(rng: random.Random) -> Message:
    """A system message as programs send it, without the effort: mostly dated, now and then under mini's own name."""
    day = date(2024, 1, 1) + timedelta(days=rng.randrange(365 * 7))
    content = System(effort=None, current_date=day.isoformat() if rng.random() < 0.93 else None)
    if rng.random() < 0.12:
        content = System(identity=OWN_IDENTITY, effort=None, current_date=content.current_date, knowledge_cutoff=None)
    return system(content)


def surroundings(rng: random.Random, split: Split) -> list[Message]:
    """The system message, and at times a developer's who tells or declares something that does not matter."""
    draw = rng.random()
    if draw < 0.1:
        return [opening(rng), developer(rng.choice(INSTRUCTIONS[split]))]
    if draw < 0.2:
        return [opening(rng), developer(Developer(None, (functions(unrelated_tools(rng, split)),)))]
    return [opening(rng)]


def functions(specs: Sequence[Any]) -> ToolNamespace:
    return ToolNamespace("functions", None, tuple(specs))


def example(
    rng: random.Random,
    split: Split,
    template: str,
    question: str,
    answer: Any,
    thinking: Mapping[Effort, str],
    reply: str | Sequence[Message],
    before: Sequence[Message] | None = None,
) -> Example:
    """template: "family/kind/split/number". before: the messages before the user's; `surroundings` unless given."""
    said = (assistant(reply),) if isinstance(reply, str) else tuple(reply)
    context = surroundings(rng, split) if before is None else before
    family = template.split("/")[0]
    return Example(family, template, split, (*context, user(question)), answer, thinking, said)
