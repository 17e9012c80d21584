"""MXFP4 as a GPU reads it: every code under every scale, in both of its decoders, to the checkpoint's own numbers."""

import re

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from ossia.kernels.triton.kernels.mxfp4 import TILE, UNPACK, mxfp4_tile, pack_mxfp4, row_tiles
from ossia.quant import E2M1, Mxfp4, unpack_mxfp4


@triton.jit
def read_kernel(data, scales, out, ROWS, BLOCKS, R: tl.constexpr, K: tl.constexpr, STEPS: tl.constexpr):
    row = tl.program_id(0) * R + tl.arange(0, R)
    byte = tl.arange(0, K // 2)
    for step in range(STEPS):
        low, high = mxfp4_tile(data, scales, row, step * (K // 32), ROWS, BLOCKS, R, K, False)
        at = row[:, None] * (STEPS * K) + step * K + ((byte // 16) * 32 + byte % 16)[None, :]
        tl.store(out + at, low.to(tl.float32), mask=row[:, None] < ROWS)
        tl.store(out + at + 16, high.to(tl.float32), mask=row[:, None] < ROWS)


def read(weight: Mxfp4, gated: bool, width: int) -> np.ndarray:
    """One expert's rows as a kernel sees them, in the order they lie in."""
    packed = pack_mxfp4(weight, gated, "cpu")
    _, tiles, blocks = packed.scales.shape[:3]
    steps = -(-blocks * 32 // width)
    out = torch.full((tiles * TILE, steps * width), torch.nan)
    read_kernel[(tiles,)](packed.bytes_, packed.scales, out, tiles * TILE, blocks, R=TILE, K=width, STEPS=steps)
    assert not out[:, blocks * 32 :].any()
    return out[:, : blocks * 32].numpy() * packed.factor


def codes(rows: int, blocks: int, low: int, high: int) -> Mxfp4:
    rng = np.random.default_rng(rows)
    return Mxfp4(
        rng.integers(0, 256, (1, rows, blocks, 16), dtype=np.uint8),
        rng.integers(low, high, (1, rows, blocks), dtype=np.uint8),
    )


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize(("rows", "blocks"), [(16, 4), (21, 3), (1, 1), (40, 9)])
def test_every_code_is_read_exactly(rows: int, blocks: int, width: int):
    weight = codes(rows, blocks, 60, 129)
    found = read(weight, False, width)
    assert np.array_equal(found[:rows], unpack_mxfp4(weight)[0])
    assert not found[rows:].any()


def test_gates_and_ups_lie_in_tiles_of_their_own():
    weight = codes(2 * 20, 2, 100, 125)
    found, truth = read(weight, True, 64), unpack_mxfp4(weight)[0]
    assert row_tiles(40, True) == 4
    gates, ups = found.reshape(2, 2, TILE, 64).swapaxes(0, 1).reshape(2, 2 * TILE, 64)
    assert np.array_equal(gates[:20], truth[0::2])
    assert np.array_equal(ups[:20], truth[1::2])


def test_scales_above_two_become_a_factor():
    weight = codes(16, 8, 0, 140)
    found, truth = read(weight, False, 128), unpack_mxfp4(weight)[0]
    kept = np.repeat(weight.scales[0] >= 12, 32, axis=-1)
    assert np.array_equal(found[kept], truth[kept])
    assert np.abs(found[~kept]).max() < 1e-30


def test_a_scale_that_is_nan_is_refused():
    weight = codes(4, 2, 100, 110)
    weight.scales[0, 3, 1] = 255
    with pytest.raises(ValueError, match="holds NaN"):
        pack_mxfp4(weight, False, "cpu")


def halves(register: np.ndarray) -> np.ndarray:
    """The two bfloat16 of each 32 bits."""
    return np.stack([register << 16, register & 0xFFFF0000], axis=-1).view(np.float32)


def run_ptx(words: np.ndarray, fields: np.ndarray) -> np.ndarray:
    """The eight bfloat16 of each word, by the instructions of UNPACK."""
    registers = {"$4": words, "$5": fields * np.uint32(0x00800080)}
    plain = {"and.b32": np.bitwise_and, "or.b32": np.bitwise_or, "shl.b32": np.left_shift, "shr.u32": np.right_shift}
    for name, line in re.findall(r"^\s+(\w[\w.]*) ([^;]*);", UNPACK.value, re.M):
        target, *sources = [part.strip() for part in line.split(",")]
        if name == ".reg":
            continue
        values = [registers[s] if s in registers else np.full(len(words), int(s, 0), np.uint32) for s in sources]
        if name == "fma.rn.bf16x2":
            assert (values[2] == 0x80008000).all()
            product = (halves(values[0]) * halves(values[1])).view(np.uint32)
            registers[target] = product[:, 0] >> 16 | product[:, 1] & 0xFFFF0000
        else:
            registers[target] = values[0] if name == "mov.b32" else plain[name](*values)
    return np.concatenate([halves(registers[f"${i}"]) for i in range(4)], axis=1)


def test_the_ptx_says_what_the_interpreted_decoder_says():
    """Elements 4i..4i+3 in two registers, 16+4i..16+4i+3 in the other two; all codes at every place."""
    rng = np.random.default_rng(0)
    nibbles = np.concatenate([np.full((16, 32), np.arange(16)[:, None]), rng.integers(0, 16, (48, 32))]).astype(
        np.uint8
    )
    scales = rng.integers(90, 129, (1, 64, 1), dtype=np.uint8)
    packed = pack_mxfp4(Mxfp4((nibbles[:, 0::2] | nibbles[:, 1::2] << 4)[None, :, None], scales), False, "cpu")
    fields = np.repeat(scales.reshape(-1).astype(np.uint32) + np.uint32(126), 4)
    found = run_ptx(packed.bytes_.numpy().reshape(-1).view(np.uint32), fields).reshape(64, 4, 2, 4)
    truth = np.ldexp(E2M1[nibbles], scales[0].astype(int) - 127).reshape(64, 2, 4, 4).swapaxes(1, 2)
    assert np.array_equal(found, truth)
