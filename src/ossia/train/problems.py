"""Problems made by code: what a person asks, and the answer worked out at each effort.

In: a seeded random source. Out: a `Problem` of some family.
It does not know messages, tokens or how a model is trained.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from ossia.harmony.messages import Effort
from ossia.train.arithmetic import Operator, Sum, working


@dataclass(frozen=True, slots=True)
class Problem:
    """A question whose sums, in order, lead to the answer. `setup` opens the working; `reply` is the final text."""

    family: str
    question: str
    sums: tuple[Sum, ...]
    reply: str
    setup: str = ""

    @property
    def answer(self) -> int:
        return self.sums[-1].answer

    def reasoning(self, effort: Effort) -> str:
        steps = " ".join(working(task, effort) for task in self.sums)
        return steps if effort == "low" or not self.setup else f"{self.setup} {steps}"


NAMES = (
    "Tom Anna Ben Lucy Omar Yuki Ken Mia Sara Leo Ivy Max Nina Paul Rosa Hiro Emma Jack Lily Noah Zoe Sam Maya Finn Ada "
    "Liam Olga Hugo Aya Carl Dina Eli"
).split()
THINGS = (
    "apples pens books coins stamps marbles cards eggs oranges pencils stickers shells balls flowers cookies candies "
    "toys cups keys boxes photos stones tickets nuts"
).split()
GAINS = ("buys", "finds", "gets", "picks up", "wins", "receives")
LOSSES = ("gives away", "loses", "sells", "uses", "drops", "eats")
CONTAINERS = ("bags", "baskets", "shelves", "jars", "trays", "drawers", "crates", "packs")

ASKED: dict[Operator, tuple[str, ...]] = {
    "+": ("{a} + {b}", "{a}+{b}", "{a} plus {b}", "{a} + {b}", "the sum of {a} and {b}", "{a} added to {b}"),
    "-": ("{a} - {b}", "{a}-{b}", "{a} minus {b}", "{a} - {b}", "the difference of {a} and {b}", "{a} take away {b}"),
    "*": (
        "{a} * {b}",
        "{a}*{b}",
        "{a} times {b}",
        "{a} x {b}",
        "{a} × {b}",
        "{a} multiplied by {b}",
        "the product of {a} and {b}",
    ),
    "/": ("{a} / {b}", "{a}/{b}", "{a} divided by {b}", "{a} ÷ {b}"),
}
FRAMES = (
    "What is {x}?", "What is {x}?", "what is {x}?", "What is {x}", "what's {x}?", "What's {x}?", "How much is {x}?", "{x}", "{x}?",
    "{x} =", "{x} = ?", "{x}=", "Compute {x}.", "Calculate {x}.", "Calculate {x}", "Please compute {x}.", "Find {x}.", "Tell me {x}.",
    "Work out {x}.", "Can you calculate {x}?", "Can you tell me what {x} is?", "What does {x} equal?", "Solve {x}.", "Hi, what is {x}?",
    "WHAT IS {x}?", "I need {x}.", "Could you work out {x} for me?", "Quick question: what is {x}?", "{x} equals what?",
)  # fmt: skip
COMMANDS: dict[Operator, tuple[str, ...]] = {
    "+": ("Add {a} and {b}.", "add {a} and {b}", "Add {a} to {b}."),
    "-": ("Subtract {b} from {a}.", "subtract {b} from {a}", "Take {b} from {a}."),
    "*": ("Multiply {a} by {b}.", "multiply {a} and {b}", "Multiply {a} and {b}."),
    "/": ("Divide {a} by {b}.", "divide {a} by {b}"),
}
JAPANESE: dict[Operator, tuple[str, ...]] = {
    "+": ("{a} + {b} は?", "{a}+{b}は？", "{a}たす{b}は？", "{a}足す{b}はいくつですか？"),
    "-": ("{a} - {b} は?", "{a}-{b}は？", "{a}ひく{b}は？", "{a}引く{b}はいくつですか？"),
    "*": ("{a} * {b} は?", "{a}×{b}は？", "{a}かける{b}は？", "{a}掛ける{b}はいくつですか？"),
    "/": ("{a} / {b} は?", "{a}÷{b}は？", "{a}わる{b}は？", "{a}割る{b}はいくつですか？"),
}


def number(rng: random.Random, digits: int) -> int:
    """As many small numbers as large ones: the count of digits is drawn first."""
    length = rng.randint(1, digits)
    return rng.randint(0 if length == 1 else 10 ** (length - 1), 10**length - 1)


def any_sum(rng: random.Random) -> Sum:
    operator: Operator = rng.choices(("+", "-", "*", "/"), (4, 3, 3, 1))[0]
    match operator:
        case "+":
            return Sum(number(rng, 4), "+", number(rng, 4))
        case "-":
            a, b = number(rng, 4), number(rng, 4)
            return Sum(a, "-", b) if a >= b or rng.random() < 0.15 else Sum(b, "-", a)
        case "*":
            return Sum(number(rng, 2), "*", number(rng, 2))
        case "/":
            b = rng.randint(1, 12)
            return Sum(b * rng.randint(0, 12), "/", b)


def plain(rng: random.Random) -> Problem:
    """A sum asked for in one of many ways."""
    task = any_sum(rng)
    a, b = task.left, task.right
    if rng.random() < 0.15:
        question = rng.choice(COMMANDS[task.operator]).format(a=a, b=b)
    else:
        asked = rng.choice(ASKED[task.operator]).format(a=a, b=b)
        question = rng.choice(FRAMES).format(x=asked)
    return Problem("arithmetic", question, (task,), f"{task} = {task.answer}")


def japanese(rng: random.Random) -> Problem:
    task = any_sum(rng)
    question = rng.choice(JAPANESE[task.operator]).format(a=task.left, b=task.right)
    return Problem("japanese", question, (task,), f"{task} = {task.answer} です。")


def chain(rng: random.Random) -> Problem:
    """Two additions or subtractions in a row."""
    first = Sum(number(rng, 3), "+", number(rng, 3))
    c = number(rng, 3)
    second = Sum(first.answer, "-", c) if rng.random() < 0.5 and c <= first.answer else Sum(first.answer, "+", c)
    whole = f"{first} {second.operator} {c}"
    return Problem("chain", rng.choice(FRAMES).format(x=whole), (first, second), f"{whole} = {second.answer}")


def gain(rng: random.Random) -> Problem:
    who, thing, verb, a, b = rng.choice(NAMES), rng.choice(THINGS), rng.choice(GAINS), number(rng, 3), number(rng, 2)
    asked = rng.choice(("How many {t} does {w} have now?", "How many {t} are there now?", "How many {t} in all?"))
    question = f"{who} has {a} {thing} and {verb} {b} more. {asked.format(t=thing, w=who)}"
    return Problem(
        "gain", question, (Sum(a, "+", b),), f"{who} has {a + b} {thing}.", f"{a} {thing} and {b} more: add."
    )


def loss(rng: random.Random) -> Problem:
    who, thing, verb = rng.choice(NAMES), rng.choice(THINGS), rng.choice(LOSSES)
    a, b = sorted((number(rng, 3), number(rng, 2)), reverse=True)
    asked = rng.choice(("How many {t} are left?", "How many {t} does {w} have left?", "How many {t} remain?"))
    question = f"{who} has {a} {thing} and {verb} {b}. {asked.format(t=thing, w=who)}"
    return Problem(
        "loss", question, (Sum(a, "-", b),), f"{who} has {a - b} {thing} left.", f"{a} {thing} less {b}: subtract."
    )


def together(rng: random.Random) -> Problem:
    (one, other), thing, a, b = rng.sample(NAMES, 2), rng.choice(THINGS), number(rng, 3), number(rng, 3)
    asked = rng.choice(("How many {t} do they have together?", "How many {t} do they have in total?"))
    question = f"{one} has {a} {thing} and {other} has {b} {thing}. {asked.format(t=thing)}"
    return Problem(
        "together", question, (Sum(a, "+", b),), f"Together they have {a + b} {thing}.", "Both together: add."
    )


def more(rng: random.Random) -> Problem:
    (one, other), thing = rng.sample(NAMES, 2), rng.choice(THINGS)
    a, b = sorted((number(rng, 3), number(rng, 3)), reverse=True)
    question = f"{one} has {a} {thing} and {other} has {b}. How many more {thing} does {one} have than {other}?"
    return Problem("more", question, (Sum(a, "-", b),), f"{one} has {a - b} more {thing}.", "How many more: subtract.")


def groups(rng: random.Random) -> Problem:
    holder, thing, a, b = rng.choice(CONTAINERS), rng.choice(THINGS), number(rng, 2), number(rng, 1)
    question = rng.choice(
        ("There are {a} {h} with {b} {t} each. How many {t} are there?", "How many {t} are in {a} {h} of {b} {t} each?")
    ).format(a=a, b=b, h=holder, t=thing)
    return Problem(
        "groups", question, (Sum(a, "*", b),), f"There are {a * b} {thing}.", f"{a} {holder} of {b}: multiply."
    )


def sharing(rng: random.Random) -> Problem:
    who, thing, b, each = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, 12), rng.randint(1, 12)
    question = rng.choice(
        (
            "{w} shares {a} {t} equally among {b} friends. How many {t} does each friend get?",
            "{w} puts {a} {t} into {b} bags, the same number in each. How many {t} are in each bag?",
        )
    ).format(w=who, a=b * each, t=thing, b=b)
    setup = f"{b * each} {thing} in {b} equal parts: divide."
    return Problem("sharing", question, (Sum(b * each, "/", b),), f"Each gets {each} {thing}.", setup)


def cost(rng: random.Random) -> Problem:
    who, thing, a, b = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, 20), rng.randint(2, 20)
    question = f"{who} buys {a} {thing} for {b} dollars each. How much does {who} pay?"
    return Problem(
        "cost", question, (Sum(a, "*", b),), f"{who} pays {a * b} dollars.", f"{a} times {b} dollars: multiply."
    )


def two_steps(rng: random.Random) -> Problem:
    who, thing, a, b = rng.choice(NAMES), rng.choice(THINGS), number(rng, 2), number(rng, 2)
    c = rng.randint(0, min(a + b, 99))
    question = (
        f"{who} has {a} {thing}, {rng.choice(GAINS)} {b} more and then {rng.choice(LOSSES)} {c}. "
        f"How many {thing} does {who} have now?"
    )
    sums = (Sum(a, "+", b), Sum(a + b, "-", c))
    return Problem("two steps", question, sums, f"{who} has {a + b - c} {thing}.", f"First {b} more, then {c} less.")


Maker = Callable[[random.Random], Problem]
FAMILIES: dict[str, tuple[Maker, int]] = {
    "arithmetic": (plain, 10),
    "japanese": (japanese, 2),
    "chain": (chain, 1),
    "gain": (gain, 2),
    "loss": (loss, 2),
    "together": (together, 1),
    "more": (more, 1),
    "groups": (groups, 1),
    "sharing": (sharing, 1),
    "cost": (cost, 1),
    "two steps": (two_steps, 1),
}


def problem(rng: random.Random) -> Problem:
    """One problem, of a family drawn by its weight."""
    makers = list(FAMILIES.values())
    (chosen,) = rng.choices([maker for maker, _ in makers], [weight for _, weight in makers])
    return chosen(rng)
