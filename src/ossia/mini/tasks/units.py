"""Unit conversion: known units both ways, mixed ones, degrees, and units whose rate is given in the question.

Input: a seeded random source and a split. Output: examples. Powers of ten shift zeros; other factors are multiplied out.
"""

import random
from collections.abc import Mapping

from ossia.harmony.messages import Effort
from ossia.mini.parts.build import Templates, example, pick, thoughts
from ossia.mini.parts.grades import last_number
from ossia.mini.parts.words import THINGS, made_up
from ossia.mini.parts.working import Sum
from ossia.mini.tasks.arithmetic import thinking
from ossia.task import Example, Split, Task

UNITS: tuple[tuple[str, str, int], ...] = (
    ("kilometers", "meters", 1000), ("meters", "centimeters", 100), ("centimeters", "millimeters", 10), ("kilograms", "grams", 1000),
    ("tons", "kilograms", 1000), ("liters", "milliliters", 1000), ("dollars", "cents", 100), ("hours", "minutes", 60),
    ("minutes", "seconds", 60), ("days", "hours", 24), ("weeks", "days", 7), ("years", "months", 12), ("feet", "inches", 12),
    ("yards", "feet", 3), ("dozens", "pieces", 12), ("km", "m", 1000), ("m", "cm", 100), ("cm", "mm", 10), ("kg", "g", 1000),
)  # fmt: skip
CONVERT: Templates = {
    "train": (
        "How many {v} are {n} {u}?", "Convert {n} {u} to {v}.", "{n} {u} in {v}?", "What is {n} {u} in {v}?", "{n} {u} = ? {v}",
        "How many {v} is {n} {u}", "Change {n} {u} into {v}.", "{n} {u} to {v}", "How many {v} make {n} {u}?", "Write {n} {u} in {v}.",
        "Please turn {n} {u} into {v}.", "How many {v} do {n} {u} make?", "I have {n} {u}. How many {v} is that?", "Say how many {v} {n} {u} are.", "Express {n} {u} in {v}.",
    ),
    "held": ("Please convert {n} {u} into {v}.", "Tell me how many {v} there are in {n} {u}.", "Give {n} {u} in {v}."),
}  # fmt: skip
MIXED: Templates = {
    "train": (
        "How many {v} are {n} {u} and {k} {v}?", "Convert {n} {u} {k} {v} to {v}.", "{n} {u} and {k} {v} in {v}?",
        "What is {n} {u} {k} {v} in {v}?",
    ),
    "held": ("Please convert {n} {u} and {k} {v} into {v}.", "Tell me how many {v} {n} {u} and {k} {v} are."),
}  # fmt: skip
DEGREES: Templates = {
    "train": (
        "Convert {n} degrees Celsius to Fahrenheit.", "What is {n} C in Fahrenheit?", "{n} °C in °F?", "How much is {n} Celsius in Fahrenheit?",
    ),
    "held": ("Please convert {n} Celsius into Fahrenheit.", "Tell me {n} degrees Celsius in Fahrenheit."),
}  # fmt: skip
RATE: Templates = {
    "train": (
        "One {u} is {f} {v}. How many {v} are {n} {u}?", "1 {u} = {f} {v}. {n} {u} = ? {v}", "If one {u} makes {f} {v}, how many {v} make {n} {u}?",
        "There are {f} {v} in a {u}. How many {v} are in {n} {u}?",
        "One {u} equals {f} {v}. What are {n} {u} in {v}?", "You get {f} {v} for one {u}. How many {v} for {n} {u}?", "A {u} holds {f} {v}. How many {v} do {n} {u} hold?",
        "{f} {v} make one {u}. How many {v} are {n} {u}?", "A {u} is worth {f} {v}. Convert {n} {u}.", "Every {u} has {f} {v}. How many {v} have {n} {u}?",
    ),
    "held": ("A {u} equals {f} {v}. Convert {n} {u} to {v}.", "For each {u} you get {f} {v}. How many {v} do you get for {n} {u}?"),
}  # fmt: skip
HELD_UNITS = ("crown", "florin", "furlong", "fathom", "gallon", "barrel")


def _convert(rng: random.Random, split: Split) -> Example:
    return rng.choices((_known, _mixed, _degrees, _given_rate), (5, 2, 1, 2))[0](rng, split)


