"""Half surrogate pairs in JSON: what JavaScript sends of an emoji that was cut in two.

In: JSON as bytes. Out: the same with U+FFFD for each half, so that it can be decoded and written as UTF-8.
Whole pairs stay characters. What else may be wrong with the JSON is left to the decoder.
"""

import re

DIGITS = rb"[0-9a-fA-F]{2}"
HIGH, LOW = rb"[89abAB]" + DIGITS, rb"[c-fC-F]" + DIGITS  # after \ud
NO_LOW = rb"(?!\\u[dD]" + LOW + rb")"
NO_HIGH = rb"(?<!\\u[dD][89abAB]" + DIGITS + rb"\\u[dD][c-fC-F]" + DIGITS + rb")"
HALF = re.compile(rb"\\u[dD](?:" + HIGH + NO_LOW + rb"|" + LOW + NO_HIGH + rb")")
PAIR = re.compile(rb"\\u[dD]" + HIGH + rb"\\u[dD]" + LOW)
ESCAPE = 6  # bytes
PIECE = 64 << 10  # bytes in one call, which other threads wait for


def as_utf8(body: bytes | bytearray) -> bytes:
    """The same text where halves stand as UTF-8 would encode them. Raises UnicodeDecodeError for anything else."""
    text = body.decode("utf-8", "surrogatepass")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def without_halves(body: bytes | bytearray) -> bytes | bytearray:
    """The JSON without escaped halves; `body` itself where it has none."""
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
    """The nearest place up to there that splits no pair and no escape."""
    if end >= len(escapes):
        return len(escapes)
    begun = escapes.rfind(b"\\", end - ESCAPE + 1, end)
    end = end if begun < 0 else begun
    return end - ESCAPE if PAIR.match(escapes, end - ESCAPE) else end
