"""Measures JSON before it is decoded: nesting, number of values, amount of text.

In: a body's bytes. Out: nothing, or an `ApiError` for a body that would be too expensive to decode. It scans slices of
bytes, so other threads run in between, and creates no values.
"""

import numpy as np

from ossia.server.errors import bad
from ossia.server.http.decoding.token_bound import Shares, TextBound

DEEPEST = 100  # levels of nesting: no request needs more, and recursion would exhaust the stack
SLICE = 256 << 10  # bytes that are scanned at once
MAX_CONTAINERS = 100_000  # arrays and objects
MAX_ESCAPES = 500_000
MAX_MEMBERS = 50_000  # names in objects
MAX_VALUES = 250_000  # commas: about as many as there are values
MAX_OTHER = 4 << 20  # bytes outside of strings: numbers, brackets, white space


def check_shape(body: bytes | bytearray, bound: TextBound | None = None) -> None:
    """Reject JSON that would take long to decode. Raises ApiError 400.

    bound: on the text within strings. Invalid JSON passes: the decoder reports it.
    """
    scan, at = Scan(bound.shares if bound else None), 0
    while at < len(body):
        end = at + SLICE
        byte_N = np.frombuffer(body, np.uint8, min(SLICE, len(body) - at), at)
        if scan.inside and body.find(b'"', at, end) < 0 and body.find(b"\\", at, end) < 0:
            scan.read_text(byte_N)
        else:
            scan.read(byte_N)
        at = end
        if scan.deepest > DEEPEST:
            raise bad(None, f"the JSON is nested deeper than {DEEPEST} levels", "invalid_json")
        if scan.containers > MAX_CONTAINERS:
            raise bad(None, f"the JSON has more than {MAX_CONTAINERS} arrays and objects", "too_large")
        if scan.members > MAX_MEMBERS:
            raise bad(None, f"the JSON has more than {MAX_MEMBERS} members of objects", "too_large")
        if scan.read_bytes - scan.text > MAX_OTHER:
            raise bad(None, f"the JSON has more than {MAX_OTHER} bytes outside of strings", "too_large")
        if scan.values > MAX_VALUES:
            raise bad(None, f"the JSON has more than {MAX_VALUES} values", "too_large")
        if scan.escapes > MAX_ESCAPES:
            raise bad(None, f"the JSON has more than {MAX_ESCAPES} escapes: send UTF-8", "too_large")
        if bound and scan.text - scan.saved > bound.min_bytes and scan.tokens > bound.max_tokens:
            message = f"the text of the request has more than {bound.max_tokens} tokens, this model's context"
            raise bad(None, f"{message}: shorten it", "context_length_exceeded")


class Scan:
    """Counts the contents of JSON, slice by slice.

    text: bytes within strings. saved: the most of these that decoding escapes may save. tokens: the least that the text
    can have, without escapes.
    """

    def __init__(self, shares: Shares | None = None) -> None:
        self._shares = shares
        self.tokens = 0.0
        self.inside = False
        self.depth = self.deepest = self.containers = self.values = self.members = 0
        self.read_bytes = self.text = self.escapes = self.saved = 0
        self._backslashes = 0  # unpaired, at the end of the last slice: 0 or 1

    def read_text(self, byte_N: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> None:
        """A slice within one string, without escapes."""
        self.text += len(byte_N)
        self.read_bytes += len(byte_N)
        if self._shares:
            self.tokens += self._shares.sum(byte_N)

    def read(self, byte_N: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> None:
        quote_N = byte_N == ord('"')
        slash_N = byte_N == ord("\\")
        no_text_N = quote_N.copy()
        if self._backslashes or slash_N.any():
            escaped_N = self._escaped(slash_N)
            quote_N &= ~escaped_N
            no_text_N |= slash_N | escaped_N
            begun = int(np.count_nonzero(slash_N & ~escaped_N))
            self.escapes += begun
            # two bytes become one; the six of \uXXXX become one at least
            numbers = int(np.count_nonzero(escaped_N & (byte_N == ord("u"))))
            self.saved += begun + 4 * numbers
            self.tokens -= self._shares.most_of_number * numbers if self._shares else 0
        parity_N = np.cumsum(quote_N, dtype=np.uint8) & 1
        outside_N = (parity_N == 1) if self.inside else (parity_N == 0)
        self.inside = not outside_N[-1]
        self.text += len(byte_N) - int(np.count_nonzero(outside_N))
        self.read_bytes += len(byte_N)
        if self._shares and not outside_N.all():
            self.tokens += self._shares.sum(byte_N[~(outside_N | no_text_N)])
        self.members += int(np.count_nonzero((byte_N == ord(":")) & outside_N))
        self.values += int(np.count_nonzero((byte_N == ord(",")) & outside_N))
        folded_N = byte_N | 0x20  # brackets and braces differ only in this bit
        open_N, close_N = (folded_N == ord("{")) & outside_N, (folded_N == ord("}")) & outside_N
        opened = int(np.count_nonzero(open_N))
        self.containers += opened
        if opened or close_N.any():
            depth_N = np.cumsum(open_N.view(np.int8) - close_N.view(np.int8), dtype=np.int32)
            self.deepest = max(self.deepest, self.depth + int(depth_N.max()))
            self.depth += int(depth_N[-1])

    def _escaped(
        self, slash_N: "np.ndarray[tuple[int], np.dtype[np.bool_]]"
    ) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Whether each byte follows an odd number of backslashes."""
        place_N = np.arange(len(slash_N), dtype=np.int32)
        # the last place without a backslash; a carried-over backslash is at -1
        other_N = np.maximum.accumulate(np.where(slash_N, -1 - self._backslashes, place_N))
        run_N = place_N - other_N  # backslashes up to and with each place
        before_N = np.concatenate([[self._backslashes], run_N[:-1]])
        self._backslashes = int(run_N[-1]) & 1
        return (before_N & 1).astype(bool)
