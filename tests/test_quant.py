"""The number formats, against exact definitions and against torch and transformers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from ossia.quant import (
    E2M1,
    Mxfp4,
    from_bf16,
    quantize_mxfp4,
    to_bf16,
    unpack_mxfp4,
    widen,
)

MAGNITUDES = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
finite_blocks = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 3).map(lambda n: 32 * n)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
all_float32 = hnp.arrays(np.uint32, 64, elements=st.integers(0, 2**32 - 1)).map(lambda bits: bits.view(np.float32))


def bits(x):
    return np.ascontiguousarray(x, np.float32).view(np.uint32)


def every_byte_under_every_scale():
    blocks = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16), (256, 16, 16))
    scales = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (256, 16))
    return Mxfp4(blocks, scales)


def test_unpack_is_exact_on_every_byte_under_every_scale():
    x = unpack_mxfp4(every_byte_under_every_scale()).reshape(256, 256, 2)
    for scale in range(255):
        for byte in range(256):
            for value, nibble in zip(x[scale, byte].tolist(), (byte & 15, byte >> 4)):
                exact = float(E2M1[nibble]) * 2.0 ** (scale - 127)  # exact in a Python float
                if abs(exact) >= 2.0**128:
                    exact = np.copysign(np.inf, exact)
                assert value == exact
                assert np.signbit(value) == (nibble >= 8)
    assert np.isnan(x[255]).all()


def test_unpack_keeps_float32_subnormals():
    packed = Mxfp4(np.full((1, 16), 0x91, np.uint8), np.zeros(1, np.uint8))
    assert unpack_mxfp4(packed)[:2].tolist() == [2.0**-128, -(2.0**-128)]


def test_unpack_matches_transformers():
    rng = np.random.default_rng(0)
    packed = Mxfp4(
        rng.integers(0, 256, (3, 64, 4, 16), np.uint8),
        rng.integers(100, 140, (3, 64, 4)).astype(np.uint8),
    )
    theirs = convert_moe_packed_tensors(torch.tensor(packed.blocks), torch.tensor(packed.scales), dtype=torch.float32)
    np.testing.assert_array_equal(unpack_mxfp4(packed).transpose(0, 2, 1), theirs.numpy())


def test_unpack_writes_into_a_given_array():
    packed = quantize_mxfp4(np.random.default_rng(0).standard_normal((70_000, 32), np.float32))  # over one span
    out = np.empty((70_000, 32), np.float32)
    assert unpack_mxfp4(packed, out) is out
    np.testing.assert_array_equal(out, unpack_mxfp4(packed))
    with pytest.raises(ValueError, match="C-contiguous"):
        unpack_mxfp4(packed, np.empty((32, 70_000), np.float32).T)


def test_unpack_names_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"blocks \(2, 16\) do not fit scales \(3,\)"):
        unpack_mxfp4(Mxfp4(np.zeros((2, 16), np.uint8), np.zeros(3, np.uint8)))


def test_quantize_gives_back_every_value_of_the_format():
    packed = every_byte_under_every_scale()
    packed = Mxfp4(packed.blocks[:253], packed.scales[:253])  # under the rest not all is finite in float32
    x = unpack_mxfp4(packed)
    np.testing.assert_array_equal(bits(unpack_mxfp4(quantize_mxfp4(x))), bits(x))


def nearest_even(x, scale):
    """The nearest E2M1 code by definition: least distance, of two the even one."""
    return min(range(8), key=lambda code: (abs(abs(x) / scale - MAGNITUDES[code]), code % 2))


def scale_by_definition(amax):
    mantissa, exponent = np.frexp(amax)  # amax = mantissa * 2**exponent, mantissa in [0.5, 1)
    return 2.0 ** np.clip(int(exponent) - 1 - 2 + (mantissa >= 7 / 8), -127, 125)


@given(finite_blocks)
@settings(max_examples=200, deadline=None)
def test_quantize_is_nearest_even_under_the_documented_scale(x):
    packed = quantize_mxfp4(x)
    for block, nibbles, scale in zip(x.reshape(-1, 32), packed.blocks.reshape(-1, 16), packed.scales.reshape(-1)):
        amax = float(np.abs(block).max())
        expected_scale = scale_by_definition(amax) if amax else 2.0**-127
        assert 2.0 ** (int(scale) - 127) == expected_scale
        codes = np.stack([nibbles & 15, nibbles >> 4], -1).ravel()
        assert [int(c) & 7 for c in codes] == [nearest_even(float(v), expected_scale) for v in block]
        np.testing.assert_array_equal(codes >= 8, np.signbit(block))


@given(finite_blocks)
@settings(max_examples=100, deadline=None)
def test_quantize_errs_by_half_a_step_at_most_but_at_the_end_of_float32(x):
    packed = quantize_mxfp4(x)
    y = unpack_mxfp4(packed).astype(np.float64).reshape(-1, 32)
    scale = np.ldexp(1.0, packed.scales.reshape(-1, 1).astype(int) - 127)
    magnitude = np.abs(x.astype(np.float64)).reshape(-1, 32) / scale
    step = np.where(magnitude < 2, 0.5, np.where(magnitude < 4, 1.0, 2.0))
    clipped = magnitude > 7
    assert (np.abs(np.abs(y) / scale - magnitude) <= step / 2)[~clipped].all()
    assert (np.abs(x.reshape(-1, 32)[clipped]) > 7 * 2.0**125).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_quantize_refuses_what_is_not_finite(bad):
    x = np.ones((2, 32), np.float32)
    x[1, 7] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize_mxfp4(x)


def test_quantize_refuses_other_shapes_and_types():
    with pytest.raises(ValueError, match="multiple of 32"):
        quantize_mxfp4(np.ones((2, 33), np.float32))
    with pytest.raises(ValueError, match="float64"):
        quantize_mxfp4(np.ones((2, 32)))


@given(all_float32)
@settings(max_examples=300, deadline=None)
def test_bf16_matches_torch(x):
    ours = to_bf16(x)
    theirs = torch.tensor(x).to(torch.bfloat16)
    nan = np.isnan(x)
    np.testing.assert_array_equal(ours[~nan], theirs.view(torch.uint16).numpy()[~nan])
    assert np.isnan(from_bf16(ours)[nan]).all()


def test_bf16_rounds_ties_to_even_and_keeps_nan():
    x = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32)
    assert [hex(b) for b in to_bf16(x.view(np.float32))] == [
        "0x3f80", "0x3f82", "0x3f81", "0x7f80", "0x7fff", "0xffff", "0x7fc0",
    ]  # fmt: skip


def test_every_bf16_survives_float32_and_back():
    every = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    x = from_bf16(every)
    back = to_bf16(x)
    signalling = np.isnan(x) & (every & 0x40 == 0)
    np.testing.assert_array_equal(back, np.where(signalling, every | 0x40, every))
    np.testing.assert_array_equal(from_bf16(every.T), x.T)  # views convert too


def test_widen_takes_each_dense_type():
    x = np.array([[1.5, -2.0]], np.float32)
    assert widen(x) is x
    np.testing.assert_array_equal(widen(x.astype(np.float16)), x)
    np.testing.assert_array_equal(widen(to_bf16(x)), x)
