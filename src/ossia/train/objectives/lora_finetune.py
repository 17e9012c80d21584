"""Fine-tuning a real checkpoint with LoRA, on one process or several: what is trained, what fits, and a step of it.

In: a checkpoint, batches, a recipe's [lora]. Out: a `Work` for the loop; a run whose adapter lies in a folder, in PEFT's
format. It does not know what the data means, states or logs.

Under torchrun the base and the adapters are sharded by FSDP2 and each process takes its share of a step's batches: the
losses are those of one process.
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
from ossia.train.model.state import TrainedState, like, whole
from ossia.train.model.trainable import Targets, TrainableModel
from ossia.train.model.weights.lora import chosen, report
from ossia.train.peft.format import AdapterFile, write_adapter
from ossia.train.plan import check, free_bytes, plan
from ossia.train.recipe import CheckpointConfig, Lora, LoraConfig


class Supply(Protocol):
    """Batches without end, the same ones on every process; after `go_to` they go on as from that position."""

    @property
    def left_out(self) -> int: ...
    def next(self) -> Targets: ...
    def position(self) -> Any: ...
    def load_state_dict(self, position: Any) -> None: ...


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
    """AdamW of sharded parameters, whose state is saved by name and whole, so that any number of processes goes on."""

    def __init__(self, model: TrainableModel, given: LoraConfig) -> None:
        self._named = model.trained()
        super().__init__(self._named, given.optimizer)
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
    """A `Work`: next-token loss of the targets, by which the adapters alone change."""

    def __init__(
        self,
        model: TrainableModel,
        batches: Supply,
        given: LoraConfig,
        seed: int,
        processes: DistributedContext | None = None,
    ) -> None:
        assert model.lora is not None, "the model has adapters"
        self._lora = model.lora
        self._model, self._batches, self._given, self._seed = model, batches, given, seed
        self._processes = processes or DistributedContext()
        self.steps = given.steps
        self.optimizers: Optimizers = WholeOptimizers(model, given)

    def step(self, number: int, report: bool) -> StepResult:
        rank, count, *_ = self._processes
        given = [self._batches.next() for _ in range(self._given.accumulate)]
        targets = sum(len(each.targets_R) for each in given)
        if not targets:
            raise ValueError(f"step {number + 1}: no token of its batches is a target")
        # a step's own seed, so that dropout after a resumption is what it would have been
        torch.manual_seed((self._seed << 32) + number * count + rank)
        self._model.train()
        loss = torch.zeros((), dtype=torch.float64, device=self._processes.device)
        # FSDP2 averages gradients over processes, so each one's share of the sum counts `count` times;
        # and every process must run as often as the others
        for turn in range(0, len(given), count):
            place = min(turn + rank, len(given) - 1)
            share = 1.0 if turn + rank < len(given) else 0.0
            part = self._model(given[place]).sum() * (share / targets)
            (part * count).backward()
            loss += part.detach()
        total = float(self._processes.add(loss))
        if not math.isfinite(total):
            if name := self._model.damaged():
                raise Diverged(f"step {number + 1}: the loss is {total}: {name} holds a NaN or an infinity")
            raise Diverged(f"step {number + 1}: the loss is {total}: lower the rate, or take precision f32")
        share = lr_multiplier(self._given.schedule, number, self.steps)
        norm = float(self.optimizers.step(share))
        rows = sum(len(each.batch.tokens_T) for each in given)
        rate = self._given.optimizer.rate * share
        return StepResult(rows, {"loss": total, "norm": norm, "rate": rate, "left_out": self._batches.left_out})

    def position(self) -> Any:
        return {"batches": self._batches.position(), "lora": _plain(self._lora)}

    def load_state_dict(self, position: Any) -> None:
        if position["lora"] != (own := _plain(self._lora)):
            raise ValueError(f"this run began with {position['lora']}, not {own}: use the same, or another folder")
        self._batches.load_state_dict(position["batches"])


def finetune(
    checkpoint: Checkpoint, given: LoraConfig, batches: Supply, folder: Path, *, seed: int = 0,
    keep: CheckpointConfig | None = None,
    processes: DistributedContext | None = None, base: str = "", adapter: AdapterFile | None = None,
    say: Callable[[str], None] = print,
) -> Path:  # fmt: skip
    """Train, or go on, to the end: log and states in folder/lora, the adapter in folder/adapter, which is given back.

    What is trained and what memory it takes is said first. MemoryError, before anything is loaded, where that will not fit.
    base: the model's name or path, for whoever loads the adapter. adapter: where training begins, in its own shape.
    """
    processes = processes or DistributedContext()
    lora, dtype = adapter.lora if adapter else given, PRECISIONS[given.precision]
    fits(checkpoint.config, lora, given, processes, say, checkpoint.layout)
    model = adapted_model(checkpoint, lora, seed=seed, dtype=dtype, processes=processes, adapter=adapter)
    made = folder / "adapter"
    write = adapter_writer(made, model, base)
    work = LoraObjective(model, batches, given, seed, processes)
    Trainer("lora", TrainedState(model), work, folder / "lora", keep or CheckpointConfig(), processes, write).run()
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


def fits(
    config: ModelConfig,
    lora: Lora,
    given: LoraConfig,
    processes: DistributedContext,
    say: Callable[[str], None],
    layout: Layout = "hf",
) -> None:
    """Say what is trained and the memory that a step takes on each device; MemoryError where it is more than is free."""
    how: dict[str, Any] = {
        "itemsize": PRECISIONS[given.precision].itemsize,
        "layout": layout,
        "device": processes.device,
        "processes": processes.size,
    }
    needed = plan(config, lora, given.batch_tokens, **how)
    if processes.leads:
        say(report(chosen(config, lora), lora, config))
        say(f"memory{' of each process' if processes.size > 1 else ''} on {processes.device}\n{needed}")
    check(needed, config, lora, free_bytes(processes.device), **how)


def _plain(lora: Lora) -> dict[str, Any]:
    """Its own keys, without the stage's."""
    return {name: getattr(lora, name) for name in Lora.__dataclass_fields__}
