"""A tiny model with adapters, its batch, and its adapters as a file."""

from pathlib import Path

import numpy as np
import torch

from ossia.model.checkpoint import open_checkpoint
from ossia.train.model.trainable import PackedTargets, TrainableModel, packed
from ossia.train.peft.format import AdapterFile
from ossia.train.recipe import Lora
from tests.support.checkpoints import TINY


def batch(seed: int = 0, lengths: tuple[int, ...] = (40, 1, 25), vocab: int = TINY.vocab) -> PackedTargets:
    rng = np.random.default_rng(seed)
    return packed([rng.integers(0, vocab, n).tolist() for n in lengths], [[True] * n for n in lengths])


def network(path: Path, lora: Lora, stirred: float = 0.0) -> TrainableModel:
    """In float32; `stirred` gives the adapters' B matrices random values of that size."""
    checkpoint = open_checkpoint(path)
    made = TrainableModel.with_adapters(checkpoint, checkpoint.config, lora, dtype=torch.float32)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in made.trained().items():
            if name.endswith(".b"):
                value.copy_(torch.randn(value.shape, generator=generator) * stirred)
    return made


def as_file(made: TrainableModel) -> AdapterFile:
    return AdapterFile(made.lora, {name: value.detach().numpy().copy() for name, value in made.trained().items()})


def divergence(logits_RV: torch.Tensor, wanted_RV: torch.Tensor) -> float:
    log_p, log_q = wanted_RV.double().log_softmax(-1), logits_RV.double().log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
