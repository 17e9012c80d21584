"""Tensor names written by other tools, mapped to the published ones: wrapper prefixes, and experts stored one by one.

In: the tensors of an open folder, a config. Out: the same tensors under the published names, and the naming of
experts.

A tool that trains experts as linear modules saves each one. Gate and up rows are together ("gate_up_projs.3.weight")
or separate ("3.gate_proj.weight"), [out, in], in BF16, F16 or F32.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from ossia.files import shown
from ossia.model.config import ModelConfig
from ossia.model.layouts import LayoutRow, StoredTensor, all_stored
from ossia.model.tensorfile import CheckpointError, TensorFile

# name parts added by wrappers: torch.compile, DDP, FSDP, activation checkpointing
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_PREFIXES = (
    ("base_model.model.", ""), ("model.language_model.model.", "model."), ("model.language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."), ("language_model.", ""), ("model.model.", "model."), ("model.lm_head.", "lm_head."),
)  # fmt: skip
_ROUTER = re.compile(r"\.mlp\.router\.(?:linear|gate)\.(weight|bias)$")
_LORA = re.compile(r"\.lora_[AB]\b|\.base_layer\.")
_EXPERT_ROWS = {"up_weight": "weight", "up_bias": "bias", "down_weight": "weight", "down_bias": "bias"}


class UnfusedExperts(NamedTuple):
    """Names of separately stored experts' tensors, below "model.layers.N.mlp.experts."; {} is the expert's number."""

    up: tuple[str, ...]  # one tensor with alternating gate and up rows, or gates and ups separately
    down: str

    def stored(self, config: ModelConfig, row: LayoutRow, layer: int) -> tuple[StoredTensor, ...]:
        """The tensors that hold `row` of `layer`, expert by expert; none if the row is not an expert's."""
        if row.field not in _EXPERT_ROWS:
            return ()
        names = self.up if row.field.startswith("up") else (self.down,)
        rows = 2 * config.intermediate // len(names) if row.field.startswith("up") else config.hidden
        width = config.hidden if row.field.startswith("up") else config.intermediate
        kind = _EXPERT_ROWS[row.field]
        shape = (rows, width) if kind == "weight" else (rows,)
        return tuple(
            StoredTensor(f"model.layers.{layer}.mlp.experts.{name.format(expert)}.{kind}", shape, "dense")
            for expert in range(config.experts)
            for name in names
        )


VARIANTS = (
    UnfusedExperts(("gate_up_projs.{}",), "down_projs.{}"),  # unsloth's
    UnfusedExperts(("{}.gate_up_proj",), "{}.down_proj"),
    UnfusedExperts(("{}.gate_proj", "{}.up_proj"), "{}.down_proj"),  # LLM Compressor's
)


def published_names(files: dict[str, TensorFile]) -> dict[str, TensorFile]:
    """The same tensors under the published names. Raises CheckpointError if two get the same name."""
    renamed: dict[str, TensorFile] = {}
    if names := sorted(name for name in files if _LORA.search(name)):
        raise CheckpointError(
            f"{files[names[0]].path}: tensor {shown(names[0])} is an adapter's, not merged into its model: save it after "
            "PEFT's merge_and_unload(), or save the adapter and use `ossia merge`"
        )
    for file in {id(file): file for file in files.values()}.values():
        entries = {_published(name): entry for name, entry in file.entries.items()}
        if len(entries) < len(file.entries) or not entries.keys().isdisjoint(renamed):
            raise CheckpointError(f"{file.path}: two of its tensors have the same name apart from a wrapper's prefix")
        renamed |= dict.fromkeys(entries, file._replace(entries=entries))
    return renamed


def unfused(names: Iterable[str]) -> UnfusedExperts | None:
    """The naming of separately stored experts; None if they are fused, as published."""
    held = set(names)
    first = "model.layers.0.mlp.experts.{}.weight"
    found = [sum(first.format(name.format(0)) in held for name in (*variant.up, variant.down)) for variant in VARIANTS]
    return VARIANTS[found.index(max(found))] if max(found) else None


def wanted_tensors(config: ModelConfig, variant: UnfusedExperts, limit: int) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint with separate experts. Raises CheckpointError if it would need more than `limit`."""
    needed = config.layers * config.experts * 2 * (len(variant.up) + 1)
    if needed > limit:
        raise CheckpointError(
            f"config.json asks for {needed:,} tensors of experts, and the files hold {limit:,} tensors"
        )
    return all_stored(config, "bf16", lambda row, layer: variant.stored(config, row, layer))


def _published(name: str) -> str:
    if parts := [part for part in name.split(".") if part not in _WRAPPERS]:
        name = ".".join(parts)
    for prefix, instead in _PREFIXES:
        if name.startswith(prefix):
            name = instead + name.removeprefix(prefix)
    return _ROUTER.sub(r".mlp.router.\1", name)
