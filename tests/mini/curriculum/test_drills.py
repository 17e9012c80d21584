"""Drills: every line's answer follows from what stands before it, and no held word is among them."""

import itertools
import json
import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.mini.curriculum.drills import KINDS, drill, words
from ossia.mini.parts.words import HELD_LOWER

SEEDS = st.integers(0, 2**32 - 1)


def line(kind: str, seed: int) -> tuple[str, str]:
    """What is given, and the answer."""
    (make,) = (each for each, _ in KINDS if each.__name__ == kind)
    return make(random.Random(seed))


@settings(max_examples=300, deadline=None)
@given(seed=SEEDS)
def test_a_drill_has_some_problems_with_answers_and_no_held_word(seed: int):
    made = drill(random.Random(seed))
    assert made == drill(random.Random(seed))
    assert 3 <= sum(learnt for _, learnt in made.pieces) == len(made.pieces) / 2 <= 6
    assert all(given.endswith(":") for given, _ in made.pieces[::2])
    assert all(answer[0] in " \n" for answer, _ in made.pieces[1::2])
    assert not set(re.findall(r"[a-z]+", made.text.lower())) & HELD_LOWER


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS)
def test_a_topic_is_given_the_function_it_stands_beside_or_none(seed: int):
    told, answer = line("_by_name", seed)
    listed, _, topic = told.rpartition(". So ")
    functions = dict(each.split(" by ") for each in listed.split("; "))
    assert answer == f"{topic} by {functions.get(topic, 'none')}"


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS)
def test_what_is_said_of_a_parameter_stands_in_the_request(seed: int):
    told, answer = line("_arguments", seed)
    before, _, asked = told.rpartition("\n}; ")
    request, _, name = asked.rpartition("; ")
    ((declared),) = re.findall(rf"(?:^|; ){name} = {{(.*?)\n}}; ", f"{before}\n}}; ", re.DOTALL)
    kinds = re.findall(r"(\w+)\??: (number|string|boolean|\")", declared)
    assert [key for key, _ in kinds] == [each.split()[0] for each in answer.splitlines()]
    for (key, kind), each in zip(kinds, answer.splitlines()):
        value = each.removeprefix(f"{key} ")
        assert value == "not said" or (key.replace("_", " ") if kind == "boolean" else value) in request


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS)
def test_words_are_alike_when_they_are_the_same(seed: int):
    told, answer = line("_alike", seed)
    one, other = told.split(" or ")
    assert answer == ("the same" if one == other else "not the same")


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS)
def test_what_is_looked_up_stands_behind_its_key(seed: int):
    told, answer = line("_looked_up", seed)
    pairs, _, asked = told.rpartition(". ")
    found = [pair for pair in pairs.split("; ") if re.match(rf"{asked}[ :]", pair)]
    assert [answer] == found or (not found and re.fullmatch(rf"{asked}:?( is| by| >)? none", answer))


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, least=st.integers(1, 4), more=st.integers(0, 3))
def test_lists_are_as_long_as_told_and_hold_nothing_twice(seed: int, least: int, more: int):
    found = words(random.Random(seed), least, least + more)
    assert least <= len(set(found)) == len(found) <= least + more


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS)
def test_the_larger_or_smaller_number_is_named(seed: int):
    told, answer = line("_compared", seed)
    a, b = (int(found) for found in re.findall(r"\d+", told)[:2])
    assert answer.rpartition(" ")[2] == str((max if "larger" in told else min)(a, b))


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS)
def test_letters_are_in_order_and_a_row_fits_its_pairs(seed: int):
    told, answer = line("_sorted", seed)
    given = told.removeprefix("in order ").removesuffix(" at once").split()
    ordered = sorted(given, key=lambda each: int(each) if each.isdigit() else each)
    assert re.split("[.;] ?", answer.removesuffix("."))[-1].split() == ordered
    told, answer = line("_chained", seed)
    row = re.sub(r".*Down \d: ", "", answer).removesuffix(".").split(" > ")
    assert {f"{one} > {other}" for one, other in itertools.pairwise(row)} == set(
        told.removesuffix(" at once").split("; ")
    )


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS)
def test_json_says_what_the_words_say(seed: int):
    text = " = ".join(line("_in_json", seed))
    written = json.loads(text[text.index("{") : text.index("}") + 1])
    for key, value in written.items():
        assert f"{key} {value if isinstance(value, str) else json.dumps(value)}" in text
