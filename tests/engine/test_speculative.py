"""Speculation: what is drafted, when it is verified, and that it changes only the time."""

from array import array
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.engine.engine import Engine
from ossia.engine.request import SamplingParams
from ossia.engine.speculative import (
    MAX_DRAFT_TOKENS,
    MAX_DRAFTING_REQUESTS,
    MIN_PROBE_INTERVAL,
    SIZES,
    PromptLookup,
    Speculation,
    StepTimes,
)
from ossia.kernels.ops import Batch
from tests.support.fake_model import VOCAB, FakeModel, cache_for, config, stopped_clock

TEXTS = st.lists(st.integers(0, 3), max_size=60)


def naive_draft(text: list[int], most: int) -> tuple[int, tuple[int, ...]] | None:
    for size in SIZES:
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - size : end] == text[-size:]:
                loop = text[end:]
                return size, tuple(loop[i % len(loop)] for i in range(most))
    return None


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, cuts=st.lists(st.integers(1, 20), max_size=20), most=st.integers(1, 9))
def test_a_draft_continues_the_latest_of_the_longest_matches(text: list[int], cuts: list[int], most: int):
    """However many tokens come between two lookups."""
    lookup, seen = PromptLookup(), array("i")
    for cut in [*cuts, 60]:
        seen.extend(text[len(seen) : len(seen) + cut])
        draft = lookup.propose(seen, most)
        assert (draft and tuple(draft)) == naive_draft(seen.tolist(), most)


def run(
    model: FakeModel, prompt: list[int], params: SamplingParams, speculate: bool, **settings: int
) -> tuple[list, Engine]:
    with stopped_clock():
        engine = Engine(model, speculate=speculate, **settings)
        return engine.generate([prompt], params)[0], engine


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_tokens_are_those_without_it_at_any_temperature(temperature: float, seed: int):
    params = SamplingParams(temperature=temperature, seed=seed, max_tokens=150, logprobs=2)
    prompt = [seed, 1, 2, 3, 1, 2]
    with_it, engine = run(FakeModel(repeats=7.0), prompt, params, True)
    without, plain = run(FakeModel(repeats=7.0), prompt, params, False)
    assert with_it == without, "and so are their log-probabilities"
    assert plain.stats().drafted_tokens == 0
    assert 0 < engine.stats().accepted_tokens < engine.stats().drafted_tokens
    assert engine.stats().steps == 150 - engine.stats().accepted_tokens


def test_a_loop_takes_a_fraction_of_the_steps():
    model = FakeModel(repeats=50.0)
    _, engine = run(model, [1, 2, 3, 1], SamplingParams(temperature=0, max_tokens=200), True)
    assert engine.stats().steps < 200 / 4
    assert max(model.rows) == 1 + MAX_DRAFT_TOKENS


def test_surprising_text_is_left_alone():
    model = FakeModel()
    _, engine = run(model, [1, 2, 3, 1], SamplingParams(temperature=0, max_tokens=200), True)
    assert engine.stats().drafted_tokens < 20


def test_an_answer_ends_where_it_ends_without_it():
    """In the middle of a draft: by a stop token, by max_tokens, by the context."""
    for params in (
        SamplingParams(temperature=0, stop_tokens=frozenset([9])),
        *(SamplingParams(temperature=0, max_tokens=most) for most in range(1, 30)),
        SamplingParams(temperature=0),
    ):
        model = FakeModel(config(64), repeats=6.0)
        with_it, _ = run(model, [1, 2, 3] * 5, params, True)
        assert max(model.rows[1:], default=0) <= (params.max_tokens or 64) - 1, "no row goes past the end"
        assert with_it == run(model, [1, 2, 3] * 5, params, False)[0]


