"""Writes tokenizer.json: byte-pair ranks, a split pattern and special tokens in the Hugging Face format.

In: ranks (token bytes to id), pattern, special tokens; or nothing, for gpt-oss's own o200k_harmony. Out: the file.
o200k_base's ranks (OpenAI, MIT) are part of the package, so nothing is downloaded.
"""

import json
import lzma
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

# A word of one case pattern with its contraction; up to 3 digits; punctuation; white space.
O200K_PATTERN = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
HARMONY_TOKENS = {
    "<|startoftext|>": 199998,
    "<|endoftext|>": 199999,
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
    "<|endofprompt|>": 200018,
}


class Vocabulary(NamedTuple):
    """A byte-pair tokenizer's data: token bytes to id, the split pattern, special tokens to id."""

    ranks: Mapping[bytes, int]
    pattern: str
    special: Mapping[str, int]


def byte_symbols() -> str:
    """The printable stand-in for each byte 0..255 in the byte-level format: itself if printable, else from U+0100."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return "".join(chr(byte if byte in printable else next(others)) for byte in range(256))


def o200k_harmony() -> Vocabulary:
    """The vocabulary of the published gpt-oss checkpoints, with the 21 special tokens of their file."""
    packed = lzma.decompress((files("ossia") / "data" / "o200k_base.xz").read_bytes())
    ranks: dict[bytes, int] = {}
    at = 0
    while at < len(packed):
        length = packed[at]
        ranks[packed[at + 1 : at + 1 + length]] = len(ranks)
        at += 1 + length
    names = {number: name for name, number in HARMONY_TOKENS.items()}
    special = {names.get(i, f"<|reserved_{i}|>"): i for i in range(199998, 200019)}
    return Vocabulary(ranks, O200K_PATTERN, special)


def write_tokenizer_json(path: Path, vocabulary: Vocabulary) -> None:
    """Write tokenizer.json in the published form: every split of a token into two tokens is a merge."""
    symbols = byte_symbols()

    def show(token: bytes) -> str:
        return "".join(symbols[byte] for byte in token)

    ranks = vocabulary.ranks
    merges = [
        [show(left), show(right)]
        for token in sorted(ranks, key=lambda t: ranks[t])
        for left, right in _splits(token, ranks)
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(name, number) for name, number in vocabulary.special.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": vocabulary.pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {show(token): rank for token, rank in sorted(ranks.items(), key=lambda item: item[1])},
            "merges": merges,
        },
    }
    text = json.dumps(document, ensure_ascii=False, indent=2)
    path.write_text(text, encoding="utf-8", newline="\n")


def write_generation_config(path: Path, special: Mapping[str, int]) -> None:
    """Write generation_config.json: sampling on, and every token that ends a turn, including <|call|>."""
    settings = {
        "bos_token_id": special["<|startoftext|>"],
        "do_sample": True,
        "eos_token_id": [special[name] for name in ("<|return|>", "<|endoftext|>", "<|call|>")],
        "pad_token_id": special["<|endoftext|>"],
    }
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _splits(token: bytes, ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
    known = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
    return sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def _added(name: str, number: int) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": name, **plain, "special": True}
