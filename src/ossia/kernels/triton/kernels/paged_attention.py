# pyright: standard
"""Attention over the paged cache: one kernel for decode and prefill, which processes a work table.

In: the projection, the cache, the table of `ossia.kernels.triton.work_table`. Out: bfloat16 heads, or partial sums.

A tile of 64 keys is the tensor instruction's A operand. The columns (a token's query heads of one group, token by
token) are B: scores^T = K Q^T, out^T = V^T P^T. So decode and prefill differ only in the number of columns, and a
column is summed in the same order in both.

Keys come in chunks at fixed positions. Inside a chunk a running softmax is used; then the chunk is combined with the
earlier ones, the sink first. Chunks may also be left in memory by one program each; the last program combines them in
the same order. Keys that a row does not see leave its sums unchanged, bit for bit.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

import triton
import triton.language as tl

from ossia.kernels.triton.kernels.kv_write import BLOCK, keep_heads, power, rotation, widened
from ossia.kernels.triton.kernels.tiles import dot, to_bf16
from ossia.kernels.triton.work_table import FIELDS as _FIELDS

FIELDS: tl.constexpr = tl.constexpr(_FIELDS)


@triton.jit
def fold(running_max, total, out, m, l, o):
    """Combine a chunk's maximum, sum and output with the earlier ones. A chunk without keys changes nothing."""
    new = tl.maximum(running_max, m)
    before, here = tl.exp2(running_max - new), tl.exp2(m - new)
    return new, tl.fma(total, before, l * here), tl.fma(out, before[None, :], o * here[None, :])


