"""The patch between two files, applied to the first, gives the second."""

import random

import pytest

from ossia.tools.patch.fit import apply_diff
from ossia.tools.patch.parse import parse_patch
from ossia.tools.patch.plan import plan
from ossia.tools.patch.split import patch_of_call, split_patch
from tests.tools.patch.edits import edit


def round_trip(seed: int) -> None:
    rng = random.Random(seed)
    newline = rng.choice(("\n", "\n", "\r\n"))
    made = edit(rng, newline)
    patch_newline = rng.choice(("\n", "\n", "\r\n"))
    patch = f"*** Begin Patch\n*** Update File: a\n{made.diff}*** End Patch\n".replace("\n", patch_newline)
    after = made.after if newline in made.before else made.after.replace("\r\n", "\n")  # no line end to follow
    parsed = parse_patch(patch)
    (change,) = plan(parsed, {"a": made.before.encode()}).changes
    assert change.after == after.encode(), (seed, made)
    assert apply_diff(made.before, made.diff) == after, (seed, made)
    (call,) = split_patch(parsed)
    assert plan(patch_of_call(*call), {"a": made.before.encode()}).changes == (change,)


@pytest.mark.parametrize("part", range(3))
def test_300_round_trips(part: int):
    for seed in range(100 * part, 100 * (part + 1)):
        round_trip(seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(100))
def test_10000_round_trips(part: int):
    for seed in range(1_000 + 100 * part, 1_000 + 100 * (part + 1)):
        round_trip(seed)


def test_inexact_lines_that_stay_keep_the_text_of_the_file():
    """A model often gets white space and quotes wrong in lines that it does not change."""
    for seed in range(300):
        rng = random.Random(seed)
        count = rng.randint(3, 30)
        old = [f"{' ' * rng.randrange(4)}line \u2018{n}\u2019 of {seed}{' ' * rng.randrange(3)}" for n in range(count)]
        at = rng.randrange(1, count - 1)
        form = rng.choice(
            (str.strip, str.rstrip, lambda line: line.strip().replace("\u2018", "'").replace("\u2019", "'"))
        )
        hunk = [f" {form(old[at - 1])}", f"-{form(old[at])}", "+new", f" {form(old[at + 1])}"]
        wanted = [*old[:at], "new", *old[at + 1 :]]
        diff = "\n".join(["@@", *hunk])
        assert apply_diff("\n".join(old) + "\n", diff) == "\n".join(wanted) + "\n"
