"""Runs a step's chunks through the model.

In: the step's chunks. Out: float32 logits [R, V] as the backend holds them, in the order of the chunks. A sampled
chunk has a row for its newest token and one for each draft token after it. A scored chunk has a row for every token.
"""

from array import array
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ossia.engine.scheduler import Chunk
from ossia.kernels.ops import Batch, CacheBytes, Ops
from ossia.model.config import ModelConfig


class RunnableModel(Protocol):
    """What the engine needs of a model. `ossia.model.transformer.Transformer` implements it."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def ops(self) -> Ops: ...
    def forward(self, batch: Batch, cache: list[Any] | None = None) -> Any: ...
    def cache(self, blocks: int, window_blocks: int) -> list[Any]: ...
    @property
    def cache_bytes(self) -> CacheBytes: ...


class Runner:
    """A model with its cache."""

    def __init__(self, model: RunnableModel, blocks: int, window_blocks: int) -> None:
        self.model = model
        self._cache = model.cache(blocks, window_blocks)

    def discard(self, blocks: Sequence[int], window_blocks: Sequence[int]) -> None:
        """Return the memory of these blocks to the system, if the backend can."""
        self.model.ops.discard(self._cache, self.model.config.shapes, blocks, window_blocks)

    def forward(self, chunks: Sequence[Chunk]) -> Any:
        return self.model.forward(batch_of(chunks), self._cache)


def batch_of(chunks: Sequence[Chunk]) -> Batch:
    """The chunks' rows, concatenated."""
    tokens, positions, starts, sampled = array("i"), array("i"), array("i", [0]), array("i")
    for chunk in chunks:
        tokens.extend(chunk.request.tokens[chunk.first : chunk.first + chunk.size])
        tokens.extend(chunk.draft)
        positions.extend(range(chunk.first, chunk.first + chunk.rows))
        starts.append(len(tokens))
        sampled.extend(range(len(tokens) - chunk.logit_rows, len(tokens)))
    held = [(chunk.request.held.full.blocks, chunk.request.held.window.blocks) for chunk in chunks]
    tables_KSB = np.zeros((2, len(chunks), max(len(blocks) for both in held for blocks in both)), np.int32)
    for s, both in enumerate(held):
        for kind, blocks in enumerate(both):
            tables_KSB[kind, s, : len(blocks)] = blocks[:]  # a copy: an array with an exported buffer cannot grow
    rows_T, at_T, starts_S1, sampled_R = (np.array(each, np.int32) for each in (tokens, positions, starts, sampled))
    return Batch(rows_T, at_T, starts_S1, tables_KSB[0], tables_KSB[1], sampled_R)
