"""Replaces half surrogate pairs in JSON. JavaScript sends them when an emoji was cut in two.

In: JSON as bytes. Out: the same with U+FFFD for each half, so that it can be decoded and written as UTF-8.
Whole pairs stay characters. The decoder reports other faults of the JSON.
"""

import codecs
import re

DIGITS = rb"[0-9a-fA-F]{2}"
HIGH, LOW = rb"[89abAB]" + DIGITS, rb"[c-fC-F]" + DIGITS  # after \ud
NO_LOW = rb"(?!\\u[dD]" + LOW + rb")"
NO_HIGH = rb"(?<!\\u[dD][89abAB]" + DIGITS + rb"\\u[dD][c-fC-F]" + DIGITS + rb")"
HALF = re.compile(rb"\\u[dD](?:" + HIGH + NO_LOW + rb"|" + LOW + NO_HIGH + rb")")
PAIR = re.compile(rb"\\u[dD]" + HIGH + rb"\\u[dD]" + LOW)
RAW_HIGH = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]")  # as UTF-8 would encode it
RAW_LOW = rb"\xed[\xb0-\xbf][\x80-\xbf]"
RAW_HALF = re.compile(RAW_HIGH.pattern + b"(?!" + RAW_LOW + b")|(?<!" + RAW_HIGH.pattern + b")" + RAW_LOW)
RAW_PAIR = re.compile(RAW_HIGH.pattern + RAW_LOW)
ESCAPE = 6  # bytes
PIECE = 64 << 10  # bytes in one call, for which other threads wait


def check_utf8(body: bytes | bytearray) -> None:
    """Raises UnicodeDecodeError for invalid UTF-8. Other threads run in between."""
    at = 0
    with memoryview(body) as view:
        while at < len(body):
            end = min(at + PIECE, len(body))
            try:
                at += codecs.utf_8_decode(view[at:end], "strict", end == len(body))[1]
            except UnicodeDecodeError as error:
                error.start, error.end = error.start + at, error.end + at
                raise


def as_utf8(body: bytes | bytearray) -> bytes:
    """The same text with U+FFFD for halves in the form of UTF-8, and characters for whole pairs."""
    pieces: list[bytes] = []
    start = 0
    while start < len(body):
        end = _between(body, start + PIECE)
        piece = RAW_HALF.sub(b"\xef\xbf\xbd", body[start:end])
        pieces.append(RAW_PAIR.sub(_joined, piece))
        start = end
    return b"".join(pieces)


def _between(body: bytes | bytearray, end: int) -> int:
    """The last position up to `end` that splits no character and no pair."""
    if end >= len(body):
        return len(body)
    for _ in range(3):
        end -= body[end] & 0xC0 == 0x80
    return end - 3 if RAW_HIGH.match(body, end - 3) else end


def _joined(pair: "re.Match[bytes]") -> bytes:
    halves = pair[0].decode("utf-8", "surrogatepass")
    return halves.encode("utf-16", "surrogatepass").decode("utf-16").encode()


def without_halves(body: bytes | bytearray) -> bytes | bytearray:
    """The JSON without escaped halves; `body` itself if it has none."""
    if b"\\ud" not in body and b"\\uD" not in body:
        return body
    # with every backslash of the text spelled \u005c, each that is left begins an escape
    escapes = body.replace(rb"\\", rb"\u005c")
    pieces: list[bytes] = []
    halves = start = 0
    while start < len(escapes):
        end = _boundary(escapes, start + PIECE)
        piece, found = HALF.subn(rb"\\ufffd", escapes[start:end])
        pieces.append(piece)
        halves += found
        start = end
    return b"".join(pieces) if halves else body


def _boundary(escapes: bytes | bytearray, end: int) -> int:
    """The last position up to `end` that splits no pair and no escape."""
    if end >= len(escapes):
        return len(escapes)
    begun = escapes.rfind(b"\\", end - ESCAPE + 1, end)
    end = end if begun < 0 else begun
    return end - ESCAPE if PAIR.match(escapes, end - ESCAPE) else end
