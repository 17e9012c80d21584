"""Use of the python tool: large computations are written as an expression, and the result is read.

Input: a seeded random source and a split. Output: examples. The tool's result is computed without running Python.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ossia.harmony.messages import Message, System, ToolNamespace, ToolSpec, assistant, tool
from ossia.mini.parts.build import Templates, example, opening, pick, thoughts
from ossia.mini.parts.expression import compute
from ossia.mini.parts.grades import last_number
from ossia.task import Example, Grade, Split, Task, calls_of
from ossia.tools.functions import Tool, ToolOutput

DESCRIPTIONS: Templates = {
    "train": (
        "Use this tool to run Python code. What the code prints is given back.", "Runs Python. Print what you want to see.",
        "A Python interpreter for calculations. The output is returned.", "Execute Python code here.",
    ),
    "held": ("Python code sent here is executed, and its output comes back.", "Compute with Python. Use print."),
}  # fmt: skip
PRODUCT: Templates = {
    "train": (
        "What is {a} * {b}?",
        "Multiply {a} by {b}.",
        "Compute {a} x {b}.",
        "{a} times {b}?",
        "How much is {a} * {b}?",
        "the product of {a} and {b}",
    ),
    "held": ("Please multiply {a} and {b} with Python.", "What do you get for {a} * {b}?"),
}
TOTAL: Templates = {
    "train": ("Add these numbers: {x}", "What is the sum of {x}?", "Sum up {x}.", "Add up {x}", "The total of {x}?"),
    "held": ("Please add all of these: {x}", "Use Python to sum {x}."),
}
POWER: Templates = {
    "train": (
        "What is {a} to the power of {b}?",
        "Compute {a}^{b}.",
        "{a} ** {b}",
        "Raise {a} to the power {b}.",
        "{a} to the {b}th power?",
    ),
    "held": ("Please compute {a} to the power of {b}.", "What number is {a}^{b}?"),
}
REMAINDER: Templates = {
    "train": (
        "What is {a} mod {b}?",
        "What is the remainder of {a} divided by {b}?",
        "Remainder of {a} / {b}?",
        "{a} % {b}",
    ),
    "held": ("Please find the remainder when {a} is divided by {b}.", "Which remainder does {a} divided by {b} leave?"),
}
UP_TO: Templates = {
    "train": (
        "What is the sum of the numbers from {a} to {b}?",
        "Add all numbers from {a} to {b}.",
        "Sum from {a} to {b}?",
    ),
    "held": ("Please add up the whole numbers from {a} to {b}.", "What do all numbers from {a} to {b} add up to?"),
}
LARGEST: Templates = {
    "train": ("Which is the largest of {x}?", "Find the maximum of {x}.", "The biggest number of {x}?", "max of {x}"),
    "held": ("Please find the largest number of {x}.", "What is the maximum of {x}?"),
}


def _large(rng: random.Random) -> int:
    digits = rng.randint(4, 7)
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def _drawn(rng: random.Random) -> tuple[Templates, dict[str, Any], str, str]:
    """A kind of question: its templates, their values, its name, and the expression that answers it."""
    a, b, small = _large(rng), _large(rng), rng.randint(13, 999)
    several = [rng.randint(100, 99999) for _ in range(rng.randint(4, 6))]
    shown = ", ".join(map(str, several))
    low, high = sorted((rng.randint(1, 99), rng.randint(100, 999)))
    base, exponent = rng.randint(3, 40), rng.randint(4, 9)
    match rng.choice(("product", "product", "total", "power", "remainder", "up to", "largest")):
        case "product":
            return PRODUCT, {"a": a, "b": b}, "product", f"{a} * {b}"
        case "total":
            return TOTAL, {"x": shown}, "total", f"sum([{shown}])"
        case "power":
            return POWER, {"a": base, "b": exponent}, "power", f"{base} ** {exponent}"
        case "remainder":
            return REMAINDER, {"a": a, "b": small}, "remainder", f"{a} % {small}"
        case "up to":
            return UP_TO, {"a": low, "b": high}, "up to", f"sum(range({low}, {high} + 1))"
    return LARGEST, {"x": shown}, "largest", f"max([{shown}])"


def _make(rng: random.Random, split: Split) -> Example:
    templates, filled, kind, expression = _drawn(rng)
    template, number_of = pick(rng, templates, split)
    result = compute(expression)
    content = opening(rng).content[0]
    assert isinstance(content, System)
    described, _ = pick(rng, DESCRIPTIONS, split, varied=False)
    declared = replace(content, tools=(ToolNamespace("python", described),))
    reply = [
        assistant(f"print({expression})", "analysis", "python", "code"),
        tool("python", f"{result}\n", "analysis"),
        assistant(f"The answer is {result}."),
    ]
    high = f"This is the {kind} of large numbers, too long by hand. I use python: {expression}."
    thinking = thoughts("", "Use python.", high)
    question = template.format(**filled)
    return example(
        rng,
        split,
        f"python/{kind}/{number_of}",
        question,
        int(result),
        thinking,
        reply,
        [Message("system", (declared,))],
    )


def _grade(asked: Example, turn: Sequence[Message]) -> Grade:
    """Graded: the tool was called, and the answer has its result."""
    if not any(call.recipient == "python" for call in calls_of(turn)):
        return Grade(0.0, "no call of python")
    return last_number(asked, turn)


def run(code: str) -> ToolOutput:
    """The tool: the result of the code, or an error message for the model."""
    try:
        return ToolOutput(f"{compute(code)}\n")
    except ValueError as error:
        return ToolOutput(f"error: {error}", failed=True)


def _tools(_: Example) -> tuple[Tool, ...]:
    return (Tool(ToolSpec("python", ""), run, namespace=None),)


TASKS = (Task("python", _make, _grade, _tools, weight=2.0),)
