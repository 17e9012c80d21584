"""Optimizers: AdamW, Muon for the matrices inside layers, and the learning-rate schedule.

Input: parameters by name, and the recipe's [STAGE.optimizer]. Output: an optimizer whose state can be saved and loaded.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ossia.train.loop.distributed import DistributedContext
from ossia.train.recipe import OptimizerConfig, ScheduleConfig

# Quintic polynomial; its iteration brings all singular values near 1.
# Source: Jordan et al., Muon, kellerjordan.github.io/posts/muon
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
MUON_MATRICES = ("qkv_weight", "out_weight", "up_weight", "down_weight")
FINAL_NORM = "norm"


class Diverged(ValueError):
    """Training cannot continue: a loss or a gradient is not finite."""


def lr_multiplier(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """The learning rate at `step` (from 0) of `steps`, as a ratio of the peak."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps - 1)
    match schedule.shape:
        case "constant":
            return 1.0
        case "cosine":
            left = 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            left = 1 - done
        case "wsd":
            falling = max(1, round(schedule.decay_ratio * steps))
            left = min(1.0, (steps - 1 - step) / falling)
    return schedule.min_lr_ratio + (1 - schedule.min_lr_ratio) * left


class Optimizers:
    """AdamW and, if the recipe says so, Muon, used as one optimizer.

    ValueError for a logit_scale_lr when the final norm is not trained.
    """

    def __init__(
        self, named: Mapping[str, Tensor], given: OptimizerConfig, processes: DistributedContext | None = None
    ) -> None:
        def is_muon(name: str) -> bool:
            return given.kind == "muon" and name.rpartition(".")[2] in MUON_MATRICES

        others = {name: p for name, p in named.items() if not is_muon(name)}
        matrices = [p for p in others.values() if p.ndim >= 2]
        vectors = [p for p in others.values() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": given.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        rates = [given.lr, given.lr]
        self._logit_scale = None
        if given.logit_scale_lr is not None:
            self._logit_scale = LogitScale(named)
            groups.append({"params": [self._logit_scale.log], "weight_decay": 0.0})
            rates.append(given.logit_scale_lr)
        adam = torch.optim.AdamW(groups, lr=given.lr, betas=(given.beta1, given.beta2), eps=given.eps, fused=True)
        self._all: list[tuple[torch.optim.Optimizer, list[float]]] = [(adam, rates)]
        if hidden := [p for name, p in named.items() if is_muon(name)]:
            muon = Muon(hidden, given.muon_lr, given.momentum, given.weight_decay, processes)
            self._all.append((muon, [given.muon_lr]))
        self._parameters, self._clip = list(named.values()), given.max_grad_norm

    def step(self, lr_multiplier: float) -> Tensor:
        """Clip the gradients, step, and clear the gradients. Returns the gradients' norm before clipping.

        Raises Diverged, and changes nothing, if that norm is not finite.
        """
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not torch.isfinite(norm):
            raise Diverged("a gradient is not finite: lower lr, or resume from an earlier state")
        if self._logit_scale:
            self._logit_scale.take_gradient()
        for optimizer, rates in self._all:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * lr_multiplier
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self._logit_scale:
            self._logit_scale.apply()
        return norm

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer, _ in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        if len(states) != len(self._all):
            raise ValueError(
                "the saved state is of another kind of optimizer: use the recipe's old kind, or another folder"
            )
        for (optimizer, _), state in zip(self._all, states):
            optimizer.load_state_dict(state)


class LogitScale:
    """A scale on all logits. Its logarithm is trained; after each step it is multiplied into the final norm's weight.

    Raises ValueError if that weight is not trained.
    """

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        if FINAL_NORM not in named:
            raise ValueError("logit_scale_lr is set, but the final norm is not trained: remove logit_scale_lr")
        self._scale_D = named[FINAL_NORM]
        self.log = torch.zeros((), device=self._scale_D.device)

    def take_gradient(self) -> None:
        if self._scale_D.grad is not None:
            self.log.grad = (self._scale_D.grad * self._scale_D.detach()).sum()

    @torch.no_grad()
    def apply(self) -> None:
        self._scale_D.mul_(self.log.exp())
        self.log.zero_()


class Muon(torch.optim.Optimizer):
    """Momentum with an orthogonalised step for each matrix, or for each slice of a stack [E, R, C].

    Every process has the same gradients and orthogonalises a part of the matrices.
    The step is scaled to AdamW's root mean square, about 0.2, so that one learning rate fits both.
    Source: Jordan et al., Muon (2024); the scale: Liu et al., arXiv:2502.16982, equation 4.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float, weight_decay: float,
        processes: DistributedContext | None = None,
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._processes = processes or DistributedContext()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            rate, given = group["lr"], [p for p in group["params"] if p.grad is not None]
            updates = [self._nesterov(p, group["momentum"]) for p in given]
            for p, made in zip(given, self._processes.map_sharded(updates, orthogonal)):
                p.mul_(1 - rate * group["weight_decay"])
                p.add_(made, alpha=-rate * 0.2 * max(p.shape[-2:]) ** 0.5)

    def _nesterov(self, p: Tensor, momentum: float) -> Tensor:
        """Update the momentum; return the Nesterov step."""
        assert p.grad is not None
        if "momentum" not in self.state[p]:
            self.state[p]["momentum"] = torch.zeros_like(p)
        kept: Tensor = self.state[p]["momentum"]
        kept.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(kept, momentum)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximately the closest matrix with all singular values 1; of a stack, for each slice. In bfloat16."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(torch.bfloat16, memory_format=torch.contiguous_format)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    plus_product = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = plus_product(x, plus_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
