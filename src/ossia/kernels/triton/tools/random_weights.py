# pyright: standard
"""Random weights made on the GPU, for measurements with a model of any size and no host memory.

In: a key. Out: tensors on the device, as `ossia.model.synthetic.Stream` needs them.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SPAN = 1 << 26  # entries chosen at a time: their indices take eight bytes each


class CardStream:
    """torch's generator on the device. A key gives the same bytes on all GPUs of one kind."""

    def __init__(self, key: Sequence[int], device: torch.device | str) -> None:
        seed = blake2b(np.array(key, np.int64).tobytes(), digest_size=7).digest()
        self._random = torch.Generator(device).manual_seed(int.from_bytes(seed, "little"))
        self._device = device

    def pick(self, table: NDArray[Any], shape: Sequence[int]) -> Tensor:
        """Random entries of a table. uint16 entries are bfloat16 bits."""
        entries = torch.from_numpy(table.view(np.int16) if table.dtype == np.uint16 else table).to(self._device)
        entries = entries.view(torch.bfloat16) if table.dtype == np.uint16 else entries
        out = torch.empty(math.prod(shape), dtype=entries.dtype, device=self._device)
        for start in range(0, len(out), _SPAN):
            part = out[start : start + _SPAN]
            torch.index_select(entries, 0, self.bytes((len(part),)).int(), out=part)
        return out.view(*shape)

    def bytes(self, shape: Sequence[int]) -> Tensor:
        out = torch.empty(tuple(shape), dtype=torch.uint8, device=self._device)
        return out.random_(0, 256, generator=self._random)
