# pyright: standard
"""MXFP4 weights on a GPU, rearranged once at load so that nibbles become bfloat16 in registers without a shuffle.

In: a host `Mxfp4`. Out: bytes and scales on the device; in a kernel, tiles of bfloat16.

Layout: rows in tiles of 16; per tile the blocks of 32 in order; per block 16 bytes a row. So a program's step is one
contiguous piece, and a thread loads 16 bytes. A 4-byte word holds elements 4i..4i+3 and 16+4i..16+4i+3 of its block,
in four pairs of one low and one high half.

Pair 0 has bfloat16's bit positions: sign at bit 15, the other three E2M1 bits at 8..6, worth 2^-126 of the value
(subnormals too). Pairs 1 and 2 are 3 and 6 bits lower. Pair 3 has the remaining bits: sign at 14, then 13, 11 and 10.
The scale, an exponent, supplies the factor 2^126.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ossia.kernels.triton.kernels.tiles import INTERPRETED, bits_on_device, is_amd, to_bf16
from ossia.quant import NAN_SCALE, Mxfp4

TILE = 16  # rows of a tile
_TOP = 128  # the highest scale byte for which the scale times 2^126 is a finite bfloat16
_FIELD = 126  # added to a scale byte: the exponent field of 2^(byte - 1)


class Packed(NamedTuple):
    """bytes_: uint8 [E, tiles, D / 32, 16, 16]. scales: uint8 [E, tiles, D / 32, 16], exponent fields of 2^126 times
    the scale.

    factor: a power of two that all sums are multiplied by; 1 unless the tensor has scales above 2.
    """

    bytes_: Tensor
    scales: Tensor
    factor: float


def pack_mxfp4(weight: Mxfp4, gated: bool, device: torch.device | str) -> Packed:
    """Pack one expert at a time, to limit the memory used on the device."""
    experts, rows, blocks = weight.scales.shape
    highest = int(weight.scales.max()) if experts else 0
    if highest == NAN_SCALE:
        raise ValueError(
            "an MXFP4 tensor holds NaN (a scale byte of 255): the checkpoint is damaged, load another copy"
        )
    lowered = max(0, highest - _TOP)
    tiles = row_tiles(rows, gated)
    out = Packed(
        torch.empty((experts, tiles, blocks, TILE, 16), dtype=torch.uint8, device=device),
        torch.empty((experts, tiles, blocks, TILE), dtype=torch.uint8, device=device),
        2.0**lowered,
    )
    for e in range(experts):
        codes = in_tiles(bits_on_device(weight.blocks[e], device), gated)
        out.bytes_[e] = _words(codes).transpose(1, 2)
        # a value below the smallest scale is less than 2^-127 of the tensor's largest
        scales = in_tiles(bits_on_device(weight.scales[e], device), gated).int() - lowered
        out.scales[e] = (scales.clamp(min=0) + _FIELD).to(torch.uint8).transpose(1, 2)
    return out


def row_tiles(rows: int, gated: bool) -> int:
    """Tiles of 16 rows. Gates and ups have separate tiles."""
    return 2 * -(-rows // 2 // TILE) if gated else -(-rows // TILE)


def in_tiles(rows: Tensor, gated: bool) -> Tensor:
    """[R, ...] -> [tiles, 16, ...], with zero rows at the end. Gated: a tile of 16 gates, then one of their ups."""
    rest = rows.shape[1:]
    if gated:
        rows = rows.view(-1, 2, *rest)
    missing = -len(rows) % TILE
    if missing:
        rows = F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing))
    if gated:
        rows = rows.view(-1, TILE, 2, *rest).transpose(1, 2)
    return rows.reshape(-1, TILE, *rest)


def _words(blocks: Tensor) -> Tensor:
    """uint8 [tiles, 16, D / 32, 16] of nibbles, the low one first, -> the same shape in words of four pairs."""
    codes = torch.stack([blocks & 15, blocks >> 4], dim=-1).to(torch.int32)
    codes = codes.view(*blocks.shape[:-1], 2, 4, 2, 2)  # block half, word, pair of the half, word half
    placed = (codes & 8) << 12 | (codes & 7) << 6
    last = (codes[..., 1, :, 1, :] & 12) << 11 | (codes[..., 1, :, 1, :] & 3) << 10
    halves = placed[..., 0, :, 0, :] | placed[..., 0, :, 1, :] >> 3 | placed[..., 1, :, 0, :] >> 6 | last
    return halves.to(torch.int16).contiguous().view(torch.uint8).view(blocks.shape)


# One word to eight bfloat16 in four registers: $4 the word, $5 the exponent field twice. sm_80 has no bfloat16x2
# multiplication except the fused one, so -0 is added.
UNPACK: tl.constexpr = tl.constexpr("""
{
    .reg .b32 t, u, z;
    mov.b32 z, 0x80008000;
    and.b32 t, $4, 0x81C081C0;
    fma.rn.bf16x2 $0, t, $5, z;
    shl.b32 t, $4, 3;
    and.b32 t, t, 0x81C081C0;
    fma.rn.bf16x2 $1, t, $5, z;
    shl.b32 t, $4, 6;
    and.b32 t, t, 0x81C081C0;
    fma.rn.bf16x2 $2, t, $5, z;
    shl.b32 t, $4, 1;
    and.b32 t, t, 0x80008000;
    shr.u32 u, $4, 5;
    and.b32 u, u, 0x01000100;
    or.b32 t, t, u;
    shr.u32 u, $4, 4;
    and.b32 u, u, 0x00C000C0;
    or.b32 t, t, u;
    fma.rn.bf16x2 $3, t, $5, z;
}
""")


@triton.jit
def mxfp4_tile(data, scales, row, first, ROWS, BLOCKS, R: tl.constexpr, K: tl.constexpr, PTX: tl.constexpr):
    """Rows `row` of one matrix, K inputs from block `first`: bfloat16 [R, K / 2] of the blocks' first halves, and of
    the second.

    PTX: use NVIDIA's instructions, else only Triton's; the bits are equal.
    """
    block = first + tl.arange(0, K // 32)
    inside = (row[:, None] < ROWS) & (block[None, :] < BLOCKS)
    start = (row // 16)[:, None] * BLOCKS
    at = start * 16 + block[None, :] * 16 + (row % 16)[:, None]
    field = tl.load(scales + at, mask=inside, other=0).to(tl.int32)
    if PTX:
        byte = tl.arange(0, K // 2)
        block = first + byte // 16
        inside = (row[:, None] < ROWS) & (block[None, :] < BLOCKS)
        at = start * 256 + (row % 16)[:, None] * 16
        word = tl.load(data + at + (block * 256 + byte % 16)[None, :], mask=inside, other=0)
        twice = tl.reshape(tl.broadcast_to((field * 0x00800080)[:, :, None], (R, K // 32, 16)), (R, K // 2))
        low, high = tl.inline_asm_elementwise(
            UNPACK, "=&r,=&r,=&r,=&r,r,r,r,r,r", [word, twice], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
        )
    else:
        number = tl.arange(0, K // 8)
        block = first + number // 4
        inside = (row[:, None] < ROWS) & (block[None, :] < BLOCKS)
        at = start * 64 + (row % 16)[:, None] * 4
        word = data.to(tl.pointer_type(tl.int32)) + at + (block * 64 + number % 4)[None, :]
        word = tl.load(word, mask=inside, other=0)
        scale = tl.broadcast_to((field << 23).to(tl.float32, bitcast=True)[:, :, None], (R, K // 32, 4))
        scale = tl.reshape(scale, (R, K // 8))
        last = ((word << 1) & -0x7FFF8000) | ((word >> 5) & 0x01000100) | ((word >> 4) & 0x00C000C0)
        low, high = _halves(word, word << 3, scale, R, K), _halves(word << 6, last, scale, R, K)
    return low, high


@triton.jit
def _halves(even, odd, scale, R: tl.constexpr, K: tl.constexpr):
    """Words of two pairs each, masked and scaled, as [R, K / 2] in the order even, odd."""
    low = tl.join(_scaled(even << 16, scale), _scaled(odd << 16, scale))
    high = tl.join(_scaled(even, scale), _scaled(odd, scale))
    return tl.reshape(tl.join(low, high), (R, K // 2))


@triton.jit
def _scaled(bits, scale):
    return to_bf16((bits & -0x7E400000).to(tl.float32, bitcast=True) * scale)


def has_ptx() -> bool:
    """Whether kernels run on an NVIDIA GPU, and not on another one or under the interpreter."""
    return not INTERPRETED.value and not is_amd()
