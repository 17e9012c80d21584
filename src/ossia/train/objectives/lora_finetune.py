"""Fine-tuning a checkpoint with LoRA, in one process or several.

Input: a checkpoint, batches, a recipe's [lora]. Output: an `Objective` for the training loop; a folder with the adapter in
PEFT's format.

Under torchrun FSDP2 shards the base and the adapters. Each process computes a part of a step's batches; the losses are
those of one process.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from ossia.model.checkpoint import Checkpoint
from ossia.model.config import ModelConfig
from ossia.model.layouts import Layout
from ossia.train.loop.distributed import DistributedContext
from ossia.train.loop.optim import Diverged, Optimizers, lr_multiplier
from ossia.train.loop.trainer import StepResult, Trainer
from ossia.train.model.autograd import ComputeConfig
from ossia.train.model.elementwise import EAGER, compiled
from ossia.train.model.state import TrainedState, like, whole
from ossia.train.model.trainable import Targets, TrainableModel
from ossia.train.model.weights.lora import chosen, report
from ossia.train.peft.format import AdapterFile, write_adapter
from ossia.train.plan import check, free_bytes, plan
from ossia.train.recipe import CheckpointConfig, Lora, LoraConfig


class BatchSource(Protocol):
    """Endless batches, the same on every process. skipped: conversations or lines that were bad or too long."""

    @property
    def skipped(self) -> int: ...
    def next(self) -> Targets: ...
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> None: ...


def adapted_model(
    checkpoint: Checkpoint, lora: Lora, *, seed: int = 0, dtype: torch.dtype = torch.bfloat16,
    processes: DistributedContext | None = None, adapter: AdapterFile | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainableModel:  # fmt: skip
    """The model, sharded over the processes, with a fresh adapter or the given one's matrices."""
    processes = processes or DistributedContext()

    def shard(module: nn.Module) -> None:
        fully_shard(module, mesh=processes.mesh)

    each = shard if processes.mesh else None
    model = TrainableModel.with_adapters(
        checkpoint,
        checkpoint.config,
        lora,
        seed=seed,
        dtype=dtype,
        device=processes.device,
        each=each,
        progress=progress,
    )
    if processes.mesh:
        shard(model)
    if adapter:
        TrainedState(model).load_state_dict(
            {name: torch.from_numpy(value.copy()) for name, value in adapter.matrices.items()}
        )
    return model


class WholeOptimizers(Optimizers):
    """AdamW of sharded parameters. Its state is saved by name and unsharded, so any number of processes can resume."""

    def __init__(self, model: TrainableModel, config: LoraConfig) -> None:
        self._named = model.trained()
        super().__init__(self._named, config.optimizer)
        ((self._adam, _),) = self._all

    def state_dict(self) -> list[dict[str, Any]]:
        return [
            {
                name: {key: whole(value) for key, value in self._adam.state.get(parameter, {}).items()}
                for name, parameter in self._named.items()
            }
        ]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        (moments,) = states
        for name, parameter in self._named.items():
            self._adam.state[parameter] = {key: like(value, parameter) for key, value in moments[name].items()}


class LoraObjective:
    """Next-token loss of the targets; only the adapters are trained."""

    def __init__(
        self,
        model: TrainableModel,
        batches: BatchSource,
        config: LoraConfig,
        seed: int,
        processes: DistributedContext | None = None,
    ) -> None:
        assert model.lora is not None, "the model has adapters"
        self._lora = model.lora
        self._model, self._batches, self._config, self._seed = model, batches, config, seed
        self._processes = processes or DistributedContext()
        self.steps = config.steps
        self.optimizers: Optimizers = WholeOptimizers(model, config)

    def step(self, number: int, report: bool) -> StepResult:
        rank, count, *_ = self._processes
        batches = [self._batches.next() for _ in range(self._config.accumulate)]
        targets = sum(len(each.targets_R) for each in batches)
        if not targets:
            raise ValueError(f"step {number + 1}: its batches have no target token")
        # a seed for each step, so that a resumed run has the same dropout
        torch.manual_seed((self._seed << 32) + number * count + rank)
        self._model.train()
        loss = torch.zeros((), dtype=torch.float64, device=self._processes.device)
        # FSDP2 averages gradients over processes, so each part is multiplied by `count`;
        # every process must run equally often
        for first in range(0, len(batches), count):
            index = min(first + rank, len(batches) - 1)
            weight = 1.0 if first + rank < len(batches) else 0.0
            part = self._model(batches[index]).sum() * (weight / targets)
            (part * count).backward()
            loss += part.detach()
        total = float(self._processes.all_reduce(loss))
        if not math.isfinite(total):
            if name := self._model.damaged():
                raise Diverged(f"step {number + 1}: the loss is {total}: {name} holds a NaN or an infinity")
            raise Diverged(f'step {number + 1}: the loss is {total}: lower lr, or set precision = "f32"')
        multiplier = lr_multiplier(self._config.schedule, number, self.steps)
        norm = float(self.optimizers.step(multiplier))
        tokens = sum(len(each.batch.tokens_T) for each in batches)
        lr = self._config.optimizer.lr * multiplier
        return StepResult(tokens, {"loss": total, "grad_norm": norm, "lr": lr, "skipped": self._batches.skipped})

    def state_dict(self) -> Any:
        return {"batches": self._batches.state_dict(), "lora": _lora_fields(self._lora)}

    def load_state_dict(self, state: Any) -> None:
        if state["lora"] != (own := _lora_fields(self._lora)):
            raise ValueError(f"this run began with {state['lora']}, not {own}: use the same, or another folder")
        self._batches.load_state_dict(state["batches"])


