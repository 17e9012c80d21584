"""Phrasings: what training says in other words keeps all that is filled in, and is never a held template."""

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from ossia.mini.parts.build import phrased, pick, same

TEMPLATES = {
    "train": ("Sort {x}.", "What is {a} + {b}?", "{w}: how long?"),
    "held": ("Now sort {x}.", "{w}: how long? Go!"),
}


@given(seed=st.integers(0, 2**32 - 1))
def test_a_phrasing_keeps_what_is_filled_in_and_is_never_held(seed: int):
    rng = random.Random(seed)
    template, name = pick(rng, TEMPLATES, "train")
    base = TEMPLATES["train"][int(name.removeprefix("train/"))]
    assert sorted(re.findall(r"{\w}", template)) == sorted(re.findall(r"{\w}", base))
    assert not any(same(template, each) for each in TEMPLATES["held"])


def test_held_templates_are_as_they_stand():
    drawn = {pick(random.Random(seed), TEMPLATES, "held")[0] for seed in range(50)}
    assert drawn == set(TEMPLATES["held"])


def test_orders_and_questions_have_many_phrasings():
    for template in TEMPLATES["train"][:2]:
        found = {phrased(random.Random(seed), template, ()) for seed in range(500)}
        assert len(found) > 25
