# pyright: standard
"""MXFP4 to bfloat16, for kernels that need plain matrices. A table gives both values of a byte at once.

In: blocks and scales as stored in a checkpoint. Out: bfloat16 bits, written into a given array.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ossia.kernels.cpu.codegen.jit import entry, kernel, share, take
from ossia.quant import QBLOCK, Mxfp4, to_bf16, unpack_mxfp4

_WORTH_WAKING = 1 << 14  # blocks


def unpack_bf16(packed: Mxfp4, out: NDArray[np.uint16], threads: int) -> None:
    """Write blocks uint8 [..., 16] and scales uint8 [...] as bfloat16 bits, C-contiguous [..., 32] or a reshape of it.

    Exact, but values above bfloat16's range become infinite. Scale 255, the format's NaN, gives NaN.
    """
    count = packed.scales.size
    workers = threads if threads > 1 and count >= _WORTH_WAKING else 1
    pairs = out.reshape(-1).view(np.uint32).reshape(count, QBLOCK // 2)
    _look_up(_pairs(), packed.blocks.reshape(count, QBLOCK // 2), packed.scales.reshape(count), pairs, workers)


@cache
def _pairs() -> NDArray[np.uint32]:
    """[scale, byte]: the two bfloat16 values of a byte, the even one in the low half."""
    scales, blocks = np.divmod(np.arange(1 << 16, dtype=np.uint32).reshape(256, 16, 16), 256)
    values = unpack_mxfp4(Mxfp4(blocks.astype(np.uint8), scales[..., 0].astype(np.uint8)))
    return to_bf16(values).view(np.uint32).reshape(256, 256)


@kernel
def _look_up_some(counter, pairs, blocks_N16, scales_N, out_N16, workers):
    """Unpack one worker's even share of the blocks."""
    count, worker = scales_N.size, take(counter)
    for n in range(count * worker // workers, count * (worker + 1) // workers):
        own = pairs[scales_N[n]]
        for i in range(16):
            out_N16[n, i] = own[blocks_N16[n, i]]


@entry
def _look_up(pairs, blocks_N16, scales_N, out_N16, workers):
    counter = np.zeros(1, np.int64)
    share(workers, _look_up_some, counter, pairs, blocks_N16, scales_N, out_N16, workers)
