"""Penalties (A3b) as vLLM and OpenAI define them, and independent of scheduling."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.engine.engine import Engine
from ossia.engine.penalties import Penalties
from ossia.engine.request import SamplingParams
from ossia.engine.sampler import sample
from tests.engine.test_step_sampler import DeviceOps
from tests.support.fake_model import VOCAB, FakeModel, cache_for, stopped_clock

TOKENS = st.lists(st.integers(0, 49), max_size=300)
PENALTIES = st.fixed_dictionaries(
    {
        "repetition_penalty": st.sampled_from([1.0, 0.5, 1.3, 10.0]),
        "frequency_penalty": st.sampled_from([0.0, -1.5, 0.4, 2.0]),
        "presence_penalty": st.sampled_from([0.0, -2.0, 0.7]),
    }
)
PROMPTS = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=50), min_size=1, max_size=5)


def penalized(logits_V: np.ndarray, prompt: list[int], said: list[int], p: SamplingParams) -> np.ndarray:
    """By the definitions: vLLM's for repetition, OpenAI's for frequency and presence."""
    out = logits_V.astype(np.float64)
    for token in {*prompt, *said}:
        out[token] = out[token] / p.repetition_penalty if out[token] > 0 else out[token] * p.repetition_penalty
    for token in set(said):
        out[token] -= p.frequency_penalty * said.count(token) + p.presence_penalty
    return out


@settings(max_examples=200, deadline=None)
@given(prompt=TOKENS, said=TOKENS, given=PENALTIES, seed=st.integers(0, 99))
def test_A3b_a_row_is_penalized_as_defined(prompt: list[int], said: list[int], given: dict[str, float], seed: int):
    params = SamplingParams(**given)
    logits = (np.random.default_rng(seed).standard_normal(50) * 4).astype(np.float32)
    penalties = Penalties(params, prompt)
    for token in said:
        penalties.note(token)
    found = logits.copy()
    penalties.apply(found)
    np.testing.assert_allclose(found, penalized(logits, prompt, said, params), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("penalty", [0.5, 1.2, 3.0])
def test_A3b_repetition_is_penalized_as_in_transformers(penalty: float):
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    logits = (np.random.default_rng(3).standard_normal(50) * 4).astype(np.float32)
    prompt, said = [1, 5, 5, 9], [2, 5, 2]
    theirs = processors.RepetitionPenaltyLogitsProcessor(penalty)(
        torch.tensor([prompt + said]), torch.tensor(logits)[None]
    )
    penalties = Penalties(SamplingParams(repetition_penalty=penalty), prompt)
    penalties.follow([*prompt, *said])
    penalties.apply(logits)
    np.testing.assert_allclose(logits, theirs[0].numpy(), rtol=1e-6)


def naive(model: FakeModel, prompt: list[int], params: SamplingParams) -> list[int]:
    said: list[int] = []
    for place in range(params.max_tokens or 0):
        logits = penalized(model.logits_after(prompt + said), prompt, said, params).astype(np.float32)
        said.append(sample(logits, SamplingParams(temperature=params.temperature), None, params.seed or 0, place).token)
    return said


@settings(max_examples=40, deadline=None)
@given(
    prompts=PROMPTS,
    given=PENALTIES,
    temperature=st.sampled_from([0.0, 1.0]),
    budget=st.integers(1, 100),
    blocks=st.integers(6, 30),
    repeats=st.sampled_from([0.0, 8.0]),
    on_device=st.booleans(),
)
def test_A3b_answers_do_not_depend_on_scheduling(
    prompts: list[list[int]], given: Any, temperature: float, budget: int, blocks: int, repeats: float, on_device: bool
):
    """Batches, chunks, preemption, shared prefixes and draft tokens; sampled on a device or on the host."""
    params = SamplingParams(temperature=temperature, seed=5, max_tokens=12, **given)
    made = {"ops": DeviceOps()} if on_device else {}
    engine = Engine(FakeModel(repeats=repeats, **made), cache_bytes=cache_for(blocks), max_batched_tokens=budget)
    with stopped_clock():
        for _ in range(2):  # the second time with prefixes in the cache
            answers = engine.generate(prompts, params)
            model = FakeModel(repeats=repeats)
            assert [[each.token for each in said] for said in answers] == [
                naive(model, each, params) for each in prompts
            ]


def test_A3b_draft_tokens_are_verified_with_the_penalties_of_their_index():
    params = SamplingParams(temperature=0, max_tokens=150, frequency_penalty=0.1, repetition_penalty=1.05)
    with stopped_clock():
        engine = Engine(FakeModel(repeats=9.0))
        (said,) = engine.generate([[1, 2, 3, 1, 2, 3]], params)
    assert [each.token for each in said] == naive(FakeModel(repeats=9.0), [1, 2, 3, 1, 2, 3], params)
    assert 0 < engine.stats().accepted_tokens < engine.stats().drafted_tokens


def test_A3b_log_probabilities_are_the_models_own():
    params = SamplingParams(temperature=0, max_tokens=8, presence_penalty=3.0, logprobs=VOCAB)
    (said,) = Engine(FakeModel()).generate([[4, 7]], params)
    prefix = [4, 7]
    for each in said:
        logits = FakeModel().logits_after(prefix).astype(np.float64)
        assert each.logprob == pytest.approx(logits[each.token] - np.log(np.exp(logits).sum()), abs=1e-5)
        prefix.append(each.token)


def test_tokens_that_were_noted_but_never_committed_are_forgotten():
    params, logits = SamplingParams(frequency_penalty=1.0), np.zeros(9, np.float32)
    penalties = Penalties(params, [1])
    penalties.follow([1, 2])
    penalties.note(5)
    penalties.follow([1, 2])
    penalties.apply(logits)
    assert logits.tolist() == [0, 0, -1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("ops", [DeviceOps, None])
def test_A3_no_stop_token_comes_before_the_least_length(ops: Any):
    stop = frozenset(range(0, VOCAB, 2))
    made = {"ops": ops()} if ops else {}
    for least in (0, 1, 5, 9):
        (said,) = Engine(FakeModel(**made)).generate([[3]], SamplingParams(seed=1, stop_tokens=stop, min_tokens=least))
        assert len(said) > least
        assert said[-1].finish == "stop"


def test_A3_a_least_length_gives_way_where_only_a_stop_token_may_come():
    logits, mask = np.zeros(16, np.float32), bytes([0, 1])
    params = SamplingParams(stop_tokens=frozenset([8]), min_tokens=5)
    assert sample(logits, params, mask, 1, 0).token == 8


@pytest.mark.parametrize(
    ("field", "value"), [("repetition_penalty", 0.0), ("frequency_penalty", 1e9), ("presence_penalty", float("nan"))]
)
def test_A3b_a_penalty_out_of_range_is_named(field: str, value: float):
    with pytest.raises(ValueError, match=field):
        SamplingParams(**{field: value})
