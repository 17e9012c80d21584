"""Arithmetic families: sums of two numbers, division with remainder, chains, brackets, and questions in Japanese.

Input: a seeded random source and a split. Output: examples with their working.
"""

import random
from collections.abc import Sequence

from ossia.harmony.messages import Effort
from ossia.mini.parts.build import Templates, example, pick
from ossia.mini.parts.grades import last_number, last_numbers
from ossia.mini.parts.working import Operator, Sum, working
from ossia.task import EFFORTS, Example, Split, Task

FRAMES: Templates = {
    "train": (
        "What is {x}?", "what is {x}?", "What is {x}", "what's {x}?", "What's {x}?", "How much is {x}?", "{x}", "{x}?",
        "{x} =", "{x} = ?", "{x}=", "Compute {x}.", "Calculate {x}.", "calculate {x}", "Please compute {x}.", "Find {x}.",
        "Tell me {x}.", "Work out {x}.", "Can you calculate {x}?", "Can you tell me what {x} is?", "What does {x} equal?",
        "Solve {x}.", "Hi, what is {x}?", "WHAT IS {x}?", "I need {x}.", "Could you work out {x} for me?",
        "Quick question: what is {x}?", "{x} equals what?", "how much is {x}", "{x} please", "Answer this: {x}",
        "My homework says {x}. What is the answer?", "Do you know {x}?", "Give me {x}.", "Evaluate {x}.", "So, {x}?",
        "I can't work out {x}. Help!", "Is there a number for {x}? Which one?", "Hello! {x}?", "Next: {x}", "Let's see: what is {x}?",
    ),
    "held": (
        "Would you please find {x} for me?", "What number is {x}?", "Could you compute {x}?", "I want to know {x}.", "And {x} is?",
        "Please tell me how much {x} is.", "What do you get for {x}?", "Show me what {x} equals.", "hey, what's {x}",
    ),
}  # fmt: skip
ASKED: dict[Operator, tuple[str, ...]] = {
    "+": ("{a} + {b}", "{a}+{b}", "{a} plus {b}", "{a} + {b}", "the sum of {a} and {b}", "{a} added to {b}", "{a} and {b} together"),
    "-": ("{a} - {b}", "{a}-{b}", "{a} minus {b}", "{a} - {b}", "{a} take away {b}", "{a} less {b}", "{a} − {b}"),
    "*": ("{a} * {b}", "{a}*{b}", "{a} times {b}", "{a} x {b}", "{a} × {b}", "{a} multiplied by {b}", "the product of {a} and {b}"),
    "/": ("{a} / {b}", "{a}/{b}", "{a} divided by {b}", "{a} ÷ {b}", "{a} : {b}"),
}  # fmt: skip
COMMANDS: dict[Operator, Templates] = {
    "+": {
        "train": ("Add {a} and {b}.", "add {a} and {b}", "Add {b} to {a}.", "I had {a}, now add {b}.", "{a}, add {b}"),
        "held": ("If you add {b} to {a}, what do you get?", "Please add {a} and {b} for me.", "What do {a} and {b} make together?"),
    },
    "-": {
        "train": ("Subtract {b} from {a}.", "subtract {b} from {a}", "Take {b} from {a}.", "Take {b} away from {a}.", "{a}, subtract {b}"),
        "held": ("If you subtract {b} from {a}, what do you get?", "What is left if you take {b} from {a}?", "Please subtract {b} from {a} for me."),
    },
    "*": {
        "train": ("Multiply {a} by {b}.", "multiply {a} and {b}", "Multiply {a} and {b}.", "Take {a} times {b}.", "{a}, multiply by {b}"),
        "held": ("If you multiply {a} by {b}, what do you get?", "Please multiply {a} and {b} for me.", "How much do {a} times {b} make?"),
    },
    "/": {
        "train": ("Divide {a} by {b}.", "divide {a} by {b}", "Divide {a} into {b} equal parts.", "{a}, divide by {b}", "How often does {b} go into {a}?"),
        "held": ("If you divide {a} by {b}, what do you get?", "Please divide {a} by {b} for me.", "What do you get, {a} divided by {b}?"),
    },
}  # fmt: skip
WITH_REST: Templates = {
    "train": (
        "What is {a} divided by {b}, with remainder?", "Divide {a} by {b} with remainder.", "{a} / {b} with remainder",
        "Find the quotient and remainder of {a} / {b}.", "What are the quotient and the remainder of {a} divided by {b}?",
        "{a} ÷ {b}, with remainder?", "{a} : {b} with remainder", "How often does {b} go into {a}, and what is left?",
        "Compute {a} / {b} and give the remainder too.", "Please divide {a} by {b} and say what is left.",
        "divide {a} by {b}, quotient and remainder", "Quotient and remainder: {a}/{b}?",
    ),
    "held": (
        "If I divide {a} by {b}, what are quotient and remainder?", "Tell me {a} / {b} with the remainder.",
        "Give quotient and remainder for {a} divided by {b}.", "How many times does {b} go into {a}, and what remainder is left?",
    ),
}  # fmt: skip
JAPANESE: dict[Operator, Templates] = {
    "+": {
        "train": (
            "{a} + {b} は?", "{a}+{b}は？", "{a}たす{b}は？", "{a}足す{b}はいくつですか？", "{a}に{b}を足すと？", "{a}に{b}を足すといくつになりますか？",
            "{a}と{b}を足してください。", "{a}と{b}の和は？", "{a}と{b}の合計はいくつですか？", "{a}+{b}を計算してください。", "{a}プラス{b}は？",
        ),
        "held": ("{a}たす{b}はいくつですか？", "{a}+{b}はいくつですか？"),
    },
    "-": {
        "train": (
            "{a} - {b} は?", "{a}-{b}は？", "{a}ひく{b}は？", "{a}引く{b}はいくつですか？", "{a}から{b}を引くと？", "{a}から{b}を引くといくつになりますか？",
            "{a}から{b}を引いてください。", "{a}-{b}を計算してください。", "{a}マイナス{b}は？",
        ),
        "held": ("{a}ひく{b}はいくつですか？", "{a}-{b}はいくつですか？"),
    },
    "*": {
        "train": (
            "{a} * {b} は?", "{a}×{b}は？", "{a}かける{b}は？", "{a}掛ける{b}はいくつですか？", "{a}に{b}を掛けると？", "{a}に{b}をかけるといくつになりますか？",
            "{a}と{b}を掛けてください。", "{a}と{b}の積は？", "{a}×{b}を計算してください。", "{a}の{b}倍は？",
        ),
        "held": ("{a}かける{b}はいくつですか？", "{a}×{b}はいくつですか？"),
    },
    "/": {
        "train": (
            "{a} / {b} は?", "{a}÷{b}は？", "{a}わる{b}は？", "{a}割る{b}はいくつですか？", "{a}を{b}で割ると？", "{a}を{b}で割るといくつになりますか？",
            "{a}を{b}で割ってください。", "{a}÷{b}を計算してください。",
        ),
        "held": ("{a}わる{b}はいくつですか？", "{a}÷{b}はいくつですか？"),
    },
}  # fmt: skip


