"""Tokens that a checkpoint adds to its byte-pair vocabulary, and their positions in a text.

In: the parsed tokenizer.json, and the files beside it that transformers reads too. Out: `AddedToken`s, and a
`Splitter`.

As in transformers: an entry of tokenizer_config.json's added_tokens_decoder replaces the one of tokenizer.json. A
token that only such a file names takes the next free id. If the "special" flags disagree, a token named by
special_tokens_map.json is special. Harmony's own tokens are always special.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ossia.files import shown
from ossia.tokenizer.tokenizer_json import HARMONY_TOKENS

MAX_ID = 1 << 24
_MAX_LENGTH = 1000  # characters of a token
_MAX_TOKENS = 1 << 16
_FLAGS = ("special", "single_word", "lstrip", "rstrip", "normalized")
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class AddedToken(NamedTuple):
    """A token that is matched as a whole, before the byte pairs.

    single_word: only if no word character is adjacent. lstrip, rstrip: includes the adjacent white space. normalized:
    matched after all tokens that are not.
    """

    id: int
    content: str
    special: bool = False
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether it matches wherever its content occurs, and includes nothing else."""
        return not (self.single_word or self.lstrip or self.rstrip)


def added_tokens(
    listed: object, vocab: Mapping[str, int], config: Mapping[str, Any], special_map: Mapping[str, Any],
    legacy: Mapping[str, Any],
) -> tuple[AddedToken, ...]:  # fmt: skip
    """All added tokens of a checkpoint, by id.

    listed: tokenizer.json's added_tokens. vocab: its byte pairs. config, special_map, legacy: the contents of
    tokenizer_config.json, special_tokens_map.json and added_tokens.json; empty if there is no such file. Raises
    ValueError, naming the file and the token, for an invalid entry.
    """
    if not isinstance(listed, list):
        raise ValueError(f"added_tokens cannot be {shown(listed)}")
    found: dict[str, AddedToken] = {}
    for entry in listed:
        token = _token("added_tokens", entry, entry.get("id") if isinstance(entry, dict) else None)
        if token.content in found:
            raise ValueError(f"added_tokens: {shown(token.content)} occurs twice")
        found[token.content] = token
    ids = _Ids(found, vocab)
    for key, entry in sorted(_decoder(config).items()):
        token = _token("tokenizer_config.json: added_tokens_decoder", entry, key)
        found[token.content] = token._replace(id=ids.of(token.content))
    for content, number in legacy.items():
        if content not in found:
            found[content] = _token("added_tokens.json", {"content": content}, number)
    for content in _named_special(config, special_map):
        if content in found:
            found[content] = found[content]._replace(special=True)
        else:
            entry = {"content": content, "special": True}
            found[content] = _token("special_tokens_map.json", entry, ids.of(content))
    if len(found) > _MAX_TOKENS:
        raise ValueError(f"{len(found):,} added tokens; at most {_MAX_TOKENS:,} are read")
    tokens = [t._replace(special=True) if t.content in HARMONY_TOKENS else t for t in found.values() if t.content]
    return tuple(sorted(tokens))


class Splitter:
    """Finds added tokens in a text: the leftmost and then longest match, tokens that are not normalized first."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        every = list(tokens)
        self._passes = [_Pass([t for t in every if t.normalized == normalized]) for normalized in (False, True)]

    def split(self, text: str, with_special: bool) -> Iterator[str | int]:
        """Pieces of text, and ids of the added tokens between them. with_special False: special tokens stay text."""
        for piece in self._passes[0].split(text, with_special):
            if isinstance(piece, int):
                yield piece
            else:
                yield from self._passes[1].split(piece, with_special)


class _Pass:
    def __init__(self, tokens: list[AddedToken]) -> None:
        self._tokens = {token.content: token for token in tokens}
        longest_first = sorted(self._tokens, key=lambda content: (-len(content), content))
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def split(self, text: str, with_special: bool) -> Iterator[str | int]:
        done = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            token = self._tokens[match[0]]
            if token.special and not with_special:
                continue
            start, end = match.span()
            if token.single_word and (_is_word(text[start - 1 : start]) or _is_word(text[end : end + 1])):
                continue
            if token.lstrip:
                while start > done and text[start - 1].isspace():
                    start -= 1
            if token.rstrip:
                while end < len(text) and text[end].isspace():
                    end += 1
            if start < done:  # an earlier token includes this one's white space
                continue
            if start > done:
                yield text[done:start]
            yield token.id
            done = end
        if done < len(text):
            yield text[done:]


def _is_word(character: str) -> bool:
    return re.match(r"\w", character) is not None


def _token(where: str, entry: Any, number: object) -> AddedToken:
    if not isinstance(entry, dict) or not isinstance(content := entry.get("content"), str):
        raise ValueError(f"{where}: {shown(entry)} is no token with a content")
    if type(number) is not int or not 0 <= number < MAX_ID:
        raise ValueError(f"{where}: the id of {shown(content)} cannot be {shown(number)}")
    if len(content) > _MAX_LENGTH:
        raise ValueError(f"{where}: a token of {len(content):,} characters; at most {_MAX_LENGTH:,} are read")
    special = entry.get("special", False)
    flags = {"normalized": not special} | {flag: entry[flag] for flag in _FLAGS if entry.get(flag) is not None}
    if wrong := [flag for flag, value in flags.items() if not isinstance(value, bool)]:
        raise ValueError(f"{where}: {wrong[0]} of {shown(content)} cannot be {shown(flags[wrong[0]])}")
    return AddedToken(number, content, **flags)


def _decoder(config: Mapping[str, Any]) -> dict[int, Any]:
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise ValueError(f"tokenizer_config.json: added_tokens_decoder cannot be {shown(decoder)}")
    if wrong := [key for key in decoder if not (key.isascii() and key.isdecimal() and len(key) < 10)]:
        raise ValueError(f"tokenizer_config.json: added_tokens_decoder: an id cannot be {shown(wrong[0])}")
    return {int(key): value for key, value in decoder.items()}


class _Ids:
    """The id that a token has already, or else the next free one."""

    def __init__(self, found: dict[str, AddedToken], vocab: Mapping[str, int]) -> None:
        self._found, self._vocab = found, vocab
        self._next = max((*(token.id for token in found.values()), *vocab.values()), default=-1) + 1

    def of(self, content: str) -> int:
        if content in self._found:
            return self._found[content].id
        if content in self._vocab:
            return self._vocab[content]
        self._next += 1
        return self._next - 1


def _named_special(*settings: Mapping[str, Any]) -> Iterator[str]:
    """The tokens named by special_tokens_map.json, or by the same keys of tokenizer_config.json."""
    for setting in settings:
        extra = setting.get("extra_special_tokens")
        several = setting.get("additional_special_tokens")
        values = [setting.get(role) for role in _ROLES]
        values += list(extra.values()) if isinstance(extra, dict) else extra if isinstance(extra, list) else []
        values += several if isinstance(several, list) else []
        for value in values:
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str) and content:
                yield content
