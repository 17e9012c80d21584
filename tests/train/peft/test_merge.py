"""Merging adapters into a checkpoint: what is written, what is refused, and what a killed merge leaves."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ossia.kernels.backends import make_ops
from ossia.model.checkpoint import Checkpoint, CheckpointError, LayerTensors, open_checkpoint, write_checkpoint
from ossia.model.transformer import load_transformer
from ossia.quant import Mxfp4, to_bf16, unpack_mxfp4
from ossia.train.model.weights.lora import KINDS
from ossia.train.peft.format import write_adapter
from ossia.train.peft.merge import merge
from ossia.train.recipe import Lora
from tests.support.checkpoints import TINY, tiny_checkpoint
from tests.train.peft.adapted import as_file, batch, divergence, network


@pytest.mark.parametrize("source", ["hf", "bf16", "original"])
@pytest.mark.parametrize("layout", ["hf", "bf16", "original"])
def test_a_merged_model_is_what_was_trained_not_the_base(tmp_path: Path, source, layout):
    path = tiny_checkpoint(tmp_path / "model", layout=source)
    made = network(path, Lora(rank=3), stirred=0.2)
    given = batch().batch
    report = merge(open_checkpoint(path), as_file(made), tmp_path / "merged", layout, given)
    merged = load_transformer(open_checkpoint(tmp_path / "merged"), make_ops("reference")).forward(given)
    assert float((merged - made.logits(given)).detach().abs().max()) == pytest.approx(report.merged.largest, rel=0.01)
    assert report.merged.mean_kl < (0.01 if layout == "bf16" else 0.3) * report.base.mean_kl
    assert set(report.kept) == set(KINDS)
    assert all(0.95 < kept.share < 1.05 for kept in report.kept.values())
    assert "mean KL" in str(report)


def test_what_was_not_trained_keeps_its_bytes(tmp_path: Path):
    path = tiny_checkpoint(tmp_path / "model")
    lora = Lora(rank=3, targets=("layers.1.mlp.experts.*", "layers.2.self_attn.k_proj"))
    made = network(path, lora, stirred=0.2)
    with torch.no_grad():
        made.trained()["model.layers.1.mlp.experts.down_proj.b"][2:] = 0  # experts that met no token
    merge(open_checkpoint(path), as_file(made), tmp_path / "merged")
    old, new = open_checkpoint(path), open_checkpoint(tmp_path / "merged")
    keyed = slice(TINY.heads * TINY.head_dim, (TINY.heads + TINY.kv_heads) * TINY.head_dim)
    for layer in range(TINY.layers):
        for field, before, after in zip(old.layer(layer)._fields, old.layer(layer), new.layer(layer)):
            parts = list(zip(before, after)) if isinstance(before, tuple) else [(before, after)]
            for one, other in parts:
                if (layer, field) == (1, "up_weight"):
                    continue
                if (layer, field) == (1, "down_weight"):
                    assert not np.array_equal(one[:2], other[:2]) or one.shape[-1] != 16
                    one, other = one[2:], other[2:]
                if (layer, field) == (2, "qkv_weight"):
                    assert not np.array_equal(one[keyed], other[keyed])
                    one, other = np.delete(one, keyed, 0), np.delete(other, keyed, 0)
                assert np.array_equal(one, other), (layer, field)


def test_a_merge_that_rounding_undoes_is_refused(tmp_path: Path):
    path = tiny_checkpoint(tmp_path / "model")
    made = network(path, Lora(rank=3, targets=("experts.*",)), stirred=1e-6)
    with pytest.raises(ValueError, match="would equal the base"):
        merge(open_checkpoint(path), as_file(made), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    report = merge(open_checkpoint(path), as_file(network(path, made.lora)), tmp_path / "nothing")  # nothing was asked
    assert report.merged.largest == 0


class Dense:
    """A checkpoint's tensors with dense experts that MXFP4 cannot hold."""

    def __init__(self, held: Checkpoint) -> None:
        self.embedding, self.norm, self.unembedding, self._held = held.embedding, held.norm, held.unembedding, held

    def layer(self, index: int) -> LayerTensors:
        held, rng = self._held.layer(index), np.random.default_rng(index)

        def moved(weight: Mxfp4) -> np.ndarray:
            values = unpack_mxfp4(weight)
            return to_bf16((values * rng.uniform(0.8, 1.2, values.shape)).astype(np.float32))

        return held._replace(up_weight=moved(held.up_weight), down_weight=moved(held.down_weight))


def dense_base(folder: Path, exact: bool) -> Path:
    """A base in bf16. exact: MXFP4 holds its experts."""
    held = open_checkpoint(tiny_checkpoint(folder.with_name("packed")))
    write_checkpoint(folder, TINY, held if exact else Dense(held), "bf16")
    return folder


@pytest.mark.parametrize("source", ["hf", "bf16", "original"])
def test_M8_the_default_layout_is_the_bases(tmp_path: Path, source):
    path = tiny_checkpoint(tmp_path / "model", layout=source)
    made = network(path, Lora(rank=3, targets=("q_proj",)), stirred=0.2)
    merge(open_checkpoint(path), as_file(made), tmp_path / "merged")
    old, new = open_checkpoint(path), open_checkpoint(tmp_path / "merged")
    assert new.layout == source
    for layer in range(TINY.layers):
        for before, after in (
            (old.layer(layer).up_weight, new.layer(layer).up_weight),
            (old.layer(layer).down_weight, new.layer(layer).down_weight),
        ):
            parts = zip(before, after) if isinstance(before, tuple) else [(before, after)]
            assert all(np.array_equal(one, other) for one, other in parts)  # experts keep their exact bits


