"""Prompt-lookup speculation: propose that a text continues as it did before, if that saves time.

In: the tokens so far, which earlier draft tokens were accepted, and step times. Out: draft tokens for the next step. A
draft token is accepted only if the sampler chooses the same token, so answers do not change.

Source: Saxena, Prompt Lookup Decoding, 2023 (github.com/apoorvumang/prompt-lookup-decoding).
"""

from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

MAX_DRAFT_TOKENS = 8  # draft tokens of one request in one step
MAX_DRAFTING_REQUESTS = 4  # with more decoding requests, the machine is busy without drafts
SIZES: tuple[int, ...] = (4, 3, 2)  # lengths of the n-grams that are looked up
EMA_WEIGHT = 0.1  # weight of the newest observation
MIN_PROBE_INTERVAL, MAX_PROBE_INTERVAL = 64, 1024  # tokens between drafts that are not expected to save time


class DraftTokens(NamedTuple):
    """Proposed tokens, after an n-gram of `matched` tokens that occurred before."""

    matched: int
    tokens: tuple[int, ...]


class PromptLookup:
    """Where each n-gram of 2, 3 and 4 tokens last occurred. Hashed: constant cost per token."""

    def __init__(self) -> None:
        self._ends: dict[int, dict[tuple[int, ...], int]] = {size: {} for size in SIZES}
        self._seen = 0

    def propose(self, tokens: "array[int]", max_tokens: int) -> DraftTokens | None:
        """The tokens that followed the last occurrence of the longest matching n-gram. A short loop is repeated."""
        self._read(tokens)
        for size, ends in self._ends.items():
            if end := ends.get(tuple(tokens[-size:])):
                after = tokens[end : end + max_tokens]
                return DraftTokens(size, tuple((after * max_tokens)[:max_tokens]))
        return None

    def _read(self, tokens: "array[int]") -> None:
        """Index the new n-grams that have a token after them."""
        for size, ends in self._ends.items():
            first = max(self._seen, size)
            fresh = tokens[first - size : len(tokens) - 1]
            ends.update(zip(zip(*(fresh[i:] for i in range(size))), range(first, len(tokens))))
        self._seen = max(self._seen, len(tokens))


class StepTimes:
    """Measured seconds of a decode step by its number of rows, with a default slope between and beyond."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def note(self, rows: int, seconds: float) -> None:
        """Add a measurement. Faster ones count more, because disturbances such as compilation only add time."""
        known = self._seconds.get(rows, seconds)
        self._seconds[rows] = known + (0.5 if seconds < known else EMA_WEIGHT) * (min(seconds, 2 * known) - known)

    def cost(self, rows: int) -> float:
        """The relative cost of a step with this many rows."""
        if known := self._seconds.get(rows):
            return known
        near = min(self._seconds, key=lambda known: abs(known - rows), default=0)
        return self._seconds[near] * _usual(rows) / _usual(near) if self._seconds.get(near) else _usual(rows)


def _usual(rows: int) -> float:
    return 1 + 0.3 * (rows - 1)


class Speculation:
    """The draft tokens of one request: acceptance rates, and from them how many tokens to draft."""

    def __init__(self) -> None:
        self._lookup = PromptLookup()
        self._rates = dict.fromkeys(SIZES, 0.5)
        self._proposal: DraftTokens | None = None
        self._tried = 0
        self._skipped, self._probe_interval = 0, MIN_PROBE_INTERVAL

    def draft(self, tokens: "array[int]", max_tokens: int, rows: int, times: StepTimes) -> tuple[int, ...]:
        """The draft tokens for the next step, beside its `rows` other rows: as many as maximize expected tokens per
        time.
        """
        self._proposal = self._lookup.propose(tokens, max_tokens) if max_tokens > 0 else None
        self._tried = 0
        if not self._proposal:
            return ()
        rate = self._rates[self._proposal.matched]
        expected = accumulate((rate**size for size in range(1, max_tokens + 1)), initial=rows)
        pays = [tokens / times.cost(rows + size) for size, tokens in enumerate(expected)]
        self._tried = pays.index(max(pays))
        if self._tried:
            self._skipped, self._probe_interval = 0, MIN_PROBE_INTERVAL
        else:
            self._probe(max_tokens)
        return self._proposal.tokens[: self._tried]

    def learn(self, taken: Sequence[int]) -> None:
        """Update the acceptance rates with the sampled tokens. A proposal that was not tried is judged by its first
        token.
        """
        if not self._proposal or not taken:
            return
        matched, tokens = self._proposal
        for drafted, token in zip(tokens[: max(1, self._tried)], taken):
            self._rates[matched] += EMA_WEIGHT * ((drafted == token) - self._rates[matched])
        self._proposal = None

    def _probe(self, max_tokens: int) -> None:
        """Draft at growing intervals even if it is not expected to save time: the machine may have become idle."""
        self._skipped += 1
        if self._skipped >= self._probe_interval:
            self._tried = min(2, max_tokens)
            self._skipped, self._probe_interval = 0, min(2 * self._probe_interval, MAX_PROBE_INTERVAL)
