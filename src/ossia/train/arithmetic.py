"""Arithmetic as a pupil writes it: the steps of an operation in words, at three lengths.

In: two whole numbers and an operator. Out: the answer, and the working at low, medium or high effort.
It does not know questions, messages or tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ossia.harmony.messages import Effort

Operator = Literal["+", "-", "*", "/"]
PLACES = ("ones", "tens", "hundreds", "thousands", "ten thousands")


@dataclass(frozen=True, slots=True)
class Sum:
    """An operation on two whole numbers; a division comes out even."""

    left: int
    operator: Operator
    right: int

    @property
    def answer(self) -> int:
        match self.operator:
            case "+":
                return self.left + self.right
            case "-":
                return self.left - self.right
            case "*":
                return self.left * self.right
            case "/":
                return self.left // self.right

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right}"


def working(task: Sum, effort: Effort) -> str:
    """The steps: at low effort the bare result, at medium digit by digit, at high with a check behind."""
    result = f"{task} = {task.answer}."
    if effort == "low":
        return result
    ways: dict[Operator, Callable[[int, int], str]] = {"+": add, "-": subtract, "*": multiply, "/": divide}
    steps = f"{task}: {ways[task.operator](task.left, task.right)} So {result}"
    return steps if effort == "medium" else f"{steps} {check(task)}"


def add(a: int, b: int) -> str:
    """Column by column from the ones, with what is carried."""
    steps, carry = [], 0
    for place in range(max(len(str(a)), len(str(b)))):
        x, y = digit(a, place), digit(b, place)
        total = x + y + carry
        carried = f" + {carry}" if carry else ""
        carry = total // 10
        write = f" write {total % 10} carry 1" if carry else ""
        steps.append(f"{PLACES[place]} {x} + {y}{carried} = {total}{write}")
    return "; ".join(steps) + "."


def subtract(a: int, b: int) -> str:
    """Column by column, borrowing from the next; a larger number is taken from a smaller one by turning it round."""
    if b > a:
        return f"{b} is larger. {b} - {a}: {subtract(b, a)} So {b} - {a} = {b - a}, turned negative."
    steps, borrow = [], 0
    for place in range(len(str(a))):
        x, y = digit(a, place), digit(b, place)
        taken = f" - {borrow}" if borrow else ""
        short = x - y - borrow < 0
        top = x + 10 if short else x
        steps.append(f"{PLACES[place]} {'borrow ' if short else ''}{top} - {y}{taken} = {top - y - borrow}")
        borrow = int(short)
    return "; ".join(steps) + "."


def multiply(a: int, b: int) -> str:
    """By the digits of the second number, then of the first; the parts are added up."""
    if a < 10 and b < 10:
        return f"from the table, {a * b}."
    parts, steps = [], []
    for place, y in reversed([(p, digit(b, p)) for p in range(len(str(b)))]):
        if y:
            factor = y * 10**place
            products = [digit(a, p) * 10**p * factor for p in reversed(range(len(str(a)))) if digit(a, p)]
            whole = f"{a} * {factor} = " + " + ".join(map(str, products))
            steps.append(whole if len(products) == 1 else f"{whole} = {a * factor}")
            parts.append(a * factor)
    if len(parts) == 2:
        steps.append(f"{parts[0]} + {parts[1]}: {add(parts[0], parts[1])[:-1]}")
    return "; ".join(steps) + "."


def divide(a: int, b: int) -> str:
    """By the table: which number times the divisor is it?"""
    return f"{b} * {a // b} = {a}."


def check(task: Sum) -> str:
    """The inverse operation."""
    a, b, c = task.left, task.right, task.answer
    match task.operator:
        case "+":
            return f"Check: {c} - {b} = {a}."
        case "-":
            return f"Check: {c} + {b} = {a}."
        case "*":
            return f"Check: {b} * {a} = {c}."
        case "/":
            return f"Check: {c} * {b} = {a}."


def digit(number: int, place: int) -> int:
    return number // 10**place % 10
