"""Fine-tuning a checkpoint: the loss falls, the base stays, a run goes on to the bit, two processes are as good as one."""

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from ossia.cli import app
from ossia.model.checkpoint import open_checkpoint, write_checkpoint
from ossia.model.synthetic import RandomTensors
from ossia.tokenizer.tokenizer_json import write_generation_config, write_tokenizer_json
from ossia.train.loop.distributed import DistributedContext
from ossia.train.loop.metrics import read_log
from ossia.train.loop.optim import Diverged
from ossia.train.loop.trainer import Trainer
from ossia.train.model.state import TrainedState
from ossia.train.model.trainable import PackedTargets, packed
from ossia.train.objectives.lora_finetune import LoraObjective, adapted_model, check_memory, finetune
from ossia.train.peft.format import base_of, read_adapter
from ossia.train.peft.merge import merge
from ossia.train.plan import plan
from ossia.train.recipe import CheckpointConfig, DataSource, LoraConfig, OptimizerConfig, ScheduleConfig
from ossia.train.run import run
from tests.support.checkpoints import TINY, tiny_checkpoint
from tests.support.training import CONFIG, torchrun
from tests.support.vocabularies import small, small_vocabulary


def batch(number: int) -> PackedTargets:
    """One of four batches, of two sequences each."""
    rng = np.random.default_rng(number % 4)
    lengths = (15, 6 + number % 3)
    tokens = [rng.integers(0, TINY.vocab, length).tolist() for length in lengths]
    return packed(tokens, [[place > 2 for place in range(length)] for length in lengths])


class Supply:
    """Batches by number, again and again."""

    skipped = 0

    def __init__(self, make: Callable[[int], PackedTargets] = batch) -> None:
        self._make, self._number = make, 0

    def next(self) -> PackedTargets:
        self._number += 1
        return self._make(self._number - 1)

    def state_dict(self) -> int:
        return self._number

    def load_state_dict(self, position: int) -> None:
        self._number = position


def given(**changes) -> LoraConfig:
    """A [lora] of eight steps."""
    return LoraConfig(
        **{
            "data": (DataSource(text="none"),), "steps": 8, "accumulate": 2, "rank": 4, "precision": "f32",
            "optimizer": OptimizerConfig(lr=1e-2, beta2=0.99, weight_decay=0.0), "schedule": ScheduleConfig(warmup_steps=2, min_lr_ratio=0.1),
            **changes,
        }
    )  # fmt: skip


def tuner(folder: Path, model: Path, make: Callable[[int], PackedTargets] = batch, **changes) -> Trainer:
    chosen = given(**changes)
    network = adapted_model(open_checkpoint(model), chosen, dtype=torch.float32)
    work = LoraObjective(network, Supply(make), chosen, seed=0)
    return Trainer("lora", TrainedState(network), work, folder, CheckpointConfig(save_every=3, log_every=1, plot=False))


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder / "log.jsonl")]


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_loss_falls_the_base_stays_and_the_adapter_and_the_merge_have_what_was_learnt(tmp_path: Path):
    model = tiny_checkpoint(tmp_path / "model")
    before = digest(model)
    chosen = given(steps=20)
    made = finetune(
        open_checkpoint(model), chosen, Supply(), tmp_path, checkpointing=CheckpointConfig(log_every=1), base=str(model)
    )
    assert made == tmp_path / "adapter"
    assert np.mean(losses(tmp_path / "lora")[-2:]) < 0.5 * losses(tmp_path / "lora")[0]
    assert digest(model) == before
    read = read_adapter(made, TINY)
    assert base_of(made) == str(model)
    loaded = adapted_model(open_checkpoint(model), read.lora, dtype=torch.float32, adapter=read)
    with torch.no_grad():
        assert loaded(batch(0)).mean() < 0.5 * losses(tmp_path / "lora")[0]
    report = merge(open_checkpoint(model), read, tmp_path / "merged", probe=batch(0).batch)
    assert report.merged.mean_kl < 0.3 * report.base.mean_kl
    assert open_checkpoint(tmp_path / "merged").config == TINY


def test_recomputed_activations_give_the_same_losses_and_are_kept_where_memory_allows(tmp_path: Path):
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path / "model"))
    log, said = CheckpointConfig(log_every=1, plot=False), {}
    for choice in ("always", "never", "auto"):
        lines: list[str] = []
        stage = given(steps=3, recompute=choice)
        finetune(checkpoint, stage, Supply(), tmp_path / choice, checkpointing=log, say=lines.append)
        said[choice] = lines
    assert losses(tmp_path / "always" / "lora") == losses(tmp_path / "never" / "lora")
    assert said["auto"] == said["never"] != said["always"]


