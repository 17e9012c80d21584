"""Fine-tuning a checkpoint: the loss falls, the base stays, a run goes on to the bit, two processes are as good as one."""

import hashlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ossia.model.checkpoint import open_checkpoint
from ossia.train.finetune import Batches, Finetuner, TuneSettings, finetune, matrices, tunable
from ossia.train.lora import Lora
from ossia.train.merge import merge
from ossia.train.peft_format import read_adapter
from ossia.train.tunable import Packed, packed
from tests.tiny import TINY, tiny_checkpoint


def batches(first: int) -> Iterator[Packed]:
    """Four batches again and again, of two sequences each."""
    while True:
        rng = np.random.default_rng(first % 4)
        lengths = (15, 6 + first % 3)
        tokens = [rng.integers(0, TINY.vocab, length).tolist() for length in lengths]
        yield packed(tokens, [[place > 2 for place in range(length)] for length in lengths])
        first += 1


def tuner(folder: Path, model: Path, batches: Batches = batches, dropout: float = 0.0, **changes) -> Finetuner:
    settings = TuneSettings(**{"steps": 8, "rate": 1e-2, "warmup": 2, "accumulate": 2, "save_every": 3} | changes)
    network = tunable(open_checkpoint(model), Lora(rank=4, dropout=dropout), dtype=torch.float32)
    return Finetuner(network, batches, settings, folder)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_loss_falls_the_base_stays_and_the_adapter_and_the_merge_have_what_was_learnt(tmp_path: Path):
    model = tiny_checkpoint(tmp_path / "model")
    before = digest(model)
    run = tuner(tmp_path / "run", model, steps=30)
    frozen = {name: value.clone() for name, value in run.network.named_parameters() if not value.requires_grad}
    run.run()
    assert np.mean(losses(tmp_path / "run")[-2:]) < 0.3 * losses(tmp_path / "run")[0]
    assert digest(model) == before
    assert all(torch.equal(value, frozen[name]) for name, value in run.network.named_parameters() if name in frozen)
    read = read_adapter(tmp_path / "run" / "adapter", TINY)
    loaded = tunable(open_checkpoint(model), read.lora, dtype=torch.float32, adapter=read)
    given = next(batches(0))
    with torch.no_grad():
        assert torch.equal(loaded(given), run.network.eval()(given))
        assert all(np.array_equal(value, read.matrices[name]) for name, value in matrices(run.network).items())
    report = merge(open_checkpoint(model), read, tmp_path / "merged", probe=given.batch)
    assert report.merged.mean_kl < 0.2 * report.base.mean_kl
    assert open_checkpoint(tmp_path / "merged").config == TINY


