"""RMSNorm and projections over trained or frozen weights, as autograd functions.

Input: rows, weights, and a `ComputeConfig`. Output: the rows of `ReferenceOps`, up to the rounding of the compute type.
Autograd over the reference's code gives the same gradients, but saves three times as many arrays.

Shape legend: T rows, D hidden, R outputs of a weight, C its inputs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ossia.train.model.elementwise import EAGER, Steps
from ossia.train.model.weights.frozen import DenseWeight, input_gradient

# oneDNN compiles a kernel for each new size, which takes longer than the product. So sizes are rounded up.
ROWS = 256


class ComputeConfig(NamedTuple):
    """The type of matrix products, and the element-wise functions between them."""

    dtype: torch.dtype = torch.float32
    steps: Steps = EAGER


def rms_norm(
    x_TD: Tensor, scale_D: Tensor, eps: float, compute: ComputeConfig, dtype: torch.dtype = torch.float32
) -> Tensor:
    return _RmsNorm.apply(x_TD, scale_D, eps, compute, dtype)  # type: ignore[no-any-return]


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, scale_D: Tensor, eps: float, compute: ComputeConfig, dtype: torch.dtype
    ) -> Tensor:
        normed_TD, factor_T1 = compute.steps.norm(x_TD, scale_D, eps, dtype)
        ctx.save_for_backward(x_TD, scale_D, factor_T1)
        ctx.compute = compute
        return normed_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return *ctx.compute.steps.norm_back(grads[0], *ctx.saved_tensors), None, None, None


def product(x_TD: Tensor, weight_RD: Tensor, bias_R: Tensor | None, compute: ComputeConfig) -> Tensor:
    """x @ weight.T + bias, in the compute type. Weight and bias are trained."""
    return _Product.apply(x_TD, weight_RD, bias_R, compute)  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_RD: Tensor, bias_R: Tensor | None, compute: ComputeConfig) -> Tensor:
        rows, x_TD, weight_RD = len(x_TD), pad_rows(x_TD.to(compute.dtype)), weight_RD.to(compute.dtype)
        ctx.save_for_backward(x_TD, weight_RD)
        ctx.has_bias = bias_R is not None
        return torch.nn.functional.linear(x_TD, weight_RD, None if bias_R is None else bias_R.to(compute.dtype))[:rows]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x_TD, weight_RD = ctx.saved_tensors
        grad_TR = pad_rows(grads[0].to(x_TD.dtype))
        wide = torch.promote_types(x_TD.dtype, torch.float32)
        bias = grad_TR.sum(0, dtype=wide) if ctx.has_bias else None
        return (grad_TR @ weight_RD)[: len(grads[0])], (grad_TR.T @ x_TD).to(wide), bias, None


def pad_rows(x_TD: Tensor) -> Tensor:
    """Append rows of zeros up to a multiple of ROWS."""
    return torch.nn.functional.pad(x_TD, (0, 0, 0, -len(x_TD) % ROWS))


class LowRank(NamedTuple):
    """Adapters of a [R, C] weight: a [r, C] and b [n, r] for each run of n outputs, times `scale`."""

    outputs: slice
    a: Tensor
    b: Tensor
    scale: float


def frozen_product(
    x_TC: Tensor, weight: DenseWeight, bias_R: Tensor, updates: Sequence[LowRank] = (), kept_TC: Tensor | None = None
) -> Tensor:
    """x @ weight.T + bias for a frozen [1, R, C] weight, and its adapters' outputs.

    kept_TC: the adapters' input, if dropout makes it another. Without adapters, no activation is saved.
    """
    tensors = (*(each.a for each in updates), *(each.b for each in updates))
    places = tuple((each.outputs, each.scale) for each in updates)
    return _FrozenProduct.apply(x_TC, kept_TC, weight, bias_R, places, *tensors)  # type: ignore[no-any-return]


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TC: Tensor, kept_TC: Tensor | None, weight: DenseWeight, bias_R: Tensor,
        places: tuple[tuple[slice, float], ...], *given: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.weight, ctx.places, ctx.has_gradient = weight, places, ctx.needs_input_grad[0]
        ctx.shares_input = kept_TC is None
        out_TR, bias_R = x_TC.new_empty(len(x_TC), weight.outputs), bias_R.to(x_TC.dtype)
        for rows, values in weight.row_blocks(0, x_TC.dtype):
            out_TR[:, rows] = torch.nn.functional.linear(x_TC, values, bias_R[rows])
        if not places:
            return out_TR
        source_TC = x_TC if kept_TC is None else kept_TC
        a, b = given[: len(places)], [each.to(x_TC.dtype) for each in given[len(places) :]]
        a_sC = torch.cat(a).to(x_TC.dtype)  # s: the ranks of all adapters together
        low_Ts = source_TC @ a_sC.T
        for (rows, scale), b_nr, low_Tr in zip(places, b, low_Ts.split([len(each) for each in a], 1)):
            out_TR[:, rows].addmm_(low_Tr, b_nr.T, alpha=scale)
        ctx.save_for_backward(source_TC, low_Ts, a_sC, *b)
        return out_TR

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (grad_TR,) = grads
        of_x_TC = input_gradient(grad_TR, ctx.weight, 0) if ctx.has_gradient else None
        if not ctx.places:
            return of_x_TC, None, None, None, None
        source_TC, low_Ts, a_sC, *b = ctx.saved_tensors
        ranks, wide = [each.shape[1] for each in b], torch.promote_types(grad_TR.dtype, torch.float32)
        of_low_Ts = torch.cat([grad_TR[:, rows] @ each * scale for (rows, scale), each in zip(ctx.places, b)], 1)
        of_a = (of_low_Ts.T @ source_TC).to(wide).split(ranks)
        lows = zip(ctx.places, low_Ts.split(ranks, 1))
        of_b = [(grad_TR[:, rows].T @ low_Tr * scale).to(wide) for (rows, scale), low_Tr in lows]
        of_kept_TC = None
        if not ctx.shares_input:
            of_kept_TC = of_low_Ts @ a_sC
        elif of_x_TC is not None:
            of_x_TC.addmm_(of_low_Ts, a_sC)
        return of_x_TC, of_kept_TC, None, None, None, *of_a, *of_b
