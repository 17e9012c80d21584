"""A plan as arrays, through the model, to logits.

In: the step's chunks. Out: float32 logits [R, V], a row for each chunk that samples, in their order.
It does not know sampling or who runs when.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ossia.engine.scheduler import Chunk
from ossia.kernels import Batch, Ops
from ossia.model.config import ModelConfig


class Model(Protocol):
    """What the engine needs of a model: `ossia.model.transformer.Transformer` is one."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def ops(self) -> Ops: ...
    def forward(self, batch: Batch, cache: list[Any] | None = None) -> Any: ...
    def cache(self, blocks: int) -> list[Any]: ...


class Runner:
    """A model and the cache it runs with."""

    def __init__(self, model: Model, blocks: int) -> None:
        self.model = model
        self._cache = model.cache(blocks)

    def forward(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        return self.model.ops.host(self.model.forward(batch_of(chunks), self._cache))


def batch_of(chunks: Sequence[Chunk]) -> Batch:
    """The chunks' rows one behind the other."""
    counts = [chunk.size for chunk in chunks]
    tokens = [token for chunk in chunks for token in chunk.request.tokens(chunk.first, chunk.size)]
    positions = [np.arange(chunk.first, chunk.first + chunk.size, dtype=np.int32) for chunk in chunks]
    starts = np.cumsum([0, *counts]).astype(np.int32)
    blocks = np.zeros((len(chunks), max(len(chunk.request.blocks) for chunk in chunks)), np.int32)
    for row, chunk in zip(blocks, chunks, strict=True):
        row[: len(chunk.request.blocks)] = chunk.request.blocks
    last = [end - 1 for end, chunk in zip(starts[1:], chunks, strict=True) if chunk.samples]
    return Batch(np.array(tokens, np.int32), np.concatenate(positions), starts, blocks, np.array(last, np.int32))
