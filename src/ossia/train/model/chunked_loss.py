"""Cross-entropy over a large vocabulary, with logits of a few rows at a time and an exact gradient.

Input: hidden rows, the frozen unembedding, the target tokens. Output: each row's loss, differentiable.
"""

from typing import Any

import torch
from torch import Tensor

from ossia.train.model.weights.frozen import DenseWeight

LOGITS = 1 << 25  # logits that exist at a time


def row_losses(x_RD: Tensor, unembedding: DenseWeight, targets_R: Tensor) -> Tensor:
    """-log p of each row's target, float32 or wider. `unembedding` is [1, V, D].

    A row's loss depends only on that row. So its gradient, up to a factor, is computed with it, and no logits are saved.
    """
    return _RowLosses.apply(x_RD, unembedding, targets_R)  # type: ignore[no-any-return]


def rows_at_a_time(vocab: int) -> int:
    return max(1, LOGITS // vocab)


class _RowLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, unembedding: DenseWeight, targets_R: Tensor) -> Tensor:
        wide = torch.promote_types(x_RD.dtype, torch.float32)
        losses_R = x_RD.new_empty(x_RD.shape[0], dtype=wide)
        slopes_RD = torch.empty_like(x_RD) if ctx.needs_input_grad[0] else None
        step = rows_at_a_time(unembedding.outputs)
        for first in range(0, x_RD.shape[0], step):
            own = slice(first, first + step)
            logits_NV = _logits(x_RD[own], unembedding, wide)
            top_N = logits_NV.amax(-1, keepdim=True)
            picked_N = logits_NV.gather(1, targets_R[own, None])
            total_N = logits_NV.sub_(top_N).exp_().sum(-1, keepdim=True)
            losses_R[own] = (top_N + total_N.log() - picked_N)[:, 0]
            if slopes_RD is not None:
                # the loss's gradient in the logits: softmax minus one at the target
                slope_NV = logits_NV.div_(total_N)
                slope_NV.scatter_add_(1, targets_R[own, None], slope_NV.new_full((slope_NV.shape[0], 1), -1.0))
                slopes_RD[own] = _back(slope_NV, unembedding, x_RD.dtype)
        ctx.save_for_backward(*(() if slopes_RD is None else (slopes_RD,)))
        return losses_R

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        if not saved:
            return None, None, None
        (slopes_RD,) = saved
        return (slopes_RD * grads[0][:, None]).to(slopes_RD.dtype), None, None


def _logits(x_ND: Tensor, unembedding: DenseWeight, wide: torch.dtype) -> Tensor:
    out_NV = x_ND.new_empty(x_ND.shape[0], unembedding.outputs, dtype=wide)
    for rows, values in unembedding.row_blocks(0, x_ND.dtype):
        out_NV[:, rows] = x_ND @ values.T
    return out_NV


def _back(slope_NV: Tensor, unembedding: DenseWeight, dtype: torch.dtype) -> Tensor:
    total_ND = slope_NV.new_zeros(slope_NV.shape[0], unembedding.values.shape[2])
    for rows, values in unembedding.row_blocks(0, dtype):
        total_ND += slope_NV[:, rows].to(dtype) @ values
    return total_ND