def test_activations_are_recomputed_where_keeping_them_takes_over_half_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path / "model"))
    kept, recomputed = (
        plan(TINY, given(), given().batch_tokens, itemsize=4, recompute=each).total for each in (False, True)
    )
    assert recomputed < kept
    for free, wanted in ((2 * kept, False), (2 * kept - 2, True)):
        monkeypatch.setattr("ossia.train.objectives.lora_finetune.free_bytes", lambda _, free=free: free)
        assert check_memory(TINY, given(), given(), DistributedContext(), str, checkpoint.layout) is wanted
    monkeypatch.setattr("ossia.train.objectives.lora_finetune.free_bytes", lambda _: recomputed)
    with pytest.raises(MemoryError, match="batches of up to"):
        check_memory(TINY, given(), given(recompute="never"), DistributedContext(), str, checkpoint.layout)


def test_a_step_changes_the_adapters_alone(tmp_path: Path):
    chosen = given(steps=1, accumulate=1)
    network = adapted_model(open_checkpoint(tiny_checkpoint(tmp_path)), chosen, dtype=torch.float32)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    LoraObjective(network, Supply(), chosen, seed=0).step(0, report=True)
    changed = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all(".adapters." in name for name in changed)


def test_training_goes_on_from_an_adapter_in_its_own_shape(tmp_path: Path):
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path / "model"))
    first = read_adapter(finetune(checkpoint, given(rank=2), Supply(), tmp_path / "a", say=str), TINY)
    said: list[str] = []
    finetune(
        checkpoint,
        given(steps=1),
        Supply(),
        tmp_path / "b",
        checkpointing=CheckpointConfig(log_every=1),
        adapter=first,
        say=said.append,
    )
    assert "rank 2" in said[0]
    assert losses(tmp_path / "b" / "lora")[0] < 0.9 * losses(tmp_path / "a" / "lora")[0]
    assert read_adapter(tmp_path / "b" / "adapter", TINY).lora.rank == 2


def test_what_is_trained_and_its_memory_are_said_before_it_starts_and_what_will_not_fit_is_refused(tmp_path: Path):
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path / "model"))
    said: list[str] = []
    finetune(checkpoint, given(steps=1), Supply(), tmp_path / "run", say=said.append)
    assert "trained parameters" in said[0]
    assert "total" in said[1]
    with pytest.raises(MemoryError, match="tokens would fit"):
        finetune(checkpoint, given(batch_tokens=10**12), Supply(), tmp_path / "huge", say=said.append)
    assert not (tmp_path / "huge").exists()


def test_a_broken_off_run_goes_on_to_the_bit(tmp_path: Path):
    """Its dropout, too."""
    model = tiny_checkpoint(tmp_path / "model")
    ended = [tuner(tmp_path / name, model, dropout=0.2) for name in ("whole", "broken")]
    ended[0].run()
    ended[1].run(until=4)
    with (tmp_path / "broken" / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "loss": 0}\n')  # as a kill leaves it
    ended[1] = tuner(tmp_path / "broken", model, dropout=0.2)
    assert ended[1].step == 4
    ended[1].run()
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    whole, again = (each.weights.state_dict() for each in ended)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_accumulated_batches_are_one_large_batch(tmp_path: Path):
    """Every target counts alike, however many its batch has."""
    model = tiny_checkpoint(tmp_path / "model")

    def joined(number: int) -> PackedTargets:
        tokens, said = [], []
        for each in (batch(2 * number), batch(2 * number + 1)):
            marked = np.zeros(len(each.batch.tokens_T), bool)
            marked[each.batch.sampled_R + 1] = True
            starts = each.batch.starts_S1
            tokens += [each.batch.tokens_T[a:b].tolist() for a, b in itertools.pairwise(starts)]
            said += [marked[a:b].tolist() for a, b in itertools.pairwise(starts)]
        return packed(tokens, said)

    tuner(tmp_path / "many", model, steps=4).run()
    tuner(tmp_path / "one", model, joined, steps=4, accumulate=1).run()
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_another_lora_in_the_same_folder_is_refused(tmp_path: Path):
    model = tiny_checkpoint(tmp_path / "model")
    tuner(tmp_path / "run", model).run(until=1)
    with pytest.raises(ValueError, match="use the same, or another folder"):
        tuner(tmp_path / "run", model, rank=2)


