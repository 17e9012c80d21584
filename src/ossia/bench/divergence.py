"""What a dense format costs in accuracy: the same tokens through a model in each, compared with bfloat16.

In: a config, a number of tokens. Out: mean KL divergence and how often the likeliest token stays the same.
It does not know time or memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ossia.bench.subject import Choice, kernels_of
from ossia.kernels import Batch, Dense
from ossia.model.checkpoint import Checkpoint
from ossia.model.config import ModelConfig
from ossia.model.synthetic import RandomTensors
from ossia.model.transformer import load_transformer


@dataclass(frozen=True, slots=True)
class Divergence:
    """Of next-token distributions against bfloat16's: KL in nats, mean over tokens and its worst token."""

    dense: Dense
    mean_kl: float
    worst_kl: float
    top1_agreement: float


def dense_divergence(
    source: ModelConfig | Checkpoint, tokens: int = 64, kinds: Sequence[Dense] = ("int8", "int4"), seed: int = 0
) -> list[Divergence]:
    """One model after another in memory; a config gives random weights."""
    tensors = cast(Any, RandomTensors(source, seed)) if isinstance(source, ModelConfig) else source
    ids = np.random.default_rng(seed).integers(0, tensors.config.vocab, tokens, dtype=np.int32)
    truth = _log_probabilities(tensors, "bf16", ids)
    return [_compare(dense, truth, _log_probabilities(tensors, dense, ids)) for dense in kinds]


def _log_probabilities(tensors: Checkpoint, dense: Dense, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    transformer = load_transformer(tensors, kernels_of(Choice(model="", dense=dense)))
    rows = np.arange(ids.size, dtype=np.int32)
    none = np.zeros((1, 0), np.int32)
    tables = dict.fromkeys((name for name in ("blocks_SB", "windows_SB") if name in Batch._fields), none)
    starts = np.array([0, ids.size], np.int32)
    batch = Batch(tokens_T=ids, positions_T=rows, starts_S1=starts, sampled_R=rows, **tables)
    logits = transformer.ops.host(transformer.forward(batch)).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def _compare(dense: Dense, truth: NDArray[np.float64], other: NDArray[np.float64]) -> Divergence:
    kl = np.maximum((np.exp(truth) * (truth - other)).sum(axis=1), 0.0)  # rounding can make a zero negative
    same = truth.argmax(axis=1) == other.argmax(axis=1)
    return Divergence(dense, float(kl.mean()), float(kl.max()), float(same.mean()))
