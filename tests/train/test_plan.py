"""The memory plan against measured peaks, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ossia.model.checkpoint import open_checkpoint
from ossia.model.config import ModelConfig
from ossia.train.model.trainable import TrainableModel, packed
from ossia.train.model.weights.frozen import block_bytes
from ossia.train.plan import check, free_bytes, max_batch_tokens, plan
from ossia.train.recipe import ALL_TARGETS, Lora
from tests.support.checkpoints import TINY, tiny_checkpoint
from tests.train.peak import Peak

MEDIUM = replace(
    TINY, layers=2, sliding=(True, False), hidden=256, intermediate=256, heads=8, head_dim=32, experts=8, experts_per_token=4,
    vocab=128, window=128,
)  # fmt: skip
TOLERANCE = 0.35  # the plan may be so much above the measured peak, and a tenth of it below
B20 = ModelConfig.preset("gpt-oss-20b")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (MEDIUM, 512),
        (replace(MEDIUM, heads=2), 1024),
        (replace(MEDIUM, intermediate=1024), 512),
        (replace(MEDIUM, hidden=1024, vocab=64), 512),
        (replace(MEDIUM, vocab=16384), 512),
        (replace(MEDIUM, layers=8, sliding=(True,) * 8, experts_per_token=1, heads=2), 1024),
    ],
    ids=["medium", "longer", "wide experts", "wide", "many words", "deep"],
)
def test_the_plan_is_near_the_measured_peak(tmp_path: Path, config: ModelConfig, tokens: int, dtype: torch.dtype):
    lora = Lora(rank=2)
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path, config))
    network = TrainableModel.with_adapters(checkpoint, config, lora, dtype=dtype)
    ids = np.random.default_rng(0).integers(0, config.vocab, tokens).tolist()
    given = packed([ids], [[True] * tokens])
    frozen = sum(p.nbytes for p in network.parameters() if not p.requires_grad)
    trained = sum(p.nbytes for p in network.trained().values())
    with Peak() as peak:
        network(given).mean().backward()
    measured = peak.bytes - trained  # its gradients are the plan's adapters'
    made = plan(config, lora, tokens, itemsize=dtype.itemsize)
    assert (made.base, made.adapters) == (frozen, 4 * trained)
    planned = made.inputs + made.work - block_bytes("cpu")  # small experts are unpacked in one small block
    assert 0.9 * measured <= planned <= (1 + TOLERANCE) * measured, (measured, planned)


def test_the_20b_fits_a_card_of_16_gb():
    assert plan(B20, Lora(rank=8), 2048, device="cuda").total < 16e9
    assert plan(B20, Lora(rank=8), 4096, device="cuda").total < 16 * 2**30
    assert plan(B20, Lora(rank=8, targets=ALL_TARGETS), 2048, layout="bf16", device="cuda").total > 38 * 2**30


def test_the_base_is_the_published_checkpoint_without_its_embedding():
    assert plan(B20, Lora(), 1).base == 13_761_264_768 - 201_088 * 2880 * 2


def test_what_does_not_fit_is_refused_with_what_would():
    lora, free = Lora(rank=8), 16 * 2**30
    most = max_batch_tokens(B20, lora, free)
    assert plan(B20, lora, most).total <= free < plan(B20, lora, most + 1).total
    check(plan(B20, lora, most), B20, lora, free)
    with pytest.raises(MemoryError, match=f"up to {most:,} tokens would fit"):
        check(plan(B20, lora, 60_000), B20, lora, free)
    with pytest.raises(MemoryError, match="no batch would"):
        check(plan(B20, lora, 1), B20, lora, 8 * 2**30)


def test_more_processes_take_less_each():
    one, four = (plan(B20, Lora(), 1024, processes=count) for count in (1, 4))
    assert four.base < one.base / 2
    assert four.adapters == -(-one.adapters // 4)


def test_processes_on_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch):
    alone = free_bytes("cpu")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes("cpu") == pytest.approx(alone / 4, rel=0.2)


def test_a_plan_that_keeps_activations_is_at_least_the_measured_peak(tmp_path: Path):
    config = replace(MEDIUM, layers=4, sliding=(True, False, True, False))
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path, config))
    network = TrainableModel.with_adapters(checkpoint, config, Lora(rank=2), dtype=torch.float32)
    network.recompute = False
    ids = np.random.default_rng(0).integers(0, config.vocab, 512).tolist()
    with Peak() as peak:
        network(packed([ids], [[True] * 512])).mean().backward()
    made = plan(config, Lora(rank=2), 512, itemsize=4, recompute=False)
    trained = sum(p.nbytes for p in network.trained().values())
    assert peak.bytes - trained <= made.inputs + made.work


def test_the_plan_can_be_read():
    said = str(plan(B20, Lora(), 4096))
    assert "4,096 tokens" in said
    assert "total" in said
