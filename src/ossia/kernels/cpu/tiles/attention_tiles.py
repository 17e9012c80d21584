# pyright: standard
"""Attention over one chunk of cached keys, eight queries at a time: scores, softmax, weighted values.

In: scaled queries, the cache's bytes, and the offsets of the chunk's blocks. Out: float32 sums, maxima and weight
sums.

Beside a bfloat16 cache, queries and weights are bfloat16 too: two per word if `MachineTarget.pairs`, else as float32.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from ossia.kernels.cpu.codegen.jit import kernel
from ossia.kernels.cpu.codegen.simd import FLOATS, I8, I16, I64, LANES, TARGET, WORDS, Emit, emitter, intrinsic, wants
from ossia.kernels.cpu.kv_cache import BF16, ELEMENT, F32, INT8

CHUNK = 128  # keys of a softmax step
NOWHERE = -1e30  # the maximum before the first key
AT_ONCE = 8  # queries of one inner loop
PAIRED = (2, 1, 1)  # numbers that one step takes, per cache kind
HELD = (2 if TARGET.pairs else 4, 4, 4)  # bytes of one number of a query or weight, per cache kind


def _cached(e: Emit, kind: int, place: Any) -> list[Any]:
    """16 cached numbers, or 16 bfloat16 pairs as one vector of words or two of floats. Scales are not applied."""
    if kind == BF16:
        pairs = e.load(place, WORDS)
        return [pairs] if TARGET.pairs else list(e.unpaired(pairs))
    if kind == F32:
        return [e.load(place, FLOATS)]
    return [e.b.sitofp(e.b.sext(e.load(place, ir.VectorType(I8, LANES)), WORDS), FLOATS)]


def _other(e: Emit, kind: int, place: Any) -> list[Any]:
    """The factor of one step, in every lane."""
    if kind == BF16 and TARGET.pairs:
        return [e.broadcast(place, WORDS)]
    return [e.broadcast(e.at(place, 4 * i), FLOATS) for i in reversed(range(PAIRED[kind]))]


def _more(e: Emit, kind: int, total: Any, cached: list[Any], other: list[Any]) -> Any:
    """total plus one step's products. Always fused, and a pair's second number first, so that all targets give equal
    bits.

    Numbers below float32's normal range may differ.
    """
    if kind == BF16 and TARGET.pairs:
        return e.dot2(total, other[0], cached[0])
    for x, y in zip(cached, other, strict=True):
        total = e.fma(x, y, total)
    return total


def _make_score(kind: int) -> Any:
    """Emit 8 queries times the keys of some blocks, two blocks at a time. An odd last block is computed twice."""
    pair, held = PAIRED[kind], HELD[kind]

    def body(
        e: Emit, q: Any, at: Any, d: Any, data: Any, starts: Any, count: Any, scales: Any, out: Any, to: Any
    ) -> None:
        b = e.b
        queries = [e.at(q, b.mul(b.add(at, b.mul(d, e.whole(j))), e.whole(held))) for j in range(AT_ONCE)]
        rows = [e.at(out, b.mul(b.add(to, e.whole(CHUNK * j)), e.whole(4))) for j in range(AT_ONCE)]
        with e.loop(b.udiv(b.add(count, e.whole(1)), e.whole(2))) as two:
            first = b.mul(two.index, e.whole(2))
            scales_at = b.add(first, e.whole(1))
            numbers = [first, b.select(b.icmp_signed("<", scales_at, count), scales_at, first)]
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
    def score(typingctx, q, at, d, data, starts, count, scales, out, to):
        return wants(q, at, d, data, starts, count, scales, out, to), generate

    return score


def _make_weigh(kind: int, columns: int) -> Any:
    """Emit the sums of 8 queries times their factors, plus weighted values of some blocks, for `columns` vectors."""
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
    def weigh(typingctx, p, at, data, starts, count, inside, wide, factors, j, out, to):
        return wants(p, at, data, starts, count, inside, wide, factors, j, out, to), generate

    return weigh


_score_bf16, _score_int8, _score_f32 = (_make_score(kind) for kind in (BF16, INT8, F32))
_weigh_bf16_1, _weigh_int8_1, _weigh_f32_1 = (_make_weigh(kind, 1) for kind in (BF16, INT8, F32))
_weigh_bf16_2, _weigh_int8_2, _weigh_f32_2 = (_make_weigh(kind, 2) for kind in (BF16, INT8, F32))


@intrinsic
def _hide(typingctx, scores, at, vectors, first, low, high):
    """Set the scores of keys outside low..high to minus infinity. first: the key of the first score."""

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
def _best(typingctx, scores, at, vectors):
    """The highest score of some vectors."""

    def body(e: Emit, scores: Any, at: Any, vectors: Any) -> Any:
        source = e.at(scores, e.b.mul(at, e.whole(4)))
        with e.loop(vectors, [e.floats(NOWHERE)]) as loop:
            loop.carry(e.larger(e.load(e.at(source, e.b.mul(loop.index, e.whole(64))), FLOATS), loop.carried[0]))
        return e.highest(loop.out[0])

    return wants(scores, at, vectors, gives=types.float32), emitter(body)


@intrinsic
def _raise(typingctx, tops, bests, factors, at):
    """Update 16 queries' maxima with those of new keys. Writes the factors for the earlier sums."""

    def body(e: Emit, tops: Any, bests: Any, factors: Any, at: Any) -> None:
        place = e.b.mul(at, e.whole(4))
        before = e.load(e.at(tops, place), FLOATS)
        top = e.larger(e.load(e.at(bests, place), FLOATS), before)
        e.store(top, e.at(tops, place))
        e.store(e.exp(e.b.fsub(before, top)), e.at(factors, place))

    return wants(tops, bests, factors, at), emitter(body)


