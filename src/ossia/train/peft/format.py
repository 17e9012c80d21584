"""Reads and writes adapters in PEFT's format: adapter_config.json and adapter_model.safetensors.

Input: adapters' matrices by weight, or a folder. Output: a folder that PEFT loads, or a `Lora` and its matrices.

Layout: PEFT addresses experts and router through `target_parameters`. It wraps a module once for each parameter, so the
first of two ("gate_up_proj") is under "base_layer". An expert weight's A is [E r, C]; its B is [R, r E], the expert
varying fastest.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossia.model.config import ModelConfig
from ossia.model.tensorfile import (
    CheckpointError,
    PlannedTensor,
    open_tensorfile,
    read_json,
    temporary,
    write_json,
    write_tensors,
)
from ossia.quant import widen
from ossia.train.model.weights.lora import ATTENTION, EXPERTS, ROUTER, Target, candidates
from ossia.train.recipe import Lora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Keys that are read here, and keys that change nothing. Any other key must be off.
_READ = {
    "peft_type", "r", "lora_alpha", "use_rslora", "lora_dropout", "init_lora_weights", "target_parameters",
    "base_model_name_or_path", "rank_pattern", "alpha_pattern",
}  # fmt: skip
_NEUTRAL = {
    "auto_mapping", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_ga_config", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
}  # fmt: skip
# Initialisations that do not change the base weights. PISSA and others subtract the first matrices from the base.
_KEEPS_BASE = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")
_CONVERTIBLE = ("pissa", "olora", "corda", "lora_ga")

Matrices = dict[str, NDArray[np.float32]]  # "WEIGHT.a" [E, r, C] or [r, C] and "WEIGHT.b" [E, R, r] or [R, r]


class AdapterFile(NamedTuple):
    """An adapter as read. The targets of its `Lora` are full names."""

    lora: Lora
    matrices: Matrices


def write_adapter(
    folder: str | Path, config: ModelConfig, lora: Lora, targets: Sequence[Target], matrices: Mapping[str, NDArray[Any]],
    base: str = "",
) -> None:  # fmt: skip
    """Write or replace an adapter, each file atomically. base: the model's name or path, stored in the config."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        name: np.ascontiguousarray(value, np.float32) for name, value in _stored(config, targets, matrices).items()
    }
    plan = [PlannedTensor(name, "F32", value.shape) for name, value in stored.items()]
    with temporary(folder) as stage:
        write_tensors(stage, plan, iter(stored.items()), sum(each.bytes for each in plan) + 1)
        write_json(stage / CONFIG, _config(config, lora, targets, base))
        for made, name in (("model.safetensors", WEIGHTS), (CONFIG, CONFIG)):
            with (stage / made).open("rb+") as file:
                os.fsync(file.fileno())
            (stage / made).replace(folder / name)


def read_adapter(folder: str | Path, config: ModelConfig) -> AdapterFile:
    """Raises CheckpointError, naming file and tensor or key, for an adapter of another model or an unsupported one."""
    folder = Path(folder)
    raw = read_json(folder / CONFIG)
    settings = _settings(folder / CONFIG, raw)
    file = open_tensorfile(folder / WEIGHTS)
    left = {name: widen(file.read(name)) for name in file.entries}
    named = [(target, name) for target in candidates(config) if (name := _read_name(target, left, raw))]
    rank = max((settings.of(target)[0] for target, _ in named), default=settings.rank)
    matrices: Matrices = {}
    for target, name in named:
        own, scale = settings.of(target)
        for part, key in (("a", f"{name}.lora_A.weight"), ("b", f"{name}.lora_B.weight")):
            if key not in left:
                raise CheckpointError(f"{folder / WEIGHTS}: missing tensor {key!r}")
            value = _ours(file.path, key, left.pop(key), target, own, part)
            if part == "b" and scale != settings.scale:
                value = value * np.float32(scale / settings.scale)
            matrices[f"{target.name}.{part}"] = _widened(value, rank, part)
    if left:
        raise CheckpointError(
            f"{file.path}: tensor {sorted(left)[0]!r} matches no weight of this model that can have an adapter"
        )
    if not named:
        raise CheckpointError(f"{file.path}: contains no adapter")
    alpha = settings.effective_alpha * rank / settings.rank
    targets = tuple(target.name for target, _ in named)
    lora = Lora(rank=rank, alpha=alpha, dropout=float(raw.get("lora_dropout") or 0.0), targets=targets)
    return AdapterFile(lora, matrices)