def number(rng: random.Random, digits: int, least: int = 0) -> int:
    """Draws the number of digits first, so small numbers are as frequent as large ones."""
    length = rng.randint(1, digits)
    return rng.randint(max(least, 0 if length == 1 else 10 ** (length - 1)), 10**length - 1)


def divisor(rng: random.Random) -> int:
    return rng.choice((*range(2, 10), *range(2, 10), 10, 11, 12))


def any_sum(rng: random.Random, operator: Operator) -> Sum:
    match operator:
        case "+":
            return Sum(number(rng, 4), "+", number(rng, 4))
        case "-":
            a, b = sorted((number(rng, 4), number(rng, 4)), reverse=rng.random() < 0.65)
            return Sum(a, "-", b)
        case "*":
            return Sum(number(rng, 3 if rng.random() < 0.3 else 2), "*", number(rng, 2))
        case "/":
            b = divisor(rng)
            return Sum(b * rng.randint(0, 999 // b if rng.random() < 0.7 else 12), "/", b)


def thinking(sums: Sequence[Sum], setup: str = "") -> dict[Effort, str]:
    """An expert's thinking. Low: only the sums, or nothing for a single sum. Medium adds the setup, high a final check."""
    said: dict[Effort, str] = {}
    for effort in EFFORTS:
        steps = " ".join(working(each, effort, checked=each is sums[-1]) for each in sums)
        said[effort] = f"{setup} {steps}" if setup and effort != "low" else steps
    if len(sums) == 1:
        said["low"] = f"{sums[0]}." if setup else ""
    else:
        said["low"] = " ".join(f"{each}={each.result}." for each in sums[:-1])
    return said


def _two_numbers(family: str, operator: Operator) -> Task:
    def make(rng: random.Random, split: Split) -> Example:
        task = any_sum(rng, operator)
        if rng.random() < 0.25:
            template, number_of = pick(rng, COMMANDS[operator], split)
            name, question = f"{family}/command/{number_of}", template.format(a=task.left, b=task.right)
        else:
            frame, number_of = pick(rng, FRAMES, split)
            asked = rng.choice(ASKED[operator]).format(a=task.left, b=task.right)
            name, question = f"{family}/frame/{number_of}", frame.format(x=asked)
        shown = f"{task.left} {operator} {task.right} = {task.answer}"
        return example(rng, split, name, question, task.answer, thinking([task]), shown)

    return Task(family, make, last_number, weight=1.5)


def _remainder(rng: random.Random, split: Split) -> Example:
    b = divisor(rng)
    task = Sum(number(rng, 3), "/", b)
    template, number_of = pick(rng, WITH_REST, split)
    reply = f"{task.left} / {b} = {task.answer} remainder {task.rest}"
    question = template.format(a=task.left, b=b)
    return example(rng, split, f"remainder/{number_of}", question, [task.answer, task.rest], thinking([task]), reply)


def _chain(rng: random.Random, split: Split) -> Example:
    """Several additions and subtractions; intermediate results may be negative."""
    value, sums, text = number(rng, 3), [], ""
    text = str(value)
    for _ in range(rng.choice((2, 2, 3))):
        operator: Operator = rng.choice(("+", "-"))
        sums.append(Sum(value, operator, number(rng, 2 if rng.random() < 0.6 else 3)))
        value = sums[-1].answer
        text += f" {operator} {sums[-1].right}"
    return _expression(rng, split, "chain", text, sums)


def _brackets(rng: random.Random, split: Split) -> Example:
    """Two operations, ordered by brackets or by operator precedence."""
    a, b, c = (rng.randint(1, 50) for _ in range(3))
    small = rng.randint(2, 9)
    op: Operator = rng.choice(("+", "-"))
    high, low = max(a, b), min(a, b)
    inner = Sum(high, op, low)
    shape = rng.choice(("(a±b)*c", "c*(a±b)", "a+b*c", "a*b±c", "a-(b±c)"))
    match shape:
        case "(a±b)*c":
            text, sums = f"({inner.left} {op} {inner.right}) * {small}", [inner, Sum(inner.answer, "*", small)]
        case "c*(a±b)":
            text, sums = f"{small} * ({inner.left} {op} {inner.right})", [inner, Sum(small, "*", inner.answer)]
        case "a+b*c":
            text, sums = f"{a} + {b} * {small}", [Sum(b, "*", small), Sum(a, "+", b * small)]
        case "a*b±c":
            text, sums = f"{a} * {small} {op} {c}", [Sum(a, "*", small), Sum(a * small, op, c)]
        case _:
            text, sums = f"{a} - ({inner.left} {op} {inner.right})", [inner, Sum(a, "-", inner.answer)]
    return _expression(rng, split, "brackets", text, sums)


def _expression(rng: random.Random, split: Split, family: str, text: str, sums: Sequence[Sum]) -> Example:
    frame, number_of = pick(rng, FRAMES, split)
    shown = text.replace(" ", "") if rng.random() < 0.3 else text
    question = frame.format(x=shown.replace("*", rng.choice("***×x")))
    reply = f"{text} = {sums[-1].answer}"
    return example(rng, split, f"{family}/{number_of}", question, sums[-1].answer, thinking(sums), reply)


def _japanese(rng: random.Random, split: Split) -> Example:
    operator: Operator = rng.choice(("+", "-", "*", "/"))
    task = any_sum(rng, operator)
    template, number_of = pick(rng, JAPANESE[operator], split, varied=False)
    question = template.format(a=task.left, b=task.right)
    shown = f"{task.left} {operator} {task.right} = {task.answer} です。"
    return example(
        rng, split, f"japanese/{operator.replace('/', ':')}/{number_of}", question, task.answer, thinking([task]), shown
    )


TASKS = (
    _two_numbers("addition", "+"),
    _two_numbers("subtraction", "-"),
    _two_numbers("multiplication", "*"),
    _two_numbers("division", "/"),
    Task("remainder", _remainder, last_numbers),
    Task("chain", _chain, last_number),
    Task("brackets", _brackets, last_number),
    Task("japanese", _japanese, last_number),
)
