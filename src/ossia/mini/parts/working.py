"""Written arithmetic, digit by digit, so that each token follows from the ones before.

Input: two whole numbers and an operator. Output: the answer, and the working at medium or high effort.
"""

from dataclasses import dataclass
from typing import Literal

from ossia.harmony.messages import Effort

Operator = Literal["+", "-", "*", "/"]
PLACES = ("ones", "tens", "hundreds", "thousands", "ten thousands", "hundred thousands")


@dataclass(frozen=True, slots=True)
class Sum:
    """An operation on whole numbers, of which only the left of a + or - may be negative.

    The answer of a division is its whole part; `rest` is what is left over.
    """

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

    @property
    def rest(self) -> int:
        return self.left % self.right if self.operator == "/" else 0

    @property
    def result(self) -> str:
        return f"{self.answer} rest {self.rest}" if self.rest else str(self.answer)

    def __str__(self) -> str:
        return f"{self.left}{self.operator}{self.right}"


def working(task: Sum, effort: Effort, checked: bool = True) -> str:
    """Low effort: only the sum. Medium: digit by digit. High: with named places and a final check."""
    if effort == "low":
        return f"{task}={task.result}."
    steps = f"{task}: {_steps(task, effort)} So {task}={task.result}."
    return f"{steps} {check(task)}" if checked and effort == "high" else steps


def _steps(task: Sum, effort: Effort) -> str:
    a, b = task.left, task.right
    named = effort == "high"
    match task.operator:
        case "+":
            return add(a, b, named)
        case "-":
            return subtract(a, b, named)
        case "*":
            return multiply(a, b, named)
        case "/":
            return divide(a, b)


def add(a: int, b: int, named: bool) -> str:
    """Column by column from the ones, with carries. A negative number is subtracted from the other."""
    if a < 0:
        return f"{b}-{-a}: {subtract(b, -a, named)}"
    steps, carry = [], 0
    for place in range(max(len(str(a)), len(str(b)))):
        total = digit(a, place) + digit(b, place) + carry
        carried = f"+{carry}" if carry else ""
        carry = total // 10
        step = f"{digit(a, place)}+{digit(b, place)}{carried}={total}"
        steps.append(f"{PLACES[place]} {step}{', carry 1' if carry else ''}" if named else step)
    return "; ".join(steps) + "."


def subtract(a: int, b: int, named: bool) -> str:
    """Find the larger number, then subtract column by column, with borrows."""
    if a < 0:
        return f"both down, {-a}+{b}: {add(-a, b, named)} {-a}+{b}={b - a}, with minus {a - b}."
    compared = compare(a, b)
    if a < b:
        return f"{compared}, turn round: {b}-{a}: {_columns(b, a, named)} {b}-{a}={b - a}, with minus {a - b}."
    return f"{compared}. {_columns(a, b, named)}"


def _columns(a: int, b: int, named: bool) -> str:
    steps, borrow = [], 0
    for place in range(len(str(a))):
        x, y = digit(a, place), digit(b, place)
        taken = f"-{borrow}" if borrow else ""
        short = x - y - borrow < 0
        top = x + 10 if short else x
        step = f"{top}-{y}{taken}={top - y - borrow}"
        steps.append(f"{PLACES[place]} {step}{', borrow 1' if short else ''}" if named else step)
        borrow = int(short)
    return "; ".join(steps) + "."


def compare(a: int, b: int) -> str:
    """Compare two non-negative numbers: by length, then by the first digit that differs."""
    x, y = str(a), str(b)
    if len(x) != len(y):
        return f"{len(x)} digits{_relation(len(x), len(y))}{len(y)}"
    said = []
    for i in range(len(x)):
        said.append(f"{x[i]}{_relation(int(x[i]), int(y[i]))}{y[i]}")
        if x[i] != y[i]:
            break
    return ", ".join(said)


def _relation(a: int, b: int) -> str:
    return "<" if a < b else ">" if a > b else "="


def multiply(a: int, b: int, named: bool) -> str:
    """The first number times each digit of the second, from the ones; then the sum of the parts."""
    if a < 10 and b < 10:
        return f"from the table {a * b}."
    if a < 10:
        return f"{b}*{a}: {_by_digit(b, a)}."
    parts, steps = [], []
    for place in range(len(str(b))):
        if y := digit(b, place):
            part = a * y * 10**place
            zeros = f", with {'0' * place} {part}" if place else ""
            steps.append(f"{a}*{y}: {_by_digit(a, y)}{zeros}")
            parts.append(part)
    total = parts[0] if parts else 0
    for part in parts[1:]:
        steps.append(f"{total}+{part}: {add(total, part, named)[:-1]}")
        total += part
    return ("; ".join(steps) or "nothing") + "."


def _by_digit(a: int, y: int) -> str:
    """A number times one digit: column by column from the ones, with carries; then the result."""
    steps, carry = [], 0
    for place in range(len(str(a))):
        product = digit(a, place) * y
        carried = f"{product}+{carry}={product + carry}" if carry else str(product)
        steps.append(f"{digit(a, place)}*{y}={carried}")
        carry = (product + carry) // 10
    return f"{', '.join(steps)}, {a * y}"


def divide(a: int, b: int) -> str:
    """Long division: bring down each digit, the quotient's digit, the remainder."""
    steps, rest, begun = [], 0, False
    for x in str(a):
        top = rest * 10 + int(x)
        rest = top % b
        if top >= b or begun or len(str(a)) == 1:
            steps.append(f"{top}/{b}={top // b} rest {rest}")
            begun = True
    return "; ".join(steps or [f"{a}/{b}=0 rest {a}"]) + "."


def check(task: Sum) -> str:
    """A check: the inverse operation, or the last digit."""
    a, b, c = task.left, task.right, task.answer
    match task.operator:
        case "+" | "-" if min(a, c) < 0:
            return f"Check {c}{'-' if task.operator == '+' else '+'}{b}={a}, right."
        case "+":
            return f"Check {c}-{b}: {_columns(c, b, False)[:-1]}; {a}, right."
        case "-":
            return f"Check {c}+{b}: {add(c, b, False)[:-1]}; {a}, right."
        case "*":
            return f"Check the last digit: {a % 10}*{b % 10}={(a % 10) * (b % 10)}, {c % 10}, right."
        case "/":
            back = f"{c}*{b}: {_by_digit(c, b)}" if b < 10 <= c else f"{c}*{b}={c * b}"
            return f"Check {back}{f', {c * b}+{task.rest}={a}' if task.rest else ''}, right."


def digit(number: int, place: int) -> int:
    return number // 10**place % 10
