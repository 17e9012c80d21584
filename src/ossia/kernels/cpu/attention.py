"""Attention with sinks and sliding windows over the paged cache: one pass, a running softmax.

In: rotated queries, the cache's bytes, which blocks are whose. Out: heads' outputs [T, H d].
It does not know projections' weights or how the cache was written.

Keys are taken in chunks of 128 and splits of 1024, counted from the sequence's start: inside a split the softmax runs
from chunk to chunk, the first from the sink on, and splits are merged in order. So a row's bits depend on its position
only, not on the rows in its tile, nor on whether its splits were shared out over threads. A masked key weighs exactly
0, which changes no bit.

Shape legend: see ossia.kernels; J queries of a tile: its rows times the heads that share a key head.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types

from ossia.kernels.cpu.cache import BF16, ELEMENT, F32, INT8, rotate_and_store
from ossia.kernels.cpu.jit import kernel, parallel, peek, take
from ossia.kernels.cpu.simd import FLOATS, I8, I64, LANES, WORDS, Emit, emitter, intrinsic, wants
from ossia.kernels.cpu.tiles import ask_page

CHUNK = 128  # keys under one maximum
SPLIT = 1024  # keys that one thread takes at once
TILE = 32  # queries, so that their scores and sums stay in the first cache
NOWHERE = -1e30  # a maximum before any key
AT_ONCE = 8  # queries of an inner loop


def _load_16(e: Emit, kind: int, place: Any) -> Any:
    """16 cached numbers, scales not applied."""
    if kind == BF16:
        return e.load_bf16(place)
    if kind == F32:
        return e.load(place, FLOATS)
    return e.b.sitofp(e.b.sext(e.load(place, ir.VectorType(I8, LANES)), WORDS), FLOATS)


def _make_score(kind: int) -> Any:
    """8 queries times the keys of some blocks, two blocks at a time (the last twice, where they are odd)."""
    size = ELEMENT[kind]

    def body(e: Emit, q: Any, at: Any, d: Any, data: Any, starts: Any, count: Any, scales: Any, out: Any, to: Any) -> None:
        b = e.b
        queries = [e.at(q, b.mul(b.add(at, b.mul(d, e.whole(j))), e.whole(4))) for j in range(AT_ONCE)]
        rows = [e.at(out, b.mul(b.add(to, e.whole(CHUNK * j)), e.whole(4))) for j in range(AT_ONCE)]
        with e.loop(b.udiv(b.add(count, e.whole(1)), e.whole(2))) as pair:
            first = b.mul(pair.index, e.whole(2))
            behind = b.add(first, e.whole(1))
            numbers = [first, b.select(b.icmp_signed("<", behind, count), behind, first)]
            keys = [e.at(data, e.load(e.at(starts, b.mul(number, e.whole(8))), I64)) for number in numbers]
            with e.loop(d, [e.floats(0.0)] * (2 * AT_ONCE)) as loop:
                lanes = [_load_16(e, kind, e.at(key, b.mul(loop.index, e.whole(LANES * size)))) for key in keys]
                offset = b.mul(loop.index, e.whole(4))
                sums = []
                for j in range(AT_ONCE):
                    value = e.broadcast(e.at(queries[j], offset), FLOATS)
                    sums += [e.fma(lanes[i], value, loop.carried[2 * j + i]) for i in range(2)]
                loop.carry(*sums)
            for place, score in enumerate(loop.out):
                if kind == INT8:
                    score = b.fmul(score, e.load(e.at(keys[place % 2], scales), FLOATS))
                e.store(score, e.at(rows[place // 2], b.mul(b.add(first, e.whole(place % 2)), e.whole(64))))
            pair.carry()

    generate = emitter(body)

    @intrinsic
    def score(typingctx, q, at, d, data, starts, count, scales, out, to):  # noqa: ANN001, ANN202
        return wants(q, at, d, data, starts, count, scales, out, to), generate

    return score


def _make_weigh(kind: int, columns: int) -> Any:
    """`columns` vectors of the values' width for 8 queries: some blocks' values times their weights, onto the sums."""
    size = ELEMENT[kind]

    def body(e: Emit, p: Any, at: Any, data: Any, starts: Any, count: Any, inside: Any, wide: Any, out: Any, to: Any) -> None:
        b = e.b
        weights = [e.at(p, b.mul(b.add(at, e.whole(CHUNK * j)), e.whole(4))) for j in range(AT_ONCE)]
        places = [e.at(out, b.mul(b.add(to, b.mul(wide, e.whole(j))), e.whole(4))) for j in range(AT_ONCE)]
        sums = [e.load(e.at(place, 64 * c), FLOATS) for place in places for c in range(columns)]
        with e.loop(count, sums) as block:
            values = e.at(e.at(data, e.load(e.at(starts, b.mul(block.index, e.whole(8))), I64)), inside)
            row = [e.at(each, b.mul(block.index, e.whole(64))) for each in weights]
            with e.loop(LANES, block.carried) as key:
                there = e.at(values, b.mul(b.mul(key.index, wide), e.whole(size)))
                value = [_load_16(e, kind, e.at(there, LANES * size * c)) for c in range(columns)]
                new = []
                for j in range(AT_ONCE):
                    weight = e.broadcast(e.at(row[j], b.mul(key.index, e.whole(4))), FLOATS)
                    new += [e.fma(weight, value[c], key.carried[j * columns + c]) for c in range(columns)]
                key.carry(*new)
            block.carry(*key.out)
        for place, total in enumerate(block.out):
            e.store(total, e.at(places[place // columns], 64 * (place % columns)))

    generate = emitter(body)

    @intrinsic
    def weigh(typingctx, p, at, data, starts, count, inside, wide, out, to):  # noqa: ANN001, ANN202
        return wants(p, at, data, starts, count, inside, wide, out, to), generate

    return weigh


_score_bf16, _score_int8, _score_f32 = (_make_score(kind) for kind in (BF16, INT8, F32))
_weigh_bf16_1, _weigh_int8_1, _weigh_f32_1 = (_make_weigh(kind, 1) for kind in (BF16, INT8, F32))
_weigh_bf16_2, _weigh_int8_2, _weigh_f32_2 = (_make_weigh(kind, 2) for kind in (BF16, INT8, F32))


@intrinsic
def _softmax(typingctx, scores, at, vectors, first, low, high, tops, sums, j):  # noqa: ANN001, ANN202
    """Scores of keys `first` on become weights; those outside low..high weigh 0. Gives the factor on what was summed."""

    def body(e: Emit, scores: Any, at: Any, vectors: Any, first: Any, low: Any, high: Any, tops: Any, sums: Any, j: Any) -> Any:
        b = e.b
        source, top_at = e.at(scores, b.mul(at, e.whole(4))), e.at(tops, b.mul(j, e.whole(4)))
        lanes = e.constant(WORDS, list(range(LANES)))
        edges = [e.splat(b.trunc(b.sub(edge, first), WORDS.element), WORDS) for edge in (low, high)]
        with e.loop(vectors, [e.floats(NOWHERE)]) as loop:
            place = e.at(source, b.mul(loop.index, e.whole(64)))
            key = b.add(lanes, e.splat(b.trunc(b.mul(loop.index, e.whole(LANES)), WORDS.element), WORDS))
            seen = b.and_(b.icmp_signed(">=", key, edges[0]), b.icmp_signed("<=", key, edges[1]))
            score = b.select(seen, e.load(place, FLOATS), e.floats(-float("inf")))
            e.store(score, place)
            loop.carry(e.most(loop.carried[0], score))
        before = e.load(top_at, FLOATS.element)
        best = e.highest(loop.out[0])
        top = b.select(b.fcmp_ordered(">", best, before), best, before)
        e.store(top, top_at)
        wide_top = e.splat(top, FLOATS)
        factor = e.exp(b.fsub(e.splat(before, FLOATS), wide_top))
        sum_at = e.at(sums, b.mul(j, e.whole(64)))
        with e.loop(vectors, [b.fmul(e.load(sum_at, FLOATS), factor)]) as loop:
            place = e.at(source, b.mul(loop.index, e.whole(64)))
            weight = e.exp(b.fsub(e.load(place, FLOATS), wide_top))
            e.store(weight, place)
            loop.carry(b.fadd(loop.carried[0], weight))
        e.store(loop.out[0], sum_at)
        return b.extract_element(factor, ir.Constant(WORDS.element, 0))

    signature = wants(scores, at, vectors, first, low, high, tops, sums, j, gives=types.float32)
    return signature, emitter(body)


@intrinsic
def _exp(typingctx, x):  # noqa: ANN001, ANN202
    def body(e: Emit, x: Any) -> Any:
        return e.b.extract_element(e.exp(e.splat(x, FLOATS)), ir.Constant(WORDS.element, 0))

    return types.float32(types.float32), emitter(body)


@kernel
def _score(kind, q, queries, d, data, starts, count, out):  # noqa: ANN001, ANN202 - compiled: types are Numba's
    """out[j, 16 v:] = query j times the 16 keys of block v."""
    scales = 16 * (d + -(-d // 16) * 16)
    for j in range(0, queries, AT_ONCE):
        if kind == BF16:
            _score_bf16(q, j * d, d, data, starts, count, scales, out, j * CHUNK)
        elif kind == F32:
            _score_f32(q, j * d, d, data, starts, count, scales, out, j * CHUNK)
        else:
            _score_int8(q, j * d, d, data, starts, count, scales, out, j * CHUNK)


@kernel
def _scale_weights(p, queries, d, data, starts, count):  # noqa: ANN001, ANN202
    """Weights times the scales of their int8 values."""
    behind = 16 * (d + -(-d // 16) * 16) + 64
    for v in range(count):
        factors = data[starts[v] + behind : starts[v] + behind + 64].view(np.float32)
        for j in range(queries):
            for i in range(16):
                p[j * CHUNK + 16 * v + i] *= factors[i]


@kernel
def _weigh(kind, p, queries, d, data, starts, count, sums):  # noqa: ANN001, ANN202
    """sums[j] += the values of the blocks, weighed by query j."""
    wide = -(-d // 16) * 16
    columns = 32 if wide % 32 == 0 else 16
    if kind == INT8:
        _scale_weights(p, queries, d, data, starts, count)
    for j in range(0, queries, AT_ONCE):
        for c in range(0, wide, columns):
            inside, to = ELEMENT[kind] * (16 * d + c), j * wide + c
            if kind == BF16 and columns == 32:
                _weigh_bf16_2(p, j * CHUNK, data, starts, count, inside, wide, sums, to)
            elif kind == BF16:
                _weigh_bf16_1(p, j * CHUNK, data, starts, count, inside, wide, sums, to)
            elif kind == F32 and columns == 32:
                _weigh_f32_2(p, j * CHUNK, data, starts, count, inside, wide, sums, to)
            elif kind == F32:
                _weigh_f32_1(p, j * CHUNK, data, starts, count, inside, wide, sums, to)
            elif columns == 32:
                _weigh_int8_2(p, j * CHUNK, data, starts, count, inside, wide, sums, to)
            else:
                _weigh_int8_1(p, j * CHUNK, data, starts, count, inside, wide, sums, to)


@kernel
def _one_split(cache, blocks_B, g, queries, lows_J, highs_J, split, scores, tops, weights, sums):  # noqa: ANN001, ANN202
    """Keys split * SPLIT .. + 1023 for all queries of a tile, from tops = NOWHERE and zeros."""
    data, kind, groups, d, size = cache
    count = lows_J.size
    wide = -(-d // 16) * 16
    first, last = max(lows_J.min(), split * SPLIT), min(highs_J.max(), split * SPLIT + SPLIT - 1)
    starts = np.empty(CHUNK // 16, np.int64)
    for chunk in range(first // CHUNK, last // CHUNK + 1):
        block, end = max(first, chunk * CHUNK) // 16, min(last, chunk * CHUNK + CHUNK - 1) // 16
        vectors = end - block + 1
        for v in range(vectors):
            starts[v] = (np.int64(blocks_B[block + v]) * groups + g) * size
        _score(kind, queries, count, d, data, starts, vectors, scores)
        for j in range(count):
            factor = _softmax(scores, j * CHUNK, vectors, block * 16, lows_J[j], highs_J[j], tops, weights, j)
            if factor != np.float32(1.0):
                for i in range(j * wide, j * wide + wide):
                    sums[i] *= factor
        _weigh(kind, scores, count, d, data, starts, vectors, sums)


@kernel
def _reset(count, tops, weights, sums):  # noqa: ANN001, ANN202
    tops[:count] = np.float32(NOWHERE)
    weights[: count * 16] = np.float32(0.0)
    sums[:] = np.float32(0.0)


@kernel
def _merge(count, wide, tops, weights, sums, more_tops, more_weights, more_sums):  # noqa: ANN001, ANN202
    """The softmax over what both saw, into the first."""
    for j in range(count):
        top = max(tops[j], more_tops[j])
        mine, other = _exp(tops[j] - top), _exp(more_tops[j] - top)
        tops[j] = top
        for i in range(j * 16, j * 16 + 16):
            weights[i] = weights[i] * mine + more_weights[i] * other
        for i in range(j * wide, j * wide + wide):
            sums[i] = sums[i] * mine + more_sums[i] * other


@kernel
def _tile(qkv, unit, heads, groups, d, positions_T, sinks_H, g, window, queries, lows_J, highs_J, tops, weights):  # noqa: ANN001, ANN202
    """A tile's queries, scaled, with the keys each may see and its sink as the first of the softmax."""
    m, scale = heads // groups, np.float32(1.0 / np.sqrt(d))
    for i in range(unit[2]):
        t = unit[1] + i
        for h in range(m):
            j = i * m + h
            for lane in range(d):
                queries[j * d + lane] = qkv[t, (g * m + h) * d + lane] * scale
            highs_J[j] = positions_T[t]
            lows_J[j] = max(0, positions_T[t] - window + 1) if window else 0
            tops[j] = sinks_H[g * m + h]
            weights[j * 16 : j * 16 + 16] = np.float32(0.0)
            weights[j * 16] = np.float32(1.0)


