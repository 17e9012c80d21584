"""Panels times activations: the inner loop of every packed weight, and the rounding of activations to int8 that it needs.

In: panels, records of quantized activations, which of them to use. Out: float32 sums for 32 rows each and up to 6 records.
It does not know matrices, experts or threads.

A record is one row of activations: for each block of 32 or 64 inputs, as the weights have them, 8 or 16 words of int8 codes
(evens, then odds, where weights are nibbles), the float32 scale, and -bias times the codes' sum, with which the integer sum
begins, so that the weights' bias is gone at its end. With `terms` of 3 a row has as many records, each of what the one
before left over: 24 bits instead of 8. A record's sums are taken in the order of the blocks, whatever records lie
beside it: its bits never depend on them.
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

RECORD_WORDS = tuple(inputs // 4 + 2 for inputs in INPUTS)  # of a block
MOST = 6  # records a tile takes at once: 2 x 6 sums and their parts just fit 32 registers
RUN = 8  # panels that a tile takes in one go
CACHED = 16384  # bytes of a panel that stay in a core's first cache while rows pass over them
_GROUP_BYTES = (64, 128, 64)  # of eight inputs of a half
_STEPS = (4, 8, 4)  # and how far their record's bytes lie from the group's before
_PIECES = 4  # of a half, where few rows pass: see `_pass_in_turn`
_SIDE_BY_SIDE = 8  # lines read at once, enough to hide an instruction's latency
_CHAINS = {1: 2, 2: 2}  # parts of an integer sum, where few rows leave the multipliers waiting for each other
LEAST_AMAX = 2.0**-45  # activations below are zeros, so that no scale leaves float32's normal range


def _codes(e: Emit, kind: int, half: Any, group: int) -> tuple[Any, Any]:
    """Eight inputs of 16 rows, as two vectors: of a half's block those that meet the record's bytes at `_places`."""
    place = e.at(half, _GROUP_BYTES[kind] * group)
    if kind == INT8:
        return e.load(place, BYTES), e.load(e.at(place, 64), BYTES)
    table = [(code + 128) % 256 - 128 for code in TABLES[0 if kind == MXFP4 else 1]]
    return e.lookup_nibbles(table, e.load(place, BYTES))


def _places(kind: int, group: int) -> tuple[int, int]:
    step = _STEPS[kind] * group
    return (step, step + 4) if kind == INT8 else (step, step + 16)


def _asks(kind: int, count: int) -> tuple[int, int]:
    """How far ahead to ask the first cache and the second for a line; 0: not at all.

    int8 is read too fast to ask the first cache for far lines, so it asks the second before; but where one or two
    records pass, asking twice takes too long. Zen 4 then fetches the plain stream best by itself.
    """
    if kind != INT8:
        return 8192, 0
    if TARGET.fetches and count <= 3:
        return 0, 0
    return (5120, 0) if count <= 2 else (6336, 16896)


def _ask(e: Emit, place: Any, lines: int, near: int, far: int) -> None:
    for ahead, is_near in ((near, True), (far, False)):
        for line in range(lines if ahead else 0):
            e.prefetch(e.at(place, ahead + 64 * line), near=is_near)


def _scales(e: Emit, kind: int, place: Any) -> Any:
    """Of 16 rows: what `_scaled` takes. Twice an E2M1 value was stored, hence 128 where 127 is expected."""
    if kind != MXFP4:
        return e.load_bf16(place)
    wide = e.b.zext(e.load(place, ir.VectorType(I8, LANES)), WORDS)
    return e.b.shl(e.b.sub(wide, e.constant(WORDS, 128)), e.constant(WORDS, 23))


def _scaled(e: Emit, kind: int, scales: Any, activation: Any) -> Any:
    """The rows' scales times an activation's (as bits). A power of two is added to the exponent: no multiplication."""
    if kind == MXFP4:
        return e.b.bitcast(e.b.add(scales, activation), FLOATS)
    return e.b.fmul(scales, e.b.bitcast(activation, FLOATS))


class _Chain:
    """An integer sum in several parts that do not wait for each other."""

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


def _pass_together(e: Emit, kind: int, payload: Any, records: Any, chains_HT: list[list[_Chain]], asks: bool) -> None:
    """A block's halves side by side, so that an activation is fetched once for both: many rows, which multiply all the time."""
    near, far = _asks(kind, len(records)) if asks else (0, 0)
    _ask(e, payload, -(-BLOCK_BYTES[kind] // 64), near, far)
    for group in range(INPUTS[kind] // 8):
        halves = [_codes(e, kind, e.at(payload, half * PAYLOAD[kind] // 2), group) for half in range(2)]
        for which, place in enumerate(_places(kind, group)):
            for t, record in enumerate(records):
                values = e.broadcast(e.at(record, place), WORDS)
                for half in range(2):
                    chains_HT[half][t].add(halves[half][which], values)


def _pass_in_turn(e: Emit, kind: int, payload: Any, records: Any, chains_HT: list[list[_Chain]], asks: bool) -> None:
    """A block's halves one after the other in short loops: few rows, which wait for memory.

    What fetches ahead follows loads by their instructions; Zen 4's loses sight of more than some twenty, and reads at a third.
    """
    near, far = _asks(kind, len(records)) if asks else (0, 0)
    groups = INPUTS[kind] // 8 // _PIECES
    size, step = groups * _GROUP_BYTES[kind], groups * _STEPS[kind]
    for half, chains in enumerate(chains_HT):
        with e.loop(_PIECES, [part for chain in chains for part in chain.parts]) as loop:
            piece = e.at(e.at(payload, half * PAYLOAD[kind] // 2), e.b.mul(loop.index, e.whole(size)))
            met = [e.at(record, e.b.mul(loop.index, e.whole(step))) for record in records]
            _deal(chains, loop.carried)
            _ask(e, piece, size // 64, near, far)
            for group in range(groups):
                codes = _codes(e, kind, piece, group)
                for which, place in enumerate(_places(kind, group)):
                    for chain, record in zip(chains, met, strict=True):
                        chain.add(codes[which], e.broadcast(e.at(record, place), WORDS))
            loop.carry(*(part for chain in chains for part in chain.parts))
        _deal(chains, loop.out)


def _deal(chains: list[_Chain], parts: Sequence[Any]) -> None:
    rest = iter(parts)
    for chain in chains:
        chain.parts = [next(rest) for _ in chain.parts]


def _emit_tile(count: int, kind: int, asks: bool) -> Any:
    def body(
        e: Emit, data: Any, start: Any, stride: Any, panels: Any, blocks: Any, skip: Any, taken: Any,
        records: Any, rows: Any, first: Any, out: Any, at: Any, apart: Any,
    ) -> None:  # fmt: skip
        b, record_bytes = e.b, 4 * RECORD_WORDS[kind]
        begin = e.at(data, b.add(start, b.mul(skip, e.whole(BLOCK_BYTES[kind]))))
        length, skipped = b.mul(blocks, e.whole(record_bytes)), b.mul(skip, e.whole(record_bytes))
        numbers = [e.load(e.at(rows, b.mul(b.add(first, e.whole(t)), e.whole(4))), I32) for t in range(count)]
        starts = [e.at(records, b.add(b.mul(b.zext(number, I64), length), skipped)) for number in numbers]
        with e.loop(panels) as run:
            panel = e.at(begin, b.mul(run.index, stride))
            sums = e.at(out, b.mul(b.add(at, b.mul(run.index, apart)), e.whole(4)))
            before = [e.load(e.at(sums, 64 * place), FLOATS) for place in range(2 * count)]
            with e.loop(taken, before) as loop:
                payload = e.at(panel, b.mul(loop.index, e.whole(BLOCK_BYTES[kind])))
                met = [e.at(each, b.mul(loop.index, e.whole(record_bytes))) for each in starts]
                loop.carry(*_pass_block(e, kind, payload, met, loop.carried, asks))
            for place, total in enumerate(loop.out):
                e.store(total, e.at(sums, 64 * place))

    return emitter(body)


def _pass_block(e: Emit, kind: int, payload: Any, records: list[Any], sums: Sequence[Any], asks: bool) -> list[Any]:
    """Sums of every record and half, and what a block adds to them."""
    b, inputs, count = e.b, INPUTS[kind], len(records)
    first_sums = [e.broadcast(e.at(each, inputs + 4), WORDS) for each in records]
    chains_HT = [[_Chain(e, each, _CHAINS.get(count, 1)) for each in first_sums] for _ in range(2)]
    is_crowd = count == MOST and not TARGET.fetches
    (_pass_together if is_crowd else _pass_in_turn)(e, kind, payload, records, chains_HT, asks)
    scales = [_scales(e, kind, e.at(payload, PAYLOAD[kind] + half * SCALES[kind] // 2)) for half in range(2)]
    totals = []
    for t in range(count):
        activation = e.broadcast(e.at(records[t], inputs), WORDS)
        for half in range(2):
            whole = b.sitofp(chains_HT[half][t].total(), FLOATS)
            totals.append(e.fma(whole, _scaled(e, kind, scales[half], activation), sums[2 * t + half]))
    return totals


def _make_tile(count: int, kind: int, asks: bool = True) -> Any:
    """`asks`: for the panel's lines that come later."""
    generate = _emit_tile(count, kind, asks)

    @intrinsic
    def tile(typingctx, data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart):
        return wants(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart), generate

    return tile


_fp4_1, _fp4_2, _fp4_3, _fp4_4, _fp4_6 = (_make_tile(count, MXFP4) for count in (1, 2, 3, 4, 6))
_int8_1, _int8_2, _int8_3, _int8_4, _int8_6 = (_make_tile(count, INT8) for count in (1, 2, 3, 4, 6))
_int8_4_again, _int8_6_again = (_make_tile(count, INT8, asks=False) for count in (4, 6))
_int4_1, _int4_2, _int4_3, _int4_4, _int4_6 = (_make_tile(count, INT4) for count in (1, 2, 3, 4, 6))


@kernel
def tile(kind, data, start, stride, panels, blocks, skip, taken, records, rows, first, count, out, at, apart):
    """out[at:], [count, 32], += `taken` blocks behind `skip` of the panel at `start`, times records rows[first:first + count].

    Likewise the next of so many panels, `stride` bytes on, and their sums, `apart` floats on.
    """
    if kind == MXFP4:
        if count == 6:
            _fp4_6(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
        elif count == 1:
            _fp4_1(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
        elif count == 2:
            _fp4_2(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
        elif count == 3:
            _fp4_3(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
        else:
            _fp4_4(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
    elif kind == INT8:
        if count == 6:
            _int8_6(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
        elif count == 1:
            _int8_1(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
        elif count == 2:
            _int8_2(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
        elif count == 3:
            _int8_3(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
        else:
            _int8_4(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
    elif count == 6:
        _int4_6(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
    elif count == 1:
        _int4_1(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
    elif count == 2:
        _int4_2(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
    elif count == 3:
        _int4_3(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
    else:
        _int4_4(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)


@kernel
def tile_again(kind, data, start, stride, panels, blocks, skip, taken, records, rows, first, count, out, at, apart):
    """`tile`, where nobody need ask for the panel's blocks."""
    if kind == INT8 and count == 6:
        _int8_6_again(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
    elif kind == INT8 and count == 4:
        _int8_4_again(data, start, stride, panels, blocks, skip, taken, records, rows, first, out, at, apart)
    else:
        tile(kind, data, start, stride, panels, blocks, skip, taken, records, rows, first, count, out, at, apart)


def _make_row(adds: bool) -> Any:
    """`adds`: to what is there."""

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


# y[to:to + 32] += (sums[at:] + bias[bias_at:]) * factor, all flat float32; and the same put there instead
add_row, put_row = _make_row(True), _make_row(False)


def _ask_row(e: Emit, y: Any, to: Any) -> None:
    target = e.at(y, e.b.mul(to, e.whole(4)))
    for line in (0, 64, 127):
        e.prefetch(e.at(target, line))


@intrinsic
def ask_row(typingctx, y, to):
    """Ask for the lines of y[to:to + 32], flat float32, which `add_row` will read after some work."""
    return wants(y, to), emitter(_ask_row)


def _ask_line(e: Emit, data: Any, at: Any) -> None:
    e.prefetch(e.at(data, at))


@intrinsic
def ask_line(typingctx, data, at):
    """Ask for the line at data[at], for the first cache."""
    return wants(data, at), emitter(_ask_line)


@intrinsic
def read_through(typingctx, data, start, count):
    """A digest of `count` times 512 bytes, so that reading them can't be left out: they end up in the caches."""

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


def _emit_round(inputs: int) -> Any:
    def body(e: Emit, x: Any, offset: Any, records: Any, place: Any, bias: Any) -> None:
        b = e.b
        source, target = e.at(x, b.mul(offset, e.whole(4))), e.at(records, b.mul(place, e.whole(4)))
        parts = [e.load(e.at(source, at), FLOATS) for at in range(0, 4 * inputs, 64)]
        largest = e.magnitude(parts[0])
        for part in parts[1:]:
            largest = e.most(largest, e.magnitude(part))
        amax = e.highest(largest)
        is_kept = b.fcmp_ordered(">=", amax, ir.Constant(F32, LEAST_AMAX))
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


def _make_round(inputs: int) -> Any:
    generate = _emit_round(inputs)

    @intrinsic
    def round_block(typingctx, x, offset, records, place, bias):
        return wants(x, offset, records, place, bias), generate

    return round_block


_round_32, _round_64 = _make_round(32), _make_round(64)


@kernel
def round_block(kind, x, at, blocks, b, records, row, terms, bias):
    """Round a block of floats at x[at] to block b of the records of row `row`: scale amax / 127, nearest, ties to even.

    x keeps what was rounded off.
    """
    for term in range(terms):
        place = ((row * terms + term) * blocks + b) * RECORD_WORDS[kind]
        if INPUTS[kind] == 32:
            _round_32(x, at, records, place, bias)
        else:
            _round_64(x, at, records, place, bias)


@kernel
def round_row(kind, x, blocks, records, row, terms, bias):
    """Round `blocks` blocks of x (flat float32, spoiled) to the records of row `row`."""
    for b in range(blocks):
        round_block(kind, x, b * INPUTS[kind], blocks, b, records, row, terms, bias)


@kernel
def records_of(rows_N, terms):
    """Numbers of the records of these rows."""
    numbers = np.empty(rows_N.size * terms, np.int32)
    for n in range(rows_N.size):
        for term in range(terms):
            numbers[n * terms + term] = rows_N[n] * terms + term
    return numbers


@kernel
def tile_size(kind, left, terms):
    """How many of the rows left the next tile takes. With int8, 4 rather than 6 where that avoids a last one or two."""
    if terms > 1:
        return min(left, MOST // terms)
    if kind == INT8 and (left == 7 or left == 8 or left == 11):
        return 4
    return MOST if left >= MOST else (3 if left == 5 else left)


@kernel
def part_of(kind, blocks, records):
    """Blocks of a panel to take at a time: where records make several tiles, a part that stays in the first cache."""
    if records <= MOST:
        return blocks
    parts = -(-blocks * BLOCK_BYTES[kind] // CACHED)
    return -(-blocks // parts)


def _join_row(e: Emit, sums: Any, to: Any, at: Any, terms: Any) -> None:
    target, source = (e.at(sums, e.b.mul(place, e.whole(4))) for place in (to, at))
    with e.loop(terms, [e.floats(0.0)] * 2) as loop:
        term = e.at(source, e.b.mul(loop.index, e.whole(128)))
        loop.carry(*(e.b.fadd(total, e.load(e.at(term, 64 * i), FLOATS)) for i, total in enumerate(loop.carried)))
    for i, total in enumerate(loop.out):
        e.store(total, e.at(target, 64 * i))


@intrinsic
def join_row(typingctx, sums, to, at, terms):
    """sums[to:to + 32] = the sum of `terms` times 32 floats at sums[at]."""
    return wants(sums, to, at, terms), emitter(_join_row)


@kernel
def join_terms(sums, at, rows, terms):
    """sums[at:], [rows, 32], = the sums of each row's `terms` records, which lie there."""
    if terms > 1:
        for i in range(rows):
            join_row(sums, at + 32 * i, at + 32 * terms * i, terms)


@kernel
def row_sums(kind, data, start, stride, panels, blocks, records, numbers, first, count, terms, out):
    """out float32 [panels, count, 32] = panels from `start` on times rows first .. first + count, whose records `numbers` lists.

    More than one panel only for a single tile's rows. `out` has room for every term.
    """
    apart = count * terms * 32
    out[: panels * apart] = np.float32(0.0)
    part = part_of(kind, blocks, count * terms)
    for skip in range(0, blocks, part):
        t = 0
        while t < count:
            size = tile_size(kind, count - t, terms)
            row, taken = (first + t) * terms, min(part, blocks - skip)
            tile(
                kind, data, start, stride, panels, blocks, skip, taken, records, numbers, row, size * terms,
                out, t * terms * 32, apart,
            )  # fmt: skip
            t += size
    join_terms(out, 0, panels * count, terms)


@kernel
def run_of(kind, records, left):
    """Panels to take in one go: several where one tile takes all the records, so that reading them never pauses."""
    return min(RUN, left) if tile_size(kind, records, 1) == records else 1
