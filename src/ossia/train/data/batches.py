"""Sequences to batches: packed by length, no sequence seeing another, positions restarting in each.

In: a stream of sequences. Out: `TrainBatch`es, a round at a time, the same for the same stream and position.
It does not know where sequences come from, the network or the optimizer.
"""

import random
from collections.abc import Sequence as Several
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ossia.kernels.ops import Batch
from ossia.train.data.sequences import NONE, Sequence
from ossia.train.data.sources import DataError, SequenceStream

MOST_BARREN = 1000


class HasTokens(Protocol):
    """What can be packed: a `Sequence`, or one with more beside it."""

    @property
    def tokens(self) -> list[int]: ...
    @property
    def targets(self) -> list[int]: ...


T = TypeVar("T", bound=HasTokens)


class TrainBatch(NamedTuple):
    """Rows to run, and the token that each sampled row must predict."""

    batch: Batch
    targets_R: NDArray[np.int64]


class Rounds:
    """A stream in rounds of `count` batches of about `tokens` rows; sorted by length in a round, batches in any order.

    strict: no batch has more rows than `tokens`, and a round may have some batches more.
    """

    def __init__(self, stream: SequenceStream, seed: int, tokens: int, count: int, strict: bool = False) -> None:
        self.stream, self._seed, self._tokens, self._count, self._strict = stream, seed, tokens, count, strict

    def next(self) -> list[TrainBatch]:
        rng = random.Random(f"{self._seed}/{self.stream.position}")
        found: list[Sequence] = []
        total = barren = 0
        while total < self._tokens * self._count:
            more = self.stream.take()
            found += more
            total += sum(len(each.tokens) for each in more)
            barren = 0 if more else barren + 1
            if barren == MOST_BARREN:
                raise DataError(
                    f"{MOST_BARREN} conversations in a row gave nothing to learn: too long, or never the assistant's"
                )
        groups = within(found, self._tokens) if self._strict else by_length(found, self._tokens, self._count)
        batches = [pack(group) for group in groups]
        rng.shuffle(batches)
        return batches


class Batches:
    """A round's batches one after the other, then the next round's. `position` is all that is needed to go on from here."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._round: list[TrainBatch] = []
        self._began, self._place = list(rounds.stream.position), 0

    def next(self) -> TrainBatch:
        if self._place >= len(self._round):
            self._began, self._place = list(self._rounds.stream.position), 0
            self._round = self._rounds.next()
        self._place += 1
        return self._round[self._place - 1]

    @property
    def left_out(self) -> int:
        """Conversations, or lines of files, that were bad or too long."""
        return self._rounds.stream.left_out

    def position(self) -> Any:
        return {"began": self._began, "place": self._place}

    def load_state_dict(self, position: Any) -> None:
        self._rounds.stream.position = list(position["began"])
        self._began, self._place = list(position["began"]), position["place"]
        self._round = self._rounds.next() if self._place else []


def by_length(found: Several[T], tokens: int, most: int | None = None) -> list[list[T]]:
    """Groups of about `tokens` rows, each of sequences of like length; at most so many groups."""
    ordered = sorted(found, key=lambda each: len(each.tokens))
    groups: dict[int, list[T]] = {}
    seen = 0
    for each in ordered:
        number = seen // tokens if most is None else min(seen // tokens, most - 1)
        groups.setdefault(number, []).append(each)
        seen += len(each.tokens)
    return list(groups.values())


def within(found: Several[T], tokens: int) -> list[list[T]]:
    """Groups of at most `tokens` rows, each of sequences of like length. ValueError for a sequence that has more."""
    groups: list[list[T]] = []
    room = 0
    for each in sorted(found, key=lambda each: len(each.tokens)):
        if len(each.tokens) > tokens:
            raise ValueError(f"a sequence of {len(each.tokens)} tokens is more than a batch of {tokens}")
        if not groups or len(each.tokens) > room:
            groups.append([])
            room = tokens
        groups[-1].append(each)
        room -= len(each.tokens)
    return groups


def pack(group: Several[HasTokens]) -> TrainBatch:
    """One batch. Rows of a sequence are neighbours; attention ends at its borders, for `starts_S1` names them."""
    lengths = [len(each.tokens) for each in group]
    tokens = np.fromiter((token for each in group for token in each.tokens), np.int32)
    targets = np.fromiter((token for each in group for token in each.targets), np.int64)
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    rows = np.flatnonzero(targets != NONE).astype(np.int32)
    no_blocks = np.zeros((len(group), 0), np.int32)
    return TrainBatch(Batch(tokens, positions, starts, no_blocks, no_blocks, rows), targets[rows])