def test_M8_a_layout_that_loses_says_how_much_before_it_writes(tmp_path: Path):
    path = dense_base(tmp_path / "model", exact=False)
    made = network(path, Lora(rank=3, targets=("q_proj",)), stirred=0.2)
    given, said = batch().batch, list[tuple[str, bool]]()
    target = tmp_path / "merged"
    report = merge(
        open_checkpoint(path), as_file(made), target, "hf", given, lambda text: said.append((text, target.exists()))
    )
    ((text, was_there),) = said
    assert not was_there
    for kind in ("gate_up_proj", "down_proj"):
        assert f"mlp.experts.{kind}" in text
        assert 0.03 < report.kept[f"mlp.experts.{kind}"].rounding < 0.3
    assert "not trained; rounding to MXFP4 changes the weights by" in text
    assert "rounds experts to MXFP4; layout 'bf16' loses least" in text or "write layout 'bf16' instead" in text
    merged = load_transformer(open_checkpoint(target), make_ops("reference")).forward(given)
    wanted = made.logits(given).detach()
    assert divergence(merged, wanted) == pytest.approx(report.merged.mean_kl, rel=0.01)


def test_M8_a_dense_base_that_mxfp4_holds_is_written_exactly(tmp_path: Path):
    path = dense_base(tmp_path / "model", exact=True)
    made = network(path, Lora(rank=3, targets=("q_proj",)), stirred=0.2)
    said: list[str] = []
    merge(open_checkpoint(path), as_file(made), tmp_path / "merged", "hf", say=said.append)
    assert "rounding" not in said[0]
    old, new = open_checkpoint(tmp_path / "packed"), open_checkpoint(tmp_path / "merged")
    for layer in range(TINY.layers):
        for field in ("up_weight", "down_weight"):
            before, after = getattr(old.layer(layer), field), getattr(new.layer(layer), field)
            assert np.array_equal(unpack_mxfp4(before), unpack_mxfp4(after))


KILLED = """
import os, signal, sys
from ossia.model.checkpoint import open_checkpoint
from ossia.train.peft import merge
from ossia.train.peft.format import read_adapter

def layer(self, index, whole=merge._Merged.layer, seen=[]):
    seen.append(index)
    if seen.count(2) == 2:  # compared already, now being written
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, index)

merge._Merged.layer = layer
base = open_checkpoint(sys.argv[1])
merge.merge(base, read_adapter(sys.argv[2], base.config), sys.argv[3])
"""


def test_M8_a_kill_during_the_write_leaves_no_model_and_the_next_merge_works(tmp_path: Path):
    path = tiny_checkpoint(tmp_path / "model")
    made = network(path, Lora(rank=3, targets=("q_proj",)), stirred=0.2)
    write_adapter(tmp_path / "adapter", TINY, made.lora, made.targets, as_file(made).matrices)
    folders = [str(path), str(tmp_path / "adapter"), str(tmp_path / "merged")]
    killed = subprocess.run([sys.executable, "-c", KILLED, *folders], capture_output=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL
    assert not list((tmp_path / "merged").glob("*.safetensors"))
    assert not (tmp_path / "merged" / "config.json").exists()
    merge(open_checkpoint(path), as_file(made), tmp_path / "merged")
    assert open_checkpoint(tmp_path / "merged").config == TINY


KILLED_WHILE_MOVING = """
import os, pathlib, signal, sys
from ossia.model.checkpoint import open_checkpoint
from ossia.train.peft.merge import merge
from ossia.train.peft.format import read_adapter

def replace(self, target, whole=pathlib.Path.replace):
    whole(self, target)
    if str(target).endswith(".safetensors"):
        os.kill(os.getpid(), signal.SIGKILL)

pathlib.Path.replace = replace
base = open_checkpoint(sys.argv[1])
merge(base, read_adapter(sys.argv[2], base.config), sys.argv[3])
"""


@pytest.mark.parametrize("code", [KILLED, KILLED_WHILE_MOVING])
def test_M8_what_a_killed_merge_leaves_is_removed_or_named(tmp_path: Path, code: str):
    path = tiny_checkpoint(tmp_path / "model")
    made = network(path, Lora(rank=3, targets=("q_proj",)), stirred=0.2)
    write_adapter(tmp_path / "adapter", TINY, made.lora, made.targets, as_file(made).matrices)
    target = tmp_path / "merged"
    folders = [str(path), str(tmp_path / "adapter"), str(target)]
    killed = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL
    assert list(target.glob(".partial-*"))
    with pytest.raises((CheckpointError, OSError)):
        open_checkpoint(target)
    if shards := list(target.glob("*.safetensors")):
        with pytest.raises(CheckpointError, match=r"is left over from an interrupted write .*: remove it"):
            merge(open_checkpoint(path), as_file(made), target)
        for shard in shards:
            shard.unlink()
    merge(open_checkpoint(path), as_file(made), target)
    assert open_checkpoint(target).config == TINY
    assert not list(target.glob(".partial-*"))
