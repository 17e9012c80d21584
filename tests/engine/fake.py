"""A model whose next token is a hash of the whole prefix, which it reads back through the block table it is given.

A wrong block, position, row or order changes every answer after it, so scheduling bugs cannot hide.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ossia.kernels import BLOCK, Batch
from ossia.model.config import ModelConfig, alternating

VOCAB = 32


class FakeOps:
    def host(self, logits: np.ndarray) -> np.ndarray:
        return logits


def config(max_context: int = 256) -> ModelConfig:
    return ModelConfig(
        layers=1, hidden=32, intermediate=32, heads=1, kv_heads=1, head_dim=32, experts=1, experts_per_token=1, vocab=VOCAB,
        window=8, sliding=alternating(1), max_context=max_context, initial_context=max_context, rope_factor=1.0,
    )  # fmt: skip


@dataclass
class FakeModel:
    config: ModelConfig = field(default_factory=config)
    ops: Any = field(default_factory=FakeOps)
    fail_at: int | None = None
    calls: int = 0
    rows: list[int] = field(default_factory=list)

    def cache(self, blocks: int) -> list[np.ndarray]:
        return [np.full((blocks, BLOCK), -1, np.int64)]

    def forward(self, batch: Batch, cache: list[np.ndarray]) -> np.ndarray:
        self.calls += 1
        if self.fail_at == self.calls:
            raise MemoryError("no memory for this step")
        self.rows.append(len(batch.tokens_T))
        (places,) = cache
        sampled = set(batch.sampled_R.tolist())
        logits = []
        for s, blocks in enumerate(batch.blocks_SB):
            for row in range(batch.starts_S1[s], batch.starts_S1[s + 1]):
                position = int(batch.positions_T[row])
                places[blocks[position // BLOCK], position % BLOCK] = batch.tokens_T[row]
                if row in sampled:
                    prefix = [int(places[blocks[p // BLOCK], p % BLOCK]) for p in range(position + 1)]
                    logits.append(logits_after(prefix))
        return np.array(logits, np.float32).reshape(-1, VOCAB)


def logits_after(prefix: list[int]) -> np.ndarray:
    return np.random.default_rng([token + 1 for token in prefix]).standard_normal(VOCAB).astype(np.float32) * 2


def greedy(prompt: list[int], count: int) -> list[int]:
    """The answer that the naive loop gives."""
    said: list[int] = []
    for _ in range(count):
        said.append(int(np.argmax(logits_after(prompt + said))))
    return said
