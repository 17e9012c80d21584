"""Number formats of weights: bfloat16 as bits, and MXFP4 (OCP MX v1.0).

In: NumPy arrays. Out: NumPy arrays, new or written into a given one. Work space is a few MB for any size.

MXFP4: 32 neighbours along the last (input) dimension share a scale byte s, worth 2^(s - 127). Each is an E2M1 nibble:
a sign bit and one of the magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6. The low nibble of a byte is the even element.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

QBLOCK = 32  # elements per scale
NAN_SCALE = 255  # E8M0 has one NaN and no infinity
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)

_MAX_SCALE = 252  # the highest scale byte with which all codes are finite in float32
_SPAN = 1 << 16  # blocks converted at a time: 8 MB of float32
_BYTES = np.arange(256)
# the two values of each byte
_PAIRS = E2M1[np.stack([_BYTES & 15, _BYTES >> 4], axis=-1)].view(np.uint64).ravel()
_SCALES = np.append(np.ldexp(1.0, np.arange(255) - 127), np.nan).astype(np.float32)


class Mxfp4(NamedTuple):
    """A tensor [..., K] in MXFP4: blocks uint8 [..., K/32, 16], scales uint8 [..., K/32]."""

    blocks: NDArray[np.uint8]
    scales: NDArray[np.uint8]


def unpack_mxfp4(packed: Mxfp4, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """float32 [..., K], exact wherever float32 can hold the value, subnormals included.

    Values above float32's range (2 and more with scale 254) become infinite. Scale 255, the format's NaN, gives NaN.
    out: C-contiguous, if given.
    """
    blocks, scales = packed
    if blocks.shape != (*scales.shape, QBLOCK // 2):
        raise ValueError(f"MXFP4 blocks {blocks.shape} do not fit scales {scales.shape}: want blocks [..., K/32, 16]")
    shape = (*scales.shape[:-1], scales.shape[-1] * QBLOCK)
    out = np.empty(shape, np.float32) if out is None else _checked_out(out, shape)
    flat_blocks, flat_scales, flat_out = blocks.reshape(-1, QBLOCK // 2), scales.reshape(-1), out.reshape(-1, QBLOCK)
    with np.errstate(over="ignore"):
        for span in _spans(len(flat_scales)):
            # mode="clip" lets take() write in place; a byte is never out of bounds
            np.take(_PAIRS, flat_blocks[span], out=flat_out[span].view(np.uint64), mode="clip")
            flat_out[span] *= _SCALES[flat_scales[span], None]
    return out


def quantize_mxfp4(x: NDArray[np.float32]) -> Mxfp4:
    """The nearest MXFP4 of float32 [..., K], ties to even. Values that MXFP4 can hold are unchanged.

    The scale is the specification's (MX v1.0 §6.3), 2^(floor(log2(amax)) - 2), but of amax rounded to E2M1's
    precision. So a maximum of 7/4 of a power of two or more takes the next scale, instead of being clipped from 7..8
    to 6. That lowers the squared error of Gaussian weights by 7 %. Only in the last eighth of float32's range is a
    value clipped, so that none becomes infinite. A block of zeros gets scale byte 0. Raises ValueError for NaN or
    infinity.
    """
    blocks = _in_blocks(x)
    packed = Mxfp4(np.empty((len(blocks), QBLOCK // 2), np.uint8), np.empty(len(blocks), np.uint8))
    for span in _spans(len(blocks)):
        magnitude = np.abs(blocks[span])
        amax = _finite_amax(magnitude)
        # adding a quarter of the leading bit carries a mantissa >= 1.75 into the exponent; a subnormal has exponent 0
        exponent = (amax.view(np.uint32) + np.uint32(1 << 21)) >> 23
        scales = np.clip(exponent, 2, _MAX_SCALE + 2) - np.uint32(2)
        magnitude *= ((254 - scales) << 23).view(np.float32)[:, None]
        codes = _e2m1_codes(magnitude) | np.signbit(blocks[span]).view(np.uint8) << 3
        packed.blocks[span] = codes[:, 0::2] | codes[:, 1::2] << 4
        packed.scales[span] = scales
    shape = (*x.shape[:-1], x.shape[-1] // QBLOCK)
    return Mxfp4(packed.blocks.reshape(*shape, QBLOCK // 2), packed.scales.reshape(shape))


def as_mxfp4(dense: NDArray[Any]) -> Mxfp4 | None:
    """[E, R, K] in MXFP4 if that holds every value exactly, as after a tool has unpacked it; None at the first row
    that it cannot hold.
    """
    matrices, rows, width = dense.shape
    if width % QBLOCK or not dense.size:
        return None
    packed = Mxfp4(
        np.empty((matrices, rows, width // QBLOCK, QBLOCK // 2), np.uint8),
        np.empty((matrices, rows, width // QBLOCK), np.uint8),
    )
    edges = [0, 1, *range(256, rows, 256), rows]  # one row first: it usually decides
    for matrix in range(matrices):
        for first, last in pairwise(sorted(set(edges))):
            values = np.ascontiguousarray(widen(dense[matrix, first:last]), np.float32)
            if not np.isfinite(values).all():
                return None
            part = quantize_mxfp4(values)
            if not np.array_equal(unpack_mxfp4(part), values):
                return None
            packed.blocks[matrix, first:last], packed.scales[matrix, first:last] = part
    return packed


def to_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even. Values beyond its range become infinite; NaN stays NaN."""
    x = np.ascontiguousarray(x, np.float32)
    out = np.empty(x.shape, np.uint16)
    flat, flat_out = x.reshape(-1).view(np.uint32), out.reshape(-1)
    for span in _spans(flat.size, _SPAN * QBLOCK):
        bits = flat[span]
        rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
        # rounding could turn a NaN into infinity: keep its top half, as a quiet NaN
        is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
        flat_out[span] = np.where(is_nan, (bits >> 16) | 0x40, rounded)
    return out


def from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """float32 of bfloat16 bits, exact."""
    out = bits.astype(np.uint32)
    out <<= 16
    return out.view(np.float32)


def widen(host: NDArray[Any]) -> NDArray[np.float32]:
    """float32 of a dense host tensor, exact: from float32, float16, or bfloat16 bits as uint16."""
    return from_bf16(host) if host.dtype == np.uint16 else host.astype(np.float32, copy=False)


def _spans(length: int, step: int = _SPAN) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, length, step))


def _in_blocks(x: NDArray[np.float32]) -> NDArray[np.float32]:
    if x.dtype != np.float32 or x.ndim == 0 or x.shape[-1] % QBLOCK:
        raise ValueError(f"want float32 [..., K] with K a multiple of {QBLOCK}, got {x.dtype} {x.shape}")
    return x.reshape(-1, QBLOCK)


def _finite_amax(magnitude: NDArray[np.float32]) -> NDArray[np.float32]:
    amax = magnitude.max(axis=-1)
    if not np.isfinite(amax).all():
        raise ValueError("cannot quantize a tensor that holds NaN or infinity")
    return amax


def _e2m1_codes(magnitude: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Codes 0..7 of scaled magnitudes: the number of midpoints below; a tie goes to the even code."""
    codes = (magnitude > 0.25).view(np.uint8)
    for midpoint, tie_goes_up in ((0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True), (5.0, False)):
        codes += magnitude >= midpoint if tie_goes_up else magnitude > midpoint
    return codes


def _checked_out(out: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous float32 {shape}, got {out.dtype} {out.shape}")
    return out
