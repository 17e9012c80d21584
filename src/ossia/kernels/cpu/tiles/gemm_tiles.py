# pyright: standard
"""The inner loop of all packed matmuls, and the quantization of activations to int8 for it.

In: panels, and quantized activation rows with the numbers of the rows to use. Out: float32 sums of 32 weight rows and
up to 6 quantized rows.

A quantized row holds one block per weight block of 32 or 64 inputs. A block has 8 or 16 words of int8 codes (even
inputs, then odd ones, if weights are nibbles), a float32 scale, and -bias times the sum of the codes. The integer sum
starts with that last word, which cancels the weights' bias.

With 3 limbs, an activation row becomes three quantized rows. Each limb holds the rounding error of the limb before,
which gives 24 bits instead of 8. A row's sums are taken in the order of the blocks, so its bits never depend on other
rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from ossia.kernels.cpu.codegen.jit import kernel
from ossia.kernels.cpu.codegen.simd import (
    BYTES,
    F32,
    FLOATS,
    I8,
    I32,
    I64,
    LANES,
    TARGET,
    WORDS,
    Emit,
    emitter,
    intrinsic,
    wants,
)
from ossia.kernels.cpu.pack import BLOCK_BYTES, INPUTS, INT4, INT8, MXFP4, PAYLOAD, SCALES, TABLES

QUANTIZED_WORDS = tuple(inputs // 4 + 2 for inputs in INPUTS)  # words of one quantized block
MAX_TILE_ROWS = 6  # quantized rows of a tile: 2 x 6 sums and their parts just fit 32 registers
RUN = 8  # panels that a tile processes in one call
CACHED = 16384  # bytes of a panel that stay in the L1 cache while rows pass
_GROUP_BYTES = (64, 128, 64)  # weight bytes of eight inputs of a half
_STEPS = (4, 8, 4)  # activation bytes between two groups
_PIECES = 4  # pieces of a half for few rows: see `_pass_in_turn`
_SIDE_BY_SIDE = 8  # cache lines read at once, enough to hide the latency of an instruction
_CHAINS = {1: 2, 2: 2}  # independent parts of an integer sum for 1 or 2 rows, to hide latency
MIN_AMAX = 2.0**-45  # a smaller amax counts as zero, so that scales stay normal float32 numbers


def _codes(e: Emit, kind: int, half: Any, group: int) -> tuple[Any, Any]:
    """Eight inputs of 16 rows, as two vectors of a half's block. They meet the activation bytes at `_places`."""
    place = e.at(half, _GROUP_BYTES[kind] * group)
    if kind == INT8:
        return e.load(place, BYTES), e.load(e.at(place, 64), BYTES)
    table = [(code + 128) % 256 - 128 for code in TABLES[0 if kind == MXFP4 else 1]]
    return e.lookup_nibbles(table, e.load(place, BYTES))


def _places(kind: int, group: int) -> tuple[int, int]:
    step = _STEPS[kind] * group
    return (step, step + 4) if kind == INT8 else (step, step + 16)


def _prefetch_distances(kind: int, count: int) -> tuple[int, int]:
    """Prefetch distances in bytes for the L1 and L2 caches; 0: no prefetch.

    int8 weights are read too fast to prefetch far lines into L1 alone, so L2 is prefetched first. For one or two rows
    a second prefetch costs too much. Zen 4 is fastest there without any.
    """
    if kind != INT8:
        return 8192, 0
    if TARGET.auto_prefetch and count <= 3:
        return 0, 0
    return (5120, 0) if count <= 2 else (6336, 16896)


def _prefetch(e: Emit, place: Any, lines: int, near: int, far: int) -> None:
    for ahead, is_near in ((near, True), (far, False)):
        for line in range(lines if ahead else 0):
            e.prefetch(e.at(place, ahead + 64 * line), near=is_near)


def _scales(e: Emit, kind: int, place: Any) -> Any:
    """The scales of 16 rows, as `_scaled` takes them. Codes are twice the E2M1 values, hence 128 and not 127."""
    if kind != MXFP4:
        return e.load_bf16(place)
    wide = e.b.zext(e.load(place, ir.VectorType(I8, LANES)), WORDS)
    return e.b.shl(e.b.sub(wide, e.constant(WORDS, 128)), e.constant(WORDS, 23))


def _scaled(e: Emit, kind: int, scales: Any, activation: Any) -> Any:
    """The rows' scales times an activation scale (as bits). A power of two is added to the exponent."""
    if kind == MXFP4:
        return e.b.bitcast(e.b.add(scales, activation), FLOATS)
    return e.b.fmul(scales, e.b.bitcast(activation, FLOATS))