@triton.jit
def queries(
    qkv, positions, inverse, concentration, row, tokens, g,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, EACH: tl.constexpr, TOKENS: tl.constexpr,
    KIND: tl.constexpr,
):  # fmt: skip
    """Q^T [D, TOKENS * EACH] of a group, rotated. Columns without a head are zeros."""
    HALF: tl.constexpr = D // 2
    COLUMNS: tl.constexpr = TOKENS * EACH
    lane, token = tl.arange(0, HALF)[:, None], tl.arange(0, TOKENS)[None, :]
    position = tl.load(positions + row + token, mask=token < tokens, other=0)
    cos, sin = rotation(position, lane, inverse, concentration)
    cos = tl.reshape(tl.broadcast_to(cos[:, :, None], (HALF, TOKENS, EACH)), (HALF, COLUMNS))
    sin = tl.reshape(tl.broadcast_to(sin[:, :, None], (HALF, TOKENS, EACH)), (HALF, COLUMNS))
    column = tl.arange(0, COLUMNS)
    token, head = column // EACH, column % EACH
    inside = ((token < tokens) & (head < HEADS // GROUPS))[None, :]
    at = (row + token).to(tl.int64) * ((HEADS + 2 * GROUPS) * D) + (g * (HEADS // GROUPS) + head) * D
    low = tl.load(qkv + at[None, :] + lane, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(qkv + at[None, :] + lane + HALF, mask=inside, other=0.0).to(tl.float32)
    both = tl.join(low * cos - high * sin, high * cos + low * sin)
    q = tl.reshape(tl.permute(both, (2, 0, 1)), (D, COLUMNS))
    return to_bf16(q) if KIND == 0 else q.to(tl.float16)


@triton.jit
def walk(
    q, keys, values, key_scales, value_scales, table, low, end, place, scale, running_max, total, out, g,
    GROUPS: tl.constexpr, D: tl.constexpr, EACH: tl.constexpr, COLUMNS: tl.constexpr, WINDOW: tl.constexpr,
    KIND: tl.constexpr, NEAR: tl.constexpr, FAR: tl.constexpr, SMALL: tl.constexpr,
    MIDDLE: tl.constexpr, LARGE: tl.constexpr, KEYS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Process keys low..end: combine all chunks but the last into (running_max, total, out). Returns the last chunk's
    sums too.
    """
    lane, column = tl.arange(0, D)[None, :], place + tl.arange(0, COLUMNS) // EACH
    m, l = tl.full((COLUMNS,), float("-inf"), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    o = tl.zeros((D, COLUMNS), tl.float32)
    for start in tl.range(low // KEYS * KEYS, end, KEYS, num_stages=STAGES):
        n = start + tl.arange(0, KEYS)
        held = (n >= low) & (n < end)
        block = tl.load(table + n // BLOCK, mask=held, other=0).to(tl.int64)
        at = (block * GROUPS + g) * BLOCK + n % BLOCK
        k = widened(tl.load(keys + at[:, None] * D + lane, mask=held[:, None], other=0), KIND)
        v = widened(tl.load(values + at[:, None] * D + lane, mask=held[:, None], other=0), KIND)
        s = dot(k, q, tl.zeros((KEYS, COLUMNS), tl.float32)) * scale
        if KIND != 0:
            s *= power(tl.load(key_scales + at, mask=held, other=127).to(tl.int32))[:, None]
        if KIND == 2:
            s *= 256.0
        seen = held[:, None] & (n[:, None] <= column[None, :])
        if WINDOW:
            seen &= n[:, None] > column[None, :] - WINDOW
        s = tl.where(seen, s, float("-inf"))
        new = tl.maximum(m, tl.max(s, axis=0))
        base = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp2(s - base[None, :])
        before = tl.exp2(m - base)
        l = tl.fma(l, before, tl.sum(p, axis=0))
        if KIND != 0:
            p *= power(tl.load(value_scales + at, mask=held, other=127).to(tl.int32))[:, None]
            v = v.to(tl.bfloat16) if KIND == 1 else to_bf16(v.to(tl.float32) * 256.0)
        o = dot(tl.trans(v), to_bf16(p), o * before[None, :])
        m = new
        after = start + KEYS
        size = tl.where(after <= NEAR, SMALL, tl.where(after <= FAR, MIDDLE, LARGE))
        if (after % size == 0) & (after < end):
            running_max, total, out = fold(running_max, total, out, m, l, o)
            m, l = tl.full((COLUMNS,), float("-inf"), tl.float32), tl.zeros((COLUMNS,), tl.float32)
            o = tl.zeros((D, COLUMNS), tl.float32)
    return running_max, total, out, m, l, o


@triton.jit
def leave(
    m, l, o, sums, parts, slot, g, tokens, HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr,
    EACH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store a chunk's sums: float32 [slots, HEADS, 2] and [slots, HEADS, D]; one slot per token."""
    column = tl.arange(0, COLUMNS)
    token, head = column // EACH, column % EACH
    inside = (token < tokens) & (head < HEADS // GROUPS)
    at = (slot + token).to(tl.int64) * HEADS + g * (HEADS // GROUPS) + head
    tl.store(sums + at * 2, m, mask=inside)
    tl.store(sums + at * 2 + 1, l, mask=inside)
    tl.store(parts + at[None, :] * D + tl.arange(0, D)[:, None], o, mask=inside[None, :])


@triton.jit
def gather(
    running_max, total, out, sums, parts, slot, pieces, g, tokens, HEADS: tl.constexpr, GROUPS: tl.constexpr,
    D: tl.constexpr, EACH: tl.constexpr, COLUMNS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Combine all chunks' sums in ascending order, AHEAD of them loaded at a time; not through L1, which may be stale."""
    column = tl.arange(0, COLUMNS)
    token, head = column // EACH, column % EACH
    lane = tl.arange(0, D)[:, None]
    for first in range(0, pieces, AHEAD):
        for more in tl.static_range(AHEAD):
            chunk = first + more
            inside = (token < tl.where(chunk < pieces, tokens, 0)) & (head < HEADS // GROUPS)
            at = (slot + chunk * tokens + token).to(tl.int64) * HEADS + g * (HEADS // GROUPS) + head
            m = tl.load(sums + at * 2, mask=inside, other=float("-inf"), cache_modifier=".cg")
            l = tl.load(sums + at * 2 + 1, mask=inside, other=0.0, cache_modifier=".cg")
            o = tl.load(parts + at[None, :] * D + lane, mask=inside[None, :], other=0.0, cache_modifier=".cg")
            running_max, total, out = fold(running_max, total, out, m, l, o)
    return running_max, total, out


@triton.jit
def finish(
    out_TP, out, total, row, tokens, g, HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr,
    EACH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, COLUMNS)
    token, head = column // EACH, column % EACH
    inside = (token < tokens) & (head < HEADS // GROUPS)
    at = (row + token).to(tl.int64) * (HEADS * D) + (g * (HEADS // GROUPS) + head) * D
    tl.store(out_TP + at[None, :] + tl.arange(0, D)[:, None], to_bf16(out / total[None, :]), mask=inside[None, :])


@triton.jit
def attend_kernel(
    qkv, out_TP, keys, values, key_scales, value_scales, sinks, inverse, positions, slots, tables, items, count,
    sums, parts, arrivals, scale, concentration,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, EACH: tl.constexpr, TOKENS: tl.constexpr,
    WINDOW: tl.constexpr, KIND: tl.constexpr, FRESH: tl.constexpr, TABLE: tl.constexpr,
    NEAR: tl.constexpr, FAR: tl.constexpr, SMALL: tl.constexpr,
    MIDDLE: tl.constexpr, LARGE: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Programs loop over items, and over all groups of an item.

    FRESH: every sequence has one row; the program with its last chunk first writes the row's keys and values.
    AHEAD: partial sums loaded ahead when chunks are combined; 0 if no item is a chunk.
    """
    COLUMNS: tl.constexpr = TOKENS * EACH
    # whole tiles have one program each: a loop would need more registers, which spill
    last = tl.load(count) * GROUPS if AHEAD else tl.program_id(0) + 1
    for work in range(tl.program_id(0), last, tl.num_programs(0) if AHEAD else 1):
        item, g = items + (work // GROUPS) * FIELDS, work % GROUPS
        row, tokens, place = tl.load(item), tl.load(item + 1), tl.load(item + 2)
        low, end, slot, chunk = tl.load(item + 3), tl.load(item + 4), tl.load(item + 5), tl.load(item + 6)
        pieces, arrival, table = tl.load(item + 7), tl.load(item + 8), tl.load(item + TABLE)
        if FRESH:
            if end == place + tokens:
                one = tl.zeros((1, 1), tl.int32)
                position, into = tl.load(positions + row + one), tl.load(slots + row + one)
                keep_heads(
                    qkv, row + one, g + one, position, into, keys, values, key_scales, value_scales, inverse,
                    concentration, HEADS, GROUPS, D, KIND,
                )  # fmt: skip
            tl.debug_barrier()
        if WINDOW:
            low = tl.maximum(low, place - WINDOW + 1)
        q = queries(qkv, positions, inverse, concentration, row, tokens, g, HEADS, GROUPS, D, EACH, TOKENS, KIND)
        head = g * (HEADS // GROUPS) + tl.arange(0, COLUMNS) % EACH
        running_max = tl.load(sinks + tl.minimum(head, HEADS - 1))
        total, out = tl.full((COLUMNS,), 1.0, tl.float32), tl.zeros((D, COLUMNS), tl.float32)
        running_max, total, out, m, l, o = walk(
            q, keys, values, key_scales, value_scales, tables + table, low, end, place, scale, running_max, total, out, g,
            GROUPS, D, EACH, COLUMNS, WINDOW, KIND, NEAR, FAR, SMALL, MIDDLE, LARGE, KEYS, STAGES,
        )  # fmt: skip
        if AHEAD == 0 or pieces == 0:
            running_max, total, out = fold(running_max, total, out, m, l, o)
            finish(out_TP, out, total, row, tokens, g, HEADS, GROUPS, D, EACH, COLUMNS)
        else:
            leave(m, l, o, sums, parts, slot + chunk * tokens, g, tokens, HEADS, GROUPS, D, EACH, COLUMNS)
            tl.debug_barrier()
            if tl.atomic_add(arrivals + arrival * GROUPS + g, 1, sem="acq_rel") == pieces - 1:
                running_max, total, out = gather(
                    running_max, total, out, sums, parts, slot, pieces, g, tokens, HEADS, GROUPS, D, EACH, COLUMNS,
                    AHEAD,
                )  # fmt: skip
                finish(out_TP, out, total, row, tokens, g, HEADS, GROUPS, D, EACH, COLUMNS)
                tl.store(arrivals + arrival * GROUPS + g, 0)
