"""RMSNorm and projections over trained or frozen weights, as autograd functions.

Input: rows, weights, and a `ComputeConfig`. Output: the rows of `ReferenceOps`, up to the rounding of the compute type.
Autograd over the reference's code gives the same gradients, but saves three times as many arrays.

Shape legend: T rows, D hidden, R outputs of a weight, C its inputs.
"""

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


def frozen_product(x_TC: Tensor, weight: DenseWeight, bias_R: Tensor) -> Tensor:
    """x @ weight.T + bias for a frozen [1, R, C] weight. Only x has a gradient, so no activation is saved."""
    return _FrozenProduct.apply(x_TC, weight, bias_R)  # type: ignore[no-any-return]


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TC: Tensor, weight: DenseWeight, bias_R: Tensor) -> Tensor:
        ctx.weight, ctx.has_gradient = weight, ctx.needs_input_grad[0]
        out_TR, bias_R = x_TC.new_empty(len(x_TC), weight.outputs), bias_R.to(x_TC.dtype)
        for rows, values in weight.row_blocks(0, x_TC.dtype):
            out_TR[:, rows] = torch.nn.functional.linear(x_TC, values, bias_R[rows])
        return out_TR

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return input_gradient(grads[0], ctx.weight, 0) if ctx.has_gradient else None, None, None
