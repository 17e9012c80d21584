"""M7: tensor names of other tools are read as the published ones: wrapper prefixes, and separately stored experts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ossia
from ossia.loading import is_mxfp4
from ossia.model.checkpoint import CheckpointError, open_checkpoint
from tests.model.test_checkpoint import assert_same
from tests.support.checkpoints import TINY, tiny_checkpoint, tiny_tensors

Tensors = dict[str, torch.Tensor]


def renamed(folder: Path, change, layout: str = "bf16") -> Path:
    tiny_checkpoint(folder, layout=layout)  # type: ignore[arg-type]
    path = folder / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    save_file({name: tensor.contiguous() for name, tensor in change(tensors).items()}, path, {"format": "pt"})
    return folder


def prefixed(prefix: str):
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def within(part: str):
    return lambda tensors: {name.replace(".mlp.", f".{part}.mlp."): tensor for name, tensor in tensors.items()}


WRAPPED = {
    "torch.compile": prefixed("_orig_mod."),
    "DDP": prefixed("module."),
    "both": prefixed("module._orig_mod."),
    "PEFT": prefixed("base_model.model."),
    "FSDP": within("_fsdp_wrapped_module"),
    "compiled blocks": within("_orig_mod"),
    "language_model": prefixed("language_model."),
    "model.language_model": lambda tensors: {
        name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name: tensor
        for name, tensor in tensors.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", ["hf", "bf16"])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_M7_a_wrappers_prefix_is_read(tmp_path: Path, wrapper: str, layout: str):
    checkpoint = open_checkpoint(renamed(tmp_path, WRAPPED[wrapper], layout))
    assert checkpoint.layout == layout
    assert_same(checkpoint, tiny_tensors(), TINY)


def unfused(gate_up: tuple[str, ...], down: str, router: str = "router"):
    """Experts as linear modules save them: [out, in], with alternating gate and up rows, or in two modules."""

    def change(tensors: Tensors) -> Tensors:
        made: Tensors = {}
        for name, tensor in tensors.items():
            base, _, field = name.rpartition("experts.")
            if not base:
                made[name.replace("mlp.router", f"mlp.{router}")] = tensor
                continue
            kind = "bias" if field.endswith("_bias") else "weight"
            for expert, each in enumerate(tensor):
                rows = each if kind == "bias" else each.T
                if field.startswith("down"):
                    made[f"{base}experts.{down.format(expert)}.{kind}"] = rows
                else:
                    for i, part in enumerate(gate_up):
                        made[f"{base}experts.{part.format(expert)}.{kind}"] = rows[i :: len(gate_up)]
        return made

    return change


UNFUSED = {
    "unsloth": unfused(("gate_up_projs.{}",), "down_projs.{}", "router.linear"),
    "linear experts": unfused(("{}.gate_up_proj",), "{}.down_proj"),
    "LLM Compressor": unfused(("{}.gate_proj", "{}.up_proj"), "{}.down_proj"),
}


@pytest.mark.parametrize("tool", UNFUSED)
def test_M7_experts_that_lie_one_by_one_are_read(tmp_path: Path, tool: str):
    checkpoint = open_checkpoint(renamed(tmp_path, UNFUSED[tool]))
    assert_same(checkpoint, tiny_tensors(), TINY)
    assert is_mxfp4(checkpoint)
    np.testing.assert_array_equal(checkpoint.first_expert(), checkpoint.layer(0).up_weight[:1])


def test_M7_such_a_checkpoint_computes_as_the_fused_one(tmp_path: Path):
    wrapped = renamed(tmp_path / "one", lambda t: prefixed("_orig_mod.")(UNFUSED["unsloth"](t)))
    fused = tiny_checkpoint(tmp_path / "two")
    np.testing.assert_array_equal(*(ossia.load(folder).logits(range(20)) for folder in (wrapped, fused)))


def without(name: str):
    return lambda tensors: {n: t for n, t in UNFUSED["LLM Compressor"](tensors).items() if n != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("model.layers.2.mlp.experts.3.up_proj.weight"), "missing tensor 'model.layers.2.mlp.experts.3.up_proj.weight'"),
        (lambda t: t | {"_orig_mod.lm_head.weight": t["lm_head.weight"].clone()}, "the same name apart from a wrapper's prefix"),
        (lambda t: t | {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 64)}, r"merge_and_unload"),
    ],
)  # fmt: skip
def test_M7_what_does_not_fit_is_named(tmp_path: Path, change, said: str):
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(renamed(tmp_path, change))
