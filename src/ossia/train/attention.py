"""Attention with sinks for training: a block of queries at a time, probabilities computed again for the gradient.

In: rotated queries, keys and values of packed sequences. Out: what each query attends to.
It does not know projections, positions or caches. Memory grows with the length, never with its square.

Shape legend: T rows, H query heads, G key/value heads, M = H / G, d head width, C queries of a block, N keys it sees.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SCORES = 1 << 23  # scores computed at a time, over all heads


def packed_attention(
    q_THd: Tensor, k_TGd: Tensor, v_TGd: Tensor, starts_S1: NDArray[np.int32], window: int, sinks_H: Tensor
) -> Tensor:
    """[T, H, d]; row t sees the rows of its own sequence up to itself, the last `window` of them (0: all)."""
    out = []
    for first, last in zip(starts_S1[:-1].tolist(), starts_S1[1:].tolist()):
        for begin, end, seen in query_blocks(last - first, window, q_THd.shape[1]):
            keys = slice(first + seen, first + end)
            part: Tensor = checkpoint(
                _block, q_THd[first + begin : first + end], k_TGd[keys], v_TGd[keys], begin - seen, window, sinks_H,
                use_reentrant=False, preserve_rng_state=False,
            )  # type: ignore[assignment]  # fmt: skip
            out.append(part)
    return torch.cat(out)


def query_blocks(length: int, window: int, heads: int) -> list[tuple[int, int, int]]:
    """Blocks of queries [begin, end) and the first key any of them sees, so that the scores stay under `SCORES`."""
    blocks, begin = [], 0
    while begin < length:
        seen = max(0, begin - window + 1) if window else 0
        # a block of C queries has C + begin - seen keys: the larger root of C * (C + before) = room
        before, room = begin - seen, SCORES // heads
        count = max(1, int((before * before + 4 * room) ** 0.5 - before) // 2)
        if window:
            count = min(count, max(window, 256))  # most of a larger square would be masked
        end = min(length, begin + count)
        blocks.append((begin, end, seen))
        begin = end
    return blocks


def _block(q_CHd: Tensor, k_NGd: Tensor, v_NGd: Tensor, offset: int, window: int, sinks_H: Tensor) -> Tensor:
    """The sink is one more column of the softmax, which is dropped. Query c stands at key `offset + c`."""
    c, heads, d = q_CHd.shape
    n, groups, _ = k_NGd.shape
    q_GMCd = q_CHd.reshape(c, groups, heads // groups, d).permute(1, 2, 0, 3)
    k_G1dN, v_G1Nd = k_NGd.permute(1, 2, 0)[:, None], v_NGd.transpose(0, 1)[:, None]
    wide = torch.promote_types(q_CHd.dtype, torch.float32)
    scores_GMCN = (q_GMCd @ k_G1dN).to(wide) * d**-0.5
    distance_CN = torch.arange(offset, offset + c, device=q_CHd.device)[:, None] - torch.arange(n, device=q_CHd.device)
    hidden_CN = distance_CN < 0
    if window:
        hidden_CN = hidden_CN | (distance_CN >= window)
    scores_GMCN = scores_GMCN.masked_fill(hidden_CN, -torch.inf)
    sinks_GM1 = sinks_H.reshape(groups, -1, 1).to(wide)
    total_GMC = torch.logaddexp(torch.logsumexp(scores_GMCN, -1), sinks_GM1)
    shares_GMCN = torch.exp(scores_GMCN - total_GMC[..., None]).to(q_CHd.dtype)
    return (shares_GMCN @ v_G1Nd).permute(2, 0, 1, 3).reshape(c, heads, d)
