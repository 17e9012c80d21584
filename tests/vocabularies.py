"""Tokenizers for tests: gpt-oss's own, and a small one like ossia-mini's."""

from functools import cache

from ossia.tokenizer import Tokenizer
from ossia.tokenizer_json import HARMONY_TOKENS, Vocabulary, o200k_harmony

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


@cache
def small() -> Tokenizer:
    """256 bytes and a few words, which bytes merge to by way of their beginnings."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for word in WORDS:
        for end in range(2, len(word) + 1):
            ranks.setdefault(word[:end], len(ranks))
    special = {name: len(ranks) + i for i, name in enumerate(SPECIAL)}
    return Tokenizer(Vocabulary(ranks, r"\p{N}| ?\p{L}+|[^\p{L}\p{N}]+", special))
