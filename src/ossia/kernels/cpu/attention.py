# pyright: standard
"""Attention with sinks and sliding windows over the paged cache, in one pass with a running softmax.

In: rotated queries, the cache's bytes, and each sequence's blocks. Out: the heads' outputs [T, H d].

Keys are processed in chunks of 128 and splits of 1024, counted from the start of the sequence. Inside a split the
softmax runs from chunk to chunk; the first split begins with the sink. Splits are merged in order. So a row's bits
depend on its position only: not on other rows of its tile, and not on whether threads share its splits. A masked key
has weight 0 exactly.

Shape suffixes: see `ossia.kernels.ops`; J queries of a tile: its rows times the query heads of one key head.
"""

import numpy as np

from ossia.kernels.cpu.codegen.jit import entry, kernel, peek, share, take
from ossia.kernels.cpu.codegen.simd import TARGET
from ossia.kernels.cpu.kv_cache import BF16, bf16_bits, rotate_and_store
from ossia.kernels.cpu.tiles.attention_tiles import CHUNK, NOWHERE, exp, score_keys, soften, weigh_values
from ossia.kernels.cpu.tiles.gemm_tiles import read_through

SPLIT = 1024  # keys that one thread processes at once
TILE = 32  # queries of a tile: their scores and sums fit the L1 cache


@kernel
def _one_split(cache, blocks_B, g, queries, lows_J, highs_J, split, scores, tops, weights, sums):
    """Process keys split * SPLIT .. + 1023 for all queries of a tile, starting from tops = NOWHERE and zeros."""
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
        score_keys(kind, queries, count, d, data, starts, vectors, scores)
        soften(kind, scores, lows_J, highs_J, block, vectors, tops, bests, factors, weights)
        weigh_values(kind, scores, count, d, data, starts, vectors, factors, sums)


@kernel
def _reset(count, tops, weights, sums):
    tops[:count] = np.float32(NOWHERE)
    weights[: count * 16] = np.float32(0.0)
    sums[:] = np.float32(0.0)


@kernel
def _merge(count, wide, tops, weights, sums, more_tops, more_weights, more_sums):
    """Merge the second running softmax into the first."""
    for j in range(count):
        top = max(tops[j], more_tops[j])
        mine, other = exp(tops[j] - top), exp(more_tops[j] - top)
        tops[j] = top
        for i in range(j * 16, j * 16 + 16):
            weights[i] = weights[i] * mine + more_weights[i] * other
        for i in range(j * wide, j * wide + wide):
            sums[i] = sums[i] * mine + more_sums[i] * other


