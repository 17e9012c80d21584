"""The ops of training: `ReferenceOps` with cheaper gradients, over trained or frozen weights.

Input: a batch's rows and weight objects. `Linear` and `Experts` are trained; `FrozenLinear` and `FrozenExperts` are not,
but may have adapters. Output: rows, and each layer's routing for the load-balancing loss.

The residual, softmax and routing are in float32, so that the router chooses as in inference. Matrix products are in the
compute type. Use one object for one batch.

Shape legend: T rows, D hidden, C inputs, R outputs of a weight, E experts, K experts a row, H query heads.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ossia.kernels.ops import Batch, Rope
from ossia.kernels.reference import Attention, Experts, Linear, ReferenceOps, Routing
from ossia.train.model.attention import Packings, packings
from ossia.train.model.attention import attention as packed_attention
from ossia.train.model.autograd import ComputeConfig, LowRank, frozen_product, product, rms_norm
from ossia.train.model.experts import FrozenExperts, experts, sort_rows
from ossia.train.model.weights.frozen import DenseWeight
from ossia.train.model.weights.lora import Adapter

# An expert's rows are padded to a multiple of FILL: see `autograd.ROWS`. Frozen experts with few rows take SMALL_FILL,
# since FILL would add too many.
FILL, SMALL_FILL = 64, 16


class FrozenLinear(NamedTuple):
    """A frozen [1, R, C] weight and its bias. parts: number of outputs and their adapter, in order (None: no adapter)."""

    weight: DenseWeight
    bias_R: Tensor
    parts: tuple[tuple[int, Adapter | None], ...]

    def __call__(self, x_TC: Tensor) -> Tensor:
        updates: list[LowRank] = []
        dropouts: set[float] = set()
        first = 0
        for rows, adapter in self.parts:
            if adapter is not None:
                updates.append(LowRank(slice(first, first + rows), adapter.a, adapter.b, adapter.scale))
                dropouts.add(adapter.dropout if adapter.training else 0.0)
            first += rows
        dropout = max(dropouts, default=0.0)
        kept_TC = F.dropout(x_TC, dropout) if dropout else None
        return frozen_product(x_TC, self.weight, self.bias_R, updates, kept_TC)


class TrainingOps(ReferenceOps):
    """Ops for one forward pass of one batch, without a cache."""

    name = "training"

    def __init__(self, device: str = "cpu", compute: ComputeConfig | None = None) -> None:
        self.compute = compute or ComputeConfig()
        super().__init__(torch.promote_types(self.compute.dtype, torch.float32), device)
        self.routings: list[Routing] = []
        self._packings: dict[Rope, Packings] = {}

    def norm(self, x_TD: Tensor, norm_D: Tensor, eps: float) -> Tensor:
        return rms_norm(x_TD, norm_D.to(self.dtype), eps, self.compute, self.dtype)

    def norm_linear(self, x_TD: Tensor, norm_D: Tensor, eps: float, weight: Linear | FrozenLinear) -> Tensor:
        normed_TD = rms_norm(x_TD, norm_D.to(self.dtype), eps, self.compute, self.compute.dtype)
        return self._multiply(normed_TD, weight)

    def linear_add(self, x: Tensor, weight: Linear | FrozenLinear, residual_TD: Tensor) -> Tensor:
        return residual_TD + self._multiply(x, weight)

    def attend(self, qkv: Tensor, attention: Attention, cache: object, batch: Batch, prefetch: object = None) -> Tensor:
        if cache is not None:
            raise ValueError("training has no KV cache: pass cache=None")
        shape = attention.shape
        if shape.rope not in self._packings:
            self._packings[shape.rope] = packings(batch, shape, self.device)
        sinks_H = attention.sinks_H.to(self.dtype)
        return packed_attention(qkv, sinks_H, shape, self._packings[shape.rope], self.compute)

    def route(self, x_TD: Tensor, norm_D: Tensor, eps: float, router: Linear | FrozenLinear, k: int) -> Routing:
        normed_TD = self.norm(x_TD, norm_D, eps)
        is_trained = isinstance(router, Linear)
        logits_TE = F.linear(normed_TD, *router) if is_trained else router(normed_TD)
        best_TK, experts_TK = torch.topk(logits_TE, k, dim=-1)
        routing = Routing(normed_TD, experts_TK, torch.softmax(best_TK, dim=-1), logits_TE)
        if is_trained:  # only trained routers have a load-balancing loss
            self.routings.append(routing)
        return routing

    def experts_add(
        self, routing: Routing, up: Experts | FrozenExperts, down: Experts | FrozenExperts, limit: float,
        residual_TD: Tensor,
    ) -> Tensor:  # fmt: skip
        count = routing.logits_TE.shape[1]
        has_few_rows = routing.experts_TK.numel() < 4 * FILL * count
        fill = SMALL_FILL if has_few_rows and not isinstance(up, Experts) else FILL
        rows = sort_rows(routing.experts_TK, count, fill)
        return residual_TD + experts(routing.x_TD, routing.weights_TK, up, down, rows, limit, self.compute)

    def unembed(self, x_TD: Tensor, rows_R: NDArray[np.int32], norm_D: Tensor, eps: float, table: Linear) -> Tensor:
        return self.norm_linear(x_TD[self._index(rows_R)], norm_D, eps, table).to(self.dtype)

    def _multiply(self, x_TC: Tensor, weight: Linear | FrozenLinear) -> Tensor:
        if isinstance(weight, Linear):
            return product(x_TC, weight.weight_RD, weight.bias_R, self.compute)
        return weight(x_TC)
