# pyright: standard
"""Weights packed for dot products with int8 activations: panels of 32 rows in MXFP4, int8 or int4.

In: a checkpoint's tensors, mapped or not. Out: `Panels`. Each tensor is read once.

A panel holds, for each block of inputs, two halves of 16 rows. In a half every row has a lane of 32 bits. MXFP4 and
int4 have blocks of 32 inputs: 4 x 64 bytes of nibbles per half. A byte holds an even input (low) and the next odd one,
as in the checkpoint. int8 has blocks of 64 inputs: 16 x 64 bytes, four consecutive inputs per lane.

The scales of the block follow: one byte 2^(s - 127) per row for MXFP4, else one bfloat16. So a panel is read front to
back in one stream. Codes are signed, or shifted to unsigned if the machine's dot product needs that
(`MachineTarget.bias`).
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from ossia.kernels.cpu.codegen.aligned import aligned
from ossia.kernels.cpu.codegen.jit import entry, kernel, physical_cores, share, take
from ossia.kernels.cpu.codegen.simd import F32, I32, TARGET, intrinsic
from ossia.kernels.mapped import drop_pages
from ossia.kernels.ops import HostArray
from ossia.quant import QBLOCK, Mxfp4, widen

ROWS = 32  # rows of a panel
HALF = 16
MXFP4, INT8, INT4 = 0, 1, 2
INPUTS = (32, 64, 32)  # inputs of a block, which share one scale per row
PAYLOAD = (512, 2048, 512)  # code bytes of one block of a panel
SCALES = (32, 64, 64)
BLOCK_BYTES = tuple(payload + scales for payload, scales in zip(PAYLOAD, SCALES))

# twice the E2M1 values
E2M1_CODES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
# int4 uses a table: Lloyd levels for 32 normal numbers divided by the one of largest magnitude, sign included
INT4_CODES = (-112, -89, -71, -55, -41, -28, -15, -3, 9, 21, 34, 47, 62, 79, 99, 125)
BIAS = tuple(TARGET.bias(amount) for amount in (12, 128, 128))
TABLES = tuple(tuple(code + bias for code in codes) for codes, bias in ((E2M1_CODES, BIAS[0]), (INT4_CODES, BIAS[2])))

_EXPONENTS = (67, 187)  # range of scale bytes: smaller scales become zero, larger ones are refused
_INT4_FIT = (0.94, 1.0, 1.06)  # scales that are tried, as factors of the largest magnitude
_NEAREST = np.argmin(np.abs(np.arange(-140, 141)[:, None] - np.array(INT4_CODES)[None]), axis=1).astype(np.uint8)
_WORTH_WAKING = 1 << 22  # bytes to pack, from which all threads work
_TINY = np.float32(1e-30)  # a smaller scale counts as 0: its inverse would overflow float32
_LEVELS = np.array(INT4_CODES, np.float32)
_INT8_BIAS = BIAS[INT8]


class Panels(NamedTuple):
    """E matrices of `rows` x `width`. data: int8, flat, [E, ceil(rows / 32), stride] bytes."""

    data: NDArray[np.int8]
    kind: int
    matrices: int
    rows: int
    width: int
    blocks: int
    stride: int

    @property
    def panels(self) -> int:
        """Panels of one matrix."""
        return -(-self.rows // ROWS)


def pack_mxfp4(weight: Mxfp4, paired: bool) -> Panels:
    """Pack [E, R, K] in MXFP4 without changing bits. paired: even rows (gates) become a panel's first half, odd rows
    its second.

    Weights under 2^-60 become zeros. ValueError for a scale of 2^61 or more, which no known model has.
    """
    scales = weight.scales
    if int(scales.max(initial=0)) > _EXPONENTS[1]:
        raise ValueError(f"an MXFP4 scale of 2^{int(scales.max()) - 127} is outside the CPU kernels' range of 2^60")
    experts, rows, blocks = scales.shape
    panels = _empty(MXFP4, experts, rows, blocks * QBLOCK)
    source = _read_only(weight.blocks).reshape(experts, rows, blocks * 16).view(np.uint32)
    _pack_nibbles(source, _read_only(scales), paired, panels.stride, panels.data, _workers(panels))
    drop_pages(weight.blocks)
    drop_pages(scales)
    return panels


def pack_dense(weight_RD: HostArray, kind: int) -> Panels:
    """Round [R, D] to int8 in blocks of 64 inputs, or to int4 in blocks of 32, each with a bfloat16 scale.

    ValueError if a weight is NaN or infinite.
    """
    rows, width = weight_RD.shape
    panels = _empty(kind, 1, rows, width)
    source = weight_RD if weight_RD.dtype == np.uint16 else widen(weight_RD)
    if not _pack_rounded(_read_only(source), kind, panels.blocks, panels.stride, panels.data, _workers(panels)):
        raise ValueError("a weight is NaN or infinite: the checkpoint is damaged")
    drop_pages(weight_RD)
    return panels


def _empty(kind: int, matrices: int, rows: int, width: int) -> Panels:
    blocks = -(-width // INPUTS[kind])
    stride = -(-blocks * BLOCK_BYTES[kind] // 64) * 64
    count = -(-rows // ROWS)
    data = aligned(matrices * count * stride).view(np.int8)
    return Panels(data, kind, matrices, rows, width, blocks, stride)


def _read_only(host: NDArray[Any]) -> NDArray[Any]:
    """Contiguous and read-only. Numba compiles a kernel separately for mutable and read-only arrays."""
    view = np.ascontiguousarray(host).view()
    view.flags.writeable = False
    return view


def _workers(panels: Panels) -> int:
    return physical_cores() if panels.data.size > _WORTH_WAKING else 1


@kernel
def _block(source_RD, row, b, x):
    """Write block b of a row to x as float32, with zeros beyond the matrix. Returns the largest magnitude; infinite
    for a NaN.
    """
    rows, width = source_RD.shape
    largest = np.float32(0.0)
    for i in range(x.size):
        column = x.size * b + i
        x[i] = _wide(source_RD[row, column]) if row < rows and column < width else np.float32(0.0)
        size = abs(x[i])
        largest = max(largest, size if size == size else np.float32(np.inf))
    return largest


@intrinsic
def _from_bits(typingctx, bits):
    """float32 of bfloat16 bits."""

    def generate(context, builder, signature, args):
        return builder.bitcast(builder.shl(builder.zext(args[0], I32), ir.Constant(I32, 16)), F32)

    return types.float32(types.uint16), generate


@intrinsic
def _bits(typingctx, x):
    return types.uint32(types.float32), lambda c, b, sig, args: b.bitcast(args[0], I32)


def _wide(x):
    raise NotImplementedError("called from compiled code only")


@overload(_wide)
def _wide_overload(x):
    return (lambda x: _from_bits(x)) if x == types.uint16 else (lambda x: np.float32(x))


@kernel
def _bf16_above(x):
    """The bits of the least bfloat16 that is not below x, so that no code leaves its range."""
    return np.uint16((_bits(x) + np.uint32(0xFFFF)) >> np.uint32(16))


@kernel
def _int4_codes(x, largest, codes, best):
    """Find the scale that fits the block best. Returns its bits; the codes are written to `best`."""
    sign = np.float32(1.0)
    for i in range(32):
        if abs(x[i]) == largest:
            sign = np.float32(1.0) if x[i] >= 0 else np.float32(-1.0)
    least, bits = np.float32(np.inf), np.uint16(0)
    for fit in _INT4_FIT:
        tried = np.uint16((_bits(largest * np.float32(fit / 125.0)) + np.uint32(0x8000)) >> np.uint32(16))
        scale = _from_bits(tried) * sign
        inverse = np.float32(1.0) / scale if abs(scale) > _TINY else np.float32(0.0)
        error = np.float32(0.0)
        for i in range(32):
            place = min(max(np.int32(np.rint(x[i] * inverse)), np.int32(-140)), np.int32(140))
            codes[i] = _NEAREST[place + 140]
            error += (x[i] - scale * np.float32(_LEVELS[codes[i]])) ** 2
        if error < least:
            least, bits = error, np.uint16(tried | (0x8000 if sign < 0 else 0))
            for i in range(32):
                best[i] = codes[i]
    return bits


@kernel
def _nibble_panel(source_RW, scales_RB, p, paired, start, words, bytes_):
    rows, blocks = scales_RB.shape
    for lane in range(32):
        row = p * 32 + (2 * (lane % 16) + lane // 16 if paired else lane)
        half, r = lane // 16, lane % 16
        for b in range(blocks):
            scale = scales_RB[row, b] if row < rows else np.uint8(0)
            kept = scale >= _EXPONENTS[0]
            at = start // 4 + b * (BLOCK_BYTES[MXFP4] // 4) + half * 64 + r
            for d in range(4):
                words[at + 16 * d] = source_RW[row, 4 * b + d] if kept else np.uint32(0)
            bytes_[start + b * BLOCK_BYTES[MXFP4] + PAYLOAD[MXFP4] + half * 16 + r] = scale if kept else np.uint8(127)


@kernel
def _nibble_tasks(counter, source_ERW, scales_ERB, paired, stride, data):
    experts, rows, _ = scales_ERB.shape
    panels = -(-rows // 32)
    words, bytes_ = data.view(np.uint32), data.view(np.uint8)
    task = take(counter)
    while task < experts * panels:
        e, p = task // panels, task % panels
        _nibble_panel(source_ERW[e], scales_ERB[e], p, paired, task * stride, words, bytes_)
        task = take(counter)


@entry
def _pack_nibbles(source_ERW, scales_ERB, paired, stride, data, workers):
    counter = np.zeros(1, np.int64)
    share(workers, _nibble_tasks, counter, source_ERW, scales_ERB, paired, stride, data)


@kernel
def _int8_panel(source_RD, p, blocks, start, bytes_, shorts):
    x, finite = np.empty(INPUTS[INT8], np.float32), True
    for lane in range(32):
        half, r = lane // 16, lane % 16
        for b in range(blocks):
            largest = _block(source_RD, p * 32 + lane, b, x)
            scale_bits = _bf16_above(largest / np.float32(127.0))
            scale = _from_bits(scale_bits)
            finite = finite and largest < np.float32(3e38)
            inverse = np.float32(1.0) / scale if scale > _TINY else np.float32(0.0)
            at = start + b * BLOCK_BYTES[INT8] + half * 1024 + r * 4
            for i in range(x.size):
                code = np.int32(np.rint(x[i] * inverse)) + _INT8_BIAS
                bytes_[at + 64 * (i // 4) + i % 4] = np.uint8(code & 255)
            shorts[(start + b * BLOCK_BYTES[INT8] + PAYLOAD[INT8]) // 2 + half * 16 + r] = scale_bits
    return finite


@kernel
def _int4_panel(source_RD, p, blocks, start, bytes_, shorts):
    x, codes, best, finite = np.empty(32, np.float32), np.empty(32, np.uint8), np.empty(32, np.uint8), True
    for lane in range(32):
        half, r = lane // 16, lane % 16
        for b in range(blocks):
            largest = _block(source_RD, p * 32 + lane, b, x)
            finite = finite and largest < np.float32(3e38)
            scale_bits = _int4_codes(x, largest, codes, best)
            at = start + b * BLOCK_BYTES[INT4] + half * 256 + r * 4
            for i in range(0, 32, 2):
                bytes_[at + 64 * (i // 8) + (i % 8) // 2] = best[i] | best[i + 1] << np.uint8(4)
            shorts[(start + b * BLOCK_BYTES[INT4] + PAYLOAD[INT4]) // 2 + half * 16 + r] = scale_bits
    return finite


@kernel
def _rounded_tasks(counter, source_RD, kind, blocks, stride, data, finite):
    bytes_, shorts = data.view(np.uint8), data.view(np.uint16)
    p = take(counter)
    while p < finite.size:
        if kind == INT8:
            finite[p] = _int8_panel(source_RD, p, blocks, p * stride, bytes_, shorts)
        else:
            finite[p] = _int4_panel(source_RD, p, blocks, p * stride, bytes_, shorts)
        p = take(counter)


@entry
def _pack_rounded(source_RD, kind, blocks, stride, data, workers):
    """Pack all panels. False if a weight is NaN or infinite."""
    counter, finite = np.zeros(1, np.int64), np.ones(-(-source_RD.shape[0] // 32), np.bool_)
    share(workers, _rounded_tasks, counter, source_RD, kind, blocks, stride, data, finite)
    return finite.all()
