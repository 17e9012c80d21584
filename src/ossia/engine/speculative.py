"""Prompt-lookup speculation: guess that a text goes on as it did before, when that pays.

In: the tokens so far, what became of earlier guesses, and how long steps took. Out: tokens to try in the next step.
It does not know the model: a guess is only ever extra rows, and a token counts when it is sampled itself.

Source: Saxena, Prompt Lookup Decoding, 2023 (github.com/apoorvumang/prompt-lookup-decoding).
"""

from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

MOST = 8  # tokens guessed at once
FEW = 4  # with more requests decoding, they fill the machine by themselves
SIZES: tuple[int, ...] = (4, 3, 2)  # tokens that must have come before in the same order
MEMORY = 0.1  # what the newest observation weighs
PROBE, SELDOM = 64, 1024  # tokens between tries that do not seem to pay: at first, and at last


class DraftTokens(NamedTuple):
    """How the text may go on; `matched` tokens before it have come before."""

    matched: int
    tokens: tuple[int, ...]


class PromptLookup:
    """Where each run of 2, 3 and 4 tokens was last followed by something; hashed, a constant cost a token."""

    def __init__(self) -> None:
        self._ends: dict[int, dict[tuple[int, ...], int]] = {size: {} for size in SIZES}
        self._seen = 0

    def guess(self, tokens: "array[int]", most: int) -> DraftTokens | None:
        """What followed the longest of the last runs of tokens, where it came last; a short loop is gone round again."""
        self._read(tokens)
        for size, ends in self._ends.items():
            if end := ends.get(tuple(tokens[-size:])):
                after = tokens[end : end + most]
                return DraftTokens(size, tuple((after * most)[:most]))
        return None

    def _read(self, tokens: "array[int]") -> None:
        """Note the runs that have a token behind them and were not seen yet."""
        for size, ends in self._ends.items():
            first = max(self._seen, size)
            fresh = tokens[first - size : len(tokens) - 1]
            ends.update(zip(zip(*(fresh[i:] for i in range(size))), range(first, len(tokens))))
        self._seen = max(self._seen, len(tokens))


class StepTimes:
    """Seconds of a decoding step by its rows, as measured; between and beyond, a usual slope."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def note(self, rows: int, seconds: float) -> None:
        """Faster counts for more than slower: what disturbs a step, be it compiling or another program, only adds."""
        known = self._seconds.get(rows, seconds)
        self._seconds[rows] = known + (0.5 if seconds < known else MEMORY) * (min(seconds, 2 * known) - known)

    def cost(self, rows: int) -> float:
        """In any unit: costs are only ever compared."""
        if known := self._seconds.get(rows):
            return known
        near = min(self._seconds, key=lambda known: abs(known - rows), default=0)
        return self._seconds[near] * _usual(rows) / _usual(near) if self._seconds.get(near) else _usual(rows)


def _usual(rows: int) -> float:
    return 1 + 0.3 * (rows - 1)


class Speculation:
    """The guesses of one request: how often they hold, and so how many tokens to try."""

    def __init__(self) -> None:
        self._lookup = PromptLookup()
        self._rates = dict.fromkeys(SIZES, 0.5)
        self._guess: DraftTokens | None = None
        self._tried = 0
        self._untried, self._patience = 0, PROBE

    def draft(self, tokens: "array[int]", most: int, rows: int, times: StepTimes) -> tuple[int, ...]:
        """The tokens to try beside a step's other `rows`: as many as make most tokens of its time."""
        self._guess = self._lookup.guess(tokens, most) if most > 0 else None
        self._tried = 0
        if not self._guess:
            return ()
        rate = self._rates[self._guess.matched]
        expected = accumulate((rate**size for size in range(1, most + 1)), initial=rows)
        pays = [tokens / times.cost(rows + size) for size, tokens in enumerate(expected)]
        self._tried = pays.index(max(pays))
        if self._tried:
            self._untried, self._patience = 0, PROBE
        else:
            self._probe(most)
        return self._guess.tokens[: self._tried]

    def learn(self, taken: Sequence[int]) -> None:
        """The tokens that came instead of the guess. One not tried is judged too: by its first token, at no cost."""
        if not self._guess or not taken:
            return
        matched, tokens = self._guess
        for guessed, token in zip(tokens[: max(1, self._tried)], taken):
            self._rates[matched] += MEMORY * ((guessed == token) - self._rates[matched])
        self._guess = None

    def _probe(self, most: int) -> None:
        """Try now and then all the same, more and more seldom: the machine may be idler than it was."""
        self._untried += 1
        if self._untried >= self._patience:
            self._tried = min(2, most)
            self._untried, self._patience = 0, min(2 * self._patience, SELDOM)
