"""A fake model whose next token depends on the whole prefix, which it reads back through its block tables.

Every position stores a hash of all tokens up to it, in both caches. The hash continues the previous one, read in the
window. So a wrong block, position, row or order changes every later answer. So does a block left by another prompt,
even with the same tokens: scheduling errors cannot stay hidden.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np

from ossia.kernels.ops import BLOCK, Batch, CacheBytes, HostOps
from ossia.model.config import ModelConfig, alternating

VOCAB = 32
BLOCK_BYTES = 100  # of a block in either pool
BOTH_KINDS = CacheBytes(BLOCK_BYTES, BLOCK_BYTES)
WINDOW = 24
LOOP = {1: 2, 2: 3, 3: 1}  # the loop of a repetitive model; other tokens lead to 1


class FakeOps(HostOps):
    def host(self, logits: np.ndarray) -> np.ndarray:
        return logits

    def discard(
        self, cache: list[np.ndarray], shapes: Any, blocks: Sequence[int], window_blocks: Sequence[int]
    ) -> None:
        for layer, numbers in zip(cache, (blocks, window_blocks)):
            layer[list(numbers)] = 9


def config(max_context: int = 256, window: int = WINDOW) -> ModelConfig:
    return ModelConfig(
        layers=2, hidden=32, intermediate=32, heads=1, kv_heads=1, head_dim=32, experts=1, experts_per_token=1, vocab=VOCAB,
        window=window, sliding=alternating(2), max_context=max_context, initial_context=max_context, rope_factor=1.0,
    )  # fmt: skip


def cache_for(blocks: int) -> int:
    """`cache_bytes` of this many full-attention blocks and as many window blocks."""
    return 2 * blocks * BLOCK_BYTES


def stopped_clock() -> AbstractContextManager[Any]:
    """Steps take no time, so speculation behaves the same in every run."""
    return patch("ossia.engine.engine.perf_counter", lambda: 0.0)


@dataclass
class FakeModel:
    """repeats: how strongly it tends to a loop of three tokens; 0: tokens are unpredictable."""

    config: ModelConfig = field(default_factory=config)
    ops: Any = field(default_factory=FakeOps)
    fail_at: int | None = None
    repeats: float = 0.0
    cache_bytes: CacheBytes = BOTH_KINDS
    calls: int = 0
    rows: list[int] = field(default_factory=list)

    def cache(self, blocks: int, window_blocks: int) -> list[np.ndarray]:
        return [np.full((count, BLOCK), 7, np.uint64) for count in (blocks, window_blocks)]

    def forward(self, batch: Batch, cache: list[np.ndarray]) -> np.ndarray:
        self.calls += 1
        if self.fail_at == self.calls:
            raise MemoryError("no memory for this step")
        self.rows.append(len(batch.tokens_T))
        assert batch.blocks_SB.shape == batch.windows_SB.shape
        logits = []
        for s, tables in enumerate(zip(batch.blocks_SB, batch.windows_SB)):
            first, last = batch.starts_S1[s : s + 2]
            sampled = [row - first for row in batch.sampled_R if first <= row < last]
            logits += self._sequence(batch.tokens_T[first:last], batch.positions_T[first:last], sampled, tables, cache)
        return np.array(logits, np.float32).reshape(-1, VOCAB)

    def _sequence(
        self,
        tokens: np.ndarray,
        at: np.ndarray,
        sampled: list[int],
        tables: tuple[np.ndarray, ...],
        cache: list[np.ndarray],
    ) -> Iterator[np.ndarray]:
        stored = [each[table].reshape(-1) if each.size else each.reshape(-1) for each, table in zip(cache, tables)]
        first = int(at[0])
        assert at.tolist() == list(range(first, first + len(at)))
        before = stored[bool(self.cache_bytes.window)]
        hashes = hashes_of(tokens.tolist(), int(before[first - 1]) if first else 0)
        for each, table in zip(cache, tables):
            if each.size:
                each[table[at // BLOCK], at % BLOCK] = hashes
        for row in sampled:
            end = first + row + 1
            seen = [np.concatenate([values[:first], hashes[: row + 1]]) for values in stored]
            yield self._logits([seen[0], seen[1][max(0, end - self.config.window) :]], tokens[row])

    def logits_after(self, prefix: list[int]) -> np.ndarray:
        """What it should say, computed without any cache."""
        hashes = hashes_of(prefix, 0)
        return self._logits([hashes, hashes[-self.config.window :]], prefix[-1])

    def _logits(self, seen: list[np.ndarray], token: int) -> np.ndarray:
        parts = [values for values, size in zip(seen, self.cache_bytes) if size]
        sums = [int(np.bitwise_xor.reduce(part * (2 * np.arange(len(part), dtype=np.uint64) + 1))) for part in parts]
        logits = np.random.default_rng(sums).standard_normal(VOCAB).astype(np.float32) * 2
        logits[LOOP.get(int(token), 1)] += self.repeats
        return logits

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The answer that the naive loop gives."""
        said: list[int] = []
        for _ in range(count):
            said.append(int(np.argmax(self.logits_after(prompt + said))))
        return said


def hashes_of(tokens: Sequence[int], state: int) -> np.ndarray:
    """A hash of everything up to each token, continuing the given state."""
    hashes = []
    for token in tokens:
        state = (state * 6364136223846793005 + token + 1) % 2**64
        hashes.append(state)
    return np.array(hashes, np.uint64)


def logits_after(prefix: list[int]) -> np.ndarray:
    """The expected logits, computed without a cache."""
    return FakeModel().logits_after(prefix)


def greedy(prompt: list[int], count: int) -> list[int]:
    """The answer of the naive loop."""
    return FakeModel().greedy(prompt, count)
