"""How many tokens a text has at least, from its bytes alone: what cannot fit the context is refused before it is tokenized.

In: the bytes of all tokens, and text. Out: a number of tokens. It does not tokenize.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import numpy as np

PIECE = 64 << 10  # characters that are looked at in one go: other threads run in between
MIN_BYTES = 4 << 20  # of text that any request may have: not all of it need be the prompt's
HEX = b"0123456789abcdefABCDEF"


class Shares:
    """For each byte, the share of a token that it takes at least: one by the length of the longest token that holds it.

    The shares of one token's bytes add up to one at most, so those of a text add up to its tokens at most.
    most_of_number: of four hexadecimal digits.
    """

    def __init__(self, tokens: Iterable[bytes]) -> None:
        longest = np.ones(256)
        for length, same in groupby(sorted(tokens, key=len), len):
            longest[list(set(b"".join(same)))] = max(1, length)
        self._share_256 = (1 / longest).astype(np.float32)
        self.most_of_number = 4 * float(self._share_256[list(HEX)].max())

    def sum(self, byte_N: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> float:
        return float(self._share_256[byte_N].sum(dtype=np.float64))

    def least_tokens(self, text: str) -> int:
        """Of one text. For any thread but the event loop's: a long one takes milliseconds."""
        pieces = (text[at : at + PIECE].encode("utf-8", "replace") for at in range(0, len(text), PIECE))
        return int(sum(self.sum(np.frombuffer(piece, np.uint8)) for piece in pieces) * (1 - 1e-6))


@dataclass(frozen=True)
class TextBound:
    """Of a request: more text than `least_bytes` and more tokens than `most_tokens` are too much."""

    shares: Shares
    most_tokens: int
    least_bytes: int = MIN_BYTES
