"""Unpacking to bfloat16 is the format's own unpacking to float32, rounded, whatever the shape and however many threads."""

import numpy as np
import pytest

from ossia.kernels.cpu.unpack import unpack_bf16
from ossia.quant import Mxfp4, to_bf16, unpack_mxfp4


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_byte_under_every_scale_is_the_float32_value_rounded(threads: int):
    scales, byte = np.divmod(np.arange(1 << 16), 256)
    packed = Mxfp4(np.repeat(byte.astype(np.uint8), 16).reshape(-1, 16), scales.astype(np.uint8))
    out = np.empty((1 << 16, 32), np.uint16)
    unpack_bf16(packed, out, threads)
    assert np.array_equal(out.ravel(), to_bf16(unpack_mxfp4(packed)))


@pytest.mark.parametrize("rows", [0, 1, 5, 6000])
def test_rows_are_unpacked_side_by_side_on_one_thread_or_more(rows: int):
    rng = np.random.default_rng(rows)
    packed = Mxfp4(rng.integers(0, 256, (rows, 3, 16), np.uint8), rng.integers(100, 140, (rows, 3), np.uint8))
    for threads in (1, 2, 4):
        out = np.empty((rows, 96), np.uint16)
        unpack_bf16(packed, out, threads)
        assert np.array_equal(out, to_bf16(unpack_mxfp4(packed)))