def test_batches_without_targets_are_refused(tmp_path: Path):
    silent = packed([[1, 2, 3]], [[False] * 3])
    with pytest.raises(ValueError, match="have no target token"):
        tuner(tmp_path / "run", tiny_checkpoint(tmp_path / "model"), lambda _: silent).run()


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"accumulate": 0}, {"rank": 0}, {"data": ()}, {"optimizer": OptimizerConfig(kind="muon")}]
)
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match=r"give|must be|adamw"):
        given(**bad)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path):
    loop = tuner(tmp_path / "run", tiny_checkpoint(tmp_path / "model"))
    spoilt = {name: value.fill_(float("nan")) for name, value in loop.weights.state_dict().items()}
    loop.weights.load_state_dict(spoilt)
    with pytest.raises(Diverged, match="lower lr"):
        loop.run()


@pytest.mark.parametrize("field", ["qkv_weight", "mlp_norm", "down_bias", "sinks"])
def test_M10_a_base_with_a_NaN_is_named(tmp_path: Path, field: str):
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path))
    network = adapted_model(checkpoint, given(), dtype=torch.float32)
    with torch.no_grad():
        network.blocks[1].register_parameter(
            field, nn.Parameter(torch.full_like(network.blocks[1].get_parameter(field), float("nan")), False)
        )
    with pytest.raises(Diverged, match=rf"layers\.1\.{field} holds a NaN"):
        LoraObjective(network, Supply(), given(), seed=0).step(0, report=True)


RECIPE = """
seed = 3
start = "{model}"
[checkpoint]
log_every = 1
save_every = 2
plot = false
[lora]
rank = 2
steps = 6
batch_tokens = 300
accumulate = 3
bucket_batches = 4
precision = "f32"
{more}
[[lora.data]]
generator = "tests.support.training:chatter"
[lora.optimizer]
lr = 1e-2
[lora.schedule]
warmup_steps = 2
"""


def conversant(folder: Path) -> Path:
    """A tiny checkpoint with a tokenizer."""
    write_checkpoint(folder, CONFIG, RandomTensors(CONFIG, 0), "hf")
    write_tokenizer_json(folder / "tokenizer.json", small_vocabulary())
    write_generation_config(folder / "generation_config.json", small().special)
    return folder


def recipe_for(model: Path, folder: Path, more: str = "") -> Path:
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(model=model, more=more))
    return path


def test_a_recipe_makes_an_adapter_that_merges_into_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = conversant(tmp_path / "model")
    made = run(recipe_for(model, tmp_path), tmp_path / "out")
    assert made == tmp_path / "out" / "adapter"
    said = capsys.readouterr().out
    assert said.index("trained parameters") < said.index("total") < said.index("lora 1/6")
    assert base_of(made) == str(model)
    found = losses(tmp_path / "out" / "lora")
    assert len(found) == 6
    assert found[-1] < found[0]
    checkpoint = open_checkpoint(model)
    report = merge(checkpoint, read_adapter(made, CONFIG), tmp_path / "merged")
    assert report.merged.mean_kl < report.base.mean_kl
    assert (tmp_path / "merged" / "tokenizer.json").exists()

    before = (made / "adapter_model.safetensors").read_bytes()
    run(recipe_for(model, tmp_path), tmp_path / "out")  # all is done: nothing is trained anew
    assert (made / "adapter_model.safetensors").read_bytes() == before
    more = recipe_for(model, tmp_path, f'adapter = "{made}"')
    run(more, tmp_path / "more")
    assert losses(tmp_path / "more" / "lora")[0] < found[0]


def test_a_recipe_that_is_broken_off_goes_on_to_the_bit(tmp_path: Path):
    recipe, state = recipe_for(conversant(tmp_path / "model"), tmp_path), "state-00000004.pt"
    run(recipe, tmp_path / "whole")
    broken = tmp_path / "broken" / "lora"
    broken.mkdir(parents=True)
    (broken / state).write_bytes((tmp_path / "whole" / "lora" / state).read_bytes())  # as a kill after step 4 leaves it
    run(recipe, broken.parent)
    assert losses(broken) == losses(tmp_path / "whole" / "lora")[4:]
    one, two = (tmp_path / each / "adapter" / "adapter_model.safetensors" for each in ("broken", "whole"))
    assert one.read_bytes() == two.read_bytes()


