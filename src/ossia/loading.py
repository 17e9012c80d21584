"""From a name or a folder to a model that is ready: found, checked, packed for a backend.

In: "ossia-mini", a checkpoint's folder, or a Hugging Face name such as "openai/gpt-oss-20b". Out: a `Model`.
It does not know conversations; `ossia.chat` holds those.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossia.engine.blocks import blocks_for
from ossia.engine.cache import PagedCache
from ossia.engine.engine import Engine
from ossia.engine.host_plan import (
    CPU_BATCHED_TOKENS,
    MIN_CACHE_BYTES,
    MIN_CONTEXT,
    HostFormat,
    check_host,
    host_cache_room,
)
from ossia.engine.plan import CardMemoryPlan, card_cache_room, plan_card
from ossia.engine.request import ContextError
from ossia.hub import MINI, find
from ossia.kernels.backends import kinds_of, make_ops
from ossia.kernels.ops import Backend, Batch, Dense, KeyValues, Ops
from ossia.kernels.triton.tools.check import facts_of_this_machine, no_gpu_reason
from ossia.model.checkpoint import Checkpoint, open_checkpoint, read_config
from ossia.model.config import ModelConfig
from ossia.model.tensorfile import read_json
from ossia.model.transformer import Transformer, load_transformer
from ossia.quant import Mxfp4, as_mxfp4
from ossia.settings_files import read_settings, tokenizer_file
from ossia.tokenizer.tokenizer import Tokenizer

__all__ = [
    "BackendChoice",
    "Model",
    "Outline",
    "Progress",
    "choose_backend",
    "is_mxfp4",
    "load",
    "outline",
    "tokenizer_file",
    "usual_cache",
]

Progress = Callable[[int, int], None]
USUAL_CACHE = 2 << 30  # bytes of keys and values on a CPU with memory to spare
_FAR = 4096  # tokens of a context from which the CPU may share attention out by key
KV_INT8 = (
    "--kv int8 costs accuracy: mean KL 0.013 nats over all tokens of ossia-mini's conversations, "
    "99th percentile 0.13 (--kv bf16: 0.004, 0.016); use it where memory is short"
)
SMALL = 1 << 24  # dense weights that, as bfloat16, stay in a processor's cache


class BackendChoice(NamedTuple):
    """A backend, and why "auto" chose it; an empty reason if the caller chose."""

    name: Backend
    reason: str = ""

    def __str__(self) -> str:
        return f"backend: {self.name} ({self.reason})" if self.reason else f"backend: {self.name}"


CPU = BackendChoice("cpu")


@dataclass(frozen=True)
class Outline:
    """A model without its weights: what it takes to read requests and render their prompts."""

    name: str
    config: ModelConfig
    tokenizer: Tokenizer
    stop_tokens: frozenset[int]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """A loaded model. Its tokenizer is None where the checkpoint has none: then it serves logits only. `plan`: of a card's
    memory, where the model is on one. `warnings`: about the checkpoint's files and about what costs accuracy, for a person.
    `backend`: which backend it runs on, and why.
    """

    name: str
    transformer: Transformer
    tokenizer: Tokenizer | None
    stop_tokens: frozenset[int]
    plan: CardMemoryPlan | None = None
    warnings: tuple[str, ...] = ()
    backend: BackendChoice = CPU

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
        return self.transformer.ops.host(self.transformer.forward(Batch.whole([row_T.tolist()])))

    def engine(self) -> Engine:
        """An engine with a cache of its own over this model's weights."""
        return Engine(self.transformer)


