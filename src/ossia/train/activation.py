"""SwiGLU whose gradient keeps nothing but its input and works on a block of rows at a time.

In: rows of gates and ups by turns. Out: gated rows, half as wide; the same numbers as `reference.swiglu`, in float32
inside. It does not know experts or weights.
"""

from typing import Any

import torch
from torch import Tensor

from ossia.kernels import SWIGLU_SLOPE
from ossia.kernels.reference import swiglu

ELEMENTS = 1 << 20  # of the input, worked on at a time


def lean_swiglu(x_MU: Tensor, limit: float) -> Tensor:
    return _LeanSwiglu.apply(x_MU, limit)  # type: ignore[no-any-return]


class _LeanSwiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MU: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(x_MU)
        ctx.limit = limit
        out = x_MU.new_empty(x_MU.shape[0], x_MU.shape[1] // 2)
        for rows in _blocks(x_MU):
            out[rows] = swiglu(_wide(x_MU[rows]), limit)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (x_MU,), limit = ctx.saved_tensors, ctx.limit
        out = torch.empty_like(x_MU)
        for rows in _blocks(x_MU):
            x, grad = _wide(x_MU[rows]), _wide(grads[0][rows])
            gate, up = x[:, ::2].clamp(max=limit), x[:, 1::2].clamp(-limit, limit)
            share = torch.sigmoid(SWIGLU_SLOPE * gate)
            out[rows, 1::2] = grad * gate * share * (x[:, 1::2].abs() <= limit)
            slope = share * (1 + SWIGLU_SLOPE * gate * (1 - share)) * (x[:, ::2] <= limit)
            out[rows, ::2] = grad * (up + 1) * slope
        return out, None


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _blocks(x_MU: Tensor) -> list[slice]:
    step = max(1, ELEMENTS // max(1, x_MU.shape[1]))
    return [slice(first, first + step) for first in range(0, x_MU.shape[0], step)]
