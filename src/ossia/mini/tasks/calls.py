"""Function calling: one function, several functions, no matching function, and answers from a function's result.

Input: a seeded random source and a split. Output: examples. A call is correct if its function and all arguments are.
"""

import json
import random
from collections.abc import Sequence
from typing import Any

from ossia.harmony.messages import Developer, Effort, Message, ToolSpec, assistant, developer, tool
from ossia.mini.parts.build import INSTRUCTIONS, example, functions, opening, thoughts, written
from ossia.mini.parts.grades import numbers_in, read_json, verdict
from ossia.mini.parts.toolbox import Function, functions_for, topics
from ossia.mini.parts.words import Words, several, some
from ossia.task import Example, Grade, Split, Task, calls_of, final_text
from ossia.tools.functions import Tool, ToolOutput

STATES: Words = {
    "train": tuple("clear cloudy rainy open closed high low good ready late green busy calm full".split()),
    "held": tuple("sunny windy empty early strong weak".split()),
}
FIELDS: Words = {
    "train": tuple("sky state value celsius result level amount count note condition kind total".split()),
    "held": tuple("outcome reading quality share".split()),
}
NONE_FITS = "None of my functions gives the {t}."


def declared(rng: random.Random, split: Split, specs: Sequence[ToolSpec]) -> list[Message]:
    """A system message and a developer message with the functions, sometimes with an irrelevant instruction."""
    told = rng.choice(INSTRUCTIONS[split]) if rng.random() < 0.2 else None
    return [opening(rng), developer(Developer(told, (functions(specs),)))]


def choosing(wanted: str, offered: Sequence[Function], chosen: Function | None) -> dict[Effort, str]:
    """The thinking before a call: the topic and its function, then every parameter. High effort lists all functions first."""
    listed = "; ".join(f"{each.wanted} by {each.spec.name}" for each in offered)
    found = f"{wanted} by {chosen.spec.name if chosen else 'none'}"
    short, long = f"Wanted: {wanted}. {found}", f"Wanted: {wanted}. Offered: {listed}. So {found}"
    if chosen is None:
        return thoughts("", f"{short}. No call.", f"{long}. None fits, so no call.")
    return thoughts("", f"{short}.", f"{long}:\n{said_of_each(chosen)}")


def said_of_each(chosen: Function) -> str:
    """A line for every parameter, in declared order, with the value that the request gives.

    A name that begins a line has the tokens that it has in the declaration; behind a blank they would be others.
    """
    given = {key: written(value) for key, value in chosen.arguments.items()}
    properties: Any = (chosen.spec.parameters or {}).get("properties", {})
    return "\n".join(f"{key} {given.get(key, 'not said')}" for key in properties)


def call_of(chosen: Function) -> Message:
    name = f"functions.{chosen.spec.name}"
    return assistant(json.dumps(dict(chosen.arguments)), "commentary", name, "<|constrain|>json")


def _offered(rng: random.Random, split: Split, count: int, extras: int) -> tuple[Function, list[Function]]:
    """The matching function, and all declared ones in random order."""
    made = functions_for(rng, split, count, extras)
    chosen = made[0]
    rng.shuffle(made)
    return chosen, made


def _calling(family: str, least: int, most: int, weight: float) -> Task:
    def make(rng: random.Random, split: Split) -> Example:
        chosen, offered = _offered(rng, split, rng.randint(least, most), 2)
        before = declared(rng, split, [each.spec for each in offered])
        answer = [chosen.spec.name, dict(chosen.arguments)]
        template = f"{family}/{split}/{chosen.template}"
        thinking = choosing(chosen.wanted, offered, chosen)
        return example(rng, split, template, chosen.request, answer, thinking, [call_of(chosen)], before)

    return Task(family, make, called, weight=weight)


