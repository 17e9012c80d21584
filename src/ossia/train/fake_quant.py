"""MXFP4 in the loop: the forward pass sees the experts as they will be stored, the gradient passes straight through.

In: a float32 weight, blocks of 32 along its last dimension. Out: the values that quantizing and unpacking would give.
It does not know networks. The rounding is `ossia.quant.quantize_mxfp4`'s, to the bit.
"""

import torch
from torch import Tensor

from ossia.quant import QBLOCK

LARGEST_EXPONENT = 2  # of E2M1: its largest value is 6, 1.5 times 2**2


def fake_quantize(weight: Tensor) -> Tensor:
    """The nearest MXFP4 values, differentiable as if they were the weight itself."""
    with torch.no_grad():
        rounded = mxfp4_values(weight)
    return weight + (rounded - weight).detach()


def mxfp4_values(weight: Tensor) -> Tensor:
    """What unpacking the quantized weight gives."""
    blocks = weight.reshape(*weight.shape[:-1], -1, QBLOCK)
    amax = blocks.abs().amax(-1, keepdim=True)
    # E2M1 keeps one bit behind the point: round amax to that before taking its exponent
    shared = ((amax.view(torch.int32) + (1 << 21)) >> 23) - LARGEST_EXPONENT
    scale = torch.ldexp(torch.ones_like(amax), shared.clamp(0, 252) - 127)
    return (_e2m1(blocks / scale) * scale).reshape(weight.shape)


def _e2m1(x: Tensor) -> Tensor:
    """The nearest of 0, .5, 1, 1.5, 2, 3, 4, 6 with x's sign, ties to even: steps of a half, of 1 from 2, of 2 from 4."""
    magnitude = x.abs().clamp(max=6.0)
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
    return torch.copysign(torch.round(magnitude / step) * step, x)