def test_the_command_line_merges_and_says_in_a_line_what_cannot_be(tmp_path: Path):
    """The base is the one that the adapter names."""
    model = conversant(tmp_path / "model")
    finetune(open_checkpoint(model), given(steps=2), Supply(), tmp_path / "run", base=str(model), say=str)

    def command(*words: str | Path) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    done = command("merge", tmp_path / "run" / "adapter", tmp_path / "merged", "--layout", "bf16")
    assert done.exit_code == 0, done.output
    assert "of the update remains" in done.output
    assert "logits differ by" in done.output
    assert open_checkpoint(tmp_path / "merged").config == CONFIG
    for words, said in (
        (("merge", model, tmp_path / "x"), "adapter_config.json: cannot be read"),
        (("merge", tmp_path / "run" / "adapter", tmp_path / "x", "--layout", "flat"), "none of hf"),
        (("train", recipe_for(model, tmp_path, ""), "--out", tmp_path / "x"), "no batch would"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ossia.train.objectives.lora_finetune.free_bytes", lambda _: 1 << 21)
            done = command(*words)
        assert done.exit_code == 1
        assert said in done.output, done.output


def test_a_plan_can_be_asked_for_without_the_models_files(monkeypatch: pytest.MonkeyPatch):
    """What training the 20b takes, on a machine of 16 GB and on one of 13."""
    words = ["train", str(Path(__file__).parents[3] / "recipes" / "lora-20b.toml"), "--plan"]
    monkeypatch.setattr("ossia.train.objectives.lora_finetune.free_bytes", lambda _: 16 * 10**9)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "93,014,016 trained parameters" in done.output
    assert re.search(r"total +14\.\d\d GiB", done.output)
    monkeypatch.setattr("ossia.train.objectives.lora_finetune.free_bytes", lambda _: 13 * 10**9)
    assert "no batch would" in CliRunner().invoke(app, words).output


def test_a_sequence_that_no_batch_holds_is_bad_data(tmp_path: Path):
    model = conversant(tmp_path / "model")
    line = {"messages": [{"role": "user", "content": "a" * 400}, {"role": "assistant", "content": "Hello"}]}
    (tmp_path / "chat.jsonl").write_text(json.dumps(line))
    path = recipe_for(model, tmp_path)
    path.write_text(path.read_text().replace('generator = "tests.support.training:chatter"', 'jsonl = "chat.jsonl"'))
    with pytest.raises(ValueError, match=r"chat.jsonl, line 1: .* more than max_seq_len = 300"):
        run(path, tmp_path / "out")


def test_all_weights_of_a_model_that_does_not_fit_are_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = recipe_for(conversant(tmp_path / "model"), tmp_path)
    kept = path.read_text().split("[checkpoint]")[0]
    path.write_text(
        kept + '[sft]\nsteps = 1\nbatch_tokens = 300\ndata = [{generator = "tests.support.training:chatter"}]\n'
    )
    monkeypatch.setattr("ossia.train.run.free_bytes", lambda _: 1000)
    with pytest.raises(MemoryError, match=r"\[lora\] in place of \[sft\]"):
        run(path, tmp_path / "out")


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_and_either_goes_on_from_the_other(tmp_path: Path):
    """As a user starts them: torchrun with the command line and a recipe."""
    recipe = recipe_for(conversant(tmp_path / "model"), tmp_path)
    text = recipe.read_text()

    def train(count: int, out: str, steps: int) -> None:
        # the rate of a step must not depend on where the run is broken off
        recipe.write_text(
            text.replace("warmup_steps = 2", 'warmup_steps = 2\nshape = "constant"').replace(
                "steps = 6", f"steps = {steps}"
            )
        )
        torchrun(count, recipe, tmp_path / out)

    train(1, "one", 6)
    train(2, "two", 6)
    train(2, "mixed", 3)
    train(1, "mixed", 6)
    one = losses(tmp_path / "one" / "lora")
    assert len(one) == 6
    assert losses(tmp_path / "two" / "lora") == pytest.approx(one, abs=1e-5)
    assert losses(tmp_path / "mixed" / "lora") == pytest.approx(one, abs=1e-5)
    read = [read_adapter(tmp_path / name / "adapter", CONFIG).matrices for name in ("one", "two")]
    for name, value in read[0].items():
        np.testing.assert_allclose(read[1][name], value, atol=2e-3, err_msg=name)
