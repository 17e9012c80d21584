"""From a name or a folder to a model that is ready: found, checked, packed for a backend.

In: "ossia-mini", a checkpoint's folder, or a Hugging Face name such as "openai/gpt-oss-20b". Out: a `Model`.
It does not know conversations; `ossia.chat` holds those.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossia.engine.engine import Engine
from ossia.engine.plan import Plan, plan_card
from ossia.engine.request import ContextError
from ossia.hub import MINI, find
from ossia.kernels import Backend, Batch, Dense, KeyValues, kinds_of, ops
from ossia.model.checkpoint import Checkpoint, open_checkpoint, read_config
from ossia.model.config import ModelConfig
from ossia.model.transformer import Transformer, load_transformer
from ossia.quant import Mxfp4, as_mxfp4
from ossia.tokenizer import Tokenizer

Progress = Callable[[int, int], None]
_FAR = 4096  # tokens of a context from which the CPU may share attention out by key
SMALL = 1 << 24  # dense weights that, as bfloat16, stay in a processor's cache


@dataclass(frozen=True)
class Outline:
    """A model without its weights: what it takes to read requests and render their prompts."""

    name: str
    config: ModelConfig
    tokenizer: Tokenizer
    stop_tokens: frozenset[int]


@dataclass(frozen=True)
class Model:
    """A loaded model. Its tokenizer is None where the checkpoint has none: then it serves logits only. `plan`: of a card's
    memory, where the model is on one.
    """

    name: str
    transformer: Transformer
    tokenizer: Tokenizer | None
    stop_tokens: frozenset[int]
    plan: Plan | None = None

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

    backend: "cpu" (the default), "triton" (an NVIDIA GPU), or "reference" (torch, float32, for checking). progress(done,
    total) is called after each layer. dense: what attention and unembedding weights are kept in, on a CPU "int8", "int4", or
    "bf16" (as they are), on a GPU "bf16" or "int8". kv: what keys and values are, on a CPU "bf16", "int8" or "f32", on a
    GPU "bf16" or "fp8". Unless said, the first of each, but on a CPU a model so small that rounding gains nothing keeps its
    bits and has float32 keys and values. threads: the physical cores, unless said.
    Raises FileNotFoundError where nothing is found, ValueError for a checkpoint that is not whole, a backend that this
    machine cannot run, or a model that does not fit its card.
    """
    backend = backend or "cpu"
    folder = find(path_or_name)
    checkpoint = open_checkpoint(folder)
    if backend == "cpu":
        dense, kv = _usual(checkpoint.config, dense, kv)
    kernels = ops(backend, dense=dense, kv=kv, workers=threads)
    free = kernels.free_bytes()
    kinds = kinds_of(backend, dense, kv)
    plan = None if free is None else plan_card(checkpoint.config, *kinds, free, mxfp4=is_mxfp4(checkpoint))
    transformer = load_transformer(checkpoint, kernels, progress)
    found = tokenizer_file(folder)
    tokenizer = Tokenizer.from_file(found) if found else None
    stops = _stop_tokens(folder, tokenizer) if tokenizer else frozenset()
    return Model(str(path_or_name), transformer, tokenizer, stops, plan)


def compile_kernels(
    path_or_name: str | Path,
    say: Callable[[str], None],
    *,
    dense: Dense | None = None,
    kv: KeyValues | None = None,
    threads: int | None = None,
) -> None:
    """Compile the CPU kernels that a model needs, side by side, or find them on disk: else each is compiled when first called.

    `say` gets a line every two seconds while it lasts. The rest is as for `load`, which comes next.
    """
    from ossia.kernels.cpu.jit import physical_cores
    from ossia.kernels.cpu.warm import Kinds
    from ossia.kernels.cpu.warm import compile_kernels as run

    checkpoint = open_checkpoint(find(path_or_name))
    config, layer = checkpoint.config, checkpoint.layer(0)
    dense, kv = kinds_of("cpu", *_usual(config, dense, kv))
    stored = {_stored(each) for each in (layer.qkv_weight, layer.out_weight, checkpoint.unembedding())}
    up = layer.up_weight
    experts = "mxfp4" if isinstance(up, Mxfp4) or is_mxfp4(checkpoint) else _stored(up)
    workers = threads or physical_cores()
    reads_ahead = dense != "bf16" and workers > 1 and config.hidden * config.heads * config.head_dim > SMALL // 4
    far = config.max_context > _FAR
    run(Kinds(dense, kv, tuple(sorted(stored)), _stored(layer.router_weight), experts, far, reads_ahead, workers), say)


def outline(path_or_name: str | Path = MINI) -> Outline:
    """A model's configuration and tokenizer, read without its weights.

    Raises FileNotFoundError where there is no config.json or tokenizer.json, ValueError for a config.json of another
    family.
    """
    folder = find(path_or_name, weights=False)
    places = (folder / "config.json", folder / "original" / "config.json")
    config = next((place for place in places if place.exists()), None)
    if config is None:
        raise FileNotFoundError(f"{folder} has no config.json: give a checkpoint's folder")
    found = tokenizer_file(folder)
    if found is None:
        raise FileNotFoundError(f"{folder} has no tokenizer.json, so no prompt can be rendered: put one there")
    tokenizer = Tokenizer.from_file(found)
    return Outline(str(path_or_name), read_config(config), tokenizer, _stop_tokens(folder, tokenizer))


def is_mxfp4(checkpoint: Checkpoint) -> bool:
    """Whether the experts will be MXFP4 once loaded: as they lie there, or as dense values that it holds exactly.

    The first expert speaks for all.
    """
    up = checkpoint.layer(0).up_weight
    return isinstance(up, Mxfp4) or as_mxfp4(up[:1]) is not None


def _stored(weight: NDArray[Any]) -> str:
    """The type that the CPU's kernels meet: float16 is widened."""
    return "uint16" if weight.dtype == np.uint16 else "float32"


def _usual(config: ModelConfig, dense: Dense | None, kv: KeyValues | None) -> tuple[Dense | None, KeyValues | None]:
    """What a CPU keeps weights and the cache in, unless said: a small model as they are."""
    return (dense or "bf16", kv or "f32") if _dense_weights(config) <= SMALL else (dense, kv)


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