def called(example: Example, turn: Sequence[Message]) -> Grade:
    """Graded: one call of the correct function with exactly the correct arguments."""
    calls = calls_of(turn)
    if len(calls) != 1:
        return Grade(0.0, f"{len(calls)} calls, wanted one")
    name, arguments = example.answer[:2]
    if calls[0].recipient != f"functions.{name}":
        return Grade(0.0, f"called {calls[0].recipient}, wanted functions.{name}")
    try:
        return verdict(read_json(calls[0].text), arguments)
    except ValueError:
        return Grade(0.0, "arguments that are not JSON")


def _none_fits(rng: random.Random, split: Split) -> Example:
    asked, offered = _offered(rng, split, rng.randint(2, 4), 1)
    offered = [each for each in offered if each is not asked]
    before = declared(rng, split, [each.spec for each in offered])
    template = f"no function/{split}/{asked.template}"
    thinking = choosing(asked.wanted, offered, None)
    return example(rng, split, template, asked.request, None, thinking, NONE_FITS.format(t=asked.wanted), before)


def not_called(_: Example, turn: Sequence[Message]) -> Grade:
    """Graded: no call, and a text."""
    if calls := calls_of(turn):
        return Grade(0.0, f"called {calls[0].recipient}, where none fits")
    return Grade(1.0, "no call") if final_text(turn) else Grade(0.0, "no final answer")


def _reading(rng: random.Random, split: Split) -> Example:
    """The function returns several fields; one of them answers the question."""
    chosen, offered = _offered(rng, split, rng.randint(1, 2), 0)
    value = _value(rng, split)
    fields: dict[str, Any] = {chosen.wanted.replace(" ", "_"): value}
    for key in _other_fields(rng, split, rng.randint(0, 3)):
        fields.setdefault(key, _value(rng, split))
    shuffled = dict(rng.sample(list(fields.items()), len(fields)))
    result = json.dumps(shuffled, separators=(",", ":"))
    name = f"functions.{chosen.spec.name}"
    reply = [call_of(chosen), tool(name, result), assistant(f"For {chosen.about}, the {chosen.wanted} is {value}.")]
    before = declared(rng, split, [each.spec for each in offered])
    answer = [chosen.spec.name, dict(chosen.arguments), result, value]
    template = f"using results/{split}/{chosen.template}"
    thinking = choosing(chosen.wanted, offered, chosen)
    return example(rng, split, template, chosen.request, answer, thinking, reply, before)


def _other_fields(rng: random.Random, split: Split, count: int) -> Sequence[str]:
    """Names of fields. In training some are topics or made-up words."""
    if split == "train" and rng.random() < 0.6:
        return topics(rng, split, count)
    return several(rng, FIELDS, split, count)


def _value(rng: random.Random, split: Split) -> str | int:
    return some(rng, STATES, split) if rng.random() < 0.5 else rng.randint(0, 999)


def _read(example: Example, turn: Sequence[Message]) -> Grade:
    """Graded: the correct call, then an answer that ends with the requested value."""
    grade = called(example, turn)
    if not grade.score:
        return grade
    text, value = final_text(turn), example.answer[3]
    if text is None:
        return Grade(0.0, "no final answer")
    if isinstance(value, int):
        return verdict(numbers_in(text)[-1:], [value])
    return verdict(text.removesuffix(".").split()[-1:], [value])


def _result_tools(example: Example) -> tuple[Tool, ...]:
    """The matching function as a tool: returns the result for the correct arguments, and an error for others."""
    name, arguments, result, _ = example.answer

    def run(text: str) -> ToolOutput:
        try:
            right = read_json(text) == arguments
        except ValueError:
            right = False
        return ToolOutput(result) if right else ToolOutput("error: nothing found", failed=True)

    return (Tool(ToolSpec(name, ""), run),)


TASKS = (
    _calling("one function", 1, 1, 4.0),
    _calling("several functions", 2, 4, 6.0),
    Task("no function", _none_fits, not_called, weight=3.0),
    Task("using results", _reading, _read, _result_tools, weight=2.5),
)
