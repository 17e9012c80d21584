"""The whole model through the engine, under Triton's interpreter: the reference's logits, and answers independent of
scheduling.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from ossia.engine.engine import Engine
from ossia.engine.request import Sampled, SamplingParams
from ossia.kernels.backends import make_ops
from ossia.kernels.ops import BLOCK, Batch
from ossia.kernels.triton.graphs import Graphs
from ossia.kernels.triton.ops import Caches, TritonOps
from ossia.model.checkpoint import LayerTensors
from ossia.model.config import ModelConfig
from ossia.model.transformer import Transformer, load_transformer
from ossia.quant import to_bf16, unpack_mxfp4
from tests.support.checkpoints import tiny_tensors
from tests.support.fake_model import stopped_clock

CONFIG = ModelConfig(
    layers=2, hidden=32, intermediate=32, heads=2, kv_heads=1, head_dim=16, experts=3, experts_per_token=2, vocab=40, window=20,
    sliding=(True, False), max_context=512, initial_context=64,
)  # fmt: skip
SAID = 4
GREEDY = SamplingParams(temperature=0, max_tokens=SAID)
DRAWN = SamplingParams(temperature=0.8, top_p=0.9, seed=7, max_tokens=2)
SHARED = [7, 3, 9, 4] * 4  # one block
PROMPTS = [[3, 1, 4, 1, 5], [*SHARED, 7], [*SHARED, 12, 13]]


class Dense:
    """Random tensors whose experts are bfloat16 that MXFP4 cannot hold: far fewer steps for the interpreter."""

    def __init__(self) -> None:
        self.config, self.inner = CONFIG, tiny_tensors(CONFIG)

    def layer(self, index: int) -> LayerTensors:
        layer = self.inner.layer(index)
        ups = (to_bf16(unpack_mxfp4(each) * np.float32(1.375)) for each in (layer.up_weight, layer.down_weight))
        return layer._replace(**dict(zip(("up_weight", "down_weight"), ups)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Closure:
    """A graph for tests: a replay calls the captured function."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.replay = work
        work()


def loaded(backend: Any, mxfp4: bool = False) -> Transformer:
    tensors: Any = tiny_tensors(CONFIG) if mxfp4 else Dense()
    return load_transformer(tensors, backend)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return loaded(TritonOps())


@pytest.fixture(scope="module")
def recording() -> Transformer:
    return loaded(TritonOps(record=lambda: Closure))


@pytest.fixture(scope="module")
def reference() -> Transformer:
    return loaded(make_ops("reference"))


def logits_of(model: Transformer, tokens: Sequence[int]) -> np.ndarray:
    return np.array(model.ops.host(model.forward(Batch.whole([tokens]))))


def tokens_of(answers: list[list[Sampled]]) -> list[list[int]]:
    return [[sampled.token for sampled in answer] for answer in answers]


@pytest.fixture(scope="module")
def alone(model: Transformer) -> list[list[Sampled]]:
    """Each prompt alone, without prefix cache and speculation."""
    return [Engine(model, prefix_bytes=0, speculate=False).generate([prompt], GREEDY)[0] for prompt in PROMPTS]


@pytest.mark.parametrize(("dense", "tolerance"), [("bf16", 0.02), ("int8", 0.06)])
def test_logits_are_the_references_within_bfloat16(dense, tolerance: float):
    tokens = [1, 2, 3, *range(22)]
    ours, truth = (
        logits_of(loaded(TritonOps(dense), mxfp4=True), tokens),
        logits_of(loaded(make_ops("reference"), mxfp4=True), tokens),
    )
    off_T = np.abs(ours - truth).max(1) > tolerance * np.abs(truth).max()
    assert off_T.sum() <= 1  # the router may decide a near tie the other way: that row is another answer, and as good
    assert np.corrcoef(ours[~off_T].ravel(), truth[~off_T].ravel())[0, 1] > 0.999


def test_greedy_tokens_are_the_references_but_for_near_ties(alone: list[list[Sampled]], reference: Transformer):
    for prompt, answer in zip(PROMPTS, alone, strict=True):
        said = [each.token for each in answer]
        truth = logits_of(reference, [*prompt, *said])[len(prompt) - 1 : -1]
        behind = truth.max(1) - truth[np.arange(SAID), said]
        assert behind.max() < 0.02 * np.abs(truth).max()
        logs = truth - np.log(np.exp(truth).sum(1, keepdims=True))
        np.testing.assert_allclose([each.logprob for each in answer], logs[np.arange(SAID), said], atol=0.1)


WAYS = {
    "a batch": {"prefix_bytes": 0, "speculate": False},
    "chunks, in graphs": {"max_batched_tokens": 15, "prefix_bytes": 0, "speculate": False},
    "prefixes and drafts": {},
}


@pytest.mark.parametrize("way", WAYS)
def test_scheduling_changes_no_answer(way: str, model: Transformer, recording: Transformer, alone: list[list[Sampled]]):
    engine = Engine(recording if "graphs" in way else model, **WAYS[way])
    with stopped_clock():
        assert tokens_of(engine.generate(PROMPTS, GREEDY)) == tokens_of(alone)
        if way == "prefixes and drafts":
            assert tokens_of(engine.generate(PROMPTS[1:2], GREEDY)) == tokens_of(alone[1:2])
            assert engine.stats().cached_tokens >= BLOCK
            assert engine.stats().drafted_tokens > 0
    kept = engine._runner._cache
    assert isinstance(kept, Caches)
    assert bool(kept.graphs and kept.graphs.count) == ("graphs" in way)


def test_padding_of_a_bucket_changes_no_row(model: Transformer, recording: Transformer):
    """Three rows in a graph for four: the same bits as without one, in the logits and in the cache."""
    seen = []
    for each in (model, recording):
        cache = each.cache(8, 8)
        blocks = np.array([[1, 2], [3, 4], [5, 6]], np.int32)
        for position in (0, 17):
            at, rows = np.full(3, position, np.int32), np.arange(3, dtype=np.int32)
            batch = Batch(rows + position, at, np.arange(4, dtype=np.int32), blocks, blocks, rows)
            seen.append(np.array(each.ops.host(each.forward(batch, cache))))
    for eager, graph in zip(seen[:2], seen[2:], strict=True):
        np.testing.assert_array_equal(eager, graph)


def test_seeded_draws_are_the_hosts(model: Transformer):
    """The device and the host's sampler draw with the same uniform number from the same distribution."""

    class OnHost(TritonOps):
        def draw(self, logits_RV, rows, draws):
            return None

    ours = Engine(model).generate(PROMPTS[:2], DRAWN)
    theirs = Engine(Transformer(CONFIG, model.weights, OnHost())).generate(PROMPTS[:2], DRAWN)
    assert tokens_of(ours) == tokens_of(theirs)


@pytest.mark.parametrize("kv", ["bf16", "fp8"])
def test_a_cache_takes_the_bytes_that_the_plan_counts(kv):
    backend = TritonOps(kv=kv)
    block, cache = backend.cache_bytes(CONFIG.shapes), backend.cache(CONFIG.shapes, 3, 5)
    taken = [sum(part.numel() * part.element_size() for part in layer if part is not None) for layer in cache]
    assert taken == [5 * block.window, 3 * block.full]


def test_graphs_end_with_their_cache(recording: Transformer):
    first, second = recording.cache(4, 4), recording.cache(4, 4)
    assert isinstance(first, Caches)
    assert isinstance(second, Caches)
    assert isinstance(first.graphs, Graphs)
    assert first.graphs is not second.graphs
