"""Host tensors to the card, through pinned memory, a piece at a time: the host never holds more of a model than that.

In: arrays, mapped from a file or not. Out: tensors on the device, their bits untouched.
It does not know what is stored, or how it will lie: whoever asked re-lays it on the card.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.kernels.mapped import let_go

SPAN = 1 << 25  # bytes on their way at a time


def upload(host: Any, device: torch.device | str, span: int = SPAN) -> Tensor:
    """The same numbers on the device; uint16 is bfloat16. A tensor that was made on the device is given back."""
    if isinstance(host, Tensor):
        return host.to(device)
    device = torch.device(device)
    dtype = torch.bfloat16 if host.dtype == np.uint16 else torch.from_numpy(np.empty(0, host.dtype)).dtype
    out = torch.empty(host.shape, dtype=dtype, device=device)
    flat, at = out.view(-1).view(torch.uint8) if out.numel() else out.new_empty(0, dtype=torch.uint8), 0
    for piece in _pieces(host, span):
        size = piece.nbytes
        # torch hands a pinned block out again only after the copy from it is done: two pieces overlap without a word here
        staging = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        np.copyto(staging.numpy().view(piece.dtype).reshape(piece.shape), piece)
        flat[at : at + size].copy_(staging, non_blocking=True)
        at += size
        let_go(piece)
    return out


def _pieces(host: NDArray[Any], span: int) -> Iterator[NDArray[Any]]:
    """In order, each of at most `span` bytes where an axis can be cut; views, even where the array is turned."""
    if host.nbytes <= span or host.ndim == 0:
        if host.size:
            yield host
    elif host.flags.c_contiguous:
        flat = host.reshape(-1)
        step = max(1, span // host.itemsize)
        yield from (flat[start : start + step] for start in range(0, flat.size, step))
    else:
        for row in host:
            yield from _pieces(row, span)
