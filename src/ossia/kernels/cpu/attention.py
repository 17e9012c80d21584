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

from ossia.kernels.cpu.cache import BF16, ELEMENT, F32, INT8, bf16_bits, rotate_and_store
from ossia.kernels.cpu.jit import kernel, parallel, peek, take
from ossia.kernels.cpu.simd import FLOATS, I8, I16, I64, LANES, TARGET, WORDS, Emit, emitter, intrinsic, wants
from ossia.kernels.cpu.tiles import ask_page

CHUNK = 128  # keys under one maximum
SPLIT = 1024  # keys that one thread takes at once
TILE = 32  # queries, so that their scores and sums stay in the first cache
NOWHERE = -1e30  # a maximum before any key
AT_ONCE = 8  # queries of an inner loop
PAIRED = (2, 1, 1)  # numbers of a kind that one step takes
HELD = (2 if TARGET.pairs else 4, 4, 4)  # bytes of a query's or a weight's number beside a kind's cache


def _cached(e: Emit, kind: int, place: Any) -> list[Any]:
    """A step of 16 cached numbers, scales not applied; in bfloat16 of 16 pairs, as one vector of words or as two widened."""
    if kind == BF16:
        pairs = e.load(place, WORDS)
        return [pairs] if TARGET.pairs else list(e.unpaired(pairs))
    if kind == F32:
        return [e.load(place, FLOATS)]
    return [e.b.sitofp(e.b.sext(e.load(place, ir.VectorType(I8, LANES)), WORDS), FLOATS)]


def _other(e: Emit, kind: int, place: Any) -> list[Any]:
    """What a step's numbers are multiplied by, in every lane."""
    if kind == BF16 and TARGET.pairs:
        return [e.broadcast(place, WORDS)]
    return [e.broadcast(e.at(place, 4 * i), FLOATS) for i in reversed(range(PAIRED[kind]))]


def _more(e: Emit, kind: int, total: Any, cached: list[Any], other: list[Any]) -> Any:
    """Fused on every target, and of a pair the second first: the same bits, but for numbers under float32's normal ones."""
    if kind == BF16 and TARGET.pairs:
        return e.dot2(total, other[0], cached[0])
    for x, y in zip(cached, other, strict=True):
        total = e.fma(x, y, total)
    return total


