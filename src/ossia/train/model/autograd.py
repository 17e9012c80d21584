"""RMSNorm and projections over trained or frozen weights, as autograd functions.

Input: rows, weights, and a `ComputeConfig`. Output: the rows of `ReferenceOps`, up to the rounding of the compute type.
Autograd over the reference's code gives the same gradients, but saves three times as many arrays.

Shape legend: T rows, D hidden, R outputs of a weight, C its inputs, n outputs of an adapter, r its rank,
s the ranks of several.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
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
    """All adapters together are one pair of matrices: a [s, C] below each other, and b [R, s] with zeros elsewhere.

    s: the ranks of all adapters together. So each step is one product, whose cost hardly depends on s.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TC: Tensor, kept_TC: Tensor | None, weight: DenseWeight, bias_R: Tensor,
        places: tuple[tuple[slice, float], ...], *given: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.weight, ctx.places, ctx.has_gradient = weight, places, ctx.needs_input_grad[0]
        ctx.shares_input = kept_TC is None
        count, x_TC = len(x_TC), pad_rows(x_TC)
        out_TR, bias_R = x_TC.new_empty(len(x_TC), weight.outputs), bias_R.to(x_TC.dtype)
        for rows, values in weight.row_blocks(0, x_TC.dtype):
            torch.addmm(bias_R[rows], x_TC, values.T, out=out_TR[:, rows])
        if not places:
            return out_TR[:count]
        source_TC = x_TC if kept_TC is None else pad_rows(kept_TC)
        a, b = given[: len(places)], given[len(places) :]
        a_sC = torch.cat(a).to(x_TC.dtype)
        b_Rs = x_TC.new_zeros(weight.outputs, len(a_sC))
        for (rows, scale), ranks, b_nr in zip(places, _runs(a), b):
            b_Rs[rows, ranks] = b_nr * scale
        low_Ts = source_TC @ a_sC.T
        out_TR.addmm_(low_Ts, b_Rs.T)
        ctx.runs = _runs(a)
        ctx.save_for_backward(source_TC, low_Ts, a_sC, b_Rs)
        return out_TR[:count]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        count, grad_TR = len(grads[0]), pad_rows(grads[0])
        of_x_TC = input_gradient(grad_TR, ctx.weight, 0) if ctx.has_gradient else None
        if not ctx.places:
            return None if of_x_TC is None else of_x_TC[:count], None, None, None, None
        source_TC, low_Ts, a_sC, b_Rs = ctx.saved_tensors
        wide = torch.promote_types(grad_TR.dtype, torch.float32)
        of_low_Ts = grad_TR @ b_Rs
        of_a = (of_low_Ts.T @ source_TC).to(wide).split([ranks.stop - ranks.start for ranks in ctx.runs])
        of_b_sR = low_Ts.T @ grad_TR
        of_b = [of_b_sR[ranks, rows].T.to(wide) * scale for (rows, scale), ranks in zip(ctx.places, ctx.runs)]
        of_kept_TC = None
        if not ctx.shares_input:
            of_kept_TC = (of_low_Ts @ a_sC)[:count]
        elif of_x_TC is not None:
            of_x_TC.addmm_(of_low_Ts, a_sC)
        return None if of_x_TC is None else of_x_TC[:count], of_kept_TC, None, None, None, *of_a, *of_b


def _runs(a: Sequence[Tensor]) -> list[slice]:
    """The ranks of each adapter among those of all."""
    ends = list(accumulate((len(each) for each in a), initial=0))
    return [slice(first, last) for first, last in pairwise(ends)]
