"""Reads the small files beside a checkpoint's weights: the tokenizer and the stop tokens.

In: a checkpoint's folder and its vocabulary size. Out: a `Tokenizer`, and stop tokens with warnings.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ossia.files import SETTINGS_LIMIT, FileError, read_object, shown
from ossia.tokenizer.tokenizer import Tokenizer, TokenizerError
from ossia.tokenizer.tokenizer_json import HARMONY_TOKENS, o200k_harmony

HARMONY_VOCAB = 201_088  # embedding rows of the published models
_STOPS = ("<|return|>", "<|call|>")  # harmony's stop tokens: they always end a turn
_NEEDED = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", *_STOPS)
_MAY_STOP = (*_STOPS, "<|endoftext|>")
_PADDING = 4096  # embedding rows without a token up to which there is no warning


class CheckpointSettings(NamedTuple):
    """The contents of a folder's files. tokenizer: None if there is none."""

    tokenizer: Tokenizer | None
    stop_tokens: frozenset[int]
    warnings: tuple[str, ...]


def read_settings(folder: Path, vocab: int, *, is_original: bool = False) -> CheckpointSettings:
    """The tokenizer and stop tokens of a checkpoint with `vocab` embedding rows.

    is_original: OpenAI's own layout, which has no tokenizer.json. gpt-oss's tokenizer is used if it fits. Raises
    ValueError for a tokenizer that is not harmony's, or that does not fit the embeddings.
    """
    found = tokenizer_file(folder)
    if found is None and is_original and vocab == HARMONY_VOCAB:
        tokenizer = Tokenizer(o200k_harmony(), "o200k_harmony", max_ids=vocab)
    elif found is None:
        return CheckpointSettings(None, frozenset(), ())
    else:
        tokenizer = Tokenizer.from_file(found, vocab)
        if missing := [name for name in _NEEDED if name not in tokenizer.special]:
            raise TokenizerError(
                f"{found} has no token {missing[0]}: it is not a tokenizer of the gpt-oss family, whose messages are in the "
                "harmony format; take the tokenizer that was saved with these weights"
            )
    warnings = []
    if tokenizer.size + _PADDING < vocab:
        warnings.append(
            f"tokenizer.json has {tokenizer.size:,} tokens and the model has embeddings for {vocab:,}: "
            "it may be another model's tokenizer"
        )
    stops, warned = stop_tokens(folder, tokenizer)
    return CheckpointSettings(tokenizer, stops, (*warnings, *warned))


def tokenizer_file(folder: Path) -> Path | None:
    """tokenizer.json of the folder, or of the parent of an original/ folder."""
    places = (folder / "tokenizer.json", folder.parent / "tokenizer.json" if folder.name == "original" else None)
    return next((place for place in places if place and place.exists()), None)


def stop_tokens(folder: Path, tokenizer: Tokenizer) -> tuple[frozenset[int], tuple[str, ...]]:
    """The tokens that end a turn, and warnings about ids in generation_config.json that cannot.

    Always <|return|> and <|call|>: an early revision of the published files lacks <|call|>, so tool calls would not
    stop. Of the file's eos ids, <|endoftext|> and special tokens added by the checkpoint are used. <|end|> ends each
    message of a turn, the analysis included, so as a stop token it would leave answers empty.
    """
    stops = {tokenizer.special[name] for name in _STOPS}
    path = folder / "generation_config.json"
    if not path.exists():
        return frozenset(stops), ()
    eos = read_object(path, SETTINGS_LIMIT).get("eos_token_id")
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if wrong := [each for each in ids if type(each) is not int]:
        raise FileError(f"{path}: eos_token_id cannot be {shown(wrong[0])}: want a token id, or a list of them")
    bad = [each for each in dict.fromkeys(ids) if not _may_stop(each, tokenizer)]
    return frozenset({*stops, *(set(ids) - set(bad))}), tuple(_warnings(path, bad, tokenizer))


def _may_stop(token: int, tokenizer: Tokenizer) -> bool:
    name = tokenizer.special_name(token)
    return name in _MAY_STOP or (name is not None and name not in HARMONY_TOKENS and not name.startswith("<|reserved_"))


def _warnings(path: Path, bad: Iterable[int], tokenizer: Tokenizer) -> list[str]:
    named = [tokenizer.special_name(token) or f"{shown(token)}" for token in bad]
    if not named:
        return []
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return [
        f"{path} lists {', '.join(named[:5])}{more} as eos_token_id, which does not end a turn: left out "
        "(harmony's stops are <|return|> and <|call|>)"
    ]
