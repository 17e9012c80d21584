# pyright: standard
"""Sampling kernels: a survey by slices, then each row's sample; with top-k, top-p or min-p, over its candidates.

In: float32 logits [R, V], and each row's parameters as packed by `sample.py`. Out: tokens and log-probabilities.

Sums are float64 in the order of the slices, so a row's result does not depend on other rows. The filters need no sort:
they search a threshold in the weights' bits, from the highest down. Ties at the threshold go to the lowest token ids.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

import triton
import triton.language as tl

from ossia.kernels.triton.sampling_table import FIELDS as _FIELDS
from ossia.kernels.triton.sampling_table import SURVEYED as _SURVEYED

FIELDS: tl.constexpr = tl.constexpr(_FIELDS)
SURVEYED: tl.constexpr = tl.constexpr(_SURVEYED)
GREEDY_BELOW: tl.constexpr = tl.constexpr(1e-5)
NONE_LEFT: tl.constexpr = tl.constexpr(-1)
NOT_FINITE: tl.constexpr = tl.constexpr(-2)


@triton.jit
def allowed(logits, table, masks, biases, row, token, V, WORDS):
    """The row's logits at `token`, and the same with bias and mask; -inf beyond V. NaN becomes +inf."""
    inside = token < V
    raw = tl.load(logits + row.to(tl.int64) * V + token, mask=inside, other=float("-inf"))
    raw = tl.where(raw != raw, float("inf"), raw)
    mask_row, bias_row = tl.load(table + row * FIELDS + 5).to(tl.int64), tl.load(table + row * FIELDS + 6).to(tl.int64)
    has_bias, has_mask = tl.where(bias_row >= 0, V, 0), tl.where(mask_row >= 0, V, 0)
    biased = raw + tl.load(biases + bias_row * V + token, mask=token < has_bias, other=0.0)
    word = tl.load(masks + mask_row * WORDS + token // 32, mask=token < has_mask, other=-1)
    return raw, tl.where(((word >> (token % 32)) & 1) == 1, biased, float("-inf"))


@triton.jit
def weight(z, max_z, temperature):
    return tl.exp(tl.div_rn(z - max_z, tl.zeros_like(z) + temperature))


@triton.jit
def survey_kernel(logits, table, masks, biases, found, V, WORDS, SLICE: tl.constexpr):
    """Survey one slice of one row: maximum and sum of exp of all logits; the same of the allowed ones at the
    temperature; the first token of the allowed maximum.
    """
    part, row, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    token = part * SLICE + tl.arange(0, SLICE)
    raw, z = allowed(logits, table, masks, biases, row, token, V, WORDS)
    temperature = tl.maximum(tl.load(table + row * FIELDS).to(tl.float32), GREEDY_BELOW)
    raw_max, max_z = tl.max(raw, axis=0), tl.max(z, axis=0)
    raw_base = tl.where(tl.abs(raw_max) == float("inf"), 0.0, raw_max)
    base = tl.where(tl.abs(max_z) == float("inf"), 0.0, max_z)
    first = tl.min(tl.where(z == max_z, token, V), axis=0)
    out = found + (row * parts + part) * SURVEYED
    tl.store(out, raw_max.to(tl.float64))
    tl.store(out + 1, tl.sum(tl.exp(raw - raw_base).to(tl.float64), axis=0))
    tl.store(out + 2, max_z.to(tl.float64))
    tl.store(out + 3, tl.sum(weight(z, base, temperature).to(tl.float64), axis=0))
    tl.store(out + 4, first.to(tl.float64))


@triton.jit
def least_of_highest(bits, count):
    """The `count`-th highest of bits below 2^30; 0 if there are fewer."""
    least = tl.full((), 0, tl.int32)
    for step in range(30):
        trial = least | (1 << (29 - step))
        least = tl.where(tl.sum((bits >= trial).to(tl.int32), axis=0) >= count, trial, least)
    return least


@triton.jit
def settle_kernel(
    logits,
    table,
    masks,
    biases,
    found,
    rows,
    tokens,
    logprobs,
    V,
    WORDS,
    parts,
    SLICE: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Combine a row's slices, and sample its token if no filter is used.

    rows: [R, 4] float64: the highest allowed logit, the sum of weights, the log of the sum of exp, and a weight below
    which no filter keeps a token.
    """
    row, part = tl.program_id(0), tl.arange(0, PARTS)
    at, inside = found + (row * parts + part) * SURVEYED, part < parts
    raw_max = tl.load(at, mask=inside, other=float("-inf"))
    raw_sum, part_sum = tl.load(at + 1, mask=inside, other=0.0), tl.load(at + 3, mask=inside, other=0.0)
    part_max, firsts = tl.load(at + 2, mask=inside, other=float("-inf")), tl.load(at + 4, mask=inside, other=V)
    temperature = tl.maximum(tl.load(table + row * FIELDS).to(tl.float32), GREEDY_BELOW)
    top_p, min_p = tl.load(table + row * FIELDS + 1), tl.load(table + row * FIELDS + 2)
    uniform, top_k = tl.load(table + row * FIELDS + 3), tl.load(table + row * FIELDS + 4).to(tl.int32)
    raw_top, max_z = tl.max(raw_max, axis=0), tl.max(part_max, axis=0)
    log_sum = raw_top + tl.log(tl.sum(raw_sum * tl.exp(raw_max - raw_top), axis=0))
    sums = part_sum * tl.exp((part_max - max_z) / temperature.to(tl.float64))
    sums = tl.where(part_max == float("-inf"), 0.0, sums)
    ends, total = tl.cumsum(sums, axis=0), tl.sum(sums, axis=0)
    point = tl.minimum(uniform * total, tl.max(ends, axis=0))
    chosen = tl.sum((ends < point).to(tl.int32), axis=0)
    before = tl.max(tl.where(part < chosen, ends, 0.0), axis=0)
    token = chosen * SLICE + tl.arange(0, SLICE)
    _, z = allowed(logits, table, masks, biases, row, token, V, WORDS)
    running = tl.cumsum(weight(z, max_z.to(tl.float32), temperature).to(tl.float64), axis=0)
    inner = tl.minimum(point - before, tl.max(running, axis=0))
    drawn = chosen * SLICE + tl.sum((running < inner).to(tl.int32), axis=0)
    likeliest = tl.min(tl.where(part_max == max_z, firsts, V), axis=0).to(tl.int32)
    is_greedy = tl.load(table + row * FIELDS).to(tl.float32) < GREEDY_BELOW
    token = tl.where(is_greedy, likeliest, drawn)
    token = tl.where(max_z == float("-inf"), NONE_LEFT, token)
    token = tl.where(tl.abs(raw_top) == float("inf"), NOT_FINITE, token)
    highest = weight(part_max.to(tl.float32), max_z.to(tl.float32), temperature)
    least_k = least_of_highest(highest.to(tl.int32, bitcast=True), top_k)
    by_share = tl.where(top_p < 1.0, (1.0 - top_p) * total / V, 0.0).to(tl.float32)
    is_k = (top_k > 0) & (top_k < V)
    floor = tl.where(is_k, least_k.to(tl.float32, bitcast=True), tl.maximum(by_share * 0.999999, min_p.to(tl.float32)))
    tl.store(rows + row * 4, max_z)
    tl.store(rows + row * 4 + 1, total)
    tl.store(rows + row * 4 + 2, log_sum)
    tl.store(rows + row * 4 + 3, floor.to(tl.float64))
    tl.store(tokens + row, token)
    tl.store(logprobs + row, (tl.load(logits + row.to(tl.int64) * V + tl.maximum(token, 0)) - log_sum).to(tl.float32))


@triton.jit
def collect_kernel(
    logits,
    table,
    masks,
    biases,
    rows,
    counts,
    weights,
    numbers,
    V,
    WORDS,
    SLICE: tl.constexpr,
    PARTS: tl.constexpr,
    WRITES: tl.constexpr,
):
    """Candidates of a slice: count them, or (WRITES) store their weights and numbers after those of earlier slices."""
    part, row, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    token = part * SLICE + tl.arange(0, SLICE)
    _, z = allowed(logits, table, masks, biases, row, token, V, WORDS)
    max_z, floor = tl.load(rows + row * 4).to(tl.float32), tl.load(rows + row * 4 + 3).to(tl.float32)
    temperature = tl.maximum(tl.load(table + row * FIELDS).to(tl.float32), GREEDY_BELOW)
    w = weight(z, max_z, temperature)
    is_one = (w >= floor) & (z > float("-inf"))
    if WRITES:
        every = tl.arange(0, PARTS)
        first = tl.sum(tl.load(counts + row * parts + every, mask=every < part, other=0), axis=0)
        at = row.to(tl.int64) * V + first + tl.cumsum(is_one.to(tl.int32), axis=0) - 1
        tl.store(weights + at, w, mask=is_one)
        tl.store(numbers + at, token, mask=is_one)
    else:
        tl.store(counts + row * parts + part, tl.sum(is_one.to(tl.int32), axis=0))


@triton.jit
def at_least(weights, count, bits, BLOCK: tl.constexpr):
    """How many weights have at least these bits, and their sum. Removed weights are -1."""
    lane = tl.arange(0, BLOCK)
    number, total = tl.full((), 0, tl.int32), tl.full((), 0.0, tl.float64)
    for start in range(0, count, BLOCK):
        w = tl.load(weights + start + lane, mask=start + lane < count, other=-1.0)
        is_one = w.to(tl.int32, bitcast=True) >= bits
        number += tl.sum(is_one.to(tl.int32), axis=0)
        total += tl.sum(tl.where(is_one, w, 0.0).to(tl.float64), axis=0)
    return number, total


@triton.jit
def cut(weights, count, bits, equals, BLOCK: tl.constexpr):
    """Set weights below `bits` to -1, and of equal weights all but the first `equals`."""
    lane = tl.arange(0, BLOCK)
    before = tl.full((), 0, tl.int32)
    for start in range(0, count, BLOCK):
        w = tl.load(weights + start + lane, mask=start + lane < count, other=-1.0)
        mine = w.to(tl.int32, bitcast=True)
        equal = (mine == bits).to(tl.int32)
        rank = before + tl.cumsum(equal, axis=0)
        is_kept = (mine > bits) | ((equal == 1) & (rank <= equals))
        before += tl.sum(equal, axis=0)
        tl.debug_barrier()
        tl.store(weights + start + lane, tl.where(is_kept, w, -1.0), mask=start + lane < count)
    tl.debug_barrier()


@triton.jit
def cut_to_highest(weights, count, top_k, BLOCK: tl.constexpr):
    bits = tl.full((), 0, tl.int32)
    for step in range(30):
        trial = bits | (1 << (29 - step))
        number, _ = at_least(weights, count, trial, BLOCK)
        bits = tl.where(number >= top_k, trial, bits)
    above, _ = at_least(weights, count, bits + 1, BLOCK)
    cut(weights, count, bits, top_k - above, BLOCK)


@triton.jit
def cut_to_top_p(weights, count, wanted, BLOCK: tl.constexpr):
    """Keep the fewest likeliest weights that sum to `wanted`."""
    bits = tl.full((), 0, tl.int32)
    for step in range(30):
        trial = bits | (1 << (29 - step))
        _, total = at_least(weights, count, trial, BLOCK)
        bits = tl.where(total >= wanted, trial, bits)
    _, above = at_least(weights, count, bits + 1, BLOCK)
    each = tl.maximum(bits, 1).to(tl.float32, bitcast=True).to(tl.float64)
    equals = tl.minimum(tl.ceil((wanted - above) / each), 2.0e9).to(tl.int32)
    cut(weights, count, bits, tl.maximum(equals, 1), BLOCK)


@triton.jit
def choose_kernel(
    logits, table, rows, counts, weights, numbers, tokens, logprobs, V, parts, PARTS: tl.constexpr, BLOCK: tl.constexpr
):
    """Apply a row's filters, then sample from the remaining candidates in ascending order."""
    row, every, lane = tl.program_id(0), tl.arange(0, PARTS), tl.arange(0, BLOCK)
    top_p, min_p = tl.load(table + row * FIELDS + 1), tl.load(table + row * FIELDS + 2)
    uniform, top_k = tl.load(table + row * FIELDS + 3), tl.load(table + row * FIELDS + 4).to(tl.int32)
    is_k = (top_k > 0) & (top_k < V)
    is_draw = (tl.load(table + row * FIELDS).to(tl.float32) >= GREEDY_BELOW) & (tl.load(tokens + row) >= 0)
    if is_draw & (is_k | (top_p < 1.0) | (min_p > 0.0)):
        count = tl.sum(tl.load(counts + row * parts + every, mask=every < parts, other=0), axis=0)
        mine = weights + row.to(tl.int64) * V
        total = tl.load(rows + row * 4 + 1)
        if is_k:
            cut_to_highest(mine, count, top_k, BLOCK)
            _, total = at_least(mine, count, 0, BLOCK)
        if top_p < 1.0:
            cut_to_top_p(mine, count, top_p * total, BLOCK)
        if min_p > 0.0:
            cut(mine, count, min_p.to(tl.float32).to(tl.int32, bitcast=True), V, BLOCK)
        _, total = at_least(mine, count, 0, BLOCK)
        reached, before = tl.full((), 0, tl.int32), tl.full((), 0.0, tl.float64)
        last = tl.full((), 0, tl.int32)
        for start in range(0, count, BLOCK):
            w = tl.load(mine + start + lane, mask=start + lane < count, other=0.0)
            w = tl.maximum(w, 0.0)
            running = before + tl.cumsum(w.to(tl.float64), axis=0)
            reached += tl.sum(((running < uniform * total) & (start + lane < count)).to(tl.int32), axis=0)
            last = tl.maximum(last, tl.max(tl.where(w > 0.0, start + lane, 0), axis=0))
            before += tl.sum(w.to(tl.float64), axis=0)
        token = tl.load(numbers + row.to(tl.int64) * V + tl.minimum(reached, last))
        tl.store(tokens + row, token)
        log_sum = tl.load(rows + row * 4 + 2)
        tl.store(logprobs + row, (tl.load(logits + row.to(tl.int64) * V + token) - log_sum).to(tl.float32))
