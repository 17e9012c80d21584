"""Fine-tuning a real checkpoint with LoRA: step, log, save, go on where it stopped, on one process or several.

In: a checkpoint, a source of packed batches, settings and a folder. Out: the folder holds `log.jsonl`, `state.pt` and, in
`adapter/`, the adapter in PEFT's format. It does not know what the data means.

Under torchrun the base and the adapters are sharded by FSDP2 and each process takes its share of a step's batches: the
losses are those of one process. A resumed run gives the same losses, on one machine to the bit, as an unbroken one.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ossia.model.checkpoint import Checkpoint
from ossia.train.lora import Lora, chosen, report
from ossia.train.peft_format import AdapterFile, write_adapter
from ossia.train.plan import check, free_bytes, plan
from ossia.train.tunable import Tunable, TuneBatch

# the batches of a run from number n on, counted over all steps; the same ones on every process
Batches = Callable[[int], Iterator[TuneBatch]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSettings:
    """AdamW with a warm-up and a cosine; `accumulate` batches a step, over all processes together."""

    steps: int
    rate: float = 2e-4
    warmup: int = 10
    final_rate: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    accumulate: int = 1
    save_every: int = 100
    log_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if not (self.rate > 0 and self.clip > 0 and self.warmup >= 0 and 0 <= self.final_rate <= 1):
            raise ValueError("want rate and clip above 0, warmup at least 0, final_rate between 0 and 1")

    def rate_at(self, step: int) -> float:
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * done)))


class Processes(NamedTuple):
    """This process among those that torchrun started; `mesh` is None where it is alone."""

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None

    @staticmethod
    def join(device: str) -> "Processes":
        """Join the others if torchrun started this process, else be alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Processes()
        mesh = init_device_mesh(torch.device(device).type, (int(os.environ["WORLD_SIZE"]),))
        return Processes(dist.get_rank(), dist.get_world_size(), mesh)


