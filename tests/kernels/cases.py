"""Random weights and batches for op tests: odd sizes, several sequences, windows shorter and longer than the rows."""

from typing import NamedTuple

import numpy as np

from ossia.kernels.ops import BLOCK, AttentionShape, Batch, Rope
from ossia.quant import Mxfp4, quantize_mxfp4, to_bf16

ROPE = Rope(theta=150000.0, factor=32.0, initial_context=64, beta_fast=32.0, beta_slow=1.0)


class Case(NamedTuple):
    """One shape of everything; `lengths` are the sequences' rows."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    experts: int
    width: int
    k: int
    lengths: tuple[int, ...]

    @property
    def shape(self) -> AttentionShape:
        return AttentionShape(self.heads, self.kv_heads, self.head_dim, self.window, ROPE)


CASES = [
    Case(hidden=64, heads=4, kv_heads=2, head_dim=32, window=8, experts=6, width=96, k=2, lengths=(30, 10)),
    Case(hidden=96, heads=8, kv_heads=1, head_dim=16, window=0, experts=3, width=32, k=3, lengths=(1, 17, 33)),
    Case(hidden=32, heads=2, kv_heads=2, head_dim=64, window=1, experts=1, width=64, k=1, lengths=(5,)),
]


class Numbers:
    """A seeded source of host tensors."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def f32(self, *shape: int, scale: float = 0.3) -> np.ndarray:
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def bf16(self, *shape: int, scale: float = 0.3) -> np.ndarray:
        return to_bf16(self.f32(*shape, scale=scale))

    def mxfp4(self, *shape: int) -> Mxfp4:
        return quantize_mxfp4(self.f32(*shape))


def fresh_batch(lengths: tuple[int, ...], start: int = 0) -> Batch:
    """Sequences at positions from `start`, each with blocks of its own; those of full and of sliding layers are dealt apart."""
    positions = np.concatenate([np.arange(start, start + n) for n in lengths]).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    counts = [-(-(start + n) // BLOCK) for n in lengths]
    blocks, windows = np.zeros((2, len(lengths), max(counts)), np.int32)
    free = list(range(sum(counts)))
    for s, count in enumerate(counts):
        windows[s, :count] = np.arange(count) + sum(counts[:s])
        blocks[s, :count] = [free.pop() for _ in range(count)]
    rows = np.arange(len(positions), dtype=np.int32)
    return Batch(rows * 0, positions, starts, blocks, windows, rows)
