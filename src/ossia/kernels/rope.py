"""Rotary embedding frequencies with YaRN scaling, for all backends.

In: a `Rope` and a head width. Out: one inverse frequency per pair of lanes, and a factor for cosine and sine.

Source: Peng et al., YaRN, arXiv:2309.00071. gpt-oss does not round the ends of the ramp ("truncate": false).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossia.kernels.ops import Rope


class Frequencies(NamedTuple):
    """inverse: float32 [head_dim / 2], radians per token. concentration: multiplies cosine and sine."""

    inverse: NDArray[np.float32]
    concentration: float


def frequencies(rope: Rope, head_dim: int) -> Frequencies:
    """High-frequency lanes keep their frequency, low-frequency lanes are divided by `factor`, a linear ramp joins
    both.
    """
    lanes = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    plain = rope.theta**-lanes
    if rope.factor <= 1.0:
        return Frequencies(plain.astype(np.float32), 1.0)

    def lane_of(turns: float) -> float:
        """The lane that makes `turns` full turns over the original context."""
        return head_dim * math.log(rope.initial_context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = max(lane_of(rope.beta_fast), 0.0)
    high = min(lane_of(rope.beta_slow), head_dim - 1.0)
    width = high - low if high > low else 0.001
    stretched = np.clip((np.arange(head_dim // 2) - low) / width, 0.0, 1.0)
    inverse = plain / rope.factor * stretched + plain * (1 - stretched)
    return Frequencies(inverse.astype(np.float32), 0.1 * math.log(rope.factor) + 1.0)
