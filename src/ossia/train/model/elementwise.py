"""The element-wise functions of a training step, forward and backward.

Input: rows. Output: rows, in float32 or in the compute type. They run eagerly, or fused by torch.compile into one pass
over memory each.

Shape legend: T rows, D hidden, E experts, K experts a row, F expert width, U = 2F, N rows sorted by expert, n rows of one
expert, or in attention n keys that C queries of a tile attend to.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ossia.kernels.ops import SWIGLU_SLOPE

Pass = Callable[..., Any]


def _wide(x: Tensor) -> Tensor:
    """In float32, or float64 if it is that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def norm(x_TD: Tensor, scale_D: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The normed rows in `dtype`, and each row's factor [T, 1]."""
    factor_T1 = torch.rsqrt(x_TD.square().mean(-1, keepdim=True) + eps)
    return (x_TD * factor_T1 * scale_D).to(dtype), factor_T1


def norm_back(grad_TD: Tensor, x_TD: Tensor, scale_D: Tensor, factor_T1: Tensor) -> tuple[Tensor, Tensor]:
    grad_TD = _wide(grad_TD)
    scaled_TD = grad_TD * scale_D
    pulled_T1 = (scaled_TD * x_TD).mean(-1, keepdim=True) * factor_T1 * factor_T1
    return (scaled_TD - x_TD * pulled_T1) * factor_T1, (grad_TD * x_TD * factor_T1).sum(0)


def rotate(heads_Tnd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE: rotate lanes i and i + d/2. With -sin it is also the backward pass, as cos and sin share one factor."""
    a, b = _wide(heads_Tnd).chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(heads_Tnd.dtype)


def shares(scores: Tensor, sinks: Tensor, hidden: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax over keys and sink: probabilities [..., C, n] and [..., C, 1]. hidden: the additive mask, 0 or -inf."""
    wide = _wide(scores) * scale + hidden  # an additive mask, as torch.compile does not vectorise `where` here
    top = torch.maximum(wide.amax(-1, keepdim=True), sinks)
    weights, sink = torch.exp(wide - top), torch.exp(sinks - top)
    total = weights.sum(-1, keepdim=True) + sink
    return (weights / total).to(scores.dtype), sink / total


def slope(grad: Tensor, along: Tensor, shares: Tensor, scale: float) -> Tensor:
    """The gradient of the scores from that of the probabilities. along: dot of each output with its gradient."""
    return ((_wide(grad) - along) * shares * scale).to(shares.dtype)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """[..., 1]: dot product over the last dimension, in float32."""
    return (_wide(a) * _wide(b)).sum(-1, keepdim=True)


def swiglu(h_nU: Tensor, limit: float) -> Tensor:
    """SwiGLU of rows with all gates before all ups."""
    gate, up = _wide(h_nU).chunk(2, -1)
    gate = gate.clamp(max=limit)
    return (gate * torch.sigmoid(SWIGLU_SLOPE * gate) * (up.clamp(-limit, limit) + 1)).to(h_nU.dtype)


def swiglu_back(h_nU: Tensor, grad_nF: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """The gradient of `h`, and the result of `swiglu`."""
    given_gate, given_up = _wide(h_nU).chunk(2, -1)
    gate, up, grad = given_gate.clamp(max=limit), given_up.clamp(-limit, limit) + 1, _wide(grad_nF)
    share = torch.sigmoid(SWIGLU_SLOPE * gate)
    of_up = grad * gate * share * (given_up.abs() <= limit)
    of_gate = grad * up * share * (1 + SWIGLU_SLOPE * gate * (1 - share)) * (given_gate <= limit)
    return torch.cat([of_gate, of_up], -1).to(h_nU.dtype), (gate * share * up).to(h_nU.dtype)


def picked(x_TD: Tensor, rows_N: Tensor, dtype: torch.dtype) -> Tensor:
    return x_TD[rows_N].to(dtype)


def weighed(grad_TD: Tensor, rows_N: Tensor, weight_N: Tensor, dtype: torch.dtype) -> Tensor:
    return (grad_TD[rows_N] * weight_N[:, None]).to(dtype)


def combined(y_ND: Tensor, at_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """The weighted sum of each row's experts. A loop, as a sum over K would not be fused well."""
    total_TD = _wide(y_ND[at_TK[:, 0]]) * weights_TK[:, :1]
    for k in range(1, at_TK.shape[1]):
        total_TD = total_TD + _wide(y_ND[at_TK[:, k]]) * weights_TK[:, k : k + 1]
    return total_TD


def against(y_ND: Tensor, at_TK: Tensor, grad_TD: Tensor) -> Tensor:
    """[T, K]: the gradient of the weights of `combined`. One k at a time, to hold one copy of the rows."""
    return torch.stack([(_wide(y_ND[at_TK[:, k]]) * grad_TD).sum(-1) for k in range(at_TK.shape[1])], 1)


class Steps(NamedTuple):
    """The functions above, eager or compiled."""

    norm: Pass
    norm_back: Pass
    rotate: Pass
    shares: Pass
    slope: Pass
    dot: Pass
    swiglu: Pass
    swiglu_back: Pass
    picked: Pass
    weighed: Pass
    combined: Pass
    against: Pass


EAGER = Steps(
    norm, norm_back, rotate, shares, slope, dot, swiglu, swiglu_back, picked, weighed, combined, against
)  # fmt: skip


def compiled() -> Steps:
    """The functions fused by torch.compile: takes a minute once per machine, then cached. Needs a C++ compiler."""
    return Steps(*(torch.compile(each, dynamic=True, fullgraph=True) for each in EAGER))