@kernel
def _tile(
    kind,
    qkv,
    unit,
    heads,
    groups,
    d,
    positions_T,
    sinks_H,
    g,
    window,
    queries,
    lows_J,
    highs_J,
    tops,
    weights,
):
    """Load a tile's queries, scaled; find the keys that each may see; start each softmax with its sink.

    Beside a bfloat16 cache the queries are rounded to bfloat16.
    """
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
def tile_rows(starts_S1, m):
    """Rows of a tile: as many as make TILE queries, but no more than the longest sequence has."""
    max_queries = 1
    for s in range(starts_S1.size - 1):
        max_queries = max(max_queries, starts_S1[s + 1] - starts_S1[s])
    return min(max(1, TILE // m), max_queries)


@kernel
def units_of(starts_S1, rows):
    """[U, 3]: sequence, first row and number of rows of each tile."""
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
def _finish(kind, out_TD, unit, m, d, g, weights, sums):
    wide = -(-d // 16) * 16
    for j in range(unit[2] * m):
        total = np.float32(0.0)
        for lane in range(16):
            total += weights[j * 16 + lane]
        first = (g * m + j % m) * d
        mine, out = sums[j * wide : j * wide + d], out_TD[unit[1] + j // m, first : first + d]
        if kind == BF16:
            inverse = np.float32(1.0) / total
            for lane in range(d):
                out[lane] = mine[lane] * inverse
        else:
            for lane in range(d):
                out[lane] = mine[lane] / total


@kernel
def _attend_tasks(counter, units, rows, qkv, heads, cache, positions_T, blocks_SB, sinks_H, window, out_TD):
    _, kind, groups, d, _ = cache
    m = heads // groups
    max_queries = -(-rows * m // 16) * 16
    wide = -(-d // 16) * 16
    queries = np.zeros(max_queries * d, np.float32)
    scores = np.zeros(max_queries * CHUNK, np.float32)
    tops, more_tops = np.empty(max_queries, np.float32), np.empty(max_queries, np.float32)
    weights, more_weights = np.empty(max_queries * 16, np.float32), np.empty(max_queries * 16, np.float32)
    sums, more_sums = np.empty(max_queries * wide, np.float32), np.empty(max_queries * wide, np.float32)
    task = take(counter)
    while task < units.shape[0] * groups:
        unit, g = units[task // groups], task % groups
        count = unit[2] * m
        lows_J, highs_J = np.empty(count, np.int64), np.empty(count, np.int64)
        _tile(
            kind, qkv, unit, heads, groups, d, positions_T, sinks_H, g, window,
            queries, lows_J, highs_J, tops, weights,
        )  # fmt: skip
        sums[:] = np.float32(0.0)
        blocks_B = blocks_SB[unit[0]]
        for split in range(lows_J.min() // SPLIT, highs_J.max() // SPLIT + 1):
            is_first = split == 0
            if not is_first:
                _reset(count, more_tops, more_weights, more_sums)
            _one_split(
                cache, blocks_B, g, queries, lows_J, highs_J, split, scores,
                tops if is_first else more_tops, weights if is_first else more_weights, sums if is_first else more_sums,
            )  # fmt: skip
            if not is_first:
                _merge(count, wide, tops, weights, sums, more_tops, more_weights, more_sums)
        _finish(kind, out_TD, unit, m, d, g, weights, sums)
        task = take(counter)


@kernel
def attend(qkv, heads, cache, positions_T, starts_S1, blocks_SB, sinks_H, window, out_TD, workers):
    """Attention of all rows. One thread processes a tile of rows for one key head."""
    rows = tile_rows(starts_S1, heads // cache[2])
    units = units_of(starts_S1, rows)
    counter = np.zeros(1, np.int64)
    share(
        workers, _attend_tasks, counter, units, rows, qkv, heads, cache, positions_T, blocks_SB, sinks_H, window, out_TD
    )


@kernel
def _split_tasks(
    counter, units, rows, splits, qkv, heads, cache, positions_T, blocks_SB, sinks_H, window,
    all_tops, all_weights, all_sums,
):  # fmt: skip
    _, kind, groups, d, _ = cache
    m = heads // groups
    max_queries = -(-rows * m // 16) * 16
    queries = np.zeros(max_queries * d, np.float32)
    scores = np.zeros(max_queries * CHUNK, np.float32)
    tops, weights = np.empty(max_queries, np.float32), np.empty(max_queries * 16, np.float32)
    task = take(counter)
    while task < units.shape[0] * groups * splits:
        unit, g, split = units[task // splits // groups], task // splits % groups, task % splits
        count = unit[2] * m
        lows_J, highs_J = np.empty(count, np.int64), np.empty(count, np.int64)
        _tile(
            kind, qkv, unit, heads, groups, d, positions_T, sinks_H, g, window,
            queries, lows_J, highs_J, tops, weights,
        )  # fmt: skip
        _reset(count, all_tops[task], all_weights[task], all_sums[task])
        if split == 0:
            all_tops[task], all_weights[task] = tops, weights
        if lows_J.min() // SPLIT <= split <= highs_J.max() // SPLIT:
            _one_split(
                cache, blocks_SB[unit[0]], g, queries, lows_J, highs_J, split,
                scores, all_tops[task], all_weights[task], all_sums[task],
            )  # fmt: skip
        task = take(counter)


@kernel
def attend_splits(qkv, heads, cache, positions_T, starts_S1, blocks_SB, sinks_H, window, out_TD, workers):
    """`attend` for few rows with long contexts: threads share the splits too, which are merged in order at the end."""
    _, kind, groups, d, _ = cache
    m = heads // groups
    rows = tile_rows(starts_S1, m)
    units = units_of(starts_S1, rows)
    max_queries = -(-rows * m // 16) * 16
    wide = -(-d // 16) * 16
    splits = np.int64(positions_T.max()) // SPLIT + 1
    tasks = units.shape[0] * groups
    all_tops = np.empty((tasks * splits, max_queries), np.float32)
    all_weights = np.empty((tasks * splits, max_queries * 16), np.float32)
    all_sums = np.empty((tasks * splits, max_queries * wide), np.float32)
    counter = np.zeros(1, np.int64)
    share(
        workers,
        _split_tasks,
        counter,
        units,
        rows,
        splits,
        qkv,
        heads,
        cache,
        positions_T,
        blocks_SB,
        sinks_H,
        window,
        all_tops,
        all_weights,
        all_sums,
    )
    queries = np.zeros(max_queries * d, np.float32)
    tops, weights = np.empty(max_queries, np.float32), np.empty(max_queries * 16, np.float32)
    sums = np.empty(max_queries * wide, np.float32)
    for task in range(tasks):
        unit, g = units[task // groups], task % groups
        count = unit[2] * m
        lows_J, highs_J = np.empty(count, np.int64), np.empty(count, np.int64)
        _tile(
            kind, qkv, unit, heads, groups, d, positions_T, sinks_H, g, window, queries, lows_J, highs_J, tops, weights
        )
        sums[:] = np.float32(0.0)
        for split in range(lows_J.min() // SPLIT, highs_J.max() // SPLIT + 1):
            at = task * splits + split
            if split == 0:
                tops, weights, sums = all_tops[at], all_weights[at], all_sums[at]
            else:
                _merge(count, wide, tops, weights, sums, all_tops[at], all_weights[at], all_sums[at])
        _finish(kind, out_TD, unit, m, d, g, weights, sums)


@kernel
def _place_and_attend(qkv, heads, cache, rope, places, sinks_H, window, out_TD, placers, workers):
    data, kind, groups, d, size = cache
    rotate_and_store(qkv, heads, groups, d, places, rope, data, kind, size, placers)
    attend(qkv, heads, cache, places[0], places[1], places[2], sinks_H, window, out_TD, workers)


@entry
def place_and_attend(qkv, heads, cache, rope, places, sinks_H, window, out_TD, placers, workers):
    """Rotate and store rows with `placers` threads, then `attend`."""
    _place_and_attend(qkv, heads, cache, rope, places, sinks_H, window, out_TD, placers, workers)


@entry
def place_and_attend_splits(qkv, heads, cache, rope, places, sinks_H, window, out_TD, placers, workers):
    """Rotate and store rows with `placers` threads, then `attend_splits`."""
    data, kind, groups, d, size = cache
    rotate_and_store(qkv, heads, groups, d, places, rope, data, kind, size, placers)
    attend_splits(qkv, heads, cache, places[0], places[1], places[2], sinks_H, window, out_TD, workers)


@kernel
def _fetch_until(data, done):
    """Read data front to back into the caches until another thread is done. Returns a digest of it.

    It reads rather than prefetches, because prefetching is slower on Zen 4.
    """
    at, digest = 0, np.int32(0)
    while at + 4096 <= data.size and peek(done) == 0:
        digest ^= read_through(data, at, 8)
        at += 4096
    return digest


@kernel
def _attend_or_prefetch(counter, qkv, heads, cache, rope, places, sinks_H, window, out_TD, prefetch, done, digests):
    """The first worker attends. The second reads weights until the first is done."""
    if take(counter) == 0:
        _place_and_attend(qkv, heads, cache, rope, places, sinks_H, window, out_TD, 1, 1)
        take(done)
    else:
        digests[0] = _fetch_until(prefetch, done)


@entry
def attend_while_prefetching(qkv, heads, cache, rope, places, sinks_H, window, out_TD, prefetch):
    """`place_and_attend` on one thread, while a second, otherwise idle thread reads the next weights from memory."""
    counter, done, digests = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int32)

    share(
        2,
        _attend_or_prefetch,
        counter,
        qkv,
        heads,
        cache,
        rope,
        places,
        sinks_H,
        window,
        out_TD,
        prefetch,
        done,
        digests,
    )
    return digests
