# pyright: standard
"""The work table of attention: which program processes which rows and keys. Host arrays only.

In: each sequence's rows and block tables. Out: int32 [items, FIELDS].

Keys are cut into chunks at fixed positions. Early chunks are small, so that many programs share a short context. Later
chunks are larger, so that a long context has few partial sums. A tile of tokens is one item, or one item per chunk if
it has more than a fair share of all chunks. This changes which program computes, never the result.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]

FIELDS = 16  # ints of an item: one 64-byte cache line
ROW, TOKENS, PLACE, LOW, END, SLOT, CHUNK, PIECES, ARRIVAL, FULL, WINDOW = range(11)


class Chunks(NamedTuple):
    """Keys per chunk: `small` before key `near`, `middle` before `far`, then `large`. Each size divides the next edge."""

    near: int = 4096
    far: int = 32768
    small: int = 256
    middle: int = 1024
    large: int = 2048

    def starts(self, keys: int) -> Ints:
        """First keys of the chunks that cover this many keys."""
        each = np.arange(0, min(keys, self.near), self.small), np.arange(self.near, min(keys, self.far), self.middle)
        return np.concatenate([*each, np.arange(self.far, keys, self.large)]).astype(np.int32)


class Places(NamedTuple):
    """Per sequence: its first row, its number of rows, the position of the first row, and the offset of its block
    tables.
    """

    rows_S: Ints
    lengths_S: Ints
    places_S: Ints
    full_S: Ints
    window_S: Ints


def whole_tiles(places: Places, tokens: int) -> Ints:
    """One item for every `tokens` rows of a sequence. Items with the most keys come first."""
    counts_S = -(-places.lengths_S // tokens)
    sequence = np.repeat(np.arange(len(counts_S)), counts_S)
    skipped = (np.arange(len(sequence)) - np.repeat(np.cumsum(counts_S) - counts_S, counts_S)) * tokens
    items = np.zeros((len(sequence), FIELDS), np.int32)
    items[:, ROW] = places.rows_S[sequence] + skipped
    items[:, TOKENS] = np.minimum(tokens, places.lengths_S[sequence] - skipped)
    items[:, PLACE] = places.places_S[sequence] + skipped
    items[:, END] = items[:, PLACE] + items[:, TOKENS]
    items[:, FULL], items[:, WINDOW] = places.full_S[sequence], places.window_S[sequence]
    return items[np.argsort(-items[:, END], kind="stable")]


def shared_out(items: Ints, chunks: Chunks, programs: int, slots: int) -> Ints:
    """The same tiles, but a tile with more chunks than a fair share of `programs` becomes one item per chunk, while
    slots last.
    """
    if not len(items):
        return items
    starts = chunks.starts(int(items[:, END].max()))
    pieces = np.searchsorted(starts, items[:, END])  # starts before the end
    fair = max(1, -(-int(pieces.sum()) // programs))
    taken = np.where(pieces > fair, pieces * items[:, TOKENS], 0)
    is_split = (pieces > fair) & (np.cumsum(taken) <= slots)
    items, taken = items.copy(), np.where(is_split, taken, 0)
    items[:, SLOT] = np.cumsum(taken) - taken
    items[:, PIECES] = np.where(is_split, pieces, 0)
    items[:, ARRIVAL] = np.cumsum(is_split) - is_split
    each = np.maximum(items[:, PIECES], 1)
    out = np.repeat(items, each, axis=0)
    chunk = np.arange(len(out)) - np.repeat(np.cumsum(each) - each, each)
    split = out[:, PIECES] > 0
    ends = np.append(starts[1:], np.iinfo(np.int32).max)
    out[split, CHUNK] = chunk[split]
    out[split, LOW] = starts[chunk[split]]
    out[split, END] = np.minimum(out[split, END], ends[chunk[split]])
    return out
