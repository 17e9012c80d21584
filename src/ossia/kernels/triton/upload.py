# pyright: standard
"""Copies host tensors to the GPU through pinned memory in pieces, so the host never holds much of a model.

In: arrays, mapped from a file or not. Out: tensors on the device with the same bits. The caller changes their layout
on the device.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.kernels.mapped import drop_pages

SPAN = 1 << 25  # bytes of one piece


def upload(host: Any, device: torch.device | str, span: int = SPAN) -> Tensor:
    """The same numbers on the device; uint16 becomes bfloat16. A tensor that is on the device already is returned
    unchanged.
    """
    if isinstance(host, Tensor):
        return host.to(device)
    device = torch.device(device)
    dtype = torch.bfloat16 if host.dtype == np.uint16 else torch.from_numpy(np.empty(0, host.dtype)).dtype
    out = torch.empty(host.shape, dtype=dtype, device=device)
    flat, at = out.view(-1).view(torch.uint8) if out.numel() else out.new_empty(0, dtype=torch.uint8), 0
    for piece in _pieces(host, span):
        size = piece.nbytes
        # torch reuses a pinned block only after its copy has finished, so two pieces can overlap
        staging = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        np.copyto(staging.numpy().view(piece.dtype).reshape(piece.shape), piece)
        flat[at : at + size].copy_(staging, non_blocking=True)
        at += size
        drop_pages(piece)
    return out


def _pieces(host: NDArray[Any], span: int) -> Iterator[NDArray[Any]]:
    """Consecutive pieces of at most `span` bytes, as views; a single row may exceed it. Works for transposed arrays
    too.
    """
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
