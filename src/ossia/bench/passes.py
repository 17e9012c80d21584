"""Forward passes over a cache of one's own: prompts in chunks, tokens one by one, any number of sequences, any depth.

In: a transformer, and the cases that are to come. Out: the seconds a case took.
It does not know the engine: no scheduling, no sampling, nothing but the model.

Position p of a sequence always holds the same token, so a case can be run again and again from its first position: it
writes what is there already.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ossia.bench.subject import repeat_blocks
from ossia.engine.blocks import blocks_for
from ossia.engine.plan import default_max_batched_tokens
from ossia.kernels.ops import Batch, KeyValues
from ossia.model.config import ModelConfig
from ossia.model.memory import cache_bytes
from ossia.model.transformer import Transformer

COMPUTED = (
    8192  # depth up to which a cache is filled by computing; a deeper one repeats its first blocks, for the same work
)
SHORT_PROMPT = 16  # before tokens that are decoded at no depth; llama-batched-bench's -npp 16


@dataclass(frozen=True, slots=True)
class BenchCase:
    """`tokens` prompt tokens, or tokens decoded in each of `rows` sequences, after `depth` tokens in the cache."""

    kind: Literal["prompt", "decode"]
    tokens: int
    rows: int = 1
    depth: int = 0

    @property
    def name(self) -> str:
        base = f"{'pp' if self.kind == 'prompt' else 'tg'}{self.tokens}"
        return base + (f" x{self.rows}" if self.rows > 1 else "") + (f" @{self.depth}" if self.depth else "")

    @property
    def first(self) -> int:
        """The position where it begins: nothing can be decoded after no token at all."""
        return self.depth if self.kind == "prompt" else max(self.depth, SHORT_PROMPT)

    @property
    def end(self) -> int:
        return self.first + self.tokens

    @property
    def middle(self) -> int:
        """How many tokens lie in the cache halfway through."""
        return self.first + self.tokens // 2


def cases_of(
    prompts: Sequence[int], gens: Sequence[int], batches: Sequence[int], depths: Sequence[int]
) -> tuple[BenchCase, ...]:
    """Prompts and single sequences at every depth, ascending; several sequences together after short prompts only."""
    wrong = [n for n in (*prompts, *gens, *batches) if n < 1] + [n for n in depths if n < 0]
    if wrong:
        raise ValueError(f"{wrong[0]} tokens or sequences cannot be measured")
    if batches and not gens:
        raise ValueError("--batch needs --gen: how many tokens each sequence decodes")
    cases = [BenchCase("decode", gen, rows) for rows in sorted({*batches} - {1}) for gen in gens]
    for depth in sorted({*depths}):
        cases += [BenchCase("prompt", tokens, depth=depth) for tokens in prompts]
        cases += [BenchCase("decode", tokens, depth=depth) for tokens in gens]
    if not cases:
        raise ValueError("nothing to measure: give --prompt or --gen")
    return tuple(sorted(cases, key=lambda case: (case.depth, case.rows, case.kind == "decode")))


def check_context(config: ModelConfig, cases: Sequence[BenchCase]) -> None:
    longest = max(cases, key=lambda case: case.end)
    if longest.end > config.max_context:
        raise ValueError(
            f"{longest.name} ends at {longest.end} tokens and the model's context has {config.max_context}: "
            f"a --depth of at most {max(0, config.max_context - longest.tokens)} fits"
        )


def bench_cache_bytes(config: ModelConfig, kv: KeyValues, cases: Sequence[BenchCase]) -> int:
    """What the cases' sequences will hold."""
    rows = max(case.rows for case in cases)
    batched = max((case.end for case in cases if case.rows > 1), default=0)
    longest = max(case.end for case in cases)
    return cache_bytes(config, kv, longest) + (rows - 1) * cache_bytes(config, kv, batched)


