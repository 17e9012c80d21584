"""The model that is measured: loaded or made at random, checked against memory first; its engine and its cache.

In: a checkpoint's name or a config, a backend and formats. Out: a `Subject`; engines and caches for it.
It does not know cases or clocks, but for the time the load took. What the engine and the caches are asked for is asked
here alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ossia.engine.blocks import blocks_for
from ossia.engine.engine import Engine
from ossia.engine.host_plan import HostFormat, check_host
from ossia.engine.plan import RESERVE, default_max_batched_tokens, plan_card
from ossia.hub import find
from ossia.kernels.backends import kinds_of, make_ops
from ossia.kernels.ops import BLOCK, Backend, Dense, KeyValues, Ops
from ossia.kernels.sizes import Formats, formats_of
from ossia.loading import choose_backend, formats_of_model, is_mxfp4, load
from ossia.model.checkpoint import open_checkpoint
from ossia.model.config import PRESETS, ModelConfig
from ossia.model.synthetic import RandomTensors
from ossia.model.transformer import Transformer, load_transformer
from ossia.recognise import hub_name

Progress = Callable[[int, int], None]
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Subject:
    """`source` says where the weights are from, and so what `load_seconds` measured: packing, or making them too."""

    name: str
    source: Literal["checkpoint", "random"]
    backend: Backend
    dense: Dense
    formats: Formats
    transformer: Transformer
    load_seconds: float
    reason: str = ""  # why "auto" chose the backend

    @property
    def config(self) -> ModelConfig:
        return self.transformer.config


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What to measure: a checkpoint `model`, or random weights of `shape`; a preset, a folder or a name."""

    model: str | None = None
    shape: str | None = None
    backend: Backend | Literal["auto"] = "auto"
    dense: Dense | None = None
    kv: KeyValues | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.shape is None):
            raise ValueError("choose one of -m (a checkpoint) and --shape (random weights)")
        if self.backend != "auto":
            kinds_of(self.backend, self.dense, self.kv)


@dataclass(frozen=True, slots=True)
class ResolvedChoice:
    """A choice with the backend and the formats that `ossia chat` would run. reason: why "auto" chose the backend."""

    asked: ModelChoice
    config: ModelConfig
    backend: Backend
    dense: Dense
    kv: KeyValues
    mxfp4: bool = True
    reason: str = ""

    @property
    def formats(self) -> Formats:
        return formats_of(self.backend, self.dense, self.kv, self.mxfp4)


def resolve(choice: ModelChoice) -> ResolvedChoice:
    """Reads the config only. Raises ValueError for a format that the backend lacks."""
    if choice.model is not None:
        checkpoint = open_checkpoint(find(choice.model))
        config, mxfp4 = checkpoint.config, is_mxfp4(checkpoint)
    else:
        assert choice.shape is not None, "ModelChoice has one of the two"
        config, mxfp4 = config_of(choice.shape), True
    chosen = choose_backend(config, choice.backend, choice.dense, choice.kv, mxfp4=mxfp4)
    kinds = formats_of_model(config, chosen.name, choice.dense, choice.kv)
    return ResolvedChoice(choice, config, chosen.name, *kinds, mxfp4, chosen.reason)


def load_subject(
    choice: ResolvedChoice, progress: Progress | None = None, kernels: Ops | None = None, memory: int | None = None
) -> Subject:
    """Load a checkpoint as `ossia.load` does, or make random weights. memory: as for `ossia.load`."""
    started = time.perf_counter()
    asked = choice.asked
    if asked.model is not None:
        transformer = load(
            asked.model, choice.backend, progress,
            dense=choice.dense, kv=choice.kv, threads=asked.threads, memory=memory, cache_bytes=0,
        ).transformer  # fmt: skip
    else:
        ops = kernels or kernels_of(choice)
        transformer = load_transformer(cast(Any, random_tensors(choice.config, ops)), ops, progress)
    seconds = time.perf_counter() - started
    source = "checkpoint" if asked.model else "random"
    name = asked.model or str(asked.shape)
    return Subject(name, source, choice.backend, choice.dense, choice.formats, transformer, seconds, choice.reason)


def random_tensors(config: ModelConfig, kernels: Ops, seed: int = 0) -> RandomTensors:
    """Random weights, made where the backend has a generator of its own: on a card, the host never holds them."""
    stream = getattr(kernels, "stream", None)
    return RandomTensors(config, seed, stream) if stream else RandomTensors(config, seed)


def config_of(shape: str) -> ModelConfig:
    """The config of a preset, or of a model whose shape to take."""
    preset = hub_name(shape).removeprefix("openai/")
    if not Path(shape).is_dir() and (preset in PRESETS or shape.startswith("gpt-oss-")):
        return ModelConfig.preset(preset)
    return open_checkpoint(find(shape)).config


def check_memory(choice: ResolvedChoice, cache: int, available: int | None = None) -> None:
    """ValueError, with the remedy, when weights and `cache` bytes of keys and values will not fit in free memory."""
    # random weights are made layer by layer, and their embedding is in no file
    table = 2 * choice.config.vocab * choice.config.hidden if choice.asked.shape else 0
    held = HostFormat(choice.backend, choice.dense, choice.kv, choice.mxfp4, loading=table)
    check_host(choice.config, held, cache + table, available, less="less --depth or --batch")


def check_card(choice: ResolvedChoice, cache: int, free: int) -> None:
    """ValueError, with the numbers, when weights, work space and `cache` bytes of keys and values will not fit on the card."""
    plan = plan_card(choice.config, choice.dense, choice.kv, free, mxfp4=choice.mxfp4)
    if cache > plan.cache:
        raise ValueError(
            f"the cases' keys and values take {cache / _GIB:.1f} GiB, and beside {plan.weights / _GIB:.1f} of weights and "
            f"{(plan.workspace + RESERVE) / _GIB:.1f} of work space {plan.cache / _GIB:.1f} are free on the card: "
            "choose less --depth or --batch, or --kv fp8"
        )


def threads_of(choice: ModelChoice) -> int:
    """Threads that compute: as many as were asked for, else one a physical core."""
    import numba

    from ossia.kernels.cpu.codegen.jit import physical_cores

    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    if choice.threads is not None and not 1 <= choice.threads <= most:
        raise ValueError(f"--threads {choice.threads}: this machine has 1 to {most}")
    return choice.threads or physical_cores()


def plain_engine(transformer: Transformer, tokens: int) -> Engine:
    """An engine with a cache for `tokens` tokens, without prefix reuse and speculation."""
    sizes = transformer.cache_bytes
    # the sliding layers' share is small, but for short contexts it is as large as the others'
    step_blocks = default_max_batched_tokens(transformer.ops) // BLOCK
    held = (blocks_for(tokens) + 1) * (sizes.full + sizes.window) + step_blocks * sizes.window
    return Engine(transformer, cache_bytes=held, prefix_bytes=0, speculate=False)


def repeat_blocks(cache: Any, count: int, filled: int) -> bool:
    """Copy a layer's first `filled` blocks over all of its `count`; False for a cache that cannot be seen into."""
    arrays = [cache.data] if hasattr(cache, "data") else [each for each in cache if each is not None]
    for array in arrays if filled < count else []:
        blocks = array.reshape(count, -1)
        for first in range(filled, count, filled):
            blocks[first : first + filled] = blocks[: min(filled, count - first)]
    return bool(arrays)


def kernels_of(choice: ResolvedChoice) -> Ops:
    """The op set that was chosen."""
    return make_ops(choice.backend, dense=choice.dense, kv=choice.kv, workers=choice.asked.threads)