def usual_cache(model: Model) -> int:
    """Cache bytes by default. On a CPU: one whole context, or a quarter of the free memory up to `USUAL_CACHE`, if that is
    more; memory is used only as it fills. On a GPU: all memory that the weights leave.
    """
    room = card_cache_room(model.config, model.transformer.ops.free_bytes())
    if room is not None:
        return room
    block = model.transformer.cache_bytes
    whole = blocks_for(model.config.max_context) * (block.full + block.window)
    left = host_cache_room(model.config)
    return min(max(whole, min(left // 4, USUAL_CACHE)), max(left, MIN_CACHE_BYTES))


def load(
    path_or_name: str | Path = MINI,
    backend: Backend | Literal["auto"] = "auto",
    progress: Progress | None = None,
    *,
    dense: Dense | None = None,
    kv: KeyValues | None = None,
    threads: int | None = None,
    memory: int | None = None,
    cache_bytes: int | None = None,
) -> Model:
    """A model from a folder, a Hugging Face name, or the embedded "ossia-mini".

    - backend: "auto" (an NVIDIA GPU that can run the model, else the CPU; `Model.backend` says why), "cpu", "triton" (an
      NVIDIA GPU), or "reference" (torch, float32, for checking).
    - progress(done, total) is called after each layer.
    - dense: format of attention and unembedding weights. CPU: "int8", "int4" or "bf16" (their bits). GPU: "bf16" or "int8".
    - kv: format of keys and values. CPU: "bf16", "int8" or "f32". GPU: "bf16" or "fp8".
      Default of both: the first. A small model on a CPU keeps its bits and has float32 keys and values.
    - threads: physical cores to use; default: all.
    - memory: bytes of host memory the model may take; default: what is free on the machine and in its container.
    - cache_bytes: bytes of keys and values to check for; default: those of a short context.

    Raises FileNotFoundError if nothing is found. Raises ValueError for an incomplete checkpoint, a backend that this
    machine cannot run, or, before anything is read, a model that does not fit the memory.
    """
    folder = find(path_or_name)
    checkpoint = open_checkpoint(folder)
    is_packed = is_mxfp4(checkpoint)
    chosen = choose_backend(checkpoint.config, backend, dense, kv, mxfp4=is_packed)
    kinds = formats_of_model(checkpoint.config, chosen.name, dense, kv)
    kernels = make_ops(chosen.name, dense=kinds[0], kv=kinds[1], workers=threads)
    free = kernels.free_bytes()
    plan = None if free is None else plan_card(checkpoint.config, *kinds, free, mxfp4=is_packed)
    if free is None:
        held = HostFormat(chosen.name, *kinds, is_packed, loading_bytes(checkpoint, is_packed))
        _check_memory(checkpoint.config, kernels, held, memory, cache_bytes)
    read = read_settings(folder, checkpoint.config.vocab, is_original=checkpoint.layout == "original")
    transformer = load_transformer(checkpoint, kernels, progress)
    warnings = (*read.warnings, *((KV_INT8,) if kinds[1] == "int8" else ()))
    return Model(str(path_or_name), transformer, read.tokenizer, read.stop_tokens, plan, warnings, chosen)


def choose_backend(
    config: ModelConfig,
    backend: Backend | Literal["auto"] = "auto",
    dense: Dense | None = None,
    kv: KeyValues | None = None,
    *,
    mxfp4: bool = True,
) -> BackendChoice:
    """The backend that "auto" stands for: an NVIDIA GPU that has these formats and holds the model, else the CPU."""
    if backend != "auto":
        return BackendChoice(backend)
    if reason := no_gpu_reason():
        return BackendChoice("cpu", reason)
    try:
        kinds = kinds_of("triton", dense, kv)
        free = make_ops("triton", dense=dense, kv=kv).free_bytes()
        if free is not None:
            plan_card(config, *kinds, free, mxfp4=mxfp4)
    except ValueError as error:
        return BackendChoice("cpu", str(error))
    return BackendChoice("triton", facts_of_this_machine().cards[0].name)


def choose_backend_for(
    path_or_name: str | Path,
    backend: Backend | Literal["auto"] = "auto",
    dense: Dense | None = None,
    kv: KeyValues | None = None,
) -> BackendChoice:
    """`choose_backend` for a checkpoint, before it is loaded."""
    if backend != "auto":
        return BackendChoice(backend)
    checkpoint = open_checkpoint(find(path_or_name))
    return choose_backend(checkpoint.config, backend, dense, kv, mxfp4=is_mxfp4(checkpoint))


def _check_memory(
    config: ModelConfig, kernels: Ops, held: HostFormat, memory: int | None, cache_bytes: int | None
) -> None:
    """ValueError where the model and its keys and values do not fit the memory of the machine or its container."""
    least = PagedCache.cost(
        kernels.cache_bytes(config.shapes), config.window, min(MIN_CONTEXT, config.max_context), CPU_BATCHED_TOKENS
    )
    less = "" if cache_bytes is None else "--kv-cache-gb"
    check_host(config, held, least if cache_bytes is None else cache_bytes, memory, less)


def loading_bytes(checkpoint: Checkpoint, is_packed: bool) -> int:
    """The most that is held beside packed weights while they are packed: q, k and v as one; experts that are not yet
    MXFP4; a table in a type that has no kernel.
    """
    c = checkpoint.config
    held = 2 * (c.heads + 2 * c.kv_heads) * c.head_dim * c.hidden
    expert = c.experts * 2 * c.intermediate * c.hidden
    stacked = 2 * expert if checkpoint.unfused else 0
    packing = expert * 17 // 32 if is_packed and checkpoint.layout == "bf16" else 0
    table = 4 * c.vocab * c.hidden if checkpoint.unembedding_dtype() == "F16" else 0
    return max(held, stacked + packing, table)


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
    from ossia.kernels.cpu.codegen.jit import physical_cores
    from ossia.kernels.cpu.warmup import Kinds
    from ossia.kernels.cpu.warmup import compile_kernels as run

    checkpoint = open_checkpoint(find(path_or_name))
    config, layer = checkpoint.config, checkpoint.layer(0)
    dense, kv = formats_of_model(config, "cpu", dense, kv)
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
    shape = read_config(config)
    read = read_settings(folder, shape.vocab, is_original="rope_scaling_factor" in read_json(config))
    if read.tokenizer is None:
        raise FileNotFoundError(f"{folder} has no tokenizer.json, so no prompt can be rendered: put one there")
    return Outline(str(path_or_name), shape, read.tokenizer, read.stop_tokens, read.warnings)


def is_mxfp4(checkpoint: Checkpoint) -> bool:
    """Whether the experts will be MXFP4 once loaded: as they lie there, or as dense values that it holds exactly.

    The first expert speaks for all.
    """
    first = checkpoint.first_expert()
    return isinstance(first, Mxfp4) or as_mxfp4(first) is not None


def _stored(weight: NDArray[Any]) -> str:
    """The type that the CPU's kernels meet: float16 is widened."""
    return "uint16" if weight.dtype == np.uint16 else "float32"


def formats_of_model(
    config: ModelConfig, backend: Backend, dense: Dense | None = None, kv: KeyValues | None = None
) -> tuple[Dense, KeyValues]:
    """The formats of weights and of the cache, with this model's defaults for None.

    On a CPU a small model keeps its bits and has a float32 cache. Else the backend's defaults. Raises ValueError for a
    format that the backend lacks.
    """
    if backend == "cpu" and _dense_weights(config) <= SMALL:
        dense, kv = dense or "bf16", kv or "f32"
    return kinds_of(backend, dense, kv)


def _dense_weights(config: ModelConfig) -> int:
    """Weights outside the experts that every token meets."""
    rows = (config.heads + 2 * config.kv_heads) * config.head_dim + config.heads * config.head_dim
    return config.hidden * (config.layers * rows + config.vocab)
