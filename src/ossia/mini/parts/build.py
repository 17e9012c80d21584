"""Builds examples for all task families: templates of a split, and the messages around a question.

Input: a seeded random source, a split, a question with its answer. Output: an `Example`.
"""

import json
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
from ossia.mini.parts.toolbox import functions_for
from ossia.task import Example, Split

Templates = Mapping[Split, tuple[str, ...]]
OWN_IDENTITY = "You are Ossia-mini, a small reasoning model."
INSTRUCTIONS: Templates = {
    "train": (
        "You are a helpful assistant.", "Be brief.", "Answer the user's question.", "You are a math tutor.", "Help the user.",
        "Be friendly.", "Answer in one sentence.", "You help people with their homework.", "Give short answers.",
    ),
    "held": ("You are a patient teacher.", "Keep your answers short.", "Reply to the user."),
}  # fmt: skip


# Phrases around a question in training that do not change it.
BEFORE = (
    "Hi! ", "Hello. ", "Hey, ", "Question: ", "Next one: ", "One more: ", "A task for you: ", "My homework: ", "Quick question. ",
    "Can you help me? ", "Here is a problem. ", "Another one. ", "I need your help. ", "Now this: ", "So: ", "OK, ", "Listen. ", "Try this: ",
)  # fmt: skip
BEHIND = (
    " Thanks!",
    " Thank you.",
    " Please answer.",
    " What do you say?",
    " I am curious.",
    " It is important.",
    " Go!",
)
ORDERS = frozenset(
    "Sort Put Arrange Order Spell Write Reverse Turn Count Give Take Name Find Tell Compute Add Subtract Multiply Divide Calculate Show "
    "Get Check Sum Raise Say Convert Look Evaluate Solve Work".split()
)
ORDERED = ("Can you {o}?", "I want you to {o}.", "Would you {o}?", "You should {o}.", "Let us {o}.", "Now {o}.", "{O}, please.", "I would be glad if you could {o}.",
    "Will you {o}?", "Try to {o}.", "Help me {o}.", "I need you to {o}.", "Please {o} for me.", "Your task: {o}.", "Can you {o}, please?")  # fmt: skip
ASKED = (
    "Tell me, {q}",
    "Do you know {q}",
    "I want to know: {q}",
    "Now {q}",
    "And {q}",
    "I ask you: {q}",
    "Who can tell me {q}",
    "Can you say {q}",
    "Say {q}",
    "Please answer: {q}",
    "The question is {q}",
    "Help me: {q}",
)


def pick(rng: random.Random, templates: Templates, split: Split, *, varied: bool = True) -> tuple[str, str]:
    """A template of the split, and the suffix of its name. varied: in training it is sometimes reworded."""
    number = rng.randrange(len(templates[split]))
    chosen = templates[split][number]
    if varied and split == "train" and rng.random() < 0.4:
        chosen = phrased(rng, chosen, templates["held"])
    return chosen, f"{split}/{number}"


def phrased(rng: random.Random, template: str, held: Sequence[str]) -> str:
    """The request reworded, or with a phrase before or after it; unchanged if it would equal a held-out template."""
    first, _, rest = template.partition(" ")
    draw = rng.random()
    if draw < 0.5 and first in ORDERS and rest and "?" not in template and ":" not in template and ". " not in template:
        said = f"{first.lower()} {rest}".rstrip(".")
        other = rng.choice(ORDERED).format(o=said, O=said.capitalize())
    elif draw < 0.5 and first in ("What", "How", "Which", "Who", "Where") and template.endswith("?"):
        other = rng.choice(ASKED).format(q=f"{first.lower()} {rest}")
    elif draw < 0.8:
        other = rng.choice(BEFORE) + template
    else:
        other = template + rng.choice(BEHIND)
    return template if any(same(other, each) for each in held) else other


def same(one: str, other: str) -> bool:
    """Whether two templates differ only in case and punctuation."""
    return plain(one) == plain(other)


def plain(template: str) -> str:
    return "".join(letter for letter in template.lower() if letter.isalnum() or letter in " {}")


def written(value: object) -> str:
    """A value as written in thinking: strings without quotes, others as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def thoughts(low: str, medium: str, high: str) -> dict[Effort, str]:
    return {"low": low, "medium": medium, "high": high}


def opening(rng: random.Random) -> Message:
    """A typical system message without the effort: mostly with a date, sometimes with ossia-mini's name."""
    day = date(2024, 1, 1) + timedelta(days=rng.randrange(365 * 7))
    content = System(effort=None, current_date=day.isoformat() if rng.random() < 0.93 else None)
    if rng.random() < 0.12:
        content = System(identity=OWN_IDENTITY, effort=None, current_date=content.current_date, knowledge_cutoff=None)
    return system(content)


def surroundings(rng: random.Random, split: Split) -> list[Message]:
    """The system message, and sometimes a developer message with irrelevant text or functions."""
    draw = rng.random()
    if draw < 0.1:
        return [opening(rng), developer(rng.choice(INSTRUCTIONS[split]))]
    if draw < 0.2:
        unrelated = [each.spec for each in functions_for(rng, split, rng.randint(1, 2), 1)]
        return [opening(rng), developer(Developer(None, (functions(unrelated),)))]
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
