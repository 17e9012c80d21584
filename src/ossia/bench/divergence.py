"""What a format costs in accuracy: the same tokens through a model in each, compared with bfloat16 weights.

In: a checkpoint or a config, sequences of tokens, formats of dense weights and of the cache. Out: KL divergence and how
often the likeliest token stays the same. Time and memory are measured elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ossia.kernels.backends import make_ops
from ossia.kernels.ops import Batch, Dense, KeyValues
from ossia.model.checkpoint import Checkpoint
from ossia.model.config import ModelConfig
from ossia.model.synthetic import RandomTensors
from ossia.model.transformer import load_transformer

EXACT: tuple[Dense, KeyValues] = ("bf16", "f32")
KINDS: tuple[tuple[Dense, KeyValues], ...] = (("int8", "f32"), ("int4", "f32"), ("bf16", "bf16"), ("bf16", "int8"))


@dataclass(frozen=True, slots=True)
class Divergence:
    """Of next-token distributions from those of bfloat16 weights and a float32 cache: KL in nats, over all tokens."""

    dense: Dense
    kv: KeyValues
    mean_kl: float
    p99_kl: float
    worst_kl: float
    top1_agreement: float


def divergences(
    source: ModelConfig | Checkpoint | RandomTensors,
    sequences: Sequence[Sequence[int]] = (),
    counted: Sequence[Sequence[bool]] = (),
    kinds: Sequence[tuple[Dense, KeyValues]] = KINDS,
    tokens: int = 64,
    seed: int = 0,
) -> list[Divergence]:
    """One model after another in memory; a config gives random weights.

    sequences: of token ids; one of `tokens` random ones unless given. counted: for each token, whether the distribution
    after it counts; all do unless given.
    """
    tensors = RandomTensors(source, seed) if isinstance(source, ModelConfig) else source
    if not sequences:
        sequences = [np.random.default_rng(seed).integers(0, tensors.config.vocab, tokens).tolist()]
    rows = [np.flatnonzero(each) for each in counted] or [np.arange(len(each)) for each in sequences]
    truth = _log_probabilities(tensors, EXACT, sequences, rows)
    return [_compare(each, truth, _log_probabilities(tensors, each, sequences, rows)) for each in kinds]


def _log_probabilities(
    tensors: Any, kinds: tuple[Dense, KeyValues], sequences: Sequence[Sequence[int]], rows: Sequence[NDArray[np.intp]]
) -> list[NDArray[np.float32]]:
    dense, kv = kinds
    transformer = load_transformer(cast(Checkpoint, tensors), make_ops("cpu", dense=dense, kv=kv))
    out: list[NDArray[np.float32]] = []
    for sequence, sampled in zip(sequences, rows):
        batch = Batch.whole([sequence], sampled)
        logits = transformer.ops.host(transformer.forward(batch)).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        out.append((logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32))
    return out


def _compare(
    kinds: tuple[Dense, KeyValues], truth: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]]
) -> Divergence:
    divergence: list[NDArray[np.float64]] = []
    same: list[NDArray[np.bool_]] = []
    for ours, theirs in zip(truth, other):
        exact = ours.astype(np.float64)
        kl = (np.exp(exact) * (exact - theirs)).sum(axis=1)
        divergence.append(np.maximum(kl, 0.0))  # rounding can make a zero negative
        same.append(ours.argmax(axis=1) == theirs.argmax(axis=1))
    kl = np.concatenate(divergence)
    agreement = float(np.concatenate(same).mean())
    return Divergence(*kinds, float(kl.mean()), float(np.quantile(kl, 0.99)), float(kl.max()), agreement)
