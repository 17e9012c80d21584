"""Sampling of one token: filters, masks, bias, seeds; and that samples follow the distribution."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.engine.request import SamplingParams
from ossia.engine.sampler import kept_tokens, sample

ROWS = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).standard_normal(300).astype(np.float32) * 3
)


def draws(logits: np.ndarray, params: SamplingParams, count: int = 4000, mask: bytes | None = None) -> np.ndarray:
    return np.array([sample(logits, params, mask, 7, index).token for index in range(count)])


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return weights / weights.sum()


def chi_square(found: np.ndarray, expected: np.ndarray) -> float:
    """Per degree of freedom: about 1 for samples of `expected`."""
    kept = expected > 0
    counts = np.bincount(found, minlength=len(expected))
    assert counts[~kept].sum() == 0
    goal = expected[kept] * len(found)
    return float(((counts[kept] - goal) ** 2 / goal).sum() / (kept.sum() - 1))


LOGITS = np.linspace(0, 2.5, 12).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float):
    found = draws(LOGITS, SamplingParams(temperature=temperature))
    assert chi_square(found, softmax(LOGITS, temperature)) < 2.5


def test_draws_follow_the_softmax_over_a_large_vocabulary():
    """Likely tokens are far apart, on both sides of the slices' edges; all others are too unlikely to occur."""
    places, weights = [0, 511, 512, 1023, 1025, 4999], np.arange(1, 7)
    logits = np.full(5000, -60, np.float32)
    logits[places] = np.log(weights)
    found = draws(logits, SamplingParams())
    assert set(found.tolist()) == set(places)
    assert chi_square(np.searchsorted(places, found), weights / weights.sum()) < 2.5


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        (SamplingParams(top_k=4), 4),
        (SamplingParams(top_p=0.5), 3),
        (SamplingParams(min_p=0.3), 6),
        (SamplingParams(top_k=5, top_p=0.99, min_p=0.5), 4),
    ],
)
def test_cuts_keep_the_likeliest_and_their_proportions(params: SamplingParams, kept: int):
    expected = np.where(np.arange(12) >= 12 - kept, softmax(LOGITS), 0.0)
    assert chi_square(draws(LOGITS, params), expected / expected.sum()) < 2.5


