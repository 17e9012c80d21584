"""The training loop of every stage: step, log, save a state, resume from it.

Input: trained weights and the `Objective` whose steps change them. Output: trained weights, a log, and saved states.
An objective defines what a step does.

Under torchrun all processes take the same steps. The first process writes logs and states.
A resumed run gives the same losses as an uninterrupted one, to the bit on one machine.
"""

import signal
import threading
import time
from collections.abc import Callable, Generator
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
    """Tokens that a step trained on, and metrics for the log."""

    tokens: int
    metrics: dict[str, float]


class Objective(Protocol):
    """What a stage computes in each step.

    state_dict: plain values and tensors from which the next steps follow.
    """

    steps: int
    optimizers: Optimizers

    def step(self, number: int, report: bool) -> StepResult: ...
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> None: ...


class TrainedWeights(Protocol):
    """The trained weights, saved and loaded."""

    @property
    def device(self) -> torch.device: ...
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class Trainer:
    """Runs a stage in its folder, which holds the log, the curves and the last two states.

    on_save: called by the first process before each state is saved, with the state dict of the weights.
    """

    def __init__(
        self, title: str, weights: TrainedWeights, objective: Objective, folder: Path, config: CheckpointConfig,
        processes: DistributedContext | None = None, on_save: Callable[[Any], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.weights, self.objective, self.folder, self._config = weights, objective, folder, config
        self._processes, self._on_save = processes or DistributedContext(), on_save
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if state := load_state(folder, weights.device):
            self._resume(state)
        self._processes.barrier()  # the log is cut only after all processes have read the state
        self._log = TrainingLog(folder, title, config, self.step) if self._processes.is_main else None
        self._reported = (self.tokens, self.seconds)

    def run(self, until: int | None = None) -> None:
        """Train to the end, or to step `until`. SIGTERM or Ctrl-C finishes and saves the current step, then exits."""
        last = min(until or self.objective.steps, self.objective.steps)
        first, stopped = self.step, 0
        with _stop_signals() as received:
            while self.step < last and not (stopped := self._processes.all_reduce_max(received[0] if received else 0)):
                self._take_step()
                if self.step % self._config.save_every == 0 and self.step < last:
                    self.save()
        if self.step > first:
            self.save()
        if stopped:
            raise SystemExit(128 + stopped)

    def save(self) -> None:
        weights = self.weights.state_dict()
        state = {
            "step": self.step,
            "rows": self.tokens,
            "seconds": self.seconds,
            "network": weights,
            "optimizers": self.objective.optimizers.state_dict(),
            "position": self.objective.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self._log:
            self._on_save(weights)  # first, so that a saved state is never without its adapter
            save_state(self.folder, self.step, state)
            self._log.plot()
        self._processes.barrier()

    def _take_step(self) -> None:
        started = time.perf_counter()
        report = (self.step + 1) % self._config.log_every == 0 or self.step == 0
        done = self.objective.step(self.step, report)
        self.step, self.tokens = self.step + 1, self.tokens + done.tokens
        self.seconds += time.perf_counter() - started
        if report and self._log:
            self._report(self._log, done.metrics)

    def _report(self, log: TrainingLog, metrics: dict[str, float]) -> None:
        tokens, seconds = self.tokens - self._reported[0], self.seconds - self._reported[1]
        self._reported = (self.tokens, self.seconds)
        left = (self.objective.steps - self.step) * self.seconds / self.step
        own = {"trained_tokens": self.tokens, "seconds": self.seconds, "tokens_per_second": tokens / max(seconds, 1e-9)}
        log.report(self.step, self.objective.steps, left, metrics | own)

    def _resume(self, state: dict[str, Any]) -> None:
        self.objective.load_state_dict(state["position"])  # first: it may raise
        self.weights.load_state_dict(state["network"])
        self.objective.optimizers.load_state_dict(state["optimizers"])
        self.step, self.tokens, self.seconds = state["step"], state["rows"], state["seconds"]
        torch.set_rng_state(state["random"].cpu())


@contextmanager
def _stop_signals() -> Generator[list[int]]:
    """The list of received SIGTERM and SIGINT signals. A second Ctrl-C interrupts at once.

    One Ctrl-C may arrive twice within a second: from the terminal, and forwarded by torchrun.
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
