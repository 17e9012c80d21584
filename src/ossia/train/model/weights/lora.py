"""Low-rank adapters (LoRA): their targets, their parameters, and a report of what is trained.

Input: a config and a `Lora`. Output: the targets by name, and adapters as torch modules.

Source: Hu et al., LoRA, arXiv:2106.09685. Experts as in PEFT: each has its own A and B, and no dropout.
"""

import hashlib
import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import nn

from ossia.model.config import ModelConfig
from ossia.train.model.weights.frozen import Update
from ossia.train.recipe import Lora

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
ROUTER = "mlp.router"
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
KINDS = (*ATTENTION, ROUTER, *EXPERTS)


class Target(NamedTuple):
    """A weight that gets an adapter. experts: 0 for a plain matrix."""

    layer: int
    kind: str
    experts: int
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        return f"model.layers.{self.layer}.{self.kind}"

    def parameters(self, rank: int) -> int:
        return max(1, self.experts) * rank * (self.inputs + self.outputs)


def candidates(config: ModelConfig) -> list[Target]:
    """Every weight that can have an adapter."""
    c = config
    attended, keyed = c.heads * c.head_dim, c.kv_heads * c.head_dim
    sizes = {
        "self_attn.q_proj": (0, c.hidden, attended),
        "self_attn.k_proj": (0, c.hidden, keyed),
        "self_attn.v_proj": (0, c.hidden, keyed),
        "self_attn.o_proj": (0, attended, c.hidden),
        "mlp.router": (0, c.hidden, c.experts),
        "mlp.experts.gate_up_proj": (c.experts, c.hidden, 2 * c.intermediate),
        "mlp.experts.down_proj": (c.experts, c.intermediate, c.hidden),
    }
    return [Target(layer, kind, *sizes[kind]) for layer in range(c.layers) for kind in KINDS]


def chosen(config: ModelConfig, lora: Lora) -> list[Target]:
    """The weights that match the patterns. ValueError for a pattern without a match."""
    every = candidates(config)
    idle = [pattern for pattern in lora.targets if not any(_matches(target.name, pattern) for target in every)]
    if idle:
        raise ValueError(
            f"LoRA target {', '.join(map(repr, idle))} matches no weight of this model: it has {', '.join(KINDS)} in "
            f"model.layers.0 to model.layers.{config.layers - 1}; norms, embeddings and sinks have no adapters"
        )
    if config.experts == 1 and any("experts" in pattern for pattern in lora.targets):
        raise ValueError("LoRA on experts needs at least two experts: PEFT's format cannot store one")
    return [target for target in every if any(_matches(target.name, pattern) for pattern in lora.targets)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


class Adapter(nn.Module):
    """A [E, r, C] and B [E, R, r] (without E for a plain matrix), float32. B starts at zero."""

    def __init__(self, target: Target, lora: Lora, seed: int, device: str = "cpu") -> None:
        super().__init__()
        self.scale, self.dropout = lora.scale, 0.0 if target.experts else lora.dropout
        front = (target.experts,) if target.experts else ()
        # a separate seed for each, so that initial values do not depend on other targets or devices
        digest = hashlib.sha256(f"{seed}/{target.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        a = torch.rand((*front, lora.rank, target.inputs), generator=generator)
        self.a = nn.Parameter(a.mul_(2).sub_(1).div_(math.sqrt(target.inputs)).to(device))
        self.b = nn.Parameter(torch.zeros((*front, target.outputs, lora.rank), device=device))

    def update(self) -> Update:
        return Update(self.a, self.b, self.scale)


def report(targets: Sequence[Target], lora: Lora, config: ModelConfig) -> str:
    """A text for users: trained parameters by kind of weight."""
    total = sum(target.parameters(lora.rank) for target in targets)
    lines = [f"LoRA rank {lora.rank}, alpha {lora.alpha:g}: {total:,} trained parameters in {len(targets)} weights"]
    for kind in KINDS:
        own = [target for target in targets if target.kind == kind]
        if own:
            count = sum(target.parameters(lora.rank) for target in own)
            lines.append(f"  {kind:25} {len(own):3} of {config.layers} layers {count:14,}")
        else:
            lines.append(f"  {kind:25} not trained")
    return "\n".join(lines)
