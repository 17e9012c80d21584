"""Sampling on a device changes no answer: one call per step, masks after draft tokens, errors told apart."""

from collections.abc import Sequence

import numpy as np
import pytest

from ossia.engine.engine import Engine
from ossia.engine.request import Sampled, SamplingParams
from ossia.engine.sampler import sample
from ossia.kernels.ops import NOT_FINITE, NOTHING_LEFT, Draw, HostOps, SampleResult
from tests.support.fake_model import VOCAB, FakeModel, stopped_clock

GREEDY = SamplingParams(temperature=0, max_tokens=40)


class DeviceOps(HostOps):
    """Samples in one call, like a device."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.copied = 0

    def host(self, logits_RV: np.ndarray) -> np.ndarray:
        self.copied += len(logits_RV)
        return logits_RV

    def draw(self, logits_RV: np.ndarray, rows: Sequence[int], draws: Sequence[Draw]) -> list[SampleResult]:
        self.calls.append(len(rows))
        return [_drawn(logits_RV[row], draw) for row, draw in zip(rows, draws, strict=True)]


def _drawn(logits_V: np.ndarray, draw: Draw) -> SampleResult:
    """The simplest implementation of a draw."""
    if not np.isfinite(logits_V.max()):
        return SampleResult(NOT_FINITE, 0.0)
    allowed = logits_V.astype(np.float64)
    for token, bias in draw.bias.items():
        allowed[token] += bias
    if draw.mask is not None:
        bits = np.unpackbits(np.frombuffer(draw.mask, np.uint8), bitorder="little")[:VOCAB]
        allowed[bits == 0] = -np.inf
    if not np.isfinite(allowed.max()):
        return SampleResult(NOTHING_LEFT, 0.0)
    logs = logits_V - np.log(np.exp(logits_V.astype(np.float64)).sum())
    if draw.temperature == 0:
        token = int(allowed.argmax())
    else:
        ends = np.cumsum(np.exp((allowed - allowed.max()) / draw.temperature))
        token = int(np.searchsorted(ends, draw.uniform * ends[-1]))
    return SampleResult(token, float(logs[token]))


class Low:
    """Sometimes allows only tokens below 16."""

    def __init__(self, every: int) -> None:
        self.every, self.count, self.masks = every, 0, 0

    def mask(self) -> bytes | None:
        self.masks += 1
        return b"\xff\xff" + bytes(VOCAB // 8 - 2) if self.count % self.every == 0 else None

    def accept(self, token: int) -> None:
        assert self.count % self.every or token < 16
        self.count += 1


def answers(ops: HostOps | None, params: SamplingParams, every: int = 0) -> list[list[Sampled]]:
    model = FakeModel(repeats=8.0) if ops is None else FakeModel(ops=ops, repeats=8.0)
    engine = Engine(model)
    with stopped_clock():
        streams = [
            engine.submit([1, 2, 3, 1, 2, 3, start], params, Low(every) if every else None) for start in (1, 2, 9)
        ]
        said = [list(stream) for stream in streams]
    assert engine.stats().accepted_tokens > 0
    return said


@pytest.mark.parametrize("every", [0, 1, 5])
@pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        SamplingParams(seed=3, max_tokens=40),
        SamplingParams(temperature=0.7, seed=2**64 - 1, max_tokens=40, logit_bias={2: 1.5}),
    ],
)
def test_the_device_says_what_the_host_says(params: SamplingParams, every: int):
    ops = DeviceOps()
    for theirs, ours in zip(answers(ops, params, every), answers(None, params, every), strict=True):
        assert [each.token for each in theirs] == [each.token for each in ours]
        assert [each.finish for each in theirs] == [each.finish for each in ours]
        np.testing.assert_allclose([each.logprob for each in theirs], [each.logprob for each in ours], atol=1e-5)
    assert ops.copied == 0
    assert max(ops.calls) >= 3  # all rows of a step in one call
    assert (1 in ops.calls) or not every


def test_who_asks_for_the_likeliest_tokens_is_drawn_on_the_host():
    ops, params = DeviceOps(), SamplingParams(seed=3, max_tokens=9, logprobs=2)
    engine = Engine(FakeModel(ops=ops), speculate=False)
    asking, other = engine.submit([1, 2], params), engine.submit([1, 2, 3], GREEDY)
    assert list(asking) == Engine(FakeModel()).generate([[1, 2]], params)[0]
    assert [each.token for each in other] == FakeModel().greedy([1, 2, 3], 40)
    assert (ops.copied, max(ops.calls)) == (9, 1)


def test_a_row_is_asked_for_once_where_its_mask_was_known():
    ops, mask = DeviceOps(), Low(1)
    engine = Engine(FakeModel(ops=ops), speculate=False)
    said = list(engine.submit([1, 2, 3], GREEDY, mask))
    assert ops.calls == [1] * len(said)
    assert mask.masks == len(said)


class Nothing:
    def mask(self) -> bytes:
        return bytes(VOCAB // 8)

    def accept(self, token: int) -> None:
        raise AssertionError


@pytest.mark.parametrize("ops", [DeviceOps, None])
def test_a_mask_that_leaves_nothing_ends_its_own_request(ops):
    engine = Engine(FakeModel(ops=ops()) if ops else FakeModel())
    bad, good = engine.submit([1, 2], GREEDY, Nothing()), engine.submit([1, 2, 3], GREEDY)
    with pytest.raises(ValueError, match="leave no token"):
        next(bad)
    assert [each.token for each in good] == FakeModel().greedy([1, 2, 3], 40)


def test_logits_that_are_no_numbers_say_so():
    class Damaged(DeviceOps):
        def draw(self, logits_RV, rows, draws):
            return super().draw(logits_RV * np.nan, rows, draws)

    with pytest.raises(ValueError, match="not finite"):
        next(Engine(FakeModel(ops=Damaged())).submit([1], GREEDY))
    with pytest.raises(ValueError, match="not finite"):
        sample(np.full(4, np.nan, np.float32), GREEDY, None, 0, 0)
