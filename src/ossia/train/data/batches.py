"""Sequences packed into batches: sorted by length, attention and positions separate for each sequence.

Input: a stream of sequences. Output: `TrainBatch`es, the same for the same stream, position and seed.
"""

import random
from collections.abc import Sequence as Several
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ossia.kernels.ops import Batch
from ossia.train.data.sequences import NONE, Sequence
from ossia.train.data.sources import DataError, SequenceStream

MAX_EMPTY = 1000  # conversations in a row without a sequence


class HasTokens(Protocol):
    """What can be packed: tokens, and a target for each."""

    @property
    def tokens(self) -> list[int]: ...
    @property
    def targets(self) -> list[int]: ...


T = TypeVar("T", bound=HasTokens)


class TrainBatch(NamedTuple):
    """Rows to run, and the target token of each sampled row."""

    batch: Batch
    targets_R: NDArray[np.int64]


class BatchBuckets:
    """A stream in buckets of `count` batches of about `tokens` tokens. Sorted by length inside a bucket, then shuffled.

    strict: no batch has more than `tokens` tokens; a bucket may then have a few more batches.
    """

    def __init__(self, stream: SequenceStream, seed: int, tokens: int, count: int, strict: bool = False) -> None:
        self.stream, self._seed, self._tokens, self._count, self._strict = stream, seed, tokens, count, strict

    def next(self) -> list[TrainBatch]:
        rng = random.Random(f"{self._seed}/{self.stream.position}")
        found: list[Sequence] = []
        total = empty = 0
        while total < self._tokens * self._count:
            more = self.stream.take()
            found += more
            total += sum(len(each.tokens) for each in more)
            empty = 0 if more else empty + 1
            if empty == MAX_EMPTY:
                raise DataError(
                    f"{MAX_EMPTY} conversations in a row have no target: they are too long, or have no assistant message"
                )
        groups = within(found, self._tokens) if self._strict else by_length(found, self._tokens, self._count)
        batches = [pack(group) for group in groups]
        rng.shuffle(batches)
        return batches


class Batches:
    """The batches of all buckets, one by one. The state is where the current bucket began, and the index in it."""

    def __init__(self, buckets: BatchBuckets) -> None:
        self._buckets = buckets
        self._bucket: list[TrainBatch] = []
        self._began, self._index = list(buckets.stream.position), 0

    def next(self) -> TrainBatch:
        if self._index >= len(self._bucket):
            self._began, self._index = list(self._buckets.stream.position), 0
            self._bucket = self._buckets.next()
        self._index += 1
        return self._bucket[self._index - 1]

    @property
    def skipped(self) -> int:
        """Conversations, or lines of files, that were bad or too long."""
        return self._buckets.stream.skipped

    def state_dict(self) -> Any:
        return {"began": self._began, "place": self._index}

    def load_state_dict(self, state: Any) -> None:
        self._buckets.stream.position = list(state["began"])
        self._began, self._index = list(state["began"]), state["place"]
        self._bucket = self._buckets.next() if self._index else []


def by_length(found: Several[T], tokens: int, max_groups: int | None = None) -> list[list[T]]:
    """Groups of about `tokens` tokens, each of sequences of similar length."""
    ordered = sorted(found, key=lambda each: len(each.tokens))
    groups: dict[int, list[T]] = {}
    seen = 0
    for each in ordered:
        number = seen // tokens if max_groups is None else min(seen // tokens, max_groups - 1)
        groups.setdefault(number, []).append(each)
        seen += len(each.tokens)
    return list(groups.values())


def within(found: Several[T], tokens: int) -> list[list[T]]:
    """Groups of at most `tokens` tokens, each of sequences of similar length. ValueError for a longer sequence."""
    groups: list[list[T]] = []
    room = 0
    for each in sorted(found, key=lambda each: len(each.tokens)):
        if len(each.tokens) > tokens:
            raise ValueError(f"a sequence of {len(each.tokens)} tokens is longer than a batch of {tokens}")
        if not groups or len(each.tokens) > room:
            groups.append([])
            room = tokens
        groups[-1].append(each)
        room -= len(each.tokens)
    return groups


def pack(group: Several[HasTokens]) -> TrainBatch:
    """One batch. A sequence's rows are adjacent; `starts_S1` has its bounds, which attention does not cross."""
    lengths = [len(each.tokens) for each in group]
    tokens = np.fromiter((token for each in group for token in each.tokens), np.int32)
    targets = np.fromiter((token for each in group for token in each.targets), np.int64)
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    rows = np.flatnonzero(targets != NONE).astype(np.int32)
    no_blocks = np.zeros((len(group), 0), np.int32)
    return TrainBatch(Batch(tokens, positions, starts, no_blocks, no_blocks, rows), targets[rows])
