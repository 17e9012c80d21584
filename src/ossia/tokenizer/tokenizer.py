"""Text to token ids and back, from a checkpoint's tokenizer.json.

In: text. Special tokens in it stay text unless the caller allows them. Out: ids; and from ids, text, whole or as a
stream.
"""

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tiktoken

from ossia.files import TOKENIZER_LIMIT, FileError, read_bytes, read_object, shown
from ossia.tokenizer.added_tokens import MAX_ID, AddedToken, Splitter, added_tokens
from ossia.tokenizer.tokenizer_json import HARMONY_TOKENS, Vocabulary, byte_symbols

# tiktoken's regular expressions overflow on a million consecutive white-space characters.
LONGEST_SPACE = 500_000
_MAX_TOKENS = 1 << 21
_O200K = 199_998  # byte pairs in gpt-oss's vocabulary
_RESERVED = range(200_019, 201_088)  # o200k_harmony's reserved special tokens, not listed in the published file


class TokenizerError(FileError):
    """A tokenizer.json that cannot be read. The message names the file and the reason."""


class _Model(msgspec.Struct):
    vocab: dict[str, int]
    type: str = "BPE"


class _Document(msgspec.Struct):
    """The parts of the file that are needed. Merges follow from the ranks, so they are not read."""

    model: _Model
    pre_tokenizer: dict[str, Any]
    added_tokens: list[dict[str, Any]] = []


class Tokenizer:
    """A byte-level BPE tokenizer. special: ids of the special tokens by name. size: the highest id plus 1.

    added: tokens beside the byte pairs. Special ones are in `special` too. The others are text, and are always
    encoded.
    """

    def __init__(
        self, vocabulary: Vocabulary, name: str = "tokenizer", *, added: Sequence[AddedToken] = (), max_ids: int | None = None
    ) -> None:  # fmt: skip
        """max_ids: the model's number of ids, if known; reserved tokens stay below."""
        texts = [token for token in added if not token.special]
        special = {**vocabulary.special, **{token.content: token.id for token in added if token.special}}
        self.special = {**special, **_reserved(special, {token.id for token in texts}, max_ids)}
        held = set(vocabulary.ranks.values())
        self._texts = {token.id: token.content.encode() for token in texts}
        self.encoding = tiktoken.Encoding(
            name, pat_str=vocabulary.pattern, mergeable_ranks=dict(vocabulary.ranks),
            special_tokens={**self.special, **{token.content: token.id for token in texts if token.id not in held}},
        )  # fmt: skip
        self.size = self.encoding.max_token_value + 1
        self._names = {number: text for text, number in self.special.items()}
        named = {token.content for token in added}
        plain = [
            AddedToken(i, text, special=True, normalized=False) for text, i in self.special.items() if text not in named
        ]
        # tiktoken handles plain special tokens; others need the splitter
        self._splitter = Splitter([*added, *plain]) if texts or not all(token.is_plain for token in added) else None

    @classmethod
    def from_file(cls, path: str | Path, max_ids: int | None = None) -> "Tokenizer":
        """Read a tokenizer.json, and the files beside it that describe added tokens.

        max_ids: the model's number of ids. Raises TokenizerError unless the file is a byte-level BPE with a Split
        pattern, and for a token id that the model does not have.
        """
        path = Path(path)
        try:
            document = msgspec.json.decode(
                read_bytes(path, TOKENIZER_LIMIT).removeprefix(codecs.BOM_UTF8), type=_Document
            )
            beside = [
                read_object(place) if (place := path.with_name(name)).exists() else {}
                for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
            ]
            _check_vocab(document)
            added = added_tokens(document.added_tokens, document.model.vocab, *beside)
            vocabulary = _vocabulary(document, added)
            _check_ids(vocabulary, added, max_ids)
            return cls(vocabulary, path.parent.name, added=added, max_ids=max_ids)
        except FileError as error:  # its message names the file
            raise TokenizerError(str(error)) from error
        except RecursionError as error:
            raise TokenizerError(f"{path} is no byte-level BPE tokenizer.json: nested too deeply") from error
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())[:300]
            raise TokenizerError(f"{path} is no byte-level BPE tokenizer.json: {reason}") from error

    def encode(self, text: str) -> list[int]:
        """Ids of text in which nothing is a special token. A lone surrogate is encoded as U+FFFD."""
        if self._splitter is None:
            return [token for piece in _pieces(text) for token in self.encoding.encode_ordinary(piece)]
        return self._split(self._splitter, text, with_special=False)

    def encode_with_special(self, text: str) -> list[int]:
        """Ids of text in which names of special tokens become special tokens. Never use it for a user's text."""
        if self._splitter is None:
            return [token for piece in _pieces(text) for token in self.encoding.encode(piece, allowed_special="all")]
        return self._split(self._splitter, text, with_special=True)

    def _split(self, splitter: Splitter, text: str, *, with_special: bool) -> list[int]:
        tokens: list[int] = []
        for part in splitter.split(text, with_special):
            if isinstance(part, int):
                tokens.append(part)
            else:
                tokens += [token for piece in _pieces(part) for token in self.encoding.encode_ordinary(piece)]
        return tokens

    def is_special(self, token: int) -> bool:
        return token in self._names or token >= self.size

    def special_name(self, token: int) -> str | None:
        """The name of a special token; None for any other id."""
        return self._names.get(token)

    def text_tokens(self) -> Iterator[tuple[bytes, int]]:
        """The bytes and id of every text token: byte pairs, and added tokens that are not special."""
        number = self.encoding.encode_single_token
        yield from ((data, number(data)) for data in self.encoding.token_byte_values())
        yield from ((data, token) for token, data in self._texts.items())

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token. An id outside the vocabulary gives U+FFFD."""
        if token in self._texts:
            return self._texts[token]
        try:
            return self.encoding.decode_single_token_bytes(token)
        except (KeyError, OverflowError):
            return "\ufffd".encode()

    def decode_bytes(self, tokens: Iterable[int], skip_special: bool = False) -> bytes:
        return b"".join(self.token_bytes(t) for t in tokens if not (skip_special and self.is_special(t)))

    def decode(self, tokens: Iterable[int], skip_special: bool = False) -> str:
        """Text of ids. Bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(tokens, skip_special).decode("utf-8", errors="replace")

    def stream(self) -> "TextStream":
        """A decoder for tokens that arrive one at a time."""
        return TextStream(self)


