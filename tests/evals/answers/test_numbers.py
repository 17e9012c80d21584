"""Integers as AIME asks for, and decimals as GSM8K does."""

from decimal import Decimal

import pytest

from ossia.evals.answers.numbers import decimal_answer, integer_of, simple_integer, strict_decimal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("so \\boxed{204}", 204),
        ("\\boxed{0098}", 98),
        ("\\boxed{\\text{34}}", 34),
        ("\\boxed{914^\\circ}", 914),
        ("\\boxed{n = 31}", 31),
        ("\\boxed{1{,}024}", 1024),
        ("\\boxed{5} but better \\boxed{7}", 7),
        ("\\boxed{7} and \\boxed{}", 7),
        ("the answer is 1,363.", 1363),
        ("it is -31", -31),
        ("\\boxed{\\frac{4}{3}}", None),
        ("\\boxed{8.9}", None),
        ("no number", None),
        ("\\boxed{12", 12),
        ("", None),
    ],
)
def test_an_integer_is_read_from_the_last_box_or_the_last_number(text: str, value: int | None):
    assert integer_of(text) == value


def test_the_simple_reading_is_that_of_openais_grader():
    assert simple_integer("\\boxed{\\text{34}}") is None
    assert simple_integer("it is -31") == 31
    assert simple_integer("\\boxed{87, 25}") == 25


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("She has 5 left.\n#### 18", "18"),
        ("#### $1,200.50", "1200.50"),
        ("The answer is 3.", "3"),
        ("**Answer: 42 dollars**", "42"),
        ("First 12, then 14 apples.", "14"),
        ("\\boxed{70{,}000}", "70000"),
        ("Answer: -4", "-4"),
        ("5 - 3 = 2", "2"),
        ("none", None),
    ],
)
def test_a_decimal_is_the_declared_one_or_the_last(text: str, value: str | None):
    found = decimal_answer(text)
    assert found == (None if value is None else Decimal(value))


def test_the_strict_reading_wants_the_form_of_the_data():
    assert strict_decimal("#### 1,000") == 1000
    assert strict_decimal("The answer is 3.") is None