@kernel
def tile_rows(starts_S1, m):  # noqa: ANN001, ANN201
    """Rows of a tile: as many as make TILE queries, but no more than any sequence has."""
    most = 1
    for s in range(starts_S1.size - 1):
        most = max(most, starts_S1[s + 1] - starts_S1[s])
    return min(max(1, TILE // m), most)


@kernel
def units_of(starts_S1, rows):  # noqa: ANN001, ANN201
    """[U, 3]: sequence, first row, rows of each tile."""
    count = 0
    for s in range(starts_S1.size - 1):
        count += -(-(starts_S1[s + 1] - starts_S1[s]) // rows)
    units = np.empty((count, 3), np.int32)
    u = 0
    for s in range(starts_S1.size - 1):
        for t in range(starts_S1[s], starts_S1[s + 1], rows):
            units[u, 0], units[u, 1], units[u, 2] = s, t, min(rows, starts_S1[s + 1] - t)
            u += 1
    return units


@kernel
def _finish(out_TD, unit, m, d, g, weights, sums):  # noqa: ANN001, ANN202
    wide = -(-d // 16) * 16
    for i in range(unit[2]):
        for h in range(m):
            j = i * m + h
            total = np.float32(0.0)
            for lane in range(16):
                total += weights[j * 16 + lane]
            for lane in range(d):
                out_TD[unit[1] + i, (g * m + h) * d + lane] = sums[j * wide + lane] / total


@parallel
def attend(qkv, heads, cache, positions_T, starts_S1, blocks_SB, sinks_H, window, out_TD, workers):  # noqa: ANN001, ANN201
    """Every row over the keys it sees, each tile of rows and key head by one thread."""
    _, _, groups, d, _ = cache
    m = heads // groups
    rows = tile_rows(starts_S1, m)
    units = units_of(starts_S1, rows)
    most = -(-rows * m // 8) * 8
    wide = -(-d // 16) * 16
    counter = np.zeros(1, np.int64)
    for _ in prange(workers):
        queries = np.zeros(most * d, np.float32)
        scores = np.zeros(most * CHUNK, np.float32)
        tops, more_tops = np.empty(most, np.float32), np.empty(most, np.float32)
        weights, more_weights = np.empty(most * 16, np.float32), np.empty(most * 16, np.float32)
        sums, more_sums = np.empty(most * wide, np.float32), np.empty(most * wide, np.float32)
        task = take(counter)
        while task < units.shape[0] * groups:
            unit, g = units[task // groups], task % groups
            count = unit[2] * m
            lows_J, highs_J = np.empty(count, np.int64), np.empty(count, np.int64)
            _tile(qkv, unit, heads, groups, d, positions_T, sinks_H, g, window, queries, lows_J, highs_J, tops, weights)
            sums[:] = np.float32(0.0)
            blocks_B = blocks_SB[unit[0]]
            for split in range(lows_J.min() // SPLIT, highs_J.max() // SPLIT + 1):
                if split == 0:
                    _one_split(cache, blocks_B, g, queries, lows_J, highs_J, split, scores, tops, weights, sums)
                else:
                    _reset(count, more_tops, more_weights, more_sums)
                    _one_split(
                        cache, blocks_B, g, queries, lows_J, highs_J, split, scores, more_tops, more_weights, more_sums
                    )
                    _merge(count, wide, tops, weights, sums, more_tops, more_weights, more_sums)
            _finish(out_TD, unit, m, d, g, weights, sums)
            task = take(counter)


@parallel
def attend_apart(qkv, heads, cache, positions_T, starts_S1, blocks_SB, sinks_H, window, out_TD, workers):  # noqa: ANN001, ANN201
    """As `attend`, for few rows far into their sequences: splits are shared out too, and merged in order at the end."""
    _, _, groups, d, _ = cache
    m = heads // groups
    rows = tile_rows(starts_S1, m)
    units = units_of(starts_S1, rows)
    most = -(-rows * m // 8) * 8
    wide = -(-d // 16) * 16
    splits = np.int64(positions_T.max()) // SPLIT + 1
    tasks = units.shape[0] * groups
    all_tops = np.empty((tasks * splits, most), np.float32)
    all_weights = np.empty((tasks * splits, most * 16), np.float32)
    all_sums = np.empty((tasks * splits, most * wide), np.float32)
    counter = np.zeros(1, np.int64)
    for _ in prange(workers):
        queries = np.zeros(most * d, np.float32)
        scores = np.zeros(most * CHUNK, np.float32)
        tops, weights = np.empty(most, np.float32), np.empty(most * 16, np.float32)
        task = take(counter)
        while task < tasks * splits:
            unit, g, split = units[task // splits // groups], task // splits % groups, task % splits
            count = unit[2] * m
            lows_J, highs_J = np.empty(count, np.int64), np.empty(count, np.int64)
            _tile(qkv, unit, heads, groups, d, positions_T, sinks_H, g, window, queries, lows_J, highs_J, tops, weights)
            _reset(count, all_tops[task], all_weights[task], all_sums[task])
            if split == 0:
                all_tops[task], all_weights[task] = tops, weights
            if lows_J.min() // SPLIT <= split <= highs_J.max() // SPLIT:
                _one_split(
                    cache, blocks_SB[unit[0]], g, queries, lows_J, highs_J, split,
                    scores, all_tops[task], all_weights[task], all_sums[task],
                )  # fmt: skip
            task = take(counter)
    queries = np.zeros(most * d, np.float32)
    tops, weights, sums = np.empty(most, np.float32), np.empty(most * 16, np.float32), np.empty(most * wide, np.float32)
    for task in range(tasks):
        unit, g = units[task // groups], task % groups
        count = unit[2] * m
        lows_J, highs_J = np.empty(count, np.int64), np.empty(count, np.int64)
        _tile(qkv, unit, heads, groups, d, positions_T, sinks_H, g, window, queries, lows_J, highs_J, tops, weights)
        sums[:] = np.float32(0.0)
        for split in range(lows_J.min() // SPLIT, highs_J.max() // SPLIT + 1):
            at = task * splits + split
            if split == 0:
                tops, weights, sums = all_tops[at], all_weights[at], all_sums[at]
            else:
                _merge(count, wide, tops, weights, sums, all_tops[at], all_weights[at], all_sums[at])
        _finish(out_TD, unit, m, d, g, weights, sums)


@kernel
def place_and_attend(qkv, heads, cache, rope, places, sinks_H, window, out_TD, placers, workers):  # noqa: ANN001, ANN201
    """Rows rotated and stored by `placers`, then `attend`."""
    data, kind, groups, d, size = cache
    rotate_and_store(qkv, heads, groups, d, places, rope, data, kind, size, placers)
    attend(qkv, heads, cache, places[0], places[1], places[2], sinks_H, window, out_TD, workers)


@kernel
def place_and_attend_apart(qkv, heads, cache, rope, places, sinks_H, window, out_TD, placers, workers):  # noqa: ANN001, ANN201
    """Rows rotated and stored by `placers`, then `attend_apart`."""
    data, kind, groups, d, size = cache
    rotate_and_store(qkv, heads, groups, d, places, rope, data, kind, size, placers)
    attend_apart(qkv, heads, cache, places[0], places[1], places[2], sinks_H, window, out_TD, workers)


@kernel
def _read_ahead(data, done):  # noqa: ANN001, ANN202
    """Bring data near, front to back, until another thread is done."""
    at = 0
    while at + 4096 <= data.size and peek(done) == 0:
        ask_page(data, at)
        at += 4096


@parallel
def attend_while_reading(qkv, heads, cache, rope, places, sinks_H, window, out_TD, soon, workers):  # noqa: ANN001, ANN201
    """`place_and_attend` on one thread, while another fetches the weights `soon` from memory, which would idle."""
    done = np.zeros(1, np.int64)
    for worker in prange(2):
        if worker == 0:
            place_and_attend(qkv, heads, cache, rope, places, sinks_H, window, out_TD, None, None)
            take(done)
        else:
            _read_ahead(soon, done)