def _make_score(kind: int) -> Any:
    """8 queries times the keys of some blocks, two blocks at a time (the last twice, where they are odd)."""
    pair, held = PAIRED[kind], HELD[kind]

    def body(e: Emit, q: Any, at: Any, d: Any, data: Any, starts: Any, count: Any, scales: Any, out: Any, to: Any) -> None:
        b = e.b
        queries = [e.at(q, b.mul(b.add(at, b.mul(d, e.whole(j))), e.whole(held))) for j in range(AT_ONCE)]
        rows = [e.at(out, b.mul(b.add(to, e.whole(CHUNK * j)), e.whole(4))) for j in range(AT_ONCE)]
        with e.loop(b.udiv(b.add(count, e.whole(1)), e.whole(2))) as two:
            first = b.mul(two.index, e.whole(2))
            behind = b.add(first, e.whole(1))
            numbers = [first, b.select(b.icmp_signed("<", behind, count), behind, first)]
            keys = [e.at(data, e.load(e.at(starts, b.mul(number, e.whole(8))), I64)) for number in numbers]
            with e.loop(b.udiv(d, e.whole(pair)), [e.floats(0.0)] * (2 * AT_ONCE)) as loop:
                there = b.mul(loop.index, e.whole(LANES * ELEMENT[kind] * pair))
                lanes = [_cached(e, kind, e.at(key, there)) for key in keys]
                offset = b.mul(loop.index, e.whole(held * pair))
                sums = []
                for j in range(AT_ONCE):
                    query = _other(e, kind, e.at(queries[j], offset))
                    sums += [_more(e, kind, loop.carried[2 * j + i], lanes[i], query) for i in range(2)]
                loop.carry(*sums)
            for place, score in enumerate(loop.out):
                if kind == INT8:
                    score = b.fmul(score, e.load(e.at(keys[place % 2], scales), FLOATS))
                e.store(score, e.at(rows[place // 2], b.mul(b.add(first, e.whole(place % 2)), e.whole(64))))
            two.carry()

    generate = emitter(body)

    @intrinsic
    def score(typingctx, q, at, d, data, starts, count, scales, out, to):  # noqa: ANN001, ANN202
        return wants(q, at, d, data, starts, count, scales, out, to), generate

    return score


def _make_weigh(kind: int, columns: int) -> Any:
    """`columns` vectors of the values' width for 8 queries: the sums times their factors, and some blocks' weighed values."""
    pair, held, size = PAIRED[kind], HELD[kind], ELEMENT[kind] * PAIRED[kind]

    def body(
        e: Emit, p: Any, at: Any, data: Any, starts: Any, count: Any, inside: Any, wide: Any, factors: Any, j: Any,
        out: Any, to: Any,
    ) -> None:  # fmt: skip
        b = e.b
        weights = [e.at(p, b.mul(b.add(at, e.whole(CHUNK * i)), e.whole(4))) for i in range(AT_ONCE)]
        places = [e.at(out, b.mul(b.add(to, b.mul(wide, e.whole(i))), e.whole(4))) for i in range(AT_ONCE)]
        sums = []
        for i, place in enumerate(places):
            factor = e.broadcast(e.at(factors, b.mul(b.add(j, e.whole(i)), e.whole(4))), FLOATS)
            sums += [b.fmul(e.load(e.at(place, 64 * c), FLOATS), factor) for c in range(columns)]
        with e.loop(count, sums) as block:
            values = e.at(e.at(data, e.load(e.at(starts, b.mul(block.index, e.whole(8))), I64)), inside)
            row = [e.at(each, b.mul(block.index, e.whole(LANES * held))) for each in weights]
            with e.loop(LANES // pair, block.carried) as key:
                there = e.at(values, b.mul(b.mul(key.index, wide), e.whole(size)))
                value = [_cached(e, kind, e.at(there, LANES * size * c)) for c in range(columns)]
                new = []
                for i in range(AT_ONCE):
                    weight = _other(e, kind, e.at(row[i], b.mul(key.index, e.whole(held * pair))))
                    new += [_more(e, kind, key.carried[i * columns + c], value[c], weight) for c in range(columns)]
                key.carry(*new)
            block.carry(*key.out)
        for place, total in enumerate(block.out):
            e.store(total, e.at(places[place // columns], 64 * (place % columns)))

    generate = emitter(body)

    @intrinsic
    def weigh(typingctx, p, at, data, starts, count, inside, wide, factors, j, out, to):  # noqa: ANN001, ANN202
        return wants(p, at, data, starts, count, inside, wide, factors, j, out, to), generate

    return weigh


_score_bf16, _score_int8, _score_f32 = (_make_score(kind) for kind in (BF16, INT8, F32))
_weigh_bf16_1, _weigh_int8_1, _weigh_f32_1 = (_make_weigh(kind, 1) for kind in (BF16, INT8, F32))
_weigh_bf16_2, _weigh_int8_2, _weigh_f32_2 = (_make_weigh(kind, 2) for kind in (BF16, INT8, F32))


@intrinsic
def _hide(typingctx, scores, at, vectors, first, low, high):  # noqa: ANN001, ANN202
    """Scores of keys `first` on that are outside low..high become minus infinity."""

    def body(e: Emit, scores: Any, at: Any, vectors: Any, first: Any, low: Any, high: Any) -> None:
        b, source = e.b, e.at(scores, e.b.mul(at, e.whole(4)))
        lanes = e.constant(WORDS, list(range(LANES)))
        edges = [e.splat(b.trunc(b.sub(edge, first), WORDS.element), WORDS) for edge in (low, high)]
        with e.loop(vectors) as loop:
            place = e.at(source, b.mul(loop.index, e.whole(64)))
            key = b.add(lanes, e.splat(b.trunc(b.mul(loop.index, e.whole(LANES)), WORDS.element), WORDS))
            seen = b.and_(b.icmp_signed(">=", key, edges[0]), b.icmp_signed("<=", key, edges[1]))
            e.store(b.select(seen, e.load(place, FLOATS), e.floats(-float("inf"))), place)
            loop.carry()

    return wants(scores, at, vectors, first, low, high), emitter(body)


@intrinsic
def _best(typingctx, scores, at, vectors):  # noqa: ANN001, ANN202
    """The highest of some vectors of scores."""

    def body(e: Emit, scores: Any, at: Any, vectors: Any) -> Any:
        source = e.at(scores, e.b.mul(at, e.whole(4)))
        with e.loop(vectors, [e.floats(NOWHERE)]) as loop:
            loop.carry(e.larger(e.load(e.at(source, e.b.mul(loop.index, e.whole(64))), FLOATS), loop.carried[0]))
        return e.highest(loop.out[0])

    return wants(scores, at, vectors, gives=types.float32), emitter(body)


@intrinsic
def _raise(typingctx, tops, bests, factors, at):  # noqa: ANN001, ANN202
    """16 queries' maxima with those of new keys, and the factors on what was summed before."""

    def body(e: Emit, tops: Any, bests: Any, factors: Any, at: Any) -> None:
        place = e.b.mul(at, e.whole(4))
        before = e.load(e.at(tops, place), FLOATS)
        top = e.larger(e.load(e.at(bests, place), FLOATS), before)
        e.store(top, e.at(tops, place))
        e.store(e.exp(e.b.fsub(before, top)), e.at(factors, place))

    return wants(tops, bests, factors, at), emitter(body)


def _make_softmax(kind: int) -> Any:
    """Scores become weights, where they stand; for bfloat16 values rounded, and halved in size where pairs are multiplied."""

    def body(e: Emit, scores: Any, at: Any, vectors: Any, tops: Any, factors: Any, sums: Any, j: Any) -> None:
        b, source, there = e.b, e.at(scores, e.b.mul(at, e.whole(4))), e.b.mul(j, e.whole(4))
        top, sum_at = e.broadcast(e.at(tops, there), FLOATS), e.at(sums, b.mul(j, e.whole(64)))
        so_far = b.fmul(e.load(sum_at, FLOATS), e.broadcast(e.at(factors, there), FLOATS))
        with e.loop(vectors, [so_far]) as loop:
            less = b.fsub(e.load(e.at(source, b.mul(loop.index, e.whole(64))), FLOATS), top)
            weight = e.exp_short(less) if kind == BF16 else e.exp(less)
            kept = weight
            if kind == BF16:
                bits = b.add(b.bitcast(weight, WORDS), e.constant(WORDS, 1 << 15))
                weight = b.bitcast(b.and_(bits, e.constant(WORDS, -(1 << 16))), FLOATS)
                high = b.trunc(b.lshr(bits, e.constant(WORDS, 16)), ir.VectorType(I16, LANES))
                kept = high if TARGET.pairs else weight
            e.store(kept, e.at(source, b.mul(loop.index, e.whole(LANES * HELD[kind]))))
            loop.carry(b.fadd(loop.carried[0], weight))
        e.store(loop.out[0], sum_at)

    generate = emitter(body)

    @intrinsic
    def softmax(typingctx, scores, at, vectors, tops, factors, sums, j):  # noqa: ANN001, ANN202
        return wants(scores, at, vectors, tops, factors, sums, j), generate

    return softmax


_softmax_rounded, _softmax_exact = _make_softmax(BF16), _make_softmax(F32)


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
def _weigh(kind, p, queries, d, data, starts, count, factors, sums):  # noqa: ANN001, ANN202
    """sums[j] = itself times its factor + the values of the blocks, weighed by query j."""
    wide = -(-d // 16) * 16
    columns = 32 if wide % 32 == 0 else 16
    if kind == INT8:
        _scale_weights(p, queries, d, data, starts, count)
    for j in range(0, queries, AT_ONCE):
        for c in range(0, wide, columns):
            inside, to = ELEMENT[kind] * (16 * d + PAIRED[kind] * c), j * wide + c
            if kind == BF16 and columns == 32:
                _weigh_bf16_2(p, j * CHUNK, data, starts, count, inside, wide, factors, j, sums, to)
            elif kind == BF16:
                _weigh_bf16_1(p, j * CHUNK, data, starts, count, inside, wide, factors, j, sums, to)
            elif kind == F32 and columns == 32:
                _weigh_f32_2(p, j * CHUNK, data, starts, count, inside, wide, factors, j, sums, to)
            elif kind == F32:
                _weigh_f32_1(p, j * CHUNK, data, starts, count, inside, wide, factors, j, sums, to)
            elif columns == 32:
                _weigh_int8_2(p, j * CHUNK, data, starts, count, inside, wide, factors, j, sums, to)
            else:
                _weigh_int8_1(p, j * CHUNK, data, starts, count, inside, wide, factors, j, sums, to)


@kernel
def _one_split(cache, blocks_B, g, queries, lows_J, highs_J, split, scores, tops, weights, sums):  # noqa: ANN001, ANN202
    """Keys split * SPLIT .. + 1023 for all queries of a tile, from tops = NOWHERE and zeros."""
    data, kind, groups, d, size = cache
    count = lows_J.size
    first, last = max(lows_J.min(), split * SPLIT), min(highs_J.max(), split * SPLIT + SPLIT - 1)
    starts = np.empty(CHUNK // 16, np.int64)
    bests, factors = np.empty(tops.size, np.float32), np.empty(tops.size, np.float32)
    for chunk in range(first // CHUNK, last // CHUNK + 1):
        block, end = max(first, chunk * CHUNK) // 16, min(last, chunk * CHUNK + CHUNK - 1) // 16
        vectors = end - block + 1
        for v in range(vectors):
            starts[v] = (np.int64(blocks_B[block + v]) * groups + g) * size
        _score(kind, queries, count, d, data, starts, vectors, scores)
        for j in range(count):
            if lows_J[j] > 16 * block or highs_J[j] < 16 * end + 15:
                _hide(scores, j * CHUNK, vectors, 16 * block, lows_J[j], highs_J[j])
            bests[j] = _best(scores, j * CHUNK, vectors)
        for j in range(0, count, 16):
            _raise(tops, bests, factors, j)
        for j in range(count):
            if kind == BF16:
                _softmax_rounded(scores, j * CHUNK, vectors, tops, factors, weights, j)
            else:
                _softmax_exact(scores, j * CHUNK, vectors, tops, factors, weights, j)
        _weigh(kind, scores, count, d, data, starts, vectors, factors, sums)


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
def _tile(kind, qkv, unit, heads, groups, d, positions_T, sinks_H, g, window, queries, lows_J, highs_J, tops, weights):  # noqa: ANN001, ANN202
    """A tile's queries, scaled (and rounded as keys are, if to bfloat16), the keys each may see, its sink as its first."""
    m, scale = heads // groups, np.float32(1.0 / np.sqrt(d))
    halves, words = queries.view(np.uint16), queries.view(np.uint32)
    for i in range(unit[2]):
        t = unit[1] + i
        for h in range(m):
            j = i * m + h
            first = (g * m + h) * d
            for lane in range(d):
                value = qkv[t, first + lane] * scale
                if kind != BF16:
                    queries[j * d + lane] = value
                elif TARGET.pairs:
                    halves[j * d + lane] = bf16_bits(value)
                else:
                    words[j * d + lane] = np.uint32(bf16_bits(value)) << np.uint32(16)
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
    _, kind, groups, d, _ = cache
    m = heads // groups
    rows = tile_rows(starts_S1, m)
    units = units_of(starts_S1, rows)
    most = -(-rows * m // 16) * 16
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
            _tile(kind, qkv, unit, heads, groups, d, positions_T, sinks_H, g, window, queries, lows_J, highs_J, tops, weights)
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
    _, kind, groups, d, _ = cache
    m = heads // groups
    rows = tile_rows(starts_S1, m)
    units = units_of(starts_S1, rows)
    most = -(-rows * m // 16) * 16
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
            _tile(kind, qkv, unit, heads, groups, d, positions_T, sinks_H, g, window, queries, lows_J, highs_J, tops, weights)
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
        _tile(kind, qkv, unit, heads, groups, d, positions_T, sinks_H, g, window, queries, lows_J, highs_J, tops, weights)
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
