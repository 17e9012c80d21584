"""The loop of every stage: step, report, save, go on where it stopped.

In: a network and the `Objective` that changes it. Out: trained parameters, a log, states that are never half.
It does not know what a step does, what the data means or where recipes come from.

Under torchrun all processes step alike and give their share of a state; the first writes it.
A run resumed from a state gives the same losses, to the bit on one machine, as one that was never broken off.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from ossia.train.loop.checkpoint import load_state, save_state
from ossia.train.loop.distributed import DistributedContext
from ossia.train.loop.metrics import TrainingLog
from ossia.train.loop.optim import Optimizers
from ossia.train.recipe import CheckpointConfig


class StepResult(NamedTuple):
    """What a step did: rows that were computed, and numbers for the log."""

    rows: int
    numbers: dict[str, float]


class Objective(Protocol):
    """A stage's own part. `position` is plain values and tensors; after `go_to` the steps go on as from there."""

    steps: int
    optimizers: Optimizers

    def step(self, number: int, report: bool) -> StepResult: ...
    def position(self) -> Any: ...
    def load_state_dict(self, position: Any) -> None: ...


class TrainedWeights(Protocol):
    """What is trained, as a state holds it."""

    @property
    def device(self) -> torch.device: ...
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class Trainer:
    """A stage in its folder, which holds the log, the curves and the last two states.

    beside: called at every save, by the first process, with what `network.state_dict` gave.
    """

    def __init__(
        self, title: str, network: TrainedWeights, work: Objective, folder: Path, keep: CheckpointConfig,
        processes: DistributedContext | None = None, beside: Callable[[Any], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.network, self.work, self.folder, self._keep = network, work, folder, keep
        self._processes, self._beside = processes or DistributedContext(), beside
        self.step, self.rows, self.seconds = 0, 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if state := load_state(folder, network.device):
            self._go_on(state)
        self._processes.wait()  # the log is cut only when all have read the state
        self._metrics = TrainingLog(folder, title, keep, self.step) if self._processes.leads else None
        self._reported = (self.rows, self.seconds)

    def run(self, until: int | None = None) -> None:
        """Train to the end, or to step `until`. SIGTERM or Ctrl-C: the step is finished and saved, the process ends."""
        last = min(until or self.work.steps, self.work.steps)
        first, stopped = self.step, 0
        with _noticing_signals() as noticed:
            while self.step < last and not (stopped := self._processes.most(noticed[0] if noticed else 0)):
                self._one()
                if self.step % self._keep.save_every == 0 and self.step < last:
                    self.save()
        if self.step > first:
            self.save()
        if stopped:
            raise SystemExit(128 + stopped)

    def save(self) -> None:
        weights = self.network.state_dict()
        state = {
            "step": self.step,
            "rows": self.rows,
            "seconds": self.seconds,
            "network": weights,
            "optimizers": self.work.optimizers.state_dict(),
            "position": self.work.position(),
            "random": torch.get_rng_state(),
        }
        if self._metrics:
            self._beside(weights)  # first: once a state is there, what belongs to it is never missing
            save_state(self.folder, self.step, state)
            self._metrics.draw()
        self._processes.wait()

    def _one(self) -> None:
        started = time.perf_counter()
        report = (self.step + 1) % self._keep.log_every == 0 or self.step == 0
        done = self.work.step(self.step, report)
        self.step, self.rows = self.step + 1, self.rows + done.rows
        self.seconds += time.perf_counter() - started
        if report and self._metrics:
            self._report(self._metrics, done.numbers)

    def _report(self, metrics: TrainingLog, numbers: dict[str, float]) -> None:
        rows, seconds = self.rows - self._reported[0], self.seconds - self._reported[1]
        self._reported = (self.rows, self.seconds)
        left = (self.work.steps - self.step) * self.seconds / self.step
        own = {"rows": self.rows, "seconds": self.seconds, "tokens_a_second": rows / max(seconds, 1e-9)}
        metrics.report(self.step, self.work.steps, left, numbers | own)

    def _go_on(self, state: dict[str, Any]) -> None:
        self.work.load_state_dict(state["position"])  # first: it may refuse
        self.network.load_state_dict(state["network"])
        self.work.optimizers.load_state_dict(state["optimizers"])
        self.step, self.rows, self.seconds = state["step"], state["rows"], state["seconds"]
        torch.set_rng_state(state["random"].cpu())


@contextmanager
def _noticing_signals() -> Iterator[list[int]]:
    """A list that a SIGTERM or SIGINT is added to; a second Ctrl-C interrupts at once.

    One Ctrl-C may come twice in a moment: from the terminal, and from torchrun, which passes on what it gets.
    """
    stopping: list[int] = []
    since = 0.0
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def notice(number: int, frame: object) -> None:
        nonlocal since
        if not stopping:
            stopping.append(number)
            since = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - since > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, notice) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
