"""The number that a text answers with.

In: a final text. Out: an integer as AIME asks for, or a decimal as GSM8K does; None if there is none.
"""

import re
from decimal import Decimal, InvalidOperation

from ossia.evals.answers.boxes import last_box

NUMBER = re.compile(r"(?<![\w.)}\]])[-−]?\$?\d[\d,]*(?:\.\d+)?|\d[\d,]*(?:\.\d+)?")
GROUPED = re.compile(r"[-−]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mathit|operatorname)\s*\{([^{}]*)\}")
DEGREES = re.compile(r"\^\s*\{?\\circ\}?|°|\\%|%")
SPACING = re.compile(r"\\[,;:! ]|\\quad|~")
DECLARED = re.compile(r"(?:####|\b(?:[Ff]inal\s+)?[Aa]nswer\s*(?:is\b\s*:?|:))[*\s]*(?P<rest>[^\n]*)")


def integer_of(text: str) -> int | None:
    """The last box that is not empty, read as one integer; without a box, the last number of the text."""
    box = last_box(text)
    if box is not None:
        return integer_in(box)
    value = last_decimal(text)
    return int(value) if value is not None and value == value.to_integral_value() else None


def integer_in(expression: str) -> int | None:
    r"""An expression as an integer: "0098", "n = 31", "\text{34}", "914^\circ", "1{,}024". None if it is no integer.

    Of a list such as "87, 25" the last is taken, as OpenAI's grader does.
    """
    bare = SPACING.sub("", DEGREES.sub("", expression.replace("{,}", ","))).replace("$", "")
    bare = WRAPPER.sub(r" \1 ", bare).rsplit("=", 1)[-1].strip().rstrip(".")
    if GROUPED.fullmatch(bare):
        bare = bare.replace(",", "")
    last = bare.rsplit(",", 1)[-1].strip(" {}()").replace("−", "-")
    number = re.fullmatch(r"([-+]?\d{1,18})(?:\.0+)?(?:\s+[A-Za-z ]+)?", last)
    return int(number[1]) if number else None


def simple_integer(text: str) -> int | None:
    """As OpenAI's AIME grader reads it: boxes end at the first brace, signs are dropped. For comparison only."""
    filled = [found for pair in re.findall(r"boxed{(.*?)}|framebox{(.*?)}", text, re.DOTALL) for found in pair if found]
    digits = re.findall(r"\d+", text)
    found = filled[-1].split(",")[-1].strip() if filled else digits[-1] if digits else ""
    try:
        return int(found)
    except ValueError:
        return None


def last_decimal(text: str) -> Decimal | None:
    """The last number in a text."""
    found = NUMBER.findall(text)
    return decimal_of(found[-1]) if found else None


def decimal_of(number: str) -> Decimal | None:
    """A number without commas, currency signs and a closing period."""
    bare = re.sub(r"[,$€£\s]", "", number.replace("−", "-")).rstrip(".")
    try:
        value = Decimal(bare)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def decimal_answer(text: str) -> Decimal | None:
    """The number after the last "####" or "answer is" that has one, else in the last box, else the last number."""
    for declared in reversed([*DECLARED.finditer(text)]):
        found = NUMBER.search(declared["rest"])
        if found:
            return decimal_of(found[0])
    return last_decimal((last_box(text) or text).replace("{,}", ","))


def strict_decimal(text: str) -> Decimal | None:
    """The number of the last line "#### N" alone, as GSM8K writes it."""
    found = re.findall(r"####\s*\$?([-−]?[\d.,]+)", text)
    return decimal_of(found[-1]) if found else None
