"""Checkpoints: three layouts hold the same model, transformers reads them, and what is damaged is named."""

import contextlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import GptOssForCausalLM

from ossia.model.checkpoint import CheckpointError, LayerTensors, open_checkpoint, write_checkpoint
from ossia.model.config import ModelConfig, alternating
from ossia.model.layouts import LAYOUTS, all_stored
from ossia.model.tensorfile import open_tensorfile
from ossia.quant import Mxfp4, from_bf16, to_bf16, unpack_mxfp4, widen
from tests.support.checkpoints import SHAPES, TINY, tiny_checkpoint, tiny_tensors

QUICK = settings(max_examples=25, deadline=None)


def dense(tensor):
    return unpack_mxfp4(tensor) if isinstance(tensor, Mxfp4) else widen(tensor)


def everything(tensors, config):
    """All of a model's weights as float32, by field."""
    values = {"embedding": tensors.embedding(), "norm": tensors.norm(), "unembedding": tensors.unembedding()}
    for index in range(config.layers):
        values |= {f"{index}.{name}": tensor for name, tensor in tensors.layer(index)._asdict().items()}
    return {name: dense(tensor) for name, tensor in values.items()}


def assert_same(ours, theirs, config):
    theirs = everything(theirs, config)
    for name, tensor in everything(ours, config).items():
        np.testing.assert_array_equal(tensor.view(np.uint32), theirs[name].view(np.uint32), err_msg=name)


@st.composite
def shapes(draw):
    layers, kv_heads, experts = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    return ModelConfig(
        layers=layers,
        hidden=32 * draw(st.integers(1, 3)),
        intermediate=32 * draw(st.integers(1, 3)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 5)),
        experts=experts,
        experts_per_token=draw(st.integers(1, experts)),
        vocab=draw(st.integers(1, 70)),
        window=8,
        sliding=alternating(layers),
    )


# -- the three layouts


@given(shapes(), st.sampled_from(LAYOUTS), st.sampled_from([1, 3000, 10**9]), st.integers(0, 2**32))
@QUICK
def test_what_is_written_is_read(tmp_path_factory, config, layout, shard_bytes, seed):
    folder = tmp_path_factory.mktemp("checkpoint")
    tensors = tiny_tensors(config, seed)
    write_checkpoint(folder, config, tensors, layout, shard_bytes)
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.layout, checkpoint.config) == (layout, config)
    assert_same(checkpoint, tensors, config)


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("target", LAYOUTS)
def test_every_layout_becomes_every_other(tmp_path, source, target):
    first = open_checkpoint(tiny_checkpoint(tmp_path / "first", layout=source))
    write_checkpoint(tmp_path / "second", first.config, first, target)
    second = open_checkpoint(tmp_path / "second")
    assert second.layout == target
    assert_same(second, tiny_tensors(), TINY)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["hf", "bf16"])
def test_transformers_loads_the_same_weights(tmp_path, shape, layout):
    config = SHAPES[shape]
    model = GptOssForCausalLM.from_pretrained(tiny_checkpoint(tmp_path, config, layout), dtype=torch.float32)
    ours, theirs = everything(tiny_tensors(config), config), model.state_dict()
    np.testing.assert_array_equal(theirs["lm_head.weight"], ours["unembedding"])
    for i in range(config.layers):
        experts, attention = f"model.layers.{i}.mlp.experts", f"model.layers.{i}.self_attn"
        np.testing.assert_array_equal(theirs[f"{experts}.gate_up_proj"].mT, ours[f"{i}.up_weight"])
        np.testing.assert_array_equal(theirs[f"{experts}.down_proj"].mT, ours[f"{i}.down_weight"])
        for part in ("weight", "bias"):
            qkv = torch.cat([theirs[f"{attention}.{name}_proj.{part}"] for name in "qkv"])
            np.testing.assert_array_equal(qkv, ours[f"{i}.qkv_{part}"])


