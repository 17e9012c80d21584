"""Several processes that torchrun starts: all stages of a whole network's training have the losses of one process."""

import os
import signal
import time
from pathlib import Path

import pytest

from ossia.train.data.batches import Batches
from ossia.train.loop.distributed import DistributedContext
from ossia.train.loop.metrics import read_log
from ossia.train.model.trainable import TrainableModel
from ossia.train.objectives.grpo import GrpoObjective
from ossia.train.objectives.supervised import NextTokenObjective
from ossia.train.recipe import GrpoConfig
from tests.support.training import CONFIG, LETTERS, rounds, settings, torchrun, under_torchrun
from tests.support.vocabularies import small

RECIPE = """
[model]
layers = 2
hidden = 32
intermediate = 32
heads = 2
kv_heads = 1
head_dim = 16
experts = 4
experts_per_token = 2
window = 16
max_context = 1024
[vocabulary]
size = 300
texts = 50
data = [{generator = "tests.support.training:chatter"}]
[checkpoint]
log_every = 1
save_every = 2
"""
STAGE = """
[STAGE]
steps = 4
batch_tokens = 700
accumulate = 4
data = [{generator = "tests.support.training:chatter"}]
optimizer = {kind = "muon"}
schedule = {shape = "constant"}
"""


def losses(folder: Path, *stages: str) -> list[float]:
    return [row["loss"] for stage in stages for row in read_log(folder / stage / "log.jsonl")]


REINFORCED = """
[rl]
steps = 2
prompts_per_step = 4
group_size = 3
max_tokens = 16
optimizer = {lr = 1e-2}
efforts = ["low", "high"]
tasks = ["tests.support.training:LETTERS"]
"""


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE + STAGE.replace("STAGE", "pretrain") + STAGE.replace("STAGE", "sft") + REINFORCED)
    for count, name in ((1, "one"), (2, "two")):
        assert torchrun(count, recipe, tmp_path / name).count("sft 4/4") == 1  # one speaks for all
    one, two = (losses(tmp_path / name, "pretrain", "sft") for name in ("one", "two"))
    assert len(one) == 8
    assert two == pytest.approx(one, abs=2e-4)
    first, other = (read_log(tmp_path / name / "rl" / "log.jsonl") for name in ("one", "two"))
    assert len(first) == len(other) == 2
    assert first[0]["trained_tokens"] == other[0]["trained_tokens"] > 0
    for name in (
        "reward",
        "accuracy",
        "output_tokens",
        "accuracy_low",
        "reasoning_tokens_high",
        "loss",
        "grad_norm",
        "ratio",
    ):
        assert other[0][name] == pytest.approx(first[0][name], abs=2e-3), name
    assert (tmp_path / "two" / "model" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "rl"])
@pytest.mark.parametrize("to_all", [True, False])
def test_ctrl_c_or_a_signal_to_torchrun_alone_saves_the_step_that_was_reached(tmp_path: Path, to_all: bool, stage: str):
    recipe, folder = tmp_path / "recipe.toml", tmp_path / "out" / stage
    text = RECIPE + (STAGE.replace("STAGE", "sft") if stage == "sft" else REINFORCED)
    for less, more in (
        ("steps = 4", "steps = 9999"),
        ("steps = 2", "steps = 9999"),
        ("save_every = 2", "save_every = 9999"),
    ):
        text = text.replace(less, more)
    # A second or so each, so that a step is under way when the signal comes.
    recipe.write_text(
        text.replace("batch_tokens = 700", "batch_tokens = 30000").replace(
            "prompts_per_step = 4", "prompts_per_step = 100"
        )
    )
    deadline = time.monotonic() + 100
    with under_torchrun(2, recipe, tmp_path / "out") as started:
        while not (folder / "log.jsonl").exists() or len(read_log(folder / "log.jsonl")) < 2:
            assert started.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        if to_all:
            os.killpg(started.pid, signal.SIGINT)
        else:
            started.terminate()
        started.communicate(timeout=60)
    (state,) = folder.glob("state-*.pt")
    assert state.name == f"state-{len(read_log(folder / 'log.jsonl')):08}.pt"


def test_prompts_that_cannot_be_shared_evenly_are_refused():
    given = GrpoConfig(tasks=("tests.support.training:LETTERS",), steps=1, prompts_per_step=9)
    with pytest.raises(ValueError, match=r"prompts_per_step = 9 must be a multiple of the 2 processes"):
        GrpoObjective(TrainableModel.random(CONFIG, 0), small(), [LETTERS], given, 1, DistributedContext(0, 2))


def test_batches_that_cannot_be_shared_evenly_are_refused():
    given = settings(accumulate=3)
    with pytest.raises(ValueError, match=r"accumulate = 3 must be a multiple of the 2 processes"):
        NextTokenObjective(TrainableModel.random(CONFIG, 0), Batches(rounds(given)), given, DistributedContext(0, 2))
