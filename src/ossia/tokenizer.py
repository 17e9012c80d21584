"""Text to token ids and back, from a checkpoint's tokenizer.json.

In: text; special tokens in it stay text unless asked for. Out: ids; and from ids, text, whole or as a stream.
It does not know messages or what a special token means.
"""

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import tiktoken

from ossia.tokenizer_json import Vocabulary, byte_symbols

# tiktoken's regular expressions overflow in a run of a million white-space characters.
LONGEST_SPACE = 500_000


class TokenizerError(ValueError):
    """A tokenizer.json that cannot be read; the message names the file and the reason."""


class _Added(msgspec.Struct):
    id: int
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, int]
    type: str = "BPE"


class _Document(msgspec.Struct):
    """The parts that are needed; merges follow from the ranks and are skipped unread."""

    model: _Model
    pre_tokenizer: dict[str, Any]
    added_tokens: list[_Added] = []


class Tokenizer:
    """A byte-level BPE tokenizer. `special` maps the names of special tokens to ids; `size` is the highest id plus 1."""

    def __init__(self, vocabulary: Vocabulary, name: str = "tokenizer") -> None:
        self.special = {**vocabulary.special, **_reserved(vocabulary.special)}
        self.encoding = tiktoken.Encoding(
            name, pat_str=vocabulary.pattern, mergeable_ranks=dict(vocabulary.ranks), special_tokens=self.special
        )
        self.size = self.encoding.max_token_value + 1
        self._names = {number: text for text, number in self.special.items()}

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer.json. Raises TokenizerError for anything but byte-level BPE with a Split pattern."""
        path = Path(path)
        try:
            document = msgspec.json.decode(path.read_bytes(), type=_Document)
            return cls(_vocabulary(document), path.parent.name)
        except (msgspec.MsgspecError, ValueError) as error:
            raise TokenizerError(f"{path} is no byte-level BPE tokenizer.json: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Ids of text, in which nothing is a special token. A lone surrogate is encoded as U+FFFD."""
        return [token for piece in _pieces(text) for token in self.encoding.encode_ordinary(piece)]

    def encode_with_special(self, text: str) -> list[int]:
        """Ids of text in which the names of special tokens are special tokens: never for a user's text."""
        return [token for piece in _pieces(text) for token in self.encoding.encode(piece, allowed_special="all")]

    def is_special(self, token: int) -> bool:
        return token in self._names or token >= self.size

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token; an id outside the vocabulary reads as U+FFFD."""
        try:
            return self.encoding.decode_single_token_bytes(token)
        except (KeyError, OverflowError):
            return "\ufffd".encode()

    def decode_bytes(self, tokens: Iterable[int], skip_special: bool = False) -> bytes:
        return b"".join(self.token_bytes(t) for t in tokens if not (skip_special and self.is_special(t)))

    def decode(self, tokens: Iterable[int], skip_special: bool = False) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(tokens, skip_special).decode("utf-8", errors="replace")

    def stream(self) -> "TextStream":
        """A decoder for tokens that come one at a time."""
        return TextStream(self)


class TextStream:
    """Gives text as soon as its bytes are whole characters; joined, the same as decoding all at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The text that this token completes; empty while a character is cut."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never finished."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


def _pieces(text: str) -> Iterator[str]:
    """The text, cut only inside white space that is longer than any that is meant."""
    at = 0
    if len(text) > LONGEST_SPACE:
        for run in re.finditer(r"\s+", text):
            for cut in range(run.start() + LONGEST_SPACE, run.end(), LONGEST_SPACE):
                yield text[at:cut]
                at = cut
    yield text[at:]


def _vocabulary(document: _Document) -> Vocabulary:
    if document.model.type != "BPE":
        raise ValueError(f"model type {document.model.type!r} is not BPE")
    # charmap_encode maps each stand-in character to its byte in C: 0.3 microseconds a token
    bytes_of = codecs.charmap_build(byte_symbols())  # type: ignore[attr-defined]
    encode = codecs.charmap_encode
    special = {added.content: added.id for added in document.added_tokens}
    ranks = {
        encode(symbols, "strict", bytes_of)[0]: rank
        for symbols, rank in document.model.vocab.items()
        if symbols not in special
    }
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ValueError(f"its vocabulary has no token for the byte 0x{missing[0]:02x}")
    if len({*ranks.values(), *special.values()}) < len(ranks) + len(special):
        raise ValueError("two of its tokens have the same id")
    return Vocabulary(ranks, _pattern(document.pre_tokenizer), special)


def _reserved(special: Mapping[str, int]) -> dict[str, int]:
    """o200k_harmony has special tokens up to 201087, of which the published file lists the first 21."""
    if special.get("<|endofprompt|>") != 200018:
        return {}
    return {f"<|reserved_{number}|>": number for number in range(200019, 201088)}


def _pattern(pre_tokenizer: dict[str, Any]) -> str:
    for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        if step.get("type") == "Split" and "Regex" in step.get("pattern", {}):
            return str(step["pattern"]["Regex"])
    raise ValueError("its pre_tokenizer has no Split by a regular expression")
