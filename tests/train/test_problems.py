"""Problems made by code: every stated answer, step and call is recomputed by other means."""

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.messages import ToolSpec
from ossia.train.arithmetic import Sum, add, subtract, working
from ossia.train.calls import call_problem
from ossia.train.dialogues import EFFORTS, dialogue
from ossia.train.problems import FAMILIES, problem

SEEDS = st.integers(0, 2**32 - 1)
EQUATION = re.compile(r"(?<![\d+\-*/] )(?<![\d-])(-?\d+(?: [-+*/] \d+)+) = (-?\d+)(?!\d| [-+*/] )")


def equations(text: str) -> list[tuple[str, int]]:
    """Every "a op b ... = c" of a text, for Python to check."""
    return [(left, int(right)) for left, right in EQUATION.findall(text)]


@settings(max_examples=400, deadline=None)
@given(seed=SEEDS, family=st.sampled_from(list(FAMILIES)), effort=st.sampled_from(EFFORTS))
def test_every_equation_of_the_reasoning_holds_and_the_last_is_the_answer(seed: int, family: str, effort):
    made = FAMILIES[family][0](random.Random(seed))
    reasoning = made.reasoning(effort)
    found = equations(reasoning)
    assert found
    for left, right in found:
        assert eval(left) == right, reasoning
    stated = [right for _, right in equations(working(made.sums[-1], "low"))]
    assert stated == [made.answer]
    assert str(made.answer) in made.reply


@settings(max_examples=300, deadline=None)
@given(seed=SEEDS, family=st.sampled_from(list(FAMILIES)))
def test_the_question_has_the_numbers_that_the_sums_start_from(seed: int, family: str):
    made = FAMILIES[family][0](random.Random(seed))
    asked = {int(number) for number in re.findall(r"\d+", made.question)}
    assert {made.sums[0].left, made.sums[0].right} <= asked
    for earlier, later in zip(made.sums, made.sums[1:], strict=False):
        assert later.left == earlier.answer
        assert later.right in asked


@settings(max_examples=300, deadline=None)
@given(a=st.integers(0, 9999), b=st.integers(0, 9999))
def test_columns_spell_the_result(a: int, b: int):
    """The digits written column by column, read from the last column back, are the sum and the difference."""
    columns = [int(total) for total in re.findall(r"= (\d+)", add(a, b))]
    assert int("".join(str(total % 10 if i else total) for i, total in enumerate(reversed(columns)))) == a + b
    big, small = max(a, b), min(a, b)
    digits = re.findall(r"= (\d)(?=[;.])", subtract(big, small))
    assert int("".join(reversed(digits))) == big - small


def test_efforts_differ_in_length():
    for task in (Sum(47, "+", 85), Sum(85, "-", 47), Sum(47, "*", 85), Sum(84, "/", 7)):
        low, medium, high = (len(working(task, effort)) for effort in EFFORTS)
        assert low < medium < high


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS)
def test_calls_fit_their_schemas(seed: int):
    made = call_problem(random.Random(seed))
    (spec,) = [tool for tool in made.tools if tool.name == made.name]
    arguments = json.loads(made.arguments)
    assert isinstance(spec, ToolSpec)
    assert spec.parameters is not None
    assert list(arguments) == spec.parameters["required"]
    kinds = {"string": str, "integer": int}
    for name, value in arguments.items():
        assert isinstance(value, kinds[spec.parameters["properties"][name]["type"]])
        assert str(value) in made.question
    assert all(str(value) in made.reply for value in json.loads(made.result).values())


def test_the_same_seed_gives_the_same_dialogues_and_another_gives_others():
    first, again, other = ([dialogue(random.Random(seed)) for _ in range(3)] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_family_is_drawn():
    drawn = {problem(random.Random(seed)).family for seed in range(400)}
    assert drawn == set(FAMILIES)


@pytest.mark.parametrize("seed", range(50))
def test_dialogues_end_with_the_assistant(seed: int):
    messages = dialogue(random.Random(seed))
    assert messages[0].role == "system"
    assert messages[-1].role == "assistant"
