"""Grades that task families share: how a final answer is read and compared.

Input: an example and a turn. Output: a `Grade`, 1 or 0, with the reason.
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
    """A grade function over the final answer's text; a turn without a final answer gets 0."""

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
    """The last number is the answer."""
    return verdict(numbers_in(text)[-1:], [example.answer])


@of_text
def last_numbers(example: Example, text: str) -> Grade:
    """The answer is a list: the last numbers."""
    return verdict(numbers_in(text)[-len(example.answer) :], example.answer)


@of_text
def all_numbers(example: Example, text: str) -> Grade:
    """The answer is a list: all the numbers."""
    return verdict(numbers_in(text), example.answer)


@of_text
def whole_text(example: Example, text: str) -> Grade:
    """The text is the answer; case, quotes and a final full stop are ignored."""
    return verdict(plain(text), plain(example.answer))


@of_text
def one_of(example: Example, text: str) -> Grade:
    """The answer is (the correct word, the wrong ones): the text has only the correct one of them."""
    right, others = example.answer
    said = {word.lower() for word in re.findall(r"[\w']+", text)}
    return verdict([word for word in (right, *others) if word.lower() in said], [right])


def read_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for invalid or too deeply nested JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def plain(text: str) -> str:
    return text.strip().strip("\"'`").removesuffix(".").strip("\"'`").lower()