def _make_softmax(kind: int) -> Any:
    """Emit scores to weights, in place. Beside a bfloat16 cache they are rounded, and packed to pairs if the target
    has them.
    """

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
    def softmax(typingctx, scores, at, vectors, tops, factors, sums, j):
        return wants(scores, at, vectors, tops, factors, sums, j), generate

    return softmax


_softmax_rounded, _softmax_exact = _make_softmax(BF16), _make_softmax(F32)


@intrinsic
def exp(typingctx, x):
    """e^x, computed as for weights."""

    def body(e: Emit, x: Any) -> Any:
        return e.b.extract_element(e.exp(e.splat(x, FLOATS)), ir.Constant(WORDS.element, 0))

    return types.float32(types.float32), emitter(body)


@kernel
def score_keys(kind, q, queries, d, data, starts, count, out):
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
def soften(kind, scores, lows_J, highs_J, block, vectors, tops, bests, factors, sums):
    """Scores of the blocks from `block` on become weights, 0 outside a query's bounds. Writes factors for the earlier
    sums.
    """
    for j in range(lows_J.size):
        if lows_J[j] > 16 * block or highs_J[j] < 16 * (block + vectors) - 1:
            _hide(scores, j * CHUNK, vectors, 16 * block, lows_J[j], highs_J[j])
        bests[j] = _best(scores, j * CHUNK, vectors)
    for j in range(0, lows_J.size, 16):
        _raise(tops, bests, factors, j)
    for j in range(lows_J.size):
        if kind == BF16:
            _softmax_rounded(scores, j * CHUNK, vectors, tops, factors, sums, j)
        else:
            _softmax_exact(scores, j * CHUNK, vectors, tops, factors, sums, j)


@kernel
def _scale_weights(p, queries, d, data, starts, count):
    """Multiply weights by the scales of the int8 values."""
    scales_at = 16 * (d + -(-d // 16) * 16) + 64
    for v in range(count):
        factors = data[starts[v] + scales_at : starts[v] + scales_at + 64].view(np.float32)
        for j in range(queries):
            for i in range(16):
                p[j * CHUNK + 16 * v + i] *= factors[i]


@kernel
def weigh_values(kind, p, queries, d, data, starts, count, factors, sums):
    """sums[j] = sums[j] times its factor, plus the values of the blocks weighted by query j."""
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