def test_transformers_own_save_is_read(tmp_path):
    model = GptOssForCausalLM.from_pretrained(tiny_checkpoint(tmp_path / "ours"), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    checkpoint = open_checkpoint(tmp_path / "theirs")
    assert (checkpoint.layout, checkpoint.config) == ("bf16", replace(TINY, max_context=checkpoint.config.max_context))
    assert_same(checkpoint, tiny_tensors(), TINY)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_what_the_safetensors_library_reads(tmp_path, layout):
    write_checkpoint(tmp_path, TINY, tiny_tensors(), layout, shard_bytes=30_000)
    folder = tmp_path / "original" if layout == "original" else tmp_path
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            found |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            for name in file.keys():  # noqa: SIM118
                assert tuple(file.get_tensor(name).shape) == all_stored(TINY, layout)[name].shape
    assert found.keys() == all_stored(TINY, layout).keys()


def test_the_names_of_the_published_20b():
    names = all_stored(ModelConfig.preset("gpt-oss-20b"), "hf")
    assert len(names) == 459
    assert names["model.layers.23.self_attn.k_proj.weight"].shape == (512, 2880)
    assert names["model.layers.0.mlp.experts.gate_up_proj_blocks"].shape == (32, 5760, 90, 16)
    assert names["model.layers.0.mlp.experts.down_proj_scales"].shape == (32, 2880, 90)
    original = all_stored(ModelConfig.preset("gpt-oss-120b"), "original")
    assert len(original) == 15 * 36 + 3
    assert original["block.35.attn.qkv.weight"].shape == (5120, 2880)
    assert original["block.0.mlp.mlp1_weight.scales"].shape == (128, 5760, 90)
    turned = all_stored(ModelConfig.preset("gpt-oss-20b"), "bf16")
    assert turned["model.layers.0.mlp.experts.gate_up_proj"].shape == (32, 2880, 5760)


def test_the_original_layout_is_found_with_and_without_its_folder(tmp_path):
    tiny_checkpoint(tmp_path, layout="original")
    assert json.loads((tmp_path / "original" / "dtypes.json").read_text())["block.3.mlp.mlp1_weight.scales"] == "UE8"
    (tmp_path / "config.json").write_text("{}")  # a root config without weights beside it is not ours to read
    assert open_checkpoint(tmp_path).path == open_checkpoint(tmp_path / "original").path == tmp_path / "original"


def test_expert_weights_are_views_of_the_file(tmp_path):
    layer = open_checkpoint(tiny_checkpoint(tmp_path / "hf")).layer(0)
    turned = open_checkpoint(tiny_checkpoint(tmp_path / "bf16", layout="bf16")).layer(0)
    for array in (layer.up_weight.blocks, layer.down_weight.scales, turned.up_weight, layer.out_weight):
        root = array
        while isinstance(root, np.ndarray) and root.base is not None:
            root = root.base
        assert not isinstance(root, np.ndarray)  # an mmap
        assert not array.flags.writeable
    assert turned.up_weight.shape == (5, 192, 64)


# -- other dense types


def resave(folder, change):
    """Pass a one-file checkpoint's tensors through `change` and the safetensors library."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    save_file(change(tensors), path, {"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dense_types_are_read(tmp_path, dtype):
    tiny_checkpoint(tmp_path, layout="bf16")
    resave(tmp_path, lambda tensors: {name: t.to(dtype) for name, t in tensors.items()})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.embedding().dtype == (np.float32 if dtype == torch.float32 else np.float16)
    if dtype == torch.float32:
        assert_same(checkpoint, tiny_tensors(), TINY)


def test_q_in_float32_beside_k_and_v_in_bfloat16(tmp_path):
    tiny_checkpoint(tmp_path)
    resave(tmp_path, lambda tensors: {n: t.float() if ".q_proj." in n else t for n, t in tensors.items()})
    assert open_checkpoint(tmp_path).layer(1).qkv_weight.dtype == np.float32
    assert_same(open_checkpoint(tmp_path), tiny_tensors(), TINY)


class DenseTensors:
    """The tiny model with experts unpacked to float32 and everything else widened."""

    def __init__(self, factor=1.0):
        self.source, self.factor = tiny_tensors(), np.float32(factor)

    def embedding(self):
        return widen(self.source.embedding())

    def norm(self):
        return widen(self.source.norm())

    def unembedding(self):
        return widen(self.source.unembedding())

    def layer(self, index):
        return LayerTensors(*(dense(tensor) * self.factor for tensor in self.source.layer(index)))


def test_dense_experts_are_quantized_for_the_mxfp4_layouts(tmp_path):
    write_checkpoint(tmp_path, TINY, DenseTensors(), "hf")
    assert isinstance(open_checkpoint(tmp_path).layer(0).up_weight, Mxfp4)
    assert_same(open_checkpoint(tmp_path), tiny_tensors(), TINY)


def test_float32_is_rounded_to_bfloat16(tmp_path):
    tensors = DenseTensors(factor=1.001)
    write_checkpoint(tmp_path, TINY, tensors, "bf16")
    read = everything(open_checkpoint(tmp_path), TINY)
    for name, tensor in everything(tensors, TINY).items():
        np.testing.assert_array_equal(read[name], from_bf16(to_bf16(tensor)))


# -- damage: every error names the tensor and the file


def damaged(tmp_path, change, layout="hf"):
    resave(tiny_checkpoint(tmp_path, layout=layout), change)
    return tmp_path


def with_tensor(name, make):
    return lambda tensors: tensors | {name: make(tensors.get(name))}


K = "model.layers.2.self_attn.k_proj.weight"
SCALES = "model.layers.3.mlp.experts.down_proj_scales"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {n: v for n, v in t.items() if n != K}, f"missing tensor '{K}'"),
        (lambda t: {n: v for n, v in t.items() if "experts" not in n}, r"gate_up_proj.*and 19 more"),
        (with_tensor("lm_head.bias", lambda _: torch.zeros(101)), "'lm_head.bias' is not part of this gpt-oss model"),
        (with_tensor(K, lambda t: t[:-1]), rf"'{K}' has shape \[31, 64\]; config.json asks for \[32, 64\]"),
        (with_tensor(K, lambda t: t.to(torch.uint8)), f"'{K}' has dtype U8; want BF16, F16 or F32"),
        (with_tensor(K, lambda t: t.double()), f"'{K}' has dtype F64; Ossia reads BF16"),
        (with_tensor(SCALES, lambda t: t.float()), f"'{SCALES}' has dtype F32; want U8"),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(damaged(tmp_path, change))
    assert str(tmp_path) in str(error.value)


def test_a_nan_scale_is_named_when_its_layer_is_read(tmp_path):
    def spoil(scales):
        scales[1, 2, 0] = 255
        return scales

    checkpoint = open_checkpoint(damaged(tmp_path, with_tensor(SCALES, spoil)))
    checkpoint.layer(2)
    with pytest.raises(CheckpointError, match=rf"model.safetensors: tensor '{SCALES}' holds 1 scales of 255"):
        checkpoint.layer(3)


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def rewrite_header(path, edit):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = edit(raw[8 : 8 + length])
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])


def edit_entry(name, **fields):
    def edit(header):
        table = json.loads(header)
        table[name] |= fields
        return json.dumps(table).encode()

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: cut(path, 0), "not a safetensors file, or cut off in its header"),
        (lambda path: cut(path, 100), "not a safetensors file, or cut off in its header"),
        (lambda path: cut(path, path.stat().st_size - 1), "tensor 'lm_head.weight' is cut off"),
        (lambda path: path.write_bytes(path.read_bytes() + b"!"), "1 bytes after the last tensor"),
        (lambda path: path.write_bytes(b"<html>" * 100), "not a safetensors file"),
        (lambda path: rewrite_header(path, lambda _: b"{..."), "bad safetensors header"),
        (lambda path: rewrite_header(path, lambda _: b"[1]"), "bad safetensors header: not a JSON object"),
        (lambda path: rewrite_header(path, lambda h: h.replace(b"v_proj", b"k_proj")), "occurs twice"),
        (lambda path: rewrite_header(path, edit_entry(K, shape=[32, 65])), f"'{K}', BF16 .32, 65., takes 4,160 bytes"),
        (lambda path: rewrite_header(path, edit_entry(K, shape=[-32, 64])), f"'{K}' has a bad header entry"),
        (lambda path: rewrite_header(path, edit_entry(K, dtype="F8_E4M3")), f"'{K}' has dtype F8_E4M3"),
        (lambda path: rewrite_header(path, edit_entry(K, data_offsets=[0, 4096])), "starts at byte"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage, message):
    damage(tiny_checkpoint(tmp_path) / "model.safetensors")
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(tmp_path)
    assert str(tmp_path / "model.safetensors") in str(error.value)


def sharded(folder):
    write_checkpoint(folder, TINY, tiny_tensors(), "hf", shard_bytes=30_000)
    return sorted(folder.glob("*.safetensors"))


def test_a_missing_shard_is_named_with_its_tensor(tmp_path):
    shards = sharded(tmp_path)
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=rf"{shards[1].name}: missing; the index has tensor 'model.layers"):
        open_checkpoint(tmp_path)


def test_an_index_that_points_to_the_wrong_shard(tmp_path):
    shards = sharded(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    raw["weight_map"][K] = shards[-1].name
    index.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=rf"{shards[-1].name}: tensor '{K}' is missing; the index has it here"):
        open_checkpoint(tmp_path)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="has no weight_map"):
        open_checkpoint(tmp_path)


def test_shard_names_may_count_wrongly_and_an_index_may_lack(tmp_path):
    shards = sharded(tmp_path)
    renamed = {path.name: f"model-{i:05}-of-00000.safetensors" for i, path in enumerate(shards)}
    for path in shards:
        path.rename(tmp_path / renamed[path.name])
    index = tmp_path / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    raw["weight_map"] = {name: renamed[place] for name, place in raw["weight_map"].items()}
    index.write_text(json.dumps(raw))
    assert_same(open_checkpoint(tmp_path), tiny_tensors(), TINY)
    index.unlink()
    assert_same(open_checkpoint(tmp_path), tiny_tensors(), TINY)
    shutil.copy(tmp_path / renamed[shards[0].name], tmp_path / "copy.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor 'model.embed_tokens.weight' is in copy.safetensors too"):
        open_checkpoint(tmp_path)


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such directory"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no \*.safetensors here or in original/"):
        open_checkpoint(tmp_path)
    tiny_checkpoint(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"silu"', '"gelu"'))
    with pytest.raises(CheckpointError, match=rf"{tmp_path}: config.json: hidden_act is 'gelu'"):
        open_checkpoint(tmp_path)
    config.write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: not JSON"):
        open_checkpoint(tmp_path)
    config.unlink()
    with pytest.raises(CheckpointError, match=r"config.json: cannot be read: No such file"):
        open_checkpoint(tmp_path)


# -- writing leaves a whole checkpoint or nothing


def test_weights_are_never_overwritten(tmp_path):
    tiny_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"model.safetensors: already there"):
        tiny_checkpoint(tmp_path, seed=1)
    assert_same(open_checkpoint(tmp_path), tiny_tensors(), TINY)


def test_a_source_that_fails_leaves_nothing(tmp_path):
    class Failing(DenseTensors):
        def layer(self, index):
            if index == 2:
                raise KeyboardInterrupt
            return super().layer(index)

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, TINY, Failing(), "hf")
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_of_another_shape_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"cannot write up_weight: its shape is \[5, 192, 64\], the config asks for"
    ):
        write_checkpoint(tmp_path, replace(TINY, intermediate=128), tiny_tensors(), "hf")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_small_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(CheckpointError, match=r"needs [\d,]+ bytes and the disk has 0 free"):
        tiny_checkpoint(tmp_path)
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def largest_file(size):
    resource = pytest.importorskip("resource", reason="needs POSIX limits")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    with largest_file(100_000), pytest.raises(CheckpointError, match="no room for the checkpoint's"):
        tiny_checkpoint(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unaligned_tensors_are_copied(tmp_path):
    path = tmp_path / "odd.safetensors"
    save_file({"a": torch.ones(4)}, path)
    rewrite_header(path, lambda header: header + b" ")
    file = open_tensorfile(path)
    assert file.entries["a"].begin % 4 == 1
    assert file.read("a").flags.aligned
    np.testing.assert_array_equal(file.read("a"), np.ones(4, np.float32))