def base_of(folder: str | Path) -> str:
    """The name or path of an adapter's base model. CheckpointError if the config has none."""
    path = Path(folder) / CONFIG
    base = read_json(path).get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise CheckpointError(f"{path}: names no base model: give it with --model")
    return base


class _Settings(NamedTuple):
    """Rank and alpha, with exceptions for weights whose names match a pattern."""

    rank: int
    alpha: float
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    is_rslora: bool

    @property
    def scale(self) -> float:
        return self.effective_alpha / self.rank

    @property
    def effective_alpha(self) -> float:
        """Updates are scaled by this over the rank."""
        return self.alpha * math.sqrt(self.rank) if self.is_rslora else self.alpha

    def of(self, target: Target) -> tuple[int, float]:
        """Rank and scale of one weight, as in PEFT: of the first pattern that matches the end of its name."""
        key = f"{target.name}.weight" if target.kind == ROUTER else target.name
        rank, alpha = _matching(self.rank_pattern, key, self.rank), _matching(self.alpha_pattern, key, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.is_rslora else rank)


def _matching(patterns: Mapping[str, Any], key: str, default: Any) -> Any:
    return next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", key)), default)


def _settings(path: Path, raw: dict[str, Any]) -> _Settings:
    if raw.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: peft_type is {raw.get('peft_type')!r}; Ossia reads 'LORA'")
    _check_init(path, raw.get("init_lora_weights", True))
    for key in sorted(raw.keys() - _READ - _NEUTRAL):
        if raw[key] and raw[key] != "none":  # bias is "none" where there is none
            raise CheckpointError(
                f"{path}: {key} is {str(raw[key])[:80]!r}, which Ossia cannot apply: merge the adapter with PEFT, "
                "and give the merged model"
            )
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    if not _is_rank(rank) or not _is_alpha(alpha) or rank is None or alpha is None:
        raise CheckpointError(f"{path}: r {rank!r} and lora_alpha {alpha!r} must be numbers above 0")
    ranks = _patterns(path, raw, "rank_pattern", _is_rank)
    return _Settings(rank, alpha, ranks, _patterns(path, raw, "alpha_pattern", _is_alpha), bool(raw.get("use_rslora")))


