"""Fake quantisation to MXFP4 and bfloat16, with a straight-through gradient.

Input: a float32 weight; MXFP4 has blocks of 32 along the last dimension. Output: the values after quantising and
unpacking. The rounding is that of `ossia.quant.quantize_mxfp4`, to the bit.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from ossia.quant import QBLOCK

LARGEST_EXPONENT = 2  # of E2M1: its largest value is 6, 1.5 times 2**2
EXPONENT_BITS = 0x7F800000  # of a float32


def fake_quantize(weight: Tensor) -> Tensor:
    """The nearest MXFP4 values, differentiable as if they were the weight itself."""
    return _straight_through(weight, mxfp4_values)


def fake_bf16(weight: Tensor) -> Tensor:
    """The nearest bfloat16 values, differentiable as if they were the weight itself."""
    return _straight_through(weight, lambda given: given.to(torch.bfloat16).to(given.dtype))


def mxfp4_values(weight: Tensor) -> Tensor:
    """The values of the weight after quantising to MXFP4."""
    out = torch.empty_like(weight)
    # a matrix at a time stays in the processor's cache; on a GPU one pass over all is quicker
    parts = zip(weight, out) if weight.ndim > 2 and weight.device.type == "cpu" else [(weight, out)]
    for given, rounded in parts:
        _round_blocks(given.reshape(-1, QBLOCK), rounded.view(-1, QBLOCK))
    return out


def _round_blocks(given: Tensor, out: Tensor) -> None:
    amax = given.abs().amax(-1, keepdim=True)
    # E2M1 has one bit of mantissa: round amax to that before taking its exponent
    shared = ((amax.view(torch.int32) + (1 << 21)) >> 23) - LARGEST_EXPONENT
    scale = torch.ldexp(torch.ones_like(amax), shared.clamp(0, 252) - 127)
    torch.div(given, scale, out=out)
    # the nearest of 0, .5, 1, 1.5, 2, 3, 4, 6, ties to even: steps of a half, of 1 from 2, of 2 from 4
    out.clamp_(-6.0, 6.0)
    step = (out.view(torch.int32) & EXPONENT_BITS).view(torch.float32).clamp_(1.0, 4.0).mul_(0.5)
    out.div_(step).round_().mul_(step).mul_(scale)


def _straight_through(weight: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    return cast(Tensor, _StraightThrough.apply(weight, rounding))


class _StraightThrough(torch.autograd.Function):
    """Rounds forward and passes the gradient on. weight + (rounded - weight) is not always equal to `rounded`."""

    @staticmethod
    def forward(ctx: object, weight: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
        return rounding(weight.detach())

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
