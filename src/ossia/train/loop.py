"""The training loop: step, log, save, go on where it stopped.

In: a network, batches by round, and settings. Out: trained parameters, a JSONL log, checkpoints that are never half.
It does not know what the data means or where recipes come from.

A run resumed from a checkpoint gives the same losses, to the bit on one machine, as one that was never broken off.
"""

import json
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ossia.train.data import TrainBatch
from ossia.train.network import Network, RecordingOps

Rounds = Callable[[int], list[TrainBatch]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """So many steps, from a peak rate down along a cosine."""

    steps: int
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How to step: a linear warm-up, then cycles, each a cosine from its rate down to `final_rate` of it.

    Source of the restarts: Loshchilov and Hutter, SGDR, arXiv:1608.03983.
    """

    cycles: tuple[Cycle, ...]
    warmup: int = 100
    final_rate: float = 0.05
    weight_decay: float = 0.05
    clip: float = 1.0
    balance: float = 0.01
    save_every: int = 500
    log_every: int = 20

    @property
    def steps(self) -> int:
        return sum(cycle.steps for cycle in self.cycles)

    def rate_at(self, step: int) -> float:
        first, cycle = 0, self.cycles[0]
        for later in self.cycles[1:]:
            if step < first + cycle.steps:
                break
            first, cycle = first + cycle.steps, later
        if step < self.warmup:
            return cycle.rate * (step + 1) / self.warmup
        begin = max(first, self.warmup)
        done = (step - begin) / max(1, first + cycle.steps - begin)
        return cycle.rate * (self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    """A run in a folder: `log.jsonl` and `state.pt` are there after any save."""

    def __init__(self, network: Network, rounds: Rounds, schedule: Schedule, folder: Path) -> None:
        self.network, self.rounds, self.schedule, self.folder = network, rounds, schedule, folder
        matrices = [p for p in network.parameters() if p.ndim >= 2]
        vectors = [p for p in network.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=schedule.cycles[0].rate, betas=(0.9, 0.98), eps=1e-9)
        self.step, self.round, self.place, self.tokens, self.seconds = 0, 0, 0, 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if self._state.exists():
            self._resume()

    def run(self, until: int | None = None) -> None:
        """Train to the schedule's end, or to step `until`. A SIGTERM saves and ends the process."""
        last = min(until or self.schedule.steps, self.schedule.steps)
        stopping: list[int] = []
        before = signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
        try:
            batches = self.rounds(self.round)
            while self.step < last and not stopping:
                if self.place >= len(batches):
                    self.round, self.place = self.round + 1, 0
                    batches = self.rounds(self.round)
                self._step(batches[self.place])
                if self.step % self.schedule.save_every == 0:
                    self.save()
        finally:
            signal.signal(signal.SIGTERM, before)
        self.save()
        if stopping:
            raise SystemExit(128 + stopping[0])

    def _step(self, given: TrainBatch) -> None:
        started = time.perf_counter()
        rate = self.schedule.rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        ops = RecordingOps()
        logits_RV = self.network.transformer(ops).forward(given.batch)
        loss = F.cross_entropy(logits_RV, torch.from_numpy(given.targets_R))
        balance = balance_loss(ops)
        (loss + self.schedule.balance * balance).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step, self.place = self.step + 1, self.place + 1
        self.tokens += len(given.batch.tokens_T)
        self.seconds += time.perf_counter() - started
        if self.step % self.schedule.log_every == 0 or self.step == 1:
            self._log(loss=loss.item(), balance=balance.item(), norm=norm.item(), rate=rate)

    def _log(self, **numbers: float) -> None:
        row = {"step": self.step, "tokens": self.tokens, "seconds": round(self.seconds, 1)}
        row |= {name: float(f"{value:.5g}") for name, value in numbers.items()}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        left = (self.schedule.steps - self.step) * self.seconds / self.step
        print(
            f"step {self.step} loss {row['loss']:.4f} {self.tokens / self.seconds:.0f} tok/s left {left / 60:.0f} min",
            flush=True,
        )

    @property
    def _state(self) -> Path:
        return self.folder / "state.pt"

    def save(self) -> None:
        """Written beside and renamed, so that a kill leaves the old state or the new one."""
        place = {name: getattr(self, name) for name in ("step", "round", "place", "tokens", "seconds")}
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "place": place}
        part = self._state.with_suffix(".part")
        with part.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(self._state)

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self._state, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["place"].items():
            setattr(self, name, value)
        self._drop_log_after(self.step)

    def _drop_log_after(self, step: int) -> None:
        log = self.folder / "log.jsonl"
        if log.exists():
            kept = [line for line in log.read_text("utf-8").splitlines() if json.loads(line)["step"] <= step]
            log.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def balance_loss(ops: RecordingOps) -> torch.Tensor:
    """Mean over layers of experts times the sum of (share of rows, mean probability): 1 when balanced.

    Source: Fedus et al., Switch Transformer, arXiv:2101.03961, equation 4.
    """
    losses = []
    for routing in ops.routings:
        experts = routing.logits_TE.shape[1]
        share_E = torch.bincount(routing.experts_TK.reshape(-1), minlength=experts) / routing.experts_TK.numel()
        losses.append(experts * (share_E * torch.softmax(routing.logits_TE, -1).mean(0)).sum())
    return torch.stack(losses).mean()