def _known(rng: random.Random, split: Split) -> Example:
    large, small, factor = rng.choice(UNITS)
    count = rng.randint(1, 99 if factor in (10, 100, 1000) else 20)
    down = rng.random() < 0.6
    template, number_of = pick(rng, CONVERT, split)
    if down:
        asked, answer, question = Sum(count, "*", factor), count * factor, template.format(n=count, u=large, v=small)
        rule = f"1 {large} is {factor} {small}: multiply."
    else:
        asked, answer = Sum(count * factor, "/", factor), count
        question = template.format(n=count * factor, u=small, v=large)
        rule = f"{factor} {small} are 1 {large}: divide."
    reply = f"{count} {large} = {answer} {small}" if down else f"{asked.left} {small} = {answer} {large}"
    name = f"units/{'down' if down else 'up'}/{number_of}"
    return example(rng, split, name, question, answer, _steps(asked, rule), reply)


def _steps(asked: Sum, rule: str) -> Mapping[Effort, str]:
    """Shift zeros for powers of ten; multiply out other factors."""
    if asked.right not in (10, 100, 1000):
        return thinking([asked], rule)
    zeros = "0" * (len(str(asked.right)) - 1)
    move = f"put {zeros} behind {asked.left}" if asked.operator == "*" else f"take {zeros} from {asked.left}"
    back = f"{asked.answer}{'/' if asked.operator == '*' else '*'}{asked.right}={asked.left}"
    return thoughts(
        f"{asked}.", f"{rule} {asked}={asked.answer}.", f"{rule} {asked}: {move}, {asked.answer}. Check {back}, right."
    )


def _mixed(rng: random.Random, split: Split) -> Example:
    large, small, factor = rng.choice([unit for unit in UNITS if unit[2] < 1000])
    count, more = rng.randint(1, 12), rng.randint(1, factor - 1)
    template, number_of = pick(rng, MIXED, split)
    sums = [Sum(count, "*", factor), Sum(count * factor, "+", more)]
    question = template.format(n=count, u=large, v=small, k=more)
    rule = f"1 {large} is {factor} {small}: multiply, then add {more}."
    reply = f"{count} {large} {more} {small} = {sums[-1].answer} {small}"
    return example(rng, split, f"units/mixed/{number_of}", question, sums[-1].answer, thinking(sums, rule), reply)


def _degrees(rng: random.Random, split: Split) -> Example:
    celsius = 5 * rng.randint(0, 20)
    fifth = celsius // 5
    nines, answer = 9 * fifth, 9 * fifth + 32
    template, number_of = pick(rng, DEGREES, split)
    medium = f"{celsius}/5={fifth}; {fifth}*9={nines}; {nines}+32={answer}."
    high = (
        f"Divide by 5, times 9, add 32. {celsius}/5={fifth}. {fifth}*9={nines}. {nines}+32={answer}. "
        f"Check {answer}-32={nines}, {nines}/9={fifth}, right."
    )
    thinking_ = thoughts(f"{nines}+32.", medium, high)
    return example(
        rng, split, f"units/degrees/{number_of}", template.format(n=celsius), answer, thinking_,
        f"{celsius} degrees Celsius = {answer} degrees Fahrenheit: {answer}",
    )  # fmt: skip


def _given_rate(rng: random.Random, split: Split) -> Example:
    """A made-up unit, so the rate must be read from the question."""
    large = made_up(rng, 1) if split == "train" else rng.choice(HELD_UNITS)
    small = made_up(rng, 2) + "s" if split == "train" and rng.random() < 0.5 else rng.choice(THINGS[split])
    factor, count = rng.randint(2, 30), rng.randint(2, 30)
    asked = Sum(count, "*", factor)
    template, number_of = pick(rng, RATE, split)
    question = template.format(u=large, v=small, f=factor, n=count)
    rule = f"1 {large} is {factor} {small}: multiply."
    reply = f"{count} {large} = {asked.answer} {small}"
    return example(rng, split, f"units/rate/{number_of}", question, asked.answer, thinking([asked], rule), reply)


TASKS = (Task("units", _convert, last_number, weight=2.0),)
