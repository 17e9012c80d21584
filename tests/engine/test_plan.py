"""A GPU's memory plan: the published models on usual GPUs, and refusals with their numbers."""

from dataclasses import replace

import pytest

from ossia.engine.cache import PagedCache
from ossia.engine.engine import Engine
from ossia.engine.plan import GPU_BATCHED_TOKENS, CardMemoryPlan, card_cache_room, plan_card
from ossia.kernels.ops import BLOCK, HostOps
from ossia.model.config import ModelConfig
from ossia.model.memory import card_workspace_bytes
from tests.support.fake_model import FakeModel, cache_for

GIB = 1 << 30
B20, B120 = ModelConfig.preset("gpt-oss-20b"), ModelConfig.preset("gpt-oss-120b")
CARD_80 = int(78.8 * GIB)  # an H100's 79.6 GiB without the driver's context
CARD_16 = int(15.3 * GIB)


def test_the_120b_starts_on_80_gb_with_its_whole_context():
    plan = plan_card(B120, "bf16", "bf16", CARD_80)
    assert plan.context == B120.max_context
    assert plan.weights + plan.workspace + plan.reserve + plan.cache == CARD_80
    assert plan.weights + plan.workspace + plan.whole < 78 * GIB
    assert "weights 60.9" in plan.line()
    assert "context 131,072; 2." in plan.line()


@pytest.mark.parametrize(
    ("dense", "kv", "least", "most"),
    [
        ("bf16", "bf16", 30_000, 60_000),
        ("bf16", "fp8", 50_000, 90_000),
        ("int8", "bf16", 60_000, 90_000),
        ("int8", "fp8", 100_000, 131_072),
    ],
)
def test_the_20b_on_16_gb_says_what_context_fits(dense, kv, least: int, most: int):
    plan = plan_card(B20, dense, kv, CARD_16)
    assert least < plan.context < most
    assert f"context {plan.context:,} of 131,072" in plan.line()


@pytest.mark.parametrize("free", [int(14.5 * GIB), CARD_16, 24 * GIB, CARD_80])
@pytest.mark.parametrize("kv", ["bf16", "fp8"])
def test_the_cache_that_was_promised_fits_in_what_was_left(free: int, kv):
    plan = plan_card(B20, "bf16", kv, free)
    assert _cache(plan, plan.cache).tokens >= plan.context


def _cache(plan: CardMemoryPlan, size: int) -> PagedCache:
    cache = PagedCache.sized(plan.block, B20.window, B20.max_context, 512, size, 0)
    taken = cache.full.count * plan.block.full + cache.window.count * plan.block.window
    assert taken <= size
    return cache


@pytest.mark.parametrize(
    ("config", "kinds", "mxfp4", "said"),
    [
        (
            B20,
            ("bf16", "bf16"),
            True,
            r"needs 14\.\d GiB \(weights 12\.8, .* and 12\.0 are free: --dense int8 .*; --kv fp8 ",
        ),
        (B120, ("int8", "fp8"), True, r"weights 59\.5, .* and 12\.0 are free: or take a smaller model"),
        (B20, ("bf16", "bf16"), False, r"weights 3\d\.\d, .*: a checkpoint whose experts are MXFP4"),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers_and_remedies(config: ModelConfig, kinds, mxfp4: bool, said: str):
    with pytest.raises(ValueError, match=said):
        plan_card(config, *kinds, 12 * GIB, mxfp4=mxfp4)


def test_a_model_with_a_short_context_needs_no_long_one():
    assert plan_card(replace(B20, max_context=100), "bf16", "bf16", int(14.35 * GIB)).context == 100


class Card(HostOps):
    """A GPU with this many free bytes; logits are NumPy's."""

    def __init__(self, free: int) -> None:
        self.free = free

    def free_bytes(self) -> int:
        return self.free

    def host(self, logits):
        return logits


def on_card(cache: int) -> FakeModel:
    model = FakeModel()
    work = card_workspace_bytes(model.config, GPU_BATCHED_TOKENS)
    room = card_cache_room(model.config, work + (1 << 30)) or 0
    model.ops = Card(work + (1 << 30) - room + cache)
    return model


def test_an_engine_takes_what_fits_of_the_context_and_refuses_to_take_more():
    assert Engine(FakeModel()).context == 256
    engine = Engine(on_card(cache_for(6)))
    assert engine.context == 6 * BLOCK
    with pytest.raises(ValueError, match=r"cache_bytes is 1,400 and 1,200 bytes are free"):
        Engine(on_card(cache_for(6)), cache_bytes=cache_for(7))
