"""A lower bound on the tokens of a text, from its bytes. Texts that cannot fit are rejected before they are tokenized.

In: the bytes of all tokens, and a text. Out: a number of tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import numpy as np

PIECE = 64 << 10  # characters that are read at once: other threads run in between
MIN_BYTES = 4 << 20  # of text that any request may have: it may not all be in the prompt
HEX = b"0123456789abcdefABCDEF"


class Shares:
    """For each byte, its least share of a token: one divided by the length of the longest token with this byte.

    The shares of a token's bytes add up to at most one. So the sum over a text is at most its number of tokens.
    most_of_number: the largest sum of four hexadecimal digits.
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
        """The bound for one text. Not for the event loop's thread: a long text takes milliseconds."""
        pieces = (text[at : at + PIECE].encode("utf-8", "replace") for at in range(0, len(text), PIECE))
        return int(sum(self.sum(np.frombuffer(piece, np.uint8)) for piece in pieces) * (1 - 1e-6))


@dataclass(frozen=True)
class TextBound:
    """A limit for a request: text above `min_bytes` may have at most `max_tokens`."""

    shares: Shares
    max_tokens: int
    min_bytes: int = MIN_BYTES
