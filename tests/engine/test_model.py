"""The engine with a real network: alone, batched, chunked or preempted, the answer is that of a forward without a
cache.
"""

from typing import NamedTuple

import numpy as np
import pytest

from ossia.engine.engine import Engine
from ossia.engine.request import Sampled, SamplingParams
from ossia.kernels.backends import make_ops
from ossia.kernels.ops import Backend, Batch, Dense, KeyValues
from ossia.model.checkpoint import open_checkpoint
from ossia.model.transformer import Transformer, load_transformer
from tests.support.checkpoints import TINY, tiny_checkpoint
from tests.support.fake_model import stopped_clock

SIZES = (1, 7, 16, 33, 50)  # around the edges of blocks and of the window
PROMPTS = [np.random.default_rng(size).integers(0, TINY.vocab, size).tolist() for size in SIZES]
GREEDY = SamplingParams(temperature=0, max_tokens=20, logprobs=3)


class Kept(NamedTuple):
    """A backend with its types of weights and of keys and values."""

    backend: Backend
    dense: Dense
    kv: KeyValues


KEPT = [Kept("cpu", "bf16", "f32"), Kept("cpu", "int8", "bf16"), Kept("reference", "bf16", "f32")]


@pytest.fixture(scope="module", params=KEPT, ids="-".join)
def kept(request: pytest.FixtureRequest) -> Kept:
    return request.param


@pytest.fixture(scope="module")
def backend(kept: Kept) -> Backend:
    return kept.backend


@pytest.fixture(scope="module")
def model(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path_factory.mktemp("tiny")))
    return load_transformer(checkpoint, make_ops(kept.backend, dense=kept.dense, kv=kept.kv))


def without_cache(model: Transformer, prompt: list[int], count: int) -> list[int]:
    """Greedy, with all tokens run through the network again for every token."""
    said = list(prompt)
    for _ in range(count):
        logits_RV = model.forward(Batch.whole([said], [len(said) - 1]))
        said.append(int(model.ops.host(logits_RV)[0].argmax()))
    return said[len(prompt) :]


def tokens(answer: list[Sampled]) -> list[int]:
    return [sampled.token for sampled in answer]


@pytest.fixture(scope="module")
def alone(model: Transformer) -> list[list[Sampled]]:
    engines = [Engine(model, prefix_bytes=0, speculate=False) for _ in PROMPTS]
    return [engine.generate([prompt], GREEDY)[0] for engine, prompt in zip(engines, PROMPTS)]


def test_the_cache_changes_no_answer(model: Transformer, alone: list[list[Sampled]]):
    assert [tokens(answer) for answer in alone] == [without_cache(model, prompt, 20) for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("cache_blocks", "max_batched_tokens"),
    [(64, 512), (64, 11), (64, 1), (6, 512), (5, 23)],
    ids=["a batch", "chunks", "a token a step", "preempted", "preempted in chunks"],
)
def test_scheduling_changes_no_answer(
    backend: Backend, model: Transformer, alone: list[list[Sampled]], cache_blocks: int, max_batched_tokens: int
):
    engine = Engine(model, cache_bytes=cache_blocks * sum(model.cache_bytes), max_batched_tokens=max_batched_tokens)
    for _ in range(2):  # the second time with the first one's prefix in the cache
        assert_same(engine.generate(PROMPTS, GREEDY), alone, backend)
    assert engine.stats().cached_tokens > 0 or cache_blocks < 64


@pytest.mark.parametrize("max_batched_tokens", [512, 23])
def test_speculation_and_what_is_cached_change_no_answer(backend: Backend, model: Transformer, max_batched_tokens: int):
    """A conversation: each prompt is the one before, its answer, and a few tokens that occurred already."""
    long = SamplingParams(temperature=0, max_tokens=60, logprobs=3)
    engine, plain = Engine(model, max_batched_tokens=max_batched_tokens), Engine(model, prefix_bytes=0, speculate=False)
    prompt = [*PROMPTS[2], *PROMPTS[2]]
    with stopped_clock():
        for _ in range(3):
            stream = engine.submit(prompt, long)
            answer = list(stream)
            assert_same([answer], plain.generate([prompt], long), backend)
            prompt += [*tokens(answer), *PROMPTS[1]]
    assert stream.cached_tokens > 100
    assert engine.stats().drafted_tokens > 0


def test_a_crowd_of_short_requests_changes_no_answer(backend: Backend, model: Transformer):
    rng, brief = np.random.default_rng(0), SamplingParams(temperature=0, max_tokens=5, logprobs=2)
    prompts = [rng.integers(0, TINY.vocab, size).tolist() for size in rng.integers(1, 24, 64)]
    plain = Engine(model, prefix_bytes=0, speculate=False)
    alone = [plain.generate([prompt], brief)[0] for prompt in prompts]
    assert_same(Engine(model).generate(prompts, brief), alone, backend)


def assert_same(found: list[list[Sampled]], truth: list[list[Sampled]], backend: Backend) -> None:
    assert [tokens(answer) for answer in found] == [tokens(answer) for answer in truth]
    if backend == "cpu":
        assert found == truth, "on the CPU not a bit of a log-probability depends on the neighbours"
