"""Old names in recipes and logs, and the names that replace them. Old names work for one release, with a warning.

In: a recipe as parsed TOML, or a row of a log. Out: the same with new names only.
This file is the only place that knows old names. A new name that replaces one is added to a table here.
"""

import warnings
from collections.abc import Mapping
from typing import Any

_SUPERVISED = {
    "step_tokens": "batch_tokens",
    "round_batches": "bucket_batches",
    "longest": "max_seq_len",
    "balance": "router_aux_loss_coef",
}

# Old and new keys, by the table that they stand in. A table of any stage has the same keys.
KEYS: Mapping[str, Mapping[str, str]] = {
    "": {"keep": "checkpoint"},
    "pretrain": _SUPERVISED,
    "sft": _SUPERVISED,
    "lora": {"round_batches": "bucket_batches"},
    "rl": {
        "prompts": "prompts_per_step",
        "group": "group_size",
        "updates": "updates_per_step",
        "focus": "curriculum",
        "most_tokens": "max_tokens",
        "most_steps": "max_turns",
        "divide_by_deviation": "scale_rewards",
        "most_gap": "max_logprob_gap",
        "step_tokens": "batch_tokens",
        "balance": "router_aux_loss_coef",
        "prices": "length_penalty",
    },
    "length_penalty": {"most": "max_penalty"},
    "optimizer": {
        "rate": "lr",
        "muon_rate": "muon_lr",
        "sharpness_rate": "logit_scale_lr",
        "clip": "max_grad_norm",
    },
    "schedule": {"warmup": "warmup_steps", "final": "min_lr_ratio", "decay": "decay_ratio"},
}

_PARTS = ("build", "expression", "grades", "toolbox", "words", "working")
_FAMILIES = (
    "arithmetic", "authority", "calendar", "calls", "catalogue", "forms", "letters", "logic", "order", "python",
    "stories", "units",
)  # fmt: skip

# Modules that recipes name in `tasks` and `generator`.
MODULES: Mapping[str, str] = {
    **{f"ossia.tasks.{name}": f"ossia.mini.parts.{name}" for name in _PARTS},
    **{f"ossia.tasks.{name}": f"ossia.mini.tasks.{name}" for name in _FAMILIES},
    **{f"ossia.train.{name}": f"ossia.mini.curriculum.{name}" for name in ("dialogues", "documents", "drills")},
}

# Numbers of log.jsonl. `right` and `thinking` also have a suffix for the effort.
METRICS: Mapping[str, str] = {
    "norm": "grad_norm",
    "rate": "lr",
    "rows": "trained_tokens",
    "tokens_a_second": "tokens_per_second",
    "left_out": "skipped",
    "balance": "router_aux_loss",
    "busiest": "max_expert_load",
    "idle": "unused_experts",
    "spread": "router_entropy",
    "right": "accuracy",
    "even": "zero_variance",
    "cut": "truncated",
    "tokens": "output_tokens",
    "gap": "logprob_gap",
    "gap_most": "max_logprob_gap",
    "gap_unrounded": "logprob_gap_unrounded",
    "clipped": "clip_fraction",
    **{f"right_{effort}": f"accuracy_{effort}" for effort in ("low", "medium", "high")},
    **{f"thinking_{effort}": f"reasoning_tokens_{effort}" for effort in ("low", "medium", "high")},
}


def with_new_names(raw: dict[str, Any]) -> dict[str, Any]:
    """A recipe with new names only; a FutureWarning names every old one.

    ValueError where a table has an old name and the new one that replaces it.
    """
    found: list[str] = []
    renamed = _table(raw, "", "", found)
    for each in dict.fromkeys(found):
        warnings.warn(f"{each}; the old name will be an error in the next release", FutureWarning, stacklevel=3)
    return renamed


def row_with_new_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a log that an older release may have written."""
    return {METRICS.get(name, name): value for name, value in row.items()}


def _table(raw: Mapping[str, Any], name: str, where: str, found: list[str]) -> dict[str, Any]:
    keys, place = KEYS.get(name, {}), f"[{where}]" if where else "the recipe"
    renamed: dict[str, Any] = {}
    for old, value in raw.items():
        key = keys.get(old, old)
        if key != old:
            if key in raw:
                raise ValueError(f"{place} has both {old!r} and {key!r}, which replaces it: remove {old!r}")
            found.append(f"{place}: {old!r} is now {key!r}")
        inner = f"{where}.{key}" if where else key
        renamed[key] = _value(value, key, inner, found)
    return renamed


def _value(value: Any, key: str, where: str, found: list[str]) -> Any:
    match value:
        case dict():
            return _table(value, key, where, found)
        case list():
            return [_value(each, key, where, found) for each in value]
        case str() if key in ("tasks", "generator"):
            module, colon, attribute = value.partition(":")
            if module in MODULES:
                found.append(f"[{where.rpartition('.')[0]}] {key}: module {module!r} is now {MODULES[module]!r}")
            return f"{MODULES.get(module, module)}{colon}{attribute}"
    return value
