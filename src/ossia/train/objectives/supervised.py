"""Next-token loss: pre-training and supervised fine-tuning.

Input: a model, batches, a stage's settings. Output: an `Objective` for the training loop.

Under torchrun each process computes a part of a step's batches. Gradients are summed, so all processes take the same step.
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
from ossia.train.objectives.balance import load_balancing_loss, router_metrics
from ossia.train.recipe import SupervisedConfig


class NextTokenObjective:
    """Cross-entropy of the targets, plus the router's load-balancing loss. A step takes `accumulate` batches.

    Raises ValueError if `accumulate` is not a multiple of the number of processes.
    """

    def __init__(
        self,
        model: TrainableModel,
        batches: Batches,
        settings: SupervisedConfig,
        processes: DistributedContext | None = None,
    ) -> None:
        self._processes = processes or DistributedContext()
        if settings.accumulate % (size := self._processes.world_size):
            raise ValueError(f"accumulate = {settings.accumulate} must be a multiple of the {size} processes")
        self._model, self._batches, self._settings = model, batches, settings
        self.steps = settings.steps
        self._compute = compute_config(settings.precision, settings.compile, model.device)
        self.optimizers = Optimizers(model.trained(), settings.optimizer, self._processes)

    def step(self, number: int, report: bool) -> StepResult:
        settings = self._settings
        batches = [self._batches.next() for _ in range(settings.accumulate)]
        targets = sum(len(each.targets_R) for each in batches)
        loss, ops = torch.zeros((), device=self._model.device), TrainingOps()
        for each in batches[self._processes.rank :: self._processes.world_size]:
            ops = TrainingOps(str(self._model.device), self._compute)
            part = self._model.loss_sum(each, ops, settings.rounding) / targets
            share = len(each.targets_R) / targets
            (part + settings.router_aux_loss_coef * share * load_balancing_loss(ops.routings)).backward()
            loss += part.detach()
        self._processes.all_reduce_gradients(self._model.trained().values())
        loss = self._processes.all_reduce(loss)
        multiplier = lr_multiplier(settings.schedule, number, self.steps)
        norm = self.optimizers.step(multiplier)
        tokens = sum(len(each.batch.tokens_T) for each in batches)
        if not report:
            return StepResult(tokens, {})
        metrics = {"loss": loss.item(), "grad_norm": norm.item(), "lr": settings.optimizer.lr * multiplier}
        return StepResult(tokens, metrics | router_metrics(ops.routings) | {"skipped": self._batches.skipped})

    def state_dict(self) -> Any:
        return self._batches.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self._batches.load_state_dict(state)


def compute_config(precision: str, fused: bool, device: torch.device) -> ComputeConfig:
    dtype = torch.bfloat16 if is_bf16(precision, device) else torch.float32
    return ComputeConfig(dtype, compiled() if fused else EAGER)


def is_bf16(precision: str, device: torch.device) -> bool:
    """Whether matrix products are computed in bfloat16. "auto": on a GPU that supports it."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"