def _is_rank(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_alpha(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def _patterns(path: Path, raw: dict[str, Any], key: str, is_valid: Callable[[Any], bool]) -> dict[str, Any]:
    """Regular expressions of names, and a number for each."""
    patterns = raw.get(key) or {}
    if not isinstance(patterns, dict) or not all(map(is_valid, patterns.values())):
        raise CheckpointError(f"{path}: {key} is {str(patterns)[:80]!r}: want numbers above 0 by the weights' names")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise CheckpointError(f"{path}: {key} has {pattern[:80]!r}, which is no regular expression") from error
    return patterns


def _check_init(path: Path, init: Any) -> None:
    """CheckpointError for an initialisation that changed the base weights, which the adapter needs."""
    name = str(init).lower()
    if name in _KEEPS_BASE:
        return
    remedy = "merge the adapter with PEFT, into the base weights that it was trained over, and give the merged model"
    if name.startswith(_CONVERTIBLE):
        remedy = (
            "convert the adapter with PEFT: model.save_pretrained(FOLDER, "
            "path_initial_model_for_weight_conversion=INITIAL_ADAPTER); or " + remedy
        )
    what = (
        "which changes the base weights" if name.startswith((*_CONVERTIBLE, "loftq")) else "which Ossia does not know"
    )
    raise CheckpointError(f"{path}: init_lora_weights is {init!r}, {what}: {remedy}")


def _config(config: ModelConfig, lora: Lora, targets: Sequence[Target], base: str) -> dict[str, Any]:
    modules = _listed(config, targets, ATTENTION)
    parameters = _listed(config, targets, (ROUTER, *EXPERTS))
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        # PEFT refuses dropout beside target_parameters; it is of no use after training anyway
        "lora_dropout": 0.0 if parameters else lora.dropout,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": modules or None,
        "target_parameters": [f"{name}.weight" if name.endswith(ROUTER) else name for name in parameters] or None,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _listed(config: ModelConfig, targets: Sequence[Target], kinds: tuple[str, ...]) -> list[str]:
    """A kind by its short name if every layer has it, else one name for each layer."""
    names: list[str] = []
    for kind in kinds:
        own = [target.name for target in targets if target.kind == kind]
        short = kind.removeprefix("self_attn.")
        names += [short] if len(own) == config.layers else own
    return names


def _stored(config: ModelConfig, targets: Sequence[Target], matrices: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    both = {
        layer
        for layer in range(config.layers)
        if {target.kind for target in targets if target.layer == layer}.issuperset(EXPERTS)
    }
    stored: dict[str, Any] = {}
    for target in targets:
        name = _module(target, nested=target.kind == EXPERTS[0] and target.layer in both)
        a, b = matrices[f"{target.name}.a"], matrices[f"{target.name}.b"]
        if target.experts:
            a, b = a.reshape(-1, target.inputs), b.transpose(1, 2, 0).reshape(target.outputs, -1)
        stored[f"{name}.lora_A.weight"], stored[f"{name}.lora_B.weight"] = a, b
    return stored


def _module(target: Target, nested: bool) -> str:
    if not target.experts:
        return _PREFIX + target.name
    return f"{_PREFIX}model.layers.{target.layer}.mlp.experts" + (".base_layer" if nested else "")


def _read_name(target: Target, held: Mapping[str, Any], raw: dict[str, Any]) -> str | None:
    """The file's name of this target, or None."""
    if not target.experts:
        name = _module(target, nested=False)
        return name if f"{name}.lora_A.weight" in held else None
    inner, outer = _module(target, nested=True), _module(target, nested=False)
    if f"{inner}.lora_A.weight" in held:
        return inner if target.kind == EXPERTS[0] else outer
    if f"{outer}.lora_A.weight" not in held:
        return None
    # one of the two alone (or the second, after the first was removed): the config says which
    named = [str(name) for name in raw.get("target_parameters") or []]
    wanted = target.kind.rpartition(".")[2]
    fits = any(name.rpartition(".")[2] == wanted and target.name.endswith(name) for name in named)
    return outer if fits else None


def _ours(
    path: Path, key: str, value: NDArray[np.float32], target: Target, rank: int, part: str
) -> NDArray[np.float32]:
    experts = max(1, target.experts)
    wanted = (experts * rank, target.inputs) if part == "a" else (target.outputs, rank * experts)
    if value.shape != wanted:
        raise CheckpointError(f"{path}: tensor {key!r} has shape {list(value.shape)}; this model wants {list(wanted)}")
    if not np.isfinite(value).all():
        raise CheckpointError(f"{path}: tensor {key!r} holds NaN or infinity")
    if not target.experts:
        return value
    if part == "a":
        return value.reshape(experts, rank, target.inputs)
    return np.ascontiguousarray(value.reshape(target.outputs, rank, experts).transpose(2, 0, 1))


def _widened(value: NDArray[np.float32], rank: int, part: str) -> NDArray[np.float32]:
    """Padded with zeros to the largest rank of the adapter. The padding adds nothing and stays zero."""
    axis = -2 if part == "a" else -1
    if value.shape[axis] == rank:
        return value
    pad = [(0, 0)] * value.ndim
    pad[axis] = (0, rank - value.shape[axis])
    return np.pad(value, pad)
