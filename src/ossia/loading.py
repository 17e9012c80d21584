"""From a name or a folder to a model that is ready: found, checked, packed for a backend.

In: "ossia-mini", a checkpoint's folder, or a Hugging Face name such as "openai/gpt-oss-20b". Out: a `Model`.
It does not know conversations; `ossia.chat` holds those.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ossia.engine.engine import Engine
from ossia.engine.request import ContextError
from ossia.hub import MINI, find
from ossia.kernels import Backend, Batch, Dense, KeyValues, ops
from ossia.model.checkpoint import open_checkpoint
from ossia.model.config import ModelConfig
from ossia.model.transformer import Transformer, load_transformer
from ossia.tokenizer import Tokenizer

Progress = Callable[[int, int], None]
SMALL = 1 << 24  # dense weights that, as bfloat16, stay in a processor's cache


@dataclass(frozen=True)
class Model:
    """A loaded model. Its tokenizer is None where the checkpoint has none: then it serves logits only."""

    name: str
    transformer: Transformer
    tokenizer: Tokenizer | None
    stop_tokens: frozenset[int]

    @property
    def config(self) -> ModelConfig:
        return self.transformer.config

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Next-token logits after each of the tokens: float32 [T, V].

        Raises ContextError for more tokens than the context holds, ValueError for none or for an id outside the
        vocabulary.
        """
        row_T = np.asarray(tokens, np.int64)
        if row_T.ndim != 1 or not row_T.size:
            raise ValueError("logits need at least one token, in a flat sequence")
        if row_T.size > self.config.max_context:
            raise ContextError(f"{row_T.size} tokens do not fit a context of {self.config.max_context}")
        if outside := row_T[(row_T < 0) | (row_T >= self.config.vocab)].tolist():
            raise ValueError(f"token id {outside[0]} is outside the vocabulary of {self.config.vocab}")
        rows_T = np.arange(row_T.size, dtype=np.int32)
        starts = np.array([0, row_T.size], np.int32)
        no_blocks = np.zeros((1, 0), np.int32)
        batch = Batch(row_T.astype(np.int32), rows_T, starts, no_blocks, no_blocks, rows_T)
        return self.transformer.ops.host(self.transformer.forward(batch))

    def engine(self) -> Engine:
        """An engine with a cache of its own over this model's weights."""
        return Engine(self.transformer)


def load(
    path_or_name: str | Path = MINI,
    backend: Backend | None = None,
    progress: Progress | None = None,
    *,
    dense: Dense | None = None,
    kv: KeyValues | None = None,
    threads: int | None = None,
) -> Model:
    """A model from a folder, a Hugging Face name, or the embedded "ossia-mini".

    backend: "cpu" (the default), or "reference" (torch, float32, for checking). progress(done, total) is called after
    each layer. On a CPU `dense` says what attention and unembedding weights are kept in ("int8", "int4", or "bf16": as
    they are), `kv` what keys and values are ("bf16", "int8" or "f32"): unless said, int8 and bf16, but a model so small
    that rounding gains nothing keeps its bits and has float32 keys and values. threads: the physical cores, unless said.
    Raises FileNotFoundError where nothing is found, ValueError for a checkpoint that is not whole.
    """
    folder = find(path_or_name)
    checkpoint = open_checkpoint(folder)
    is_small = _dense_weights(checkpoint.config) <= SMALL
    dense, kv = dense or ("bf16" if is_small else "int8"), kv or ("f32" if is_small else "bf16")
    transformer = load_transformer(checkpoint, ops(backend or "cpu", dense=dense, kv=kv, workers=threads), progress)
    found = tokenizer_file(folder)
    tokenizer = Tokenizer.from_file(found) if found else None
    stops = _stop_tokens(folder, tokenizer) if tokenizer else frozenset()
    return Model(str(path_or_name), transformer, tokenizer, stops)


def _dense_weights(config: ModelConfig) -> int:
    """Weights outside the experts that every token meets."""
    rows = (config.heads + 2 * config.kv_heads) * config.head_dim + config.heads * config.head_dim
    return config.hidden * (config.layers * rows + config.vocab)


def _stop_tokens(folder: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """What ends a turn: generation_config.json's eos ids, and always <|return|> and <|call|>.

    Published files of an early revision leave <|call|> out, which makes tool calls run on.
    """
    config = folder / "generation_config.json"
    eos = json.loads(config.read_text("utf-8")).get("eos_token_id") or [] if config.exists() else []
    named = [tokenizer.special[name] for name in ("<|return|>", "<|call|>")]
    return frozenset([*(eos if isinstance(eos, list) else [eos]), *named])


def tokenizer_file(folder: Path) -> Path | None:
    """tokenizer.json of the folder, or of the one above an original/ folder."""
    places = (folder / "tokenizer.json", folder.parent / "tokenizer.json" if folder.name == "original" else None)
    return next((place for place in places if place and place.exists()), None)
