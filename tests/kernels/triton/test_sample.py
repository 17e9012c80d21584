"""Sampling on the device, under Triton's interpreter: the engine's sampler is its oracle, given the same uniform number."""

from typing import Any

import numpy as np
import pytest
import torch

from ossia.engine.request import SamplingParams
from ossia.engine.sampler import sample
from ossia.kernels.triton.kernels.sample import REFUSED, SamplingRow, choices_on_device, sample_rows

VOCAB = 2500  # two slices and a part
PARAMS = [
    SamplingParams(), SamplingParams(temperature=0), SamplingParams(temperature=1e-6), SamplingParams(temperature=0.4),
    SamplingParams(temperature=3.0), SamplingParams(top_k=1), SamplingParams(top_k=3), SamplingParams(top_k=700),
    SamplingParams(top_k=4000), SamplingParams(top_p=0.9), SamplingParams(top_p=0.01), SamplingParams(min_p=0.2),
    SamplingParams(min_p=1.0), SamplingParams(top_k=40, top_p=0.8, min_p=0.05, temperature=1.3),
    SamplingParams(top_p=0.95, min_p=0.01, temperature=0.7), SamplingParams(logit_bias={7: 9.0, 2400: -np.inf}),
]  # fmt: skip


def logits_of(rows: int, seed: int = 0, scale: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, VOCAB)) * scale).astype(np.float32)


def mask_of(allowed: np.ndarray) -> bytes:
    return np.packbits(allowed, bitorder="little").tobytes()


def uniform_of(seed: int, index: int) -> float:
    """What the engine's sampler draws."""
    return 1.0 - np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64))).random()


def choice(params: SamplingParams, mask: bytes | None, seed: int, index: int) -> SamplingRow:
    return SamplingRow(
        uniform_of(seed, index), params.temperature, params.top_k, params.top_p, params.min_p, mask, params.logit_bias
    )


def drawn(logits: np.ndarray, choices: list[SamplingRow]) -> tuple[np.ndarray, np.ndarray]:
    tokens, logprobs = sample_rows(torch.from_numpy(logits), choices_on_device(choices, logits.shape[1], "cpu"))
    return tokens.numpy(), logprobs.numpy()


@pytest.mark.parametrize("has_masks", [False, True])
def test_tokens_and_log_probabilities_are_the_engines(has_masks: bool):
    """One row for each way of sampling, all in one batch."""
    logits, rng = logits_of(len(PARAMS)), np.random.default_rng(1)
    masks = [mask_of(rng.random(VOCAB - 8 * s) < 0.3) if has_masks and s % 3 else None for s in range(len(PARAMS))]
    tokens, logprobs = drawn(logits, [choice(p, m, 5, s) for s, (p, m) in enumerate(zip(PARAMS, masks))])
    for s, (params, mask) in enumerate(zip(PARAMS, masks)):
        truth = sample(logits[s], params, mask, 5, s)
        assert tokens[s] == truth.token, params
        assert abs(logprobs[s] - truth.logprob) < 1e-5


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(top_k=20, top_p=0.9), SamplingParams(top_p=0.7)])
def test_every_uniform_gives_the_engines_token(params: SamplingParams):
    logits = np.repeat(logits_of(1, seed=3, scale=1.5), 8, axis=0)
    tokens, _ = drawn(logits, [choice(params, None, 11, index) for index in range(8)])
    assert tokens.tolist() == [sample(logits[0], params, None, 11, index).token for index in range(8)]
    assert len(set(tokens.tolist())) > 3


@pytest.mark.parametrize("uniform", [1e-300, 2.0**-53, 1.0])
@pytest.mark.parametrize("params", [{}, {"top_k": 5}, {"top_p": 0.5}], ids=str)
def test_the_ends_of_the_distribution_hold_tokens_that_can_be_drawn(uniform: float, params: dict[str, Any]):
    logits = np.full((1, VOCAB), -np.inf, np.float32)
    logits[0, [40, 1500, 2400]] = 1.0, 2.0, 1.5
    tokens, logprobs = drawn(logits, [SamplingRow(uniform, **params)])
    assert tokens[0] in (40, 1500, 2400)
    assert np.isfinite(logprobs[0])


@pytest.mark.parametrize(
    "params", [{"top_k": 3}, {"top_p": 0.001}, {"top_k": 3, "top_p": 0.99}, {"temperature": 0.0}], ids=str
)
def test_of_equals_the_first_are_kept(params: dict[str, Any]):
    logits = np.zeros((4, VOCAB), np.float32)
    tokens, _ = drawn(logits, [SamplingRow(uniform, **params) for uniform in (0.1, 0.4, 0.7, 1.0)])
    assert set(tokens.tolist()) <= {0, 1, 2}
    if "top_k" not in params:
        assert params == {"top_p": 0.001} or set(tokens.tolist()) == {0}


def test_a_row_is_drawn_alike_alone_and_among_others():
    logits = logits_of(len(PARAMS), seed=4)
    choices = [choice(params, None, 9, s) for s, params in enumerate(PARAMS)]
    tokens, logprobs = drawn(logits, choices)
    for s in (0, 4, 9, 13):
        alone = drawn(logits[s : s + 1], choices[s : s + 1])
        assert (alone[0][0], alone[1].tobytes()) == (tokens[s], logprobs[s : s + 1].tobytes())


@pytest.mark.parametrize("params", [{}, {"top_p": 0.9}, {"temperature": 0.0}], ids=str)
def test_rows_without_a_token_say_why_and_harm_no_other(params: dict[str, Any]):
    logits = logits_of(4)
    logits[1, 99], logits[2, 5] = np.nan, np.inf
    nothing = mask_of(np.zeros(VOCAB, bool))
    tokens, _ = drawn(
        logits,
        [
            SamplingRow(0.5, mask=nothing, **params),
            SamplingRow(0.5, **params),
            SamplingRow(0.5, **params),
            SamplingRow(0.5, **params),
        ],
    )
    assert tokens[:3].tolist() == [-1, -2, -2]
    assert tokens[3] >= 0
    for number, message in ((-1, "no token"), (-2, "not finite")):
        assert message in REFUSED[number]


def test_a_mask_may_end_early():
    tokens, _ = drawn(logits_of(1), [SamplingRow(0.9, temperature=0.0, mask=b"\xff")])
    assert tokens[0] == int(np.argmax(logits_of(1)[0, :8]))
