"""The engine over a real network: alone, batched, in chunks or preempted, the answer is the cache-less forward's."""

import numpy as np
import pytest

from ossia.engine.engine import Engine
from ossia.engine.request import Sampled, SamplingParams
from ossia.kernels import BLOCK, Backend, Batch, ops
from ossia.model.checkpoint import open_checkpoint
from ossia.model.transformer import Transformer, load_transformer
from tests.tiny import TINY, tiny_checkpoint

SIZES = (1, 7, 16, 33, 50)  # beside, at and across the edges of blocks and of the window
PROMPTS = [np.random.default_rng(size).integers(0, TINY.vocab, size).tolist() for size in SIZES]
GREEDY = SamplingParams(temperature=0, max_tokens=20, logprobs=3)


@pytest.fixture(scope="module", params=["cpu", "reference"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


@pytest.fixture(scope="module")
def model(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    return load_transformer(open_checkpoint(tiny_checkpoint(tmp_path_factory.mktemp("tiny"))), ops(backend))


def without_cache(model: Transformer, prompt: list[int], count: int) -> list[int]:
    """Greedy by running all that was said through the network again for every token."""
    said = list(prompt)
    for _ in range(count):
        size = len(said)
        rows = [np.array(each, np.int32) for each in (said, range(size), [0, size])]
        logits_RV = model.forward(Batch(*rows, np.zeros((1, 1), np.int32), np.array([size - 1], np.int32)))
        said.append(int(model.ops.host(logits_RV)[0].argmax()))
    return said[len(prompt) :]


def tokens(answer: list[Sampled]) -> list[int]:
    return [sampled.token for sampled in answer]


@pytest.fixture(scope="module")
def alone(model: Transformer) -> list[list[Sampled]]:
    return [Engine(model, cache_tokens=1024).generate([prompt], GREEDY)[0] for prompt in PROMPTS]


def test_the_cache_changes_no_answer(model: Transformer, alone: list[list[Sampled]]):
    assert [tokens(answer) for answer in alone] == [without_cache(model, prompt, 20) for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("cache_blocks", "step_tokens"),
    [(64, 512), (64, 11), (64, 1), (6, 512), (5, 23)],
    ids=["a batch", "chunks", "a token a step", "preempted", "preempted in chunks"],
)
def test_scheduling_changes_no_answer(
    backend: Backend, model: Transformer, alone: list[list[Sampled]], cache_blocks: int, step_tokens: int
):
    engine = Engine(model, cache_tokens=cache_blocks * BLOCK, step_tokens=step_tokens)
    found = engine.generate(PROMPTS, GREEDY)
    assert [tokens(answer) for answer in found] == [tokens(answer) for answer in alone]
    if backend == "cpu":
        assert found == alone, "on the CPU not a bit of a log-probability depends on the neighbours"
