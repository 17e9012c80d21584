# pyright: standard
"""The paged cache of one layer's keys and values in bfloat16, int8 or float32, and RoPE for keys and queries.

In: projections [T, (H+2G)d] and the position and block of each row. Out: the cache's bytes, and rotated queries.

A block holds 16 tokens of G heads. For each head, keys come first, by lane: d rows of 16 tokens, so that one vector is
one lane of 16 keys. Values follow by token, each padded to whole vectors of 16. int8 adds 16 scales of keys and 16 of
values.

In bfloat16 two numbers share a 32-bit word, as pairwise dot products need them: two lanes of a key, [d/2][16
tokens][2]; one lane of two tokens' values, [8][padded d][2].
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from ossia.kernels.cpu.codegen.aligned import aligned, discard
from ossia.kernels.cpu.codegen.jit import kernel, share, take
from ossia.kernels.cpu.codegen.simd import I16, I32, intrinsic
from ossia.kernels.ops import BLOCK, AttentionShape

BF16, INT8, F32 = 0, 1, 2
ELEMENT = (2, 1, 4)  # bytes
SCALE_BYTES = 4


class LayerCache(NamedTuple):
    """data: uint8, flat: blocks of G heads of `head_bytes`. The system maps memory when it is first written."""

    data: NDArray[np.uint8]
    kind: int


def padded(head_dim: int) -> int:
    return -(-head_dim // 16) * 16


def head_bytes(head_dim: int, kind: int) -> int:
    """Bytes of one head in one block."""
    elements = BLOCK * (head_dim + padded(head_dim))
    return elements * ELEMENT[kind] + (2 * BLOCK * SCALE_BYTES if kind == INT8 else 0)


def block_bytes(shape: AttentionShape, kind: int) -> int:
    return shape.kv_heads * head_bytes(shape.head_dim, kind)


def make_cache(shape: AttentionShape, blocks: int, kind: int) -> LayerCache:
    return LayerCache(aligned(blocks * block_bytes(shape, kind)), kind)


def discard_blocks(cache: LayerCache, blocks: Sequence[int], size: int) -> None:
    """Return the memory of these blocks to the system. blocks: sorted; size: bytes of one. They may be written again."""
    start = end = -1
    for block in blocks:
        if block != end:
            discard(cache.data[start * size : end * size])
            start = block
        end = block + 1
    discard(cache.data[start * size : end * size])


@intrinsic
def bf16_bits(typingctx, x):
    """The nearest bfloat16 of a float32, ties to even, as uint16."""

    def generate(context, b, signature, args):
        bits = b.bitcast(args[0], I32)
        odd = b.and_(b.lshr(bits, ir.Constant(I32, 16)), ir.Constant(I32, 1))
        rounded = b.add(b.add(bits, ir.Constant(I32, 0x7FFF)), odd)
        return b.trunc(b.lshr(rounded, ir.Constant(I32, 16)), I16)

    return types.uint16(types.float32), generate


@intrinsic
def _keep(typingctx, data, offset, value):
    """Store a number of any type at a byte offset."""

    def generate(context, b, signature, args):
        base = context.make_array(signature.args[0])(context, b, args[0]).data
        place = b.bitcast(b.gep(base, [args[1]]), args[2].type.as_pointer())
        b.store(args[2], place).align = 1
        return context.get_dummy_value()

    return types.void(data, types.int64, types.unliteral(value)), generate


@kernel
def _rotate(qkv, t, heads, d, position, inverse, concentration):
    """Rotate the first `heads` heads (queries, then keys) of a row in place: lane i with lane i + d/2."""
    half = d // 2
    cos, sin = np.empty(half, np.float32), np.empty(half, np.float32)
    for i in range(half):
        angle = np.float32(position) * inverse[i]
        cos[i], sin[i] = np.cos(angle) * concentration, np.sin(angle) * concentration
    for h in range(heads):
        low, high = qkv[t, h * d : h * d + half], qkv[t, h * d + half : h * d + d]
        for i in range(half):
            a, b = low[i], high[i]
            low[i] = a * cos[i] - b * sin[i]
            high[i] = b * cos[i] + a * sin[i]


@kernel
def _int8_scale(row, first, d):
    largest = np.float32(0.0)
    for i in range(d):
        largest = max(largest, abs(row[first + i]))
    return largest / np.float32(127.0)


@kernel
def _store(row, first_key, groups, d, data, kind, block, offset, size):
    """Write a row's keys and values to slot `offset` of a block."""
    wide = -(-d // 16) * 16
    for g in range(groups):
        start = (block * groups + g) * size
        k, v = first_key + g * d, first_key + (groups + g) * d
        if kind == BF16:
            to_key, to_value = start + 4 * offset, start + 32 * d + 4 * (offset // 2) * wide + 2 * (offset % 2)
            for i in range(d // 2):
                low, high = np.uint32(bf16_bits(row[k + 2 * i])), np.uint32(bf16_bits(row[k + 2 * i + 1]))
                _keep(data, to_key + 64 * i, np.uint32(low | high << np.uint32(16)))  # Numba's shift gives 64 bits
            for i in range(d):  # two bytes at a time: another thread may write the word's other token
                _keep(data, to_value + 4 * i, bf16_bits(row[v + i]))
        elif kind == F32:
            for i in range(d):
                _keep(data, start + 4 * (16 * i + offset), row[k + i])
                _keep(data, start + 4 * (16 * d + offset * wide + i), row[v + i])
        else:
            of_key, of_value = _int8_scale(row, k, d), _int8_scale(row, v, d)
            to_key = np.float32(1.0) / of_key if of_key > 1e-30 else np.float32(0.0)
            to_value = np.float32(1.0) / of_value if of_value > 1e-30 else np.float32(0.0)
            for i in range(d):
                _keep(data, start + 16 * i + offset, np.int8(np.rint(row[k + i] * to_key)))
                _keep(data, start + 16 * d + offset * wide + i, np.int8(np.rint(row[v + i] * to_value)))
            scales = start + 16 * (d + wide) + 4 * offset
            _keep(data, scales, np.float32(of_key))
            _keep(data, scales + 64, np.float32(of_value))


@kernel
def _place(qkv, t, heads, groups, d, places, rope, data, kind, size):
    positions_T, starts_S1, blocks_SB = places
    position = positions_T[t]
    _rotate(qkv, t, heads + groups, d, position, rope[0], rope[1])
    block = blocks_SB[np.searchsorted(starts_S1, t, side="right") - 1, position // 16]
    _store(qkv[t], heads * d, groups, d, data, kind, block, position % 16, size)


@kernel
def _place_tasks(counter, together, qkv, heads, groups, d, places, rope, data, kind, size):
    rows = qkv.shape[0]
    first = take(counter) * together
    while first < rows:
        for t in range(first, min(first + together, rows)):
            _place(qkv, t, heads, groups, d, places, rope, data, kind, size)
        first = take(counter) * together


@kernel
def rotate_and_store(qkv, heads, groups, d, places, rope, data, kind, size, workers):
    """Rotate every row's queries and keys in place, and write its keys and values to the cache."""
    together = min(16, max(1, qkv.shape[0] // (4 * workers)))  # rows of one block share cache lines
    counter = np.zeros(1, np.int64)
    share(workers, _place_tasks, counter, together, qkv, heads, groups, d, places, rope, data, kind, size)
