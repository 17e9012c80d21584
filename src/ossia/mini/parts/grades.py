"""Grades that families share: what of a final answer is read, and what it is compared with.

In: an example and a turn. Out: a `Grade`, 1 or 0, with the reason.
It does not know how examples are made.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from ossia.harmony.messages import Message
from ossia.task import Example, Grade, final_text

LONGEST_NUMBER = 1000  # digits read: Python refuses to read some thousands
NUMBER = re.compile(r"-?\d+(?:,\d{3})*")
Grader = Callable[[Example, Sequence[Message]], Grade]


def of_text(judge: Callable[[Example, str], Grade]) -> Grader:
    """A grade of the final answer's text; a turn without one has none."""

    def grade(example: Example, turn: Sequence[Message]) -> Grade:
        text = final_text(turn)
        return Grade(0.0, "no final answer") if text is None else judge(example, text)

    return grade


def verdict(given: object, wanted: object) -> Grade:
    return Grade(1.0, "right") if given == wanted else Grade(0.0, f"said {given!r}, wanted {wanted!r}")


def numbers_in(text: str) -> list[int]:
    return [int(found.replace(",", "")[:LONGEST_NUMBER]) for found in NUMBER.findall(text)]


@of_text
def last_number(example: Example, text: str) -> Grade:
    """The last number said is the answer."""
    return verdict(numbers_in(text)[-1:], [example.answer])


@of_text
def last_numbers(example: Example, text: str) -> Grade:
    """The answer is a list; the last numbers said are it."""
    return verdict(numbers_in(text)[-len(example.answer) :], example.answer)


@of_text
def all_numbers(example: Example, text: str) -> Grade:
    """The answer is a list; the numbers said, all of them, are it."""
    return verdict(numbers_in(text), example.answer)


@of_text
def whole_text(example: Example, text: str) -> Grade:
    """The text is the answer; capitals, quotes and a last full stop do not count."""
    return verdict(plain(text), plain(example.answer))


@of_text
def one_of(example: Example, text: str) -> Grade:
    """The answer is (the right word, the wrong ones): of these the text has the right one alone."""
    right, others = example.answer
    said = {word.lower() for word in re.findall(r"[\w']+", text)}
    return verdict([word for word in (right, *others) if word.lower() in said], [right])


def read_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for anything else, nested too deep as well."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def plain(text: str) -> str:
    return text.strip().strip("\"'`").removesuffix(".").strip("\"'`").lower()