class Alternating:
    """A mask that alternately forbids every other token, and records the accepted ones."""

    def __init__(self) -> None:
        self.accepted: list[int] = []
        self.asked = 0

    def mask(self) -> bytes:
        self.asked += 1
        return bytes([0b11101111 if len(self.accepted) % 7 else 0b11110111] * (VOCAB // 8))

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def test_a_mask_accepts_every_token_once_and_no_draft_token():
    params = SamplingParams(temperature=0, max_tokens=100)
    answers = []
    for speculate in (True, False):
        mask = Alternating()
        with stopped_clock():
            engine = Engine(FakeModel(repeats=9.0), speculate=speculate)
            answers.append([sampled.token for sampled in engine.submit([1, 2, 3, 1], params, mask)])
        assert mask.accepted == answers[-1]
        assert mask.asked == 100
        assert bool(engine.stats().accepted_tokens) == speculate
    assert answers[0] == answers[1]


def test_drafts_keep_to_the_budget_and_preempt_no_request():
    model = FakeModel(repeats=20.0)
    with stopped_clock():
        engine = Engine(model, cache_bytes=cache_for(10), max_batched_tokens=6)
        streams = [engine.submit([1, 2, 3, first], SamplingParams(temperature=0, max_tokens=60)) for first in (1, 2)]
        assert [[each.token for each in stream] for stream in streams] == [
            model.greedy([1, 2, 3, t], 60) for t in (1, 2)
        ]
    assert max(model.rows) == 6
    assert engine.stats().accepted_tokens > 0
    assert engine.stats().preemptions == 0


def test_many_requests_are_not_drafted_for():
    with stopped_clock():
        engine = Engine(FakeModel(repeats=20.0))
        engine.generate([[1, 2, 3, 1]] * (MAX_DRAFTING_REQUESTS + 1), SamplingParams(temperature=0, max_tokens=30))
    assert engine.stats().drafted_tokens == 0


class Interrupted(FakeModel):
    """Ctrl-C comes after every third forward."""

    def forward(self, batch: Batch, cache: list[np.ndarray]) -> np.ndarray:
        logits = super().forward(batch, cache)
        if self.calls % 3 == 0:
            raise KeyboardInterrupt
        return logits


def test_an_interrupted_draft_is_made_again():
    model, said, mask = Interrupted(repeats=9.0), [], Alternating()
    with stopped_clock():
        stream = Engine(model).submit([1, 2, 3, 1], SamplingParams(temperature=0, max_tokens=100), mask)
        while len(said) < 100:
            with suppress(KeyboardInterrupt):
                said.append(next(stream).token)
        engine = Engine(FakeModel(repeats=9.0), speculate=False)
        plain = list(engine.submit([1, 2, 3, 1], SamplingParams(temperature=0, max_tokens=100), Alternating()))
    assert said == mask.accepted == [sampled.token for sampled in plain]


def measured(slope: float) -> StepTimes:
    times = StepTimes()
    for rows in range(1, 2 + MAX_DRAFT_TOKENS):
        times.note(rows, 1 + slope * (rows - 1))
    return times


def drafts(holds: float, slope: float, tokens: int) -> list[int]:
    """The number of draft tokens, step by step, for a repetitive text with this acceptance rate."""
    speculation, times, sizes = Speculation(), measured(slope), []
    text = array("i", [1, 2, 3, 4, 5] * 4)
    for step in range(tokens):
        draft = speculation.draft(text, MAX_DRAFT_TOKENS, 1, times)
        sizes.append(len(draft))
        following = text[-5]
        right = step % 10 < 10 * holds
        speculation.learn([*draft, following] if right else [0])
    return sizes


@pytest.mark.parametrize(
    ("holds", "slope", "least", "most"),
    [
        (1.0, 0.1, MAX_DRAFT_TOKENS, MAX_DRAFT_TOKENS),
        (0.9, 0.1, 3, MAX_DRAFT_TOKENS),
        (0.5, 0.1, 1, MAX_DRAFT_TOKENS),
        (0.5, 1.2, 0, 0),
        (0.0, 0.3, 0, 0),
        (1.0, 1.2, 0, 0),
    ],
)
def test_as_many_are_tried_as_pay(holds: float, slope: float, least: int, most: int):
    """Cheap rows and a high acceptance rate give long drafts. With a row as costly as a step there are none."""
    settled = sorted(drafts(holds, slope, MIN_PROBE_INTERVAL)[40:-1])
    assert least <= settled[0]
    assert settled[-1] <= most


def test_what_does_not_pay_is_tried_again_more_and_more_seldom():
    sizes = drafts(1.0, 1.2, 20 * MIN_PROBE_INTERVAL)
    tried = [step for step, size in enumerate(sizes) if size]
    gaps = [after - before for before, after in pairwise(tried)]
    assert gaps == [2 * MIN_PROBE_INTERVAL, 4 * MIN_PROBE_INTERVAL, 8 * MIN_PROBE_INTERVAL]


def test_one_slow_step_does_not_stop_it():
    times = measured(0.1)
    before = times.cost(5)
    times.note(5, 1000.0)
    assert times.cost(5) < 1.2 * before


def test_a_first_step_that_compiled_is_soon_forgotten():
    times = StepTimes()
    times.note(1, 100.0)
    for _ in range(10):
        times.note(1, 1.0)
    assert times.cost(1) < 1.2
