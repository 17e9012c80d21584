"""Tokenizers for tests: gpt-oss's own, and a small one like ossia-mini's."""

from functools import cache

from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tokenizer.tokenizer_json import HARMONY_TOKENS, Vocabulary, o200k_harmony

SPECIAL = tuple(HARMONY_TOKENS)
WORDS = (
    b"assistant",
    b"analysis",
    b"final",
    b"commentary",
    b"functions",
    b" to",
    b"json",
    b" the",
    b"er",
    b"in",
    b"ing",
)


@cache
def o200k() -> Tokenizer:
    return Tokenizer(o200k_harmony())


def small_vocabulary() -> Vocabulary:
    """256 bytes and a few words, which bytes merge to by way of their beginnings."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for word in WORDS:
        for end in range(2, len(word) + 1):
            ranks.setdefault(word[:end], len(ranks))
    special = {name: len(ranks) + i for i, name in enumerate(SPECIAL)}
    return Vocabulary(ranks, r"\p{N}| ?\p{L}+|[^\p{L}\p{N}]+", special)


@cache
def small() -> Tokenizer:
    return Tokenizer(small_vocabulary())