def test_what_is_trained_and_its_memory_are_said_before_it_starts_and_what_will_not_fit_is_refused(tmp_path: Path):
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path / "model"))
    said: list[str] = []
    settings = TuneSettings(steps=1)
    done = finetune(checkpoint, Lora(), batches, settings, tmp_path / "run", tokens=32, say=said.append)
    assert done.step == 1
    assert "trained parameters" in said[0]
    assert "in all" in said[1]
    with pytest.raises(MemoryError, match="tokens would fit"):
        finetune(checkpoint, Lora(), batches, settings, tmp_path / "huge", tokens=10**12, say=said.append)
    assert not (tmp_path / "huge").exists()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_broken_off_run_goes_on_to_the_bit(tmp_path: Path, dropout: float):
    model = tiny_checkpoint(tmp_path / "model")
    tuner(tmp_path / "whole", model, dropout=dropout).run()
    tuner(tmp_path / "broken", model, dropout=dropout).run(until=4)
    again = tuner(tmp_path / "broken", model, dropout=dropout)
    assert again.step == 4
    with (tmp_path / "broken" / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "loss": 0}\n')  # as a kill leaves it
    again = tuner(tmp_path / "broken", model, dropout=dropout)
    again.run()
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    adapters = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "broken")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_accumulated_batches_are_one_large_batch(tmp_path: Path):
    """Every target counts alike, however many its batch has."""
    model = tiny_checkpoint(tmp_path / "model")

    def joined(first: int) -> Iterator[Packed]:
        source = batches(2 * first)
        while True:
            both = [next(source), next(source)]
            tokens, said = [], []
            for each in both:
                marked = np.zeros(len(each.batch.tokens_T), bool)
                marked[each.batch.sampled_R + 1] = True
                starts = each.batch.starts_S1
                tokens += [each.batch.tokens_T[a:b].tolist() for a, b in itertools.pairwise(starts)]
                said += [marked[a:b].tolist() for a, b in itertools.pairwise(starts)]
            yield packed(tokens, said)

    tuner(tmp_path / "many", model, steps=4).run()
    tuner(tmp_path / "one", model, joined, steps=4, accumulate=1).run()
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_another_lora_in_the_same_folder_is_refused(tmp_path: Path):
    model = tiny_checkpoint(tmp_path / "model")
    tuner(tmp_path / "run", model).run(until=1)
    network = tunable(open_checkpoint(model), Lora(rank=2), dtype=torch.float32)
    with pytest.raises(ValueError, match="go on with the same"):
        Finetuner(network, batches, TuneSettings(steps=2), tmp_path / "run")


def test_batches_that_end_and_targets_that_are_none_are_refused(tmp_path: Path):
    model = tiny_checkpoint(tmp_path / "model")
    with pytest.raises(ValueError, match="end at step 1 of 8"):
        tuner(tmp_path / "a", model, lambda first: iter([next(batches(0))] * 3)).run()
    silent = packed([[1, 2, 3]], [[False] * 3])
    with pytest.raises(ValueError, match="no token of its batches is a target"):
        tuner(tmp_path / "b", model, lambda first: iter([silent] * 4)).run()


@pytest.mark.parametrize("bad", [{"steps": 0}, {"rate": 0.0}, {"accumulate": 0}, {"clip": 0.0}, {"final_rate": 2.0}])
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match=r"want|must be"):
        TuneSettings(**{"steps": 1} | bad)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path):
    run = tuner(tmp_path / "run", tiny_checkpoint(tmp_path / "model"))
    with torch.no_grad():
        run.network.trained()["model.layers.0.self_attn.q_proj.b"].fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="lower the rate"):
        run.run()


WORKER = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from ossia.model.checkpoint import open_checkpoint
from ossia.train.finetune import Finetuner, Processes, TuneSettings, tunable
from ossia.train.lora import Lora
from tests.train.test_finetune import batches
torch.set_num_threads(1)
model, out, until = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
processes = Processes.join("cpu")
network = tunable(open_checkpoint(model), Lora(rank=4), dtype=torch.float32, processes=processes)
settings = TuneSettings(steps=6, rate=1e-2, warmup=2, accumulate=3)
Finetuner(network, batches, settings, out, processes=processes).run(until)
if processes.size > 1:
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_and_either_goes_on_from_the_other(tmp_path: Path):
    model = tiny_checkpoint(tmp_path / "model")
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)

    def run(count: int, out: str, until: int) -> None:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        given = [str(worker), str(model), str(tmp_path / out), str(until)]
        subprocess.run([*launcher, *given], check=True, timeout=200, capture_output=True)

    run(1, "one", 6)
    run(2, "two", 6)
    run(2, "mixed", 3)
    run(1, "mixed", 6)
    one = losses(tmp_path / "one")
    assert len(one) == 6
    assert losses(tmp_path / "two") == pytest.approx(one, abs=1e-5)
    assert losses(tmp_path / "mixed") == pytest.approx(one, abs=1e-5)
    read = [read_adapter(tmp_path / name / "adapter", TINY).matrices for name in ("one", "two")]
    for name, value in read[0].items():
        np.testing.assert_allclose(read[1][name], value, atol=2e-3, err_msg=name)