def finetune(
    checkpoint: Checkpoint, config: LoraConfig, batches: BatchSource, folder: Path, *, seed: int = 0,
    checkpointing: CheckpointConfig | None = None,
    processes: DistributedContext | None = None, base: str = "", adapter: AdapterFile | None = None,
    say: Callable[[str], None] = print,
) -> Path:  # fmt: skip
    """Train, or resume, to the end. Returns folder/adapter; log and states are in folder/lora.

    Prints first what is trained and the memory it takes. MemoryError, before anything is loaded, if that does not fit.
    base: the model's name or path, written to the adapter. adapter: the adapter to start from; its rank and targets count.
    """
    processes = processes or DistributedContext()
    lora, dtype = adapter.lora if adapter else config, PRECISIONS[config.precision]
    recompute = check_memory(checkpoint.config, lora, config, processes, say, checkpoint.layout)
    model = adapted_model(checkpoint, lora, seed=seed, dtype=dtype, processes=processes, adapter=adapter)
    model.compute, model.recompute = ComputeConfig(dtype, compiled() if config.compile else EAGER), recompute
    made = folder / "adapter"
    write = adapter_writer(made, model, base)
    objective = LoraObjective(model, batches, config, seed, processes)
    saving = checkpointing or CheckpointConfig()
    Trainer("lora", TrainedState(model), objective, folder / "lora", saving, processes, write).run()
    return made


def adapter_writer(folder: Path, model: TrainableModel, base: str) -> Callable[[dict[str, Tensor]], None]:
    """Writes a saved state's adapters in PEFT's format; `base` is the model's name or path."""
    assert model.lora is not None, "the model has adapters"
    lora = model.lora

    def write(state: dict[str, Tensor]) -> None:
        matrices: dict[str, NDArray[Any]] = {name: value.numpy() for name, value in state.items()}
        write_adapter(folder, model.config, lora, model.targets, matrices, base)

    return write


PRECISIONS = {"bf16": torch.bfloat16, "f32": torch.float32}


def check_memory(
    config: ModelConfig,
    lora: Lora,
    stage: LoraConfig,
    processes: DistributedContext,
    say: Callable[[str], None],
    layout: Layout = "hf",
) -> bool:
    """Print what is trained and the memory of a step on each device. MemoryError if that is more than is free.

    Returns whether blocks recompute their activations, by the stage's `recompute`.
    """
    options: dict[str, Any] = {
        "itemsize": PRECISIONS[stage.precision].itemsize,
        "layout": layout,
        "device": processes.device,
        "processes": processes.world_size,
    }
    free = free_bytes(processes.device)
    recompute = stage.recompute != "never"
    if stage.recompute == "auto":
        recompute = plan(config, lora, stage.batch_tokens, recompute=False, **options).total > free // 2
    needed = plan(config, lora, stage.batch_tokens, recompute=recompute, **options)
    if processes.is_main:
        say(report(chosen(config, lora), lora, config))
        say(f"memory{' of each process' if processes.world_size > 1 else ''} on {processes.device}\n{needed}")
    check(needed, config, lora, free, recompute=recompute, **options)
    return recompute


def _lora_fields(lora: Lora) -> dict[str, Any]:
    """The fields of `Lora`, without those of the stage."""
    return {name: getattr(lora, name) for name in Lora.__dataclass_fields__}
