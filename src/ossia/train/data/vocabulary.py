"""A small byte-pair vocabulary trained on conversations, followed by harmony's special tokens.

Input: texts and a size. Output: a `Vocabulary`. Each digit is a token of its own.
"""

import re
from collections.abc import Iterable

from tokenizers import Regex as Pattern
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ossia.tokenizer.tokenizer_json import HARMONY_TOKENS, Vocabulary, byte_symbols

PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_vocabulary(texts: Iterable[str], size: int) -> Vocabulary:
    """`size` ids: 256 bytes, merges, and the special tokens."""
    model = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Pattern(PATTERN), "isolated")
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    model.decoder = decoders.ByteLevel()
    symbols = byte_symbols()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(HARMONY_TOKENS), initial_alphabet=list(symbols), show_progress=False, min_frequency=2
    )
    model.train_from_iterator(texts, trainer)
    by_id = sorted(model.get_vocab().items(), key=lambda item: item[1])
    merged = [token for token, _ in by_id if len(token) > 1]
    byte_of = {symbol: byte for byte, symbol in enumerate(symbols)}
    ranks = {bytes([byte]): byte for byte in range(256)}
    for token in merged:
        ranks[bytes(byte_of[symbol] for symbol in token)] = len(ranks)
    special = {name: len(ranks) + i for i, name in enumerate(HARMONY_TOKENS)}
    return Vocabulary(ranks, PATTERN, special)


def plain_text(rendered: str) -> str:
    """A rendered conversation without its control tokens."""
    return re.sub(r"<\|\w+\|>", "\n", rendered)