class _Chain:
    """An integer sum in several independent parts."""

    def __init__(self, e: Emit, first: Any, count: int) -> None:
        self.parts = [first, *(e.constant(WORDS, 0) for _ in range(count - 1))]
        self._e, self._next = e, 0

    def add(self, weights: Any, values: Any) -> None:
        part = self._next % len(self.parts)
        self.parts[part] = self._e.dot4(self.parts[part], weights, values)
        self._next += 1

    def total(self) -> Any:
        parts = self.parts
        while len(parts) > 1:
            parts = [self._e.b.add(a, c) for a, c in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]


def _pass_together(
    e: Emit, kind: int, payload: Any, quantized: Any, chains_HT: list[list[_Chain]], prefetches: bool
) -> None:
    """Process both halves of a block together, so that an activation is loaded once for both. For many rows:
    compute-bound.
    """
    near, far = _prefetch_distances(kind, len(quantized)) if prefetches else (0, 0)
    _prefetch(e, payload, -(-BLOCK_BYTES[kind] // 64), near, far)
    for group in range(INPUTS[kind] // 8):
        halves = [_codes(e, kind, e.at(payload, half * PAYLOAD[kind] // 2), group) for half in range(2)]
        for which, place in enumerate(_places(kind, group)):
            for t, row_pointer in enumerate(quantized):
                values = e.broadcast(e.at(row_pointer, place), WORDS)
                for half in range(2):
                    chains_HT[half][t].add(halves[half][which], values)


def _pass_in_turn(
    e: Emit, kind: int, payload: Any, quantized: Any, chains_HT: list[list[_Chain]], prefetches: bool
) -> None:
    """Process the halves of a block one after the other in short loops. For few rows: memory-bound.

    Hardware prefetchers track load instructions. Zen 4's loses track above about twenty, and then reads at a third of
    its rate.
    """
    near, far = _prefetch_distances(kind, len(quantized)) if prefetches else (0, 0)
    groups = INPUTS[kind] // 8 // _PIECES
    size, step = groups * _GROUP_BYTES[kind], groups * _STEPS[kind]
    for half, chains in enumerate(chains_HT):
        with e.loop(_PIECES, [part for chain in chains for part in chain.parts]) as loop:
            piece = e.at(e.at(payload, half * PAYLOAD[kind] // 2), e.b.mul(loop.index, e.whole(size)))
            met = [e.at(row_pointer, e.b.mul(loop.index, e.whole(step))) for row_pointer in quantized]
            _deal(chains, loop.carried)
            _prefetch(e, piece, size // 64, near, far)
            for group in range(groups):
                codes = _codes(e, kind, piece, group)
                for which, place in enumerate(_places(kind, group)):
                    for chain, row_pointer in zip(chains, met, strict=True):
                        chain.add(codes[which], e.broadcast(e.at(row_pointer, place), WORDS))
            loop.carry(*(part for chain in chains for part in chain.parts))
        _deal(chains, loop.out)


def _deal(chains: list[_Chain], parts: Sequence[Any]) -> None:
    rest = iter(parts)
    for chain in chains:
        chain.parts = [next(rest) for _ in chain.parts]


def _emit_tile(count: int, kind: int, prefetches: bool) -> Any:
    def body(
        e: Emit, data: Any, start: Any, stride: Any, panels: Any, blocks: Any, skip: Any, taken: Any,
        quantized: Any, rows: Any, first: Any, out: Any, at: Any, apart: Any,
    ) -> None:  # fmt: skip
        b, row_bytes = e.b, 4 * QUANTIZED_WORDS[kind]
        begin = e.at(data, b.add(start, b.mul(skip, e.whole(BLOCK_BYTES[kind]))))
        length, skipped = b.mul(blocks, e.whole(row_bytes)), b.mul(skip, e.whole(row_bytes))
        numbers = [e.load(e.at(rows, b.mul(b.add(first, e.whole(t)), e.whole(4))), I32) for t in range(count)]
        starts = [e.at(quantized, b.add(b.mul(b.zext(number, I64), length), skipped)) for number in numbers]
        with e.loop(panels) as run:
            panel = e.at(begin, b.mul(run.index, stride))
            sums = e.at(out, b.mul(b.add(at, b.mul(run.index, apart)), e.whole(4)))
            before = [e.load(e.at(sums, 64 * place), FLOATS) for place in range(2 * count)]
            with e.loop(taken, before) as loop:
                payload = e.at(panel, b.mul(loop.index, e.whole(BLOCK_BYTES[kind])))
                met = [e.at(each, b.mul(loop.index, e.whole(row_bytes))) for each in starts]
                loop.carry(*_pass_block(e, kind, payload, met, loop.carried, prefetches))
            for place, total in enumerate(loop.out):
                e.store(total, e.at(sums, 64 * place))

    return emitter(body)


def _pass_block(
    e: Emit, kind: int, payload: Any, quantized: list[Any], sums: Sequence[Any], prefetches: bool
) -> list[Any]:
    """The sums of all rows and halves, plus the products of one block."""
    b, inputs, count = e.b, INPUTS[kind], len(quantized)
    first_sums = [e.broadcast(e.at(each, inputs + 4), WORDS) for each in quantized]
    chains_HT = [[_Chain(e, each, _CHAINS.get(count, 1)) for each in first_sums] for _ in range(2)]
    is_crowd = count == MAX_TILE_ROWS and not TARGET.auto_prefetch
    (_pass_together if is_crowd else _pass_in_turn)(e, kind, payload, quantized, chains_HT, prefetches)
    scales = [_scales(e, kind, e.at(payload, PAYLOAD[kind] + half * SCALES[kind] // 2)) for half in range(2)]
    totals = []
    for t in range(count):
        activation = e.broadcast(e.at(quantized[t], inputs), WORDS)
        for half in range(2):
            whole = b.sitofp(chains_HT[half][t].total(), FLOATS)
            totals.append(e.fma(whole, _scaled(e, kind, scales[half], activation), sums[2 * t + half]))
    return totals


def _make_tile(count: int, kind: int, prefetches: bool = True) -> Any:
    """prefetches: whether the tile prefetches the panel's next lines."""
    generate = _emit_tile(count, kind, prefetches)

    @intrinsic
    def tile(typingctx, data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart):
        return wants(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart), generate

    return tile


_fp4_1, _fp4_2, _fp4_3, _fp4_4, _fp4_6 = (_make_tile(count, MXFP4) for count in (1, 2, 3, 4, 6))
_int8_1, _int8_2, _int8_3, _int8_4, _int8_6 = (_make_tile(count, INT8) for count in (1, 2, 3, 4, 6))
_int8_4_cached, _int8_6_cached = (_make_tile(count, INT8, prefetches=False) for count in (4, 6))
_int4_1, _int4_2, _int4_3, _int4_4, _int4_6 = (_make_tile(count, INT4) for count in (1, 2, 3, 4, 6))


@kernel
def tile(kind, data, start, stride, panels, blocks, skip, taken, quantized, rows, first, count, out, at, apart):
    """out[at:], [count, 32], += products of `taken` blocks, after `skip`, of the panel at `start` with
    rows[first:first + count].

    The same for the next panels, each `stride` bytes on, with sums `apart` floats on.
    """
    if kind == MXFP4:
        if count == 6:
            _fp4_6(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
        elif count == 1:
            _fp4_1(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
        elif count == 2:
            _fp4_2(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
        elif count == 3:
            _fp4_3(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
        else:
            _fp4_4(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
    elif kind == INT8:
        if count == 6:
            _int8_6(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
        elif count == 1:
            _int8_1(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
        elif count == 2:
            _int8_2(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
        elif count == 3:
            _int8_3(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
        else:
            _int8_4(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
    elif count == 6:
        _int4_6(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
    elif count == 1:
        _int4_1(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
    elif count == 2:
        _int4_2(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
    elif count == 3:
        _int4_3(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
    else:
        _int4_4(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)


@kernel
def tile_cached(kind, data, start, stride, panels, blocks, skip, taken, quantized, rows, first, count, out, at, apart):
    """`tile` for panel blocks that are in the cache already: without prefetch."""
    if kind == INT8 and count == 6:
        _int8_6_cached(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
    elif kind == INT8 and count == 4:
        _int8_4_cached(data, start, stride, panels, blocks, skip, taken, quantized, rows, first, out, at, apart)
    else:
        tile(kind, data, start, stride, panels, blocks, skip, taken, quantized, rows, first, count, out, at, apart)


def _make_row(adds: bool) -> Any:
    """adds: add to the stored values instead of replacing them."""

    def body(e: Emit, sums: Any, at: Any, bias: Any, bias_at: Any, factor: Any, y: Any, to: Any) -> None:
        source, biases, target = (e.at(p, e.b.mul(i, e.whole(4))) for p, i in ((sums, at), (bias, bias_at), (y, to)))
        for half in (0, 64):
            total = e.b.fadd(e.load(e.at(source, half), FLOATS), e.load(e.at(biases, half), FLOATS))
            place, share = e.at(target, half), e.b.fmul(total, e.splat(factor, FLOATS))
            e.store(e.b.fadd(e.load(place, FLOATS), share) if adds else share, place)

    generate = emitter(body)

    @intrinsic
    def row(typingctx, sums, at, bias, bias_at, factor, y, to):
        return wants(sums, at, bias, bias_at, factor, y, to), generate

    return row


# y[to:to + 32] += (sums[at:] + bias[bias_at:]) * factor, all flat float32; put_row stores instead of adding
add_row, put_row = _make_row(True), _make_row(False)


def _emit_prefetch_row(e: Emit, y: Any, to: Any) -> None:
    target = e.at(y, e.b.mul(to, e.whole(4)))
    for line in (0, 64, 127):
        e.prefetch(e.at(target, line))


@intrinsic
def prefetch_row(typingctx, y, to):
    """Prefetch the cache lines of y[to:to + 32], flat float32, which `add_row` reads later."""
    return wants(y, to), emitter(_emit_prefetch_row)


def _emit_prefetch_line(e: Emit, data: Any, at: Any) -> None:
    e.prefetch(e.at(data, at))


@intrinsic
def prefetch_line(typingctx, data, at):
    """Prefetch the cache line at data[at] into the L1 cache."""
    return wants(data, at), emitter(_emit_prefetch_line)


@intrinsic
def read_through(typingctx, data, start, count):
    """Read `count` times 512 bytes into the caches. Returns a digest, so that the compiler keeps the reads."""

    def body(e: Emit, data: Any, start: Any, count: Any) -> Any:
        source = e.at(data, start)
        with e.loop(count, [e.constant(WORDS, 0)] * _SIDE_BY_SIDE) as loop:
            place = e.at(source, e.b.mul(loop.index, e.whole(64 * _SIDE_BY_SIDE)))
            loop.carry(*(e.b.xor(sofar, e.load(e.at(place, 64 * i), WORDS)) for i, sofar in enumerate(loop.carried)))
        total = loop.out[0]
        for part in loop.out[1:]:
            total = e.b.xor(total, part)
        return e.reduce(total, e.b.xor)

    return wants(data, start, count, gives=types.int32), emitter(body)


def _emit_quantize(inputs: int) -> Any:
    def body(e: Emit, x: Any, offset: Any, quantized: Any, place: Any, bias: Any) -> None:
        b = e.b
        source, target = e.at(x, b.mul(offset, e.whole(4))), e.at(quantized, b.mul(place, e.whole(4)))
        parts = [e.load(e.at(source, at), FLOATS) for at in range(0, 4 * inputs, 64)]
        largest = e.magnitude(parts[0])
        for part in parts[1:]:
            largest = e.maximum(largest, e.magnitude(part))
        amax = e.highest(largest)
        is_kept = b.fcmp_ordered(">=", amax, ir.Constant(F32, MIN_AMAX))
        scale = b.select(is_kept, b.fdiv(amax, ir.Constant(F32, 127.0)), ir.Constant(F32, 1.0))
        inverse = b.select(is_kept, b.fdiv(ir.Constant(F32, 127.0), amax), ir.Constant(F32, 0.0))
        wide, back = e.splat(inverse, FLOATS), e.splat(b.fneg(scale), FLOATS)
        whole = [e.nearest(b.fmul(part, wide)) for part in parts]
        codes = [b.fptosi(part, WORDS) for part in whole]
        for i, part in enumerate(parts):
            e.store(e.fma(whole[i], back, part), e.at(source, 64 * i))
        shorts = [b.trunc(part, ir.VectorType(I8, LANES)) for part in codes]
        if inputs == 32:
            order = ir.Constant(ir.VectorType(I32, 32), [*range(0, 32, 2), *range(1, 32, 2)])
            e.store(b.shuffle_vector(shorts[0], shorts[1], order), target)
        else:
            for i, part in enumerate(shorts):
                e.store(part, e.at(target, LANES * i))
        e.store(scale, e.at(target, inputs))
        total = codes[0]
        for part in codes[1:]:
            total = b.add(total, part)
        total = e.reduce(total, b.add)
        e.store(b.sub(ir.Constant(I32, 0), b.mul(total, b.trunc(bias, I32))), e.at(target, inputs + 4))

    return emitter(body)


def _make_quantize(inputs: int) -> Any:
    generate = _emit_quantize(inputs)

    @intrinsic
    def quantize_block(typingctx, x, offset, quantized, place, bias):
        return wants(x, offset, quantized, place, bias), generate

    return quantize_block


_quantize_32, _quantize_64 = _make_quantize(32), _make_quantize(64)


@kernel
def quantize_block(kind, x, at, blocks, b, quantized, row, limbs, bias):
    """Quantize a block of floats at x[at] to block b of row `row`: scale amax / 127, nearest, ties to even.

    Leaves the rounding error in x.
    """
    for limb in range(limbs):
        place = ((row * limbs + limb) * blocks + b) * QUANTIZED_WORDS[kind]
        if INPUTS[kind] == 32:
            _quantize_32(x, at, quantized, place, bias)
        else:
            _quantize_64(x, at, quantized, place, bias)


@kernel
def quantize_row(kind, x, blocks, quantized, row, limbs, bias):
    """Quantize `blocks` blocks of x (flat float32, overwritten) to row `row`."""
    for b in range(blocks):
        quantize_block(kind, x, b * INPUTS[kind], blocks, b, quantized, row, limbs, bias)


@kernel
def limb_rows(rows_N, limbs):
    """The numbers of the quantized rows of these rows."""
    numbers = np.empty(rows_N.size * limbs, np.int32)
    for n in range(rows_N.size):
        for limb in range(limbs):
            numbers[n * limbs + limb] = rows_N[n] * limbs + limb
    return numbers


@kernel
def tile_size(kind, left, limbs):
    """Rows of the next tile. int8 takes 4 instead of 6 rows if that avoids a last tile of one or two."""
    if limbs > 1:
        return min(left, MAX_TILE_ROWS // limbs)
    if kind == INT8 and (left == 7 or left == 8 or left == 11):
        return 4
    return MAX_TILE_ROWS if left >= MAX_TILE_ROWS else (3 if left == 5 else left)


@kernel
def part_of(kind, blocks, quantized):
    """Blocks of a panel to process at a time. With more than one tile, a part that fits the L1 cache."""
    if quantized <= MAX_TILE_ROWS:
        return blocks
    parts = -(-blocks * BLOCK_BYTES[kind] // CACHED)
    return -(-blocks // parts)


def _join_row(e: Emit, sums: Any, to: Any, at: Any, limbs: Any) -> None:
    target, source = (e.at(sums, e.b.mul(place, e.whole(4))) for place in (to, at))
    with e.loop(limbs, [e.floats(0.0)] * 2) as loop:
        limb = e.at(source, e.b.mul(loop.index, e.whole(128)))
        loop.carry(*(e.b.fadd(total, e.load(e.at(limb, 64 * i), FLOATS)) for i, total in enumerate(loop.carried)))
    for i, total in enumerate(loop.out):
        e.store(total, e.at(target, 64 * i))


@intrinsic
def join_row(typingctx, sums, to, at, limbs):
    """sums[to:to + 32] = the sum of `limbs` times 32 floats at sums[at]."""
    return wants(sums, to, at, limbs), emitter(_join_row)


@kernel
def join_limbs(sums, at, rows, limbs):
    """sums[at:], [rows, 32], = the sums of each row's limbs, in place."""
    if limbs > 1:
        for i in range(rows):
            join_row(sums, at + 32 * i, at + 32 * limbs * i, limbs)


@kernel
def row_sums(kind, data, start, stride, panels, blocks, quantized, numbers, first, count, limbs, out):
    """out float32 [panels, count, 32] = panels from `start` on, times rows first .. first + count. numbers: their
    quantized rows.

    More than one panel only if the rows fit one tile. `out` has room for all limbs.
    """
    apart = count * limbs * 32
    out[: panels * apart] = np.float32(0.0)
    part = part_of(kind, blocks, count * limbs)
    for skip in range(0, blocks, part):
        t = 0
        while t < count:
            size = tile_size(kind, count - t, limbs)
            row, taken = (first + t) * limbs, min(part, blocks - skip)
            tile(
                kind, data, start, stride, panels, blocks, skip, taken, quantized, numbers, row, size * limbs,
                out, t * limbs * 32, apart,
            )  # fmt: skip
            t += size
    join_limbs(out, 0, panels * count, limbs)


@kernel
def run_of(kind, quantized, left):
    """Panels to process in one call: several if one tile holds all rows, so that reading them never pauses."""
    return min(RUN, left) if tile_size(kind, quantized, 1) == quantized else 1
