"""The table of work for attention: which program takes which rows and keys. Host arrays only.

In: of each sequence its rows' places and its block tables. Out: int32 [items, FIELDS].
It does not know a device, or what is computed.

Keys are cut in chunks whose edges depend on the position alone: small ones first, so that a short context is shared by
many programs, larger ones further on, so that a long one leaves few sums to fold. A tile of tokens is one item, or, where
it has more than a fair share of all chunks, an item a chunk. That changes who computes, never what.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]

FIELDS = 16  # of an item: one 64-byte line
ROW, TOKENS, PLACE, LOW, END, SLOT, CHUNK, PIECES, ARRIVAL, FULL, WINDOW = range(11)


class Chunks(NamedTuple):
    """Keys of a chunk: `small` before the key `near`, `middle` before `far`, then `large`. Each divides the next edge."""

    near: int = 4096
    far: int = 32768
    small: int = 256
    middle: int = 1024
    large: int = 2048

    def starts(self, keys: int) -> Ints:
        """First keys of the chunks that so many keys need."""
        each = np.arange(0, min(keys, self.near), self.small), np.arange(self.near, min(keys, self.far), self.middle)
        return np.concatenate([*each, np.arange(self.far, keys, self.large)]).astype(np.int32)


class Places(NamedTuple):
    """Of each sequence: its first row, how many it has, the key that the first one is, and where its block tables start."""

    rows_S: Ints
    lengths_S: Ints
    places_S: Ints
    full_S: Ints
    window_S: Ints


def whole_tiles(places: Places, tokens: int) -> Ints:
    """An item for every `tokens` rows of a sequence, those with most keys first."""
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
    """The same tiles, those with more chunks than a fair share of `programs` an item a chunk, while there are slots."""
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