@settings(max_examples=50, deadline=None)
@given(logits=ROWS, share=st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_set_that_reaches_it(logits: np.ndarray, share: float):
    order = np.argsort(-logits, kind="stable")
    size = int(np.searchsorted(np.cumsum(softmax(logits)[order]), share)) + 1
    nucleus = set(order[: size + 1].tolist())  # one more, for rounding at the edge
    assert set(draws(logits, SamplingParams(top_p=share), 40).tolist()) <= nucleus


@settings(max_examples=50, deadline=None)
@given(logits=ROWS, allowed=st.sets(st.integers(0, 299), min_size=1, max_size=20), greedy=st.booleans())
def test_masked_tokens_are_never_sampled(logits: np.ndarray, allowed: set[int], greedy: bool):
    bits = np.zeros(304, np.uint8)
    bits[list(allowed)] = 1
    params = SamplingParams(temperature=0.0 if greedy else 1.5)
    found = draws(logits, params, 20, np.packbits(bits, bitorder="little").tobytes())
    assert set(found.tolist()) <= allowed


def test_a_mask_shorter_than_the_vocabulary_allows_nothing_after_its_end():
    logits = np.zeros(300, np.float32)
    assert draws(logits, SamplingParams(), 200, b"\xff").max() < 8


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_that_leaves_nothing_is_an_error(temperature: float):
    with pytest.raises(ValueError, match="leave no token"):
        sample(LOGITS, SamplingParams(temperature=temperature), b"\x00\x00", 0, 0)


def test_a_mask_longer_than_the_vocabulary_allows_nothing_outside():
    found = draws(np.zeros(10, np.float32), SamplingParams(), 200, b"\x00\xff\xff\xff")
    assert set(found.tolist()) == {8, 9}


@settings(max_examples=30, deadline=None)
@given(logits=ROWS, share=st.floats(0.05, 0.95))
def test_top_p_keeps_no_fewer_than_reach_it(logits: np.ndarray, share: float):
    order = np.argsort(-logits, kind="stable")
    size = int(np.searchsorted(np.cumsum(softmax(logits)[order]), share)) + 1
    kept = kept_tokens(np.exp(logits - logits.max()), SamplingParams(top_p=share))
    assert kept is not None
    assert abs(len(kept) - size) <= 1, "but for rounding at the edge"
    assert set(kept.tolist()) == set(order[: len(kept)].tolist())


def test_a_nucleus_wider_than_the_first_look_is_found_whole():
    logits = np.random.default_rng(3).standard_normal(50_000).astype(np.float32) * 0.1
    kept = kept_tokens(np.exp(logits - logits.max()), SamplingParams(top_p=0.9))
    assert kept is not None
    order = np.argsort(-logits, kind="stable")
    assert abs(len(kept) - int(np.searchsorted(np.cumsum(softmax(logits)[order]), 0.9)) - 1) <= 5
    assert set(kept.tolist()) == set(order[: len(kept)].tolist())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_numbers_are_an_error(bad: float):
    with pytest.raises(ValueError, match="not finite"):
        sample(np.array([0.0, bad], np.float32), SamplingParams(), None, 0, 0)


@pytest.mark.parametrize("temperature", [1e-60, 1e-6, 1e-4])
def test_a_very_cold_draw_is_the_greedy_one(temperature: float):
    assert set(draws(LOGITS, SamplingParams(temperature=temperature), 20).tolist()) == {11}


@pytest.mark.parametrize(
    "params", [SamplingParams(top_k=3), SamplingParams(top_p=0.0005), SamplingParams(top_k=3, top_p=0.99)]
)
def test_of_equals_the_cuts_keep_the_first(params: SamplingParams):
    assert set(draws(np.zeros(5000, np.float32), params, 60).tolist()) == {0, 1, 2}


def test_of_equals_the_first_are_listed_as_likeliest():
    row = np.zeros(5000, np.float32)
    row[[40, 4000]] = 1.0
    assert [token for token, _ in sample(row, SamplingParams(logprobs=4), None, 0, 0).top] == [40, 4000, 0, 1]


@settings(max_examples=30, deadline=None)
@given(logits=ROWS, rows=st.integers(2, 9), top_k=st.integers(0, 20), share=st.floats(0.1, 1.0))
def test_a_rows_bits_do_not_depend_on_where_it_lies_among_others(
    logits: np.ndarray, rows: int, top_k: int, share: float
):
    batch = np.stack([np.roll(logits, place) for place in range(rows)])[:, :299]  # rows at every alignment
    params = SamplingParams(top_k=top_k, top_p=share, logprobs=3)
    among = [sample(row, params, None, 5, index) for index, row in enumerate(batch)]
    assert among == [sample(row.copy(), params, None, 5, index) for index, row in enumerate(batch)]


def test_greedy_takes_the_highest_and_of_equals_the_first():
    assert sample(np.array([1, 3, 3, 2], np.float32), SamplingParams(temperature=0), None, 0, 0).token == 1


def test_bias_moves_tokens_in_and_out():
    logits = np.zeros(10, np.float32)
    assert sample(logits, SamplingParams(temperature=0, logit_bias={7: 1.0}), None, 0, 0).token == 7
    found = draws(logits, SamplingParams(logit_bias=dict.fromkeys(range(9), -100.0)), 50)
    assert set(found.tolist()) == {9}


def test_a_draw_depends_on_seed_and_place_alone():
    params = SamplingParams()
    first = [sample(LOGITS, params, None, seed, place).token for seed in range(5) for place in range(5)]
    again = [sample(LOGITS.copy(), params, None, seed, place).token for seed in range(5) for place in range(5)]
    assert first == again
    assert len(set(first)) > 3


@settings(max_examples=30, deadline=None)
@given(logits=ROWS, top_k=st.integers(0, 400), share=st.floats(0.01, 1.0), least=st.floats(0, 1.0))
def test_every_combination_of_cuts_leaves_the_likeliest(logits: np.ndarray, top_k: int, share: float, least: float):
    params = SamplingParams(top_k=top_k, top_p=share, min_p=least)
    found = draws(logits, params, 5)
    assert ((found >= 0) & (found < 300)).all()
    assert sample(logits, SamplingParams(top_k=1, top_p=share, min_p=least), None, 0, 0).token == int(np.argmax(logits))


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_k": -1},
        {"min_p": 2.0},
        {"max_tokens": 0},
        {"logit_bias": {1: np.inf}},
        {"logit_bias": {1: np.nan}},
    ],
)
def test_parameters_out_of_range_are_refused_by_name(bad: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(bad))):
        SamplingParams(**bad)