class Passes:
    """A transformer with a cache large enough for the cases; run them by ascending depth, as `cases_of` gives them."""

    def __init__(self, transformer: Transformer, cases: Sequence[BenchCase], seed: int = 0) -> None:
        self._transformer = transformer
        self._step = default_max_batched_tokens(transformer.ops)
        rows = max(case.rows for case in cases)
        longest = max(case.end for case in cases)
        batched = max((case.end for case in cases if case.rows > 1), default=0)
        lengths = [longest, *[batched] * (rows - 1)]
        window = max(transformer.config.windows)
        # A ring: what a case writes, or a step that fills up, must not reach round to the window before it.
        reach = window + max(self._step, *(case.tokens for case in cases))
        self._blocks_SB, blocks = block_table(lengths, blocks_for(longest))
        self._windows_SB, windows = block_table(lengths, min(blocks_for(longest), blocks_for(reach) + 1))
        self._cache: list[Any] = transformer.cache(blocks, windows)
        self._counts = [windows if window else blocks for window in transformer.config.windows]
        rng = np.random.default_rng(seed)
        self.tokens_SN = rng.integers(0, transformer.config.vocab, (rows, longest), dtype=np.int32)
        self._filled = [0] * rows

    def prepare(self, case: BenchCase) -> None:
        """Fill the cache up to where the case begins, and run a little of it, so that nothing is compiled later."""
        if case.first > COMPUTED and self._filled[0] < case.first:
            self._prompt(0, self._filled[0], self._step)
            filled = blocks_for(self._step)
            if all(repeat_blocks(*each, filled) for each in zip(self._cache, self._counts, strict=True)):
                self._filled[0] = case.first
        for row in range(case.rows):
            if self._filled[row] < case.first:
                self._prompt(row, self._filled[row], case.first)
                self._filled[row] = case.first
        if case.kind == "prompt":
            self._prompt(0, case.first, min(case.end, case.first + self._step))
        else:
            self._decode(case.rows, case.first, min(case.end, case.first + 2))

    def run(self, case: BenchCase) -> float:
        """Seconds of one repetition."""
        started = time.perf_counter()
        if case.kind == "prompt":
            self._prompt(0, case.first, case.end)
        else:
            self._decode(case.rows, case.first, case.end)
        return time.perf_counter() - started

    def _prompt(self, row: int, first: int, end: int) -> None:
        for start in range(first, end, self._step):
            stop = min(end, start + self._step)
            wanted = [stop - start - 1] if stop == end else []
            positions_T = np.arange(start, stop, dtype=np.int32)
            self._forward(slice(row, row + 1), self.tokens_SN[row, start:stop], positions_T, [0, stop - start], wanted)

    def _decode(self, rows: int, first: int, end: int) -> None:
        starts, wanted = list(range(rows + 1)), list(range(rows))
        for position in range(first, end):
            positions_T = np.full(rows, position, np.int32)
            self._forward(slice(rows), self.tokens_SN[:rows, position], positions_T, starts, wanted)

    def _forward(
        self,
        rows: slice,
        tokens_T: NDArray[np.int32],
        positions_T: NDArray[np.int32],
        starts: list[int],
        wanted: list[int],
    ) -> None:
        used = blocks_for(int(positions_T.max()) + 1)
        tables = (self._blocks_SB[rows, :used], self._windows_SB[rows, :used])
        batch = Batch(
            np.ascontiguousarray(tokens_T),
            positions_T,
            np.array(starts, np.int32),
            *(np.ascontiguousarray(table) for table in tables),
            sampled_R=np.array(wanted, np.int32),
        )
        self._transformer.ops.wait(self._transformer.forward(batch, self._cache))


def block_table(lengths: Sequence[int], ring: int) -> tuple[NDArray[np.int32], int]:
    """Block tables of sequences stored one after another, each reusing at most `ring` blocks; and the number of blocks."""
    table_SB = np.zeros((len(lengths), blocks_for(max(lengths))), np.int32)
    start = 0
    for row_B, length in zip(table_SB, lengths, strict=True):
        own, count = min(ring, blocks_for(length)), blocks_for(length)
        row_B[:count] = start + np.arange(count) % own
        start += own
    return table_SB, start