def tunable(
    checkpoint: Checkpoint, lora: Lora, *, seed: int = 0, dtype: torch.dtype = torch.bfloat16, device: str = "cpu",
    processes: Processes | None = None, adapter: AdapterFile | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tunable:  # fmt: skip
    """The network, sharded over the processes, with a fresh adapter or the given one's matrices."""
    mesh = (processes or Processes()).mesh

    def shard(module: nn.Module) -> None:
        fully_shard(module, mesh=mesh)

    each = shard if mesh else None
    network = Tunable(checkpoint, lora, seed=seed, dtype=dtype, device=device, each=each, progress=progress)
    if mesh:
        fully_shard(network, mesh=mesh)
    if adapter:
        put(network, {name: torch.from_numpy(value.copy()) for name, value in adapter.matrices.items()})
    return network


class Finetuner:
    """A run in a folder. All processes call the same methods; the first alone writes."""

    def __init__(
        self, network: Tunable, batches: Batches, settings: TuneSettings, folder: Path, base: str = "",
        processes: Processes | None = None,
    ) -> None:  # fmt: skip
        self.network, self.batches, self.settings, self.folder, self.base = network, batches, settings, folder, base
        self.processes = processes or Processes()
        groups = [{"params": list(network.trained().values())}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=settings.rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
        )
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if self._state.exists():
            self._resume()

    def run(self, until: int | None = None) -> None:
        """Train to the settings' end, or to step `until`, and save. ValueError when the batches end before."""
        last = min(until or self.settings.steps, self.settings.steps)
        source = self.batches(self.step * self.settings.accumulate)
        self.network.train()
        while self.step < last:
            given = list(islice(source, self.settings.accumulate))
            if len(given) < self.settings.accumulate:
                raise ValueError(
                    f"the batches end at step {self.step} of {self.settings.steps}: repeat them or take fewer steps"
                )
            self._step(given)
            if self.step % self.settings.save_every == 0 and self.step < last:
                self.save()
        self.save()

    def _step(self, given: Sequence[TuneBatch]) -> None:
        started, (rank, count, _) = time.perf_counter(), self.processes
        targets = sum(len(each.targets_R) for each in given)
        if not targets:
            raise ValueError(f"step {self.step + 1}: no token of its batches is a target")
        # a step's own seed, so that dropout after a resumption is what it would have been
        torch.manual_seed((self.settings.seed << 32) + self.step * count + rank)
        rate = self.settings.rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), dtype=torch.float64)
        # FSDP2 averages gradients over processes, so each one's share of the sum counts `count` times;
        # and every process must run as often as the others
        for turn in range(0, len(given), count):
            place = min(turn + rank, len(given) - 1)
            share = 1.0 if turn + rank < len(given) else 0.0
            loss = self.network(given[place]).sum() * (share / targets)
            (loss * count).backward()
            total += loss.detach().double().cpu()
        if count > 1:
            dist.all_reduce(total)
        norm = nn.utils.clip_grad_norm_(self.network.trained().values(), self.settings.clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not math.isfinite(float(total)) or not math.isfinite(float(norm)):
            raise FloatingPointError(
                f"step {self.step + 1}: loss {float(total):g}, gradient {float(norm):g}: lower the rate, or train in float32"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += sum(len(each.batch.tokens_T) for each in given)
        self.seconds += time.perf_counter() - started
        if self.step % self.settings.log_every == 0 or self.step == 1:
            self._log(loss=float(total), norm=float(norm), rate=rate)

    def _log(self, **numbers: float) -> None:
        if self.processes.rank:
            return
        row = {"step": self.step, "tokens": self.tokens, "seconds": round(self.seconds, 3), **numbers}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")

    @property
    def _state(self) -> Path:
        return self.folder / "state.pt"

    def save(self) -> None:
        """Written beside and renamed, so that a kill leaves the old state or the new one."""
        trained = {name: whole(value) for name, value in self.network.trained().items()}
        moments = {
            name: {key: whole(value) for key, value in self.optimizer.state.get(parameter, {}).items()}
            for name, parameter in self.network.trained().items()
        }
        if self.processes.rank == 0:
            place = {name: getattr(self, name) for name in ("step", "tokens", "seconds")}
            lora = asdict(self.network.lora)
            part = self._state.with_suffix(".part")
            with part.open("wb") as stream:
                torch.save({"trained": trained, "moments": moments, "place": place, "lora": lora}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(self._state)
            matrices: dict[str, NDArray[Any]] = {name: value.numpy() for name, value in trained.items()}
            network = self.network
            write_adapter(self.folder / "adapter", network.config, network.lora, network.targets, matrices, self.base)
        if self.processes.size > 1:
            dist.barrier()

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self._state, weights_only=True, map_location="cpu")
        if state["lora"] != asdict(self.network.lora):
            raise ValueError(
                f"{self._state}: was made with {state['lora']}: go on with the same, or choose another folder"
            )
        put(self.network, state["trained"])
        for name, parameter in self.network.trained().items():
            moments = state["moments"][name]
            self.optimizer.state[parameter] = {key: _like(value, parameter) for key, value in moments.items()}
        for name, value in state["place"].items():
            setattr(self, name, value)
        log = self.folder / "log.jsonl"
        if log.exists() and self.processes.rank == 0:
            kept = [line for line in log.read_text("utf-8").splitlines() if json.loads(line)["step"] <= self.step]
            log.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def finetune(
    checkpoint: Checkpoint, lora: Lora, batches: Batches, settings: TuneSettings, folder: Path, *, tokens: int,
    dtype: torch.dtype = torch.bfloat16, device: str = "cpu", base: str = "", say: Callable[[str], None] = print,
    adapter: AdapterFile | None = None,
) -> Finetuner:  # fmt: skip
    """Say what is trained and what memory it takes, refuse what will not fit, train (or go on) to the end.

    `tokens` is the most that a batch has. MemoryError before anything is loaded; the adapter lies in folder/adapter.
    """
    processes = Processes.join(device)
    how: dict[str, Any] = {
        "itemsize": dtype.itemsize,
        "layout": checkpoint.layout,
        "device": device,
        "processes": processes.size,
    }
    needed = plan(checkpoint.config, lora, tokens, **how)
    if processes.rank == 0:
        say(report(chosen(checkpoint.config, lora), lora, checkpoint.config))
        say(str(needed))
    check(needed, checkpoint.config, lora, free_bytes(device), **how)
    network = tunable(
        checkpoint, lora, seed=settings.seed, dtype=dtype, device=device, processes=processes, adapter=adapter
    )
    run = Finetuner(network, batches, settings, folder, base, processes)
    run.run()
    return run


def whole(value: Tensor) -> Tensor:
    """A tensor of every process's share, on the CPU. All processes must ask."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu()


def put(network: Tunable, trained: dict[str, Tensor]) -> None:
    """Set every trained parameter; KeyError's cause is an adapter for other weights."""
    own = network.trained()
    if own.keys() != trained.keys():
        raise ValueError(f"the adapter is for other weights: {', '.join(sorted(own.keys() ^ trained.keys())[:5])}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(_like(trained[name], parameter))


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """On the parameter's device and sharded as it is; a count of steps stays a plain number."""
    if value.ndim == 0:
        return value
    if isinstance(parameter, DTensor):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.to(parameter.device)


def matrices(network: Tunable) -> dict[str, NDArray[np.float32]]:
    """The adapters' matrices on the host: what `write_adapter` and merging take."""
    return {name: whole(value).numpy() for name, value in network.trained().items()}