class TextStream:
    """Returns text once its bytes are whole characters. The pieces concatenate to the same text as `decode`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """The rest of the text: U+FFFD for an incomplete character."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


def _pieces(text: str) -> Iterator[str]:
    """The text, cut only inside extremely long white space."""
    at = 0
    if len(text) > LONGEST_SPACE:
        for run in re.finditer(r"\s+", text):
            for cut in range(run.start() + LONGEST_SPACE, run.end(), LONGEST_SPACE):
                yield text[at:cut]
                at = cut
    yield text[at:]


def _check_vocab(document: _Document) -> None:
    if document.model.type != "BPE":
        raise ValueError(f"model type {shown(document.model.type)} is not BPE")
    vocab = document.model.vocab
    if len(vocab) > _MAX_TOKENS:
        raise ValueError(f"its vocabulary has {len(vocab):,} tokens; at most {_MAX_TOKENS:,} are read")
    if wrong := next((text for text, number in vocab.items() if not 0 <= number < MAX_ID), None):
        raise ValueError(f"the id of {shown(wrong)} cannot be {shown(vocab[wrong])}")


def _vocabulary(document: _Document, added: Sequence[AddedToken]) -> Vocabulary:
    # charmap_encode maps each stand-in character to its byte in C: 0.3 microseconds per token
    bytes_of = codecs.charmap_build(byte_symbols())  # type: ignore[attr-defined]
    encode = codecs.charmap_encode
    special = {token.content: token.id for token in added if token.special}
    ranks = {
        encode(symbols, "strict", bytes_of)[0]: rank
        for symbols, rank in document.model.vocab.items()
        if symbols not in special
    }
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ValueError(f"its vocabulary has no token for the byte 0x{missing[0]:02x}")
    # an added token that is also a byte pair has the same id; any other id must be unique
    texts = [token for token in added if not token.special and document.model.vocab.get(token.content) != token.id]
    if len({*ranks.values(), *special.values(), *(t.id for t in texts)}) < len(ranks) + len(special) + len(texts):
        raise ValueError("two of its tokens have the same id")
    return Vocabulary(ranks, _pattern(document.pre_tokenizer), special)


def _check_ids(vocabulary: Vocabulary, added: Sequence[AddedToken], max_ids: int | None) -> None:
    if len(vocabulary.ranks) == _O200K:
        for name, number in HARMONY_TOKENS.items():
            if vocabulary.special.get(name, number) != number:
                raise ValueError(f"{name} has the id {vocabulary.special[name]}; harmony's is {number}")
    if max_ids is None:
        return
    highest = max((*(token.id for token in added), *vocabulary.ranks.values()), default=0)
    if highest >= max_ids:
        name = next((token.content for token in added if token.id == highest), "a byte pair")
        raise ValueError(
            f"{shown(name)} has the id {highest:,} and the model has embeddings for {max_ids:,} tokens (vocab_size): "
            "take the tokenizer that was saved with these weights, or resize the embeddings and save the model again"
        )


def _reserved(special: Mapping[str, int], texts: set[int], max_ids: int | None) -> dict[str, int]:
    """o200k_harmony has special tokens up to 201087. The published file lists the first 21.

    An id that the file gives to another token is not reserved.
    """
    if special.get("<|endofprompt|>") != 200018:
        return {}
    taken = {*special.values(), *texts}
    last = min(_RESERVED.stop, max_ids or _RESERVED.stop)
    numbers = (number for number in range(_RESERVED.start, last) if number not in taken)
    return {name: number for number in numbers if (name := f"<|reserved_{number}|>") not in special}


def _pattern(pre_tokenizer: dict[str, Any]) -> str:
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    for step in steps if isinstance(steps, list) else []:
        pattern = step.get("pattern") if isinstance(step, dict) and step.get("type") == "Split" else None
        if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
            return pattern["Regex"]
    raise ValueError("its pre_tokenizer has no Split by a regular expression")
