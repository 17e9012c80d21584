"""The diffs of one file, compared with openai-agents' own program for them. It needs that package, which CI lacks.

All valid diffs give the same text. Diffs as a model may write them give the same text or are refused by both, but for
the differences that `reason` lists.
"""

import itertools
import random
from collections import Counter

import pytest

from ossia.tools.patch.fit import apply_diff
from ossia.tools.patch.parse import PatchError, parse_update
from tests.tools.patch.edits import Edit, disturbed, edit

official = pytest.importorskip("agents.apply_diff", reason="needs openai-agents").apply_diff


def ours(text: str, diff: str) -> str | None:
    try:
        return apply_diff(text, diff)
    except PatchError:
        return None


def theirs(text: str, diff: str) -> str | None:
    try:
        return official(text, diff)
    except ValueError:
        return None


def reason(made: Edit, mine: str | None, other: str | None) -> str | None:
    """Why the two programs differ; None for a difference that should not be."""
    lines = made.diff.split("\n")
    if other is None:
        return "a hunk is found although a header, blank lines or context are repeated"
    try:
        hunks = parse_update(made.diff)
    except PatchError as error:
        if "has no lines" in str(error):
            return "a hunk without lines is refused"
        return "text after the end of the diff is refused" if "does not belong in the diff" in str(error) else None
    if not made.before:
        return "an empty file has no lines, not a blank one"
    if any(not hunk.old and not hunk.headers for hunk in hunks):
        return "insertions without header and context are put at the end"
    if not lines[0].strip() or any(not a.strip() and b.startswith("@@") for a, b in itertools.pairwise(lines)):
        return "blank lines before a header are ignored"
    return None


def test_valid_diffs_give_the_same_text():
    for seed in range(2_000):
        rng = random.Random(seed)
        made = edit(rng, rng.choice(("\n", "\r\n")))
        assert ours(made.before, made.diff) == theirs(made.before, made.diff), (seed, made)


def test_diffs_with_slips_give_the_same_text_or_are_refused_by_both():
    """Without final newlines: there a blank last line is a line for the other program."""
    reasons: Counter[str] = Counter()
    compared = 0
    for seed in range(10_000):
        rng = random.Random(seed)
        made = disturbed(rng, edit(rng, may_lack_newline=False))
        made = made._replace(before=made.before.removesuffix("\n"))
        if made.before.endswith("\n"):
            continue
        compared += 1
        mine, other = ours(made.before, made.diff), theirs(made.before, made.diff)
        if mine != other:
            found = reason(made, mine, other)
            assert found, (seed, made, mine, other)
            reasons[found] += 1
    assert reasons.total() < 0.08 * compared, reasons
