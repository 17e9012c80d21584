"""Next-token loss: pre-training and supervised fine-tuning, a step at a time.

In: a network, batches, a stage's settings. Out: a `Work` for the loop.
It does not know where data comes from, states or logs.

Under torchrun each process takes its share of a step's batches, and all make the same step with the sum of their gradients.
"""

from typing import Any

import torch

from ossia.train.data.batches import Batches
from ossia.train.loop.distributed import DistributedContext
from ossia.train.loop.optim import Optimizers, lr_multiplier
from ossia.train.loop.trainer import StepResult
from ossia.train.model.autograd import ComputeConfig
from ossia.train.model.elementwise import EAGER, compiled
from ossia.train.model.ops import TrainingOps
from ossia.train.model.trainable import TrainableModel
from ossia.train.objectives.balance import balance_loss, router_figures
from ossia.train.recipe import SupervisedConfig


class NextTokenObjective:
    """A `Work`: cross-entropy of the targets, plus the experts' balance. A step takes `accumulate` batches as one.

    Raises ValueError where those cannot be shared out evenly among the processes.
    """

    def __init__(
        self,
        model: TrainableModel,
        batches: Batches,
        settings: SupervisedConfig,
        processes: DistributedContext | None = None,
    ) -> None:
        self._processes = processes or DistributedContext()
        if settings.accumulate % (size := self._processes.size):
            raise ValueError(
                f"accumulate = {settings.accumulate} batches cannot be shared by {size} processes: take a multiple"
            )
        self._model, self._batches, self._settings = model, batches, settings
        self.steps = settings.steps
        self._compute = compute_config(settings.precision, settings.compile, model.device)
        self.optimizers = Optimizers(model.trained(), settings.optimizer, self._processes)

    def step(self, number: int, report: bool) -> StepResult:
        settings = self._settings
        batches = [self._batches.next() for _ in range(settings.accumulate)]
        targets = sum(len(each.targets_R) for each in batches)
        loss, ops = torch.zeros((), device=self._model.device), TrainingOps()
        for each in batches[self._processes.rank :: self._processes.size]:
            ops = TrainingOps(str(self._model.device), self._compute)
            part = self._model.loss_sum(each, ops, settings.rounding) / targets
            share = len(each.targets_R) / targets
            (part + settings.balance * share * balance_loss(ops.routings)).backward()
            loss += part.detach()
        self._processes.add_gradients(self._model.trained().values())
        loss = self._processes.add(loss)
        share = lr_multiplier(settings.schedule, number, self.steps)
        norm = self.optimizers.step(share)
        rows = sum(len(each.batch.tokens_T) for each in batches)
        if not report:
            return StepResult(rows, {})
        own = {"loss": loss.item(), "norm": norm.item(), "rate": settings.optimizer.rate * share}
        return StepResult(rows, own | router_figures(ops.routings) | {"left_out": self._batches.left_out})

    def position(self) -> Any:
        return self._batches.position()

    def load_state_dict(self, position: Any) -> None:
        self._batches.load_state_dict(position)


def compute_config(precision: str, fused: bool, device: torch.device) -> ComputeConfig:
    dtype = torch.bfloat16 if is_bf16(precision, device) else torch.float32
    return ComputeConfig(dtype, compiled() if fused else EAGER)


def is_bf16(precision: str, device: torch.device) -> bool:
    """Whether matrix products are computed in bfloat16: when told, or where a GPU has it."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"
