# pyright: standard
"""The router: RMSNorm, logits, top-k, softmax over the k, and the rows of each expert, all without the host.

In: float32 rows, a `Router`. Out: a `Routing`: rows for the experts, expert numbers and weights, and the tile table.

Shape suffixes: see `ossia.kernels.ops`; N = T K pairs of a row and an expert, sorted by expert. Up to DECODE rows
there is one launch, whose last program chooses and sorts for all. With more rows, the last program of each group
chooses, and a second launch sorts. A logit is a float32 sum in the same order for any number of rows.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ossia.kernels.ops import HostArray
from ossia.kernels.triton.kernels.tiles import is_amd, least_tokens, on_device, power_of_two, to_bf16
from ossia.kernels.triton.tools.specs import KernelSpec, Sizes, spec

DECODE = 16  # up to this many rows, an expert's rows are one tile
_GROUP = 16  # rows of a program with more rows
_GROUPS = 4096  # counters of a router: enough for 65,536 rows


class Router(NamedTuple):
    """weight bfloat16 [E, D]; bias float32 [E]; counters: int32 zeros, which each launch resets to zero.

    So a layer can route on one stream at a time only.
    """

    weight_ED: Tensor
    bias_E: Tensor
    counters: Tensor


class TileTable(NamedTuple):
    """Tiles of at most `tokens` sorted pairs of one expert: its number (-1: unused tile), the first pair, the count."""

    expert_I: Tensor
    first_I: Tensor
    count_I: Tensor
    tokens: int


class Routing(NamedTuple):
    """x_TD: bfloat16(x * norm); the product is multiplied by rstd_T. experts_TK: int32, ascending in a row.

    rows_N: the row of each sorted pair. place_TK: the sorted positions of a row's pairs.
    """

    x_TD: Tensor
    rstd_T: Tensor
    experts_TK: Tensor
    weights_TK: Tensor
    rows_N: Tensor
    place_TK: Tensor
    tiles: TileTable


def pack_router(weight_ED: HostArray, bias_E: HostArray, device: torch.device | str) -> Router:
    counters = torch.zeros(_GROUPS, dtype=torch.int32, device=device)
    return Router(on_device(weight_ED, device), on_device(bias_E, device, torch.float32), counters)


def pair_tokens(rows: int, k: int, experts: int) -> int:
    """Columns of an expert's tile: all rows if there are few, else by the average number per expert."""
    if rows <= DECODE:
        return max(least_tokens(is_amd()), power_of_two(rows))
    return min(128, max(16, power_of_two(-(-rows * k // experts))))


def max_tiles(rows: int, k: int, experts: int, tokens: int) -> int:
    """The maximum number of tiles, which is the size of the grid. Unused tiles end at once."""
    if rows <= DECODE:
        return min(rows * k, experts)
    return rows * k // tokens + min(rows * k, experts)


@triton.jit(do_not_specialize=["TOKENS", "TILES", "group"])
def route_kernel(
    x, norm, weight, bias, counters, logits, scaled, rstd, chosen, shares, rows_N, place, expert_I, first_I, count_I,
    TOKENS, WIDE, EXPERTS, TILES, group, eps,
    TOP: tl.constexpr, ONE: tl.constexpr, T: tl.constexpr, E: tl.constexpr, EACH: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Logits of EACH experts for `group` rows. The last program chooses for its group, or (ONE) for all rows and then
    sorts.
    """
    lane, expert = tl.arange(0, K), tl.program_id(0) * EACH + tl.arange(0, EACH)
    scale = tl.load(norm + lane, mask=lane < WIDE, other=0.0)
    inside = (expert[:, None] < EXPERTS) & (lane[None, :] < WIDE)
    matrix = tl.load(weight + expert[:, None] * WIDE + lane[None, :], mask=inside, other=0.0)
    more = tl.load(bias + expert, mask=expert < EXPERTS, other=0.0)
    start = tl.program_id(1) * group
    for t in range(start, tl.minimum(start + group, TOKENS)):
        row = tl.load(x + t * WIDE + lane, mask=lane < WIDE, other=0.0)
        root = tl.rsqrt(tl.sum(row * row) / WIDE + eps)
        row = row * scale
        sums = tl.sum(matrix.to(tl.float32) * row[None, :], axis=1) * root + more
        tl.store(logits + t * EXPERTS + expert, sums, mask=expert < EXPERTS)
        if tl.program_id(0) == 0:
            tl.store(scaled + t * WIDE + lane, to_bf16(row), mask=lane < WIDE)
            tl.store(rstd + t, root)
    number = 0 if ONE else tl.program_id(1)
    waited = tl.num_programs(0) * (tl.num_programs(1) if ONE else 1)
    tl.debug_barrier()  # all logits of this program are stored before it is counted
    if tl.atomic_add(counters + number, 1, sem="acq_rel") == waited - 1:
        tl.store(counters + number, 0)
        experts_P = _choose(logits, chosen, shares, (0 if ONE else start), TOKENS, EXPERTS, TOP, T, E)
        if ONE:
            _sort_few(experts_P, rows_N, place, expert_I, first_I, count_I, TILES, TOP, T, E)


@triton.jit
def _choose(logits, chosen, shares, start, TOKENS, EXPERTS, TOP: tl.constexpr, T: tl.constexpr, E: tl.constexpr):
    """The TOP best experts of each row in ascending order, with softmax weights. Ties go to the lower number. Unused
    places get E.

    Logits are compared as integers in the floats' order, NaN included, so that TOP experts are always chosen.
    """
    P: tl.constexpr = triton.next_power_of_2(TOP)
    row, expert, slot = start + tl.arange(0, T), tl.arange(0, E), tl.arange(0, P)
    inside = (row[:, None] < TOKENS) & (expert[None, :] < EXPERTS)
    value = tl.load(logits + row[:, None] * EXPERTS + expert[None, :], mask=inside, other=0.0, cache_modifier=".cg")
    bits = value.to(tl.int32, bitcast=True)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    least: tl.constexpr = -0x8000000000000000
    key = (bits.to(tl.int64) << 32) | (E - 1 - expert)[None, :].to(tl.int64)
    key = tl.where(expert[None, :] < EXPERTS, key, least)
    taken = tl.zeros((T, E), tl.int1)
    top = tl.zeros((T,), tl.float32)
    for i in tl.static_range(TOP):
        best = key == tl.max(key, axis=1)[:, None]
        if i == 0:
            top = tl.sum(tl.where(best, value, 0.0), axis=1)
        taken = taken | best
        key = tl.where(best, least, key)
    numbers, powers, total = tl.full((T, P), E, tl.int32), tl.zeros((T, P), tl.float32), tl.zeros((T,), tl.float32)
    for i in tl.static_range(TOP):
        number = tl.min(tl.where(taken, expert[None, :], E), axis=1)
        here = expert[None, :] == number[:, None]
        power = tl.exp(tl.sum(tl.where(here, value, 0.0), axis=1) - top)
        taken = taken & (expert[None, :] != number[:, None])
        numbers = tl.where(slot[None, :] == i, number[:, None], numbers)
        powers = tl.where(slot[None, :] == i, power[:, None], powers)
        total = total + power
    at, inside = row[:, None] * TOP + slot[None, :], (row[:, None] < TOKENS) & (slot[None, :] < TOP)
    tl.store(chosen + at, numbers, mask=inside)
    tl.store(shares + at, powers / total[:, None], mask=inside)
    return tl.where(inside, numbers, E)


@triton.jit
def _sort_few(
    experts, rows_N, place, expert_I, first_I, count_I, TILES, TOP: tl.constexpr, T: tl.constexpr, E: tl.constexpr
):
    """The tile table of a few rows, by comparing all pairs with each other. An expert's rows are one tile."""
    P: tl.constexpr = triton.next_power_of_2(TOP)
    mine = tl.reshape(experts, (T * P,))
    pair = tl.arange(0, T * P)
    theirs, other = mine[None, :], pair[None, :]
    same, before = theirs == mine[:, None], theirs < mine[:, None]
    earlier = same & (other < pair[:, None])
    rank = tl.sum((before | earlier).to(tl.int32), axis=1)
    is_first = (tl.sum(earlier.to(tl.int32), axis=1) == 0) & (mine < E)
    tile = tl.sum((before & is_first[None, :]).to(tl.int32), axis=1)
    row, slot = pair // P, pair % P
    tl.store(rows_N + rank, row, mask=mine < E)
    tl.store(place + row * TOP + slot, rank, mask=mine < E)
    tl.store(expert_I + tile, mine, mask=is_first)
    tl.store(first_I + tile, rank, mask=is_first)
    tl.store(count_I + tile, tl.sum(same.to(tl.int32), axis=1), mask=is_first)
    tl.store(expert_I + pair, -1, mask=(pair >= tl.sum(is_first.to(tl.int32))) & (pair < TILES))


@triton.jit(do_not_specialize=["PAIRS", "TILES"])
def sort_kernel(
    chosen, rows_N, place, expert_I, first_I, count_I, PAIRS, TILES,
    TOP: tl.constexpr, TOKENS: tl.constexpr, E: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """One program per expert: it counts all pairs, then lists its own in the order of the rows, and its tiles."""
    mine, expert, lane = tl.program_id(0), tl.arange(0, E), tl.arange(0, N)
    counts = tl.zeros((E,), tl.int32)
    for first in range(0, PAIRS, N):
        pair = first + lane
        counts += tl.histogram(tl.load(chosen + pair, mask=pair < PAIRS, other=0), E, mask=pair < PAIRS)
    tiles = (counts + (TOKENS - 1)) // TOKENS
    start = tl.sum(tl.where(expert < mine, counts, 0))
    tile = tl.sum(tl.where(expert < mine, tiles, 0))
    count = tl.sum(tl.where(expert == mine, counts, 0))
    at = start
    for first in range(0, PAIRS, N):
        pair = first + lane
        is_mine = tl.load(chosen + pair, mask=pair < PAIRS, other=-1) == mine
        rank = at + tl.cumsum(is_mine.to(tl.int32), 0) - 1
        tl.store(rows_N + rank, pair // TOP, mask=is_mine)
        tl.store(place + pair, rank, mask=is_mine)
        at += tl.sum(is_mine.to(tl.int32))
    for i in range(0, (count + TOKENS - 1) // TOKENS):
        tl.store(expert_I + tile + i, mine)
        tl.store(first_I + tile + i, start + i * TOKENS)
        tl.store(count_I + tile + i, tl.minimum(count - i * TOKENS, TOKENS))
    if mine == tl.num_programs(0) - 1:
        for i in range(tl.sum(tiles), TILES):
            tl.store(expert_I + i, -1)


def route(x_TD: Tensor, norm_D: Tensor, eps: float, router: Router, k: int) -> Routing:
    """One launch up to DECODE rows, else two."""
    (count, width), experts = x_TD.shape, len(router.bias_E)
    if count > _GROUPS * _GROUP:
        raise ValueError(f"{count} rows in one batch: a router takes {_GROUPS * _GROUP}, ask for fewer at a time")
    is_few = count <= DECODE
    tokens = pair_tokens(count, k, experts)
    made = _empty_routing(x_TD, count, k, max_tiles(count, k, experts, tokens), tokens)
    logits_TE = x_TD.new_empty((count, experts))
    group = 1 if is_few else _GROUP
    each, warps = _each(experts)
    if count:
        route_kernel[(triton.cdiv(experts, each), triton.cdiv(count, group))](
            x_TD, norm_D, router.weight_ED, router.bias_E, router.counters, logits_TE, made.x_TD, made.rstd_T,
            made.experts_TK, made.weights_TK, made.rows_N, made.place_TK, *made.tiles[:3],
            count, width, experts, len(made.tiles.expert_I), group, eps,
            TOP=k, ONE=is_few, T=power_of_two(count) if is_few else _GROUP, E=power_of_two(experts), EACH=each,
            K=power_of_two(width), num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip
    if not is_few:
        sort_kernel[(experts,)](
            made.experts_TK, made.rows_N, made.place_TK, *made.tiles[:3], count * k, len(made.tiles.expert_I),
            TOP=k, TOKENS=tokens, E=power_of_two(experts), N=1024, num_warps=4,
        )  # fmt: skip
    return made


def _each(experts: int) -> tuple[int, int]:
    """Experts per program, and its warps. Depends on the number of experts only, so that a logit is always the same
    sum.
    """
    return (4, 4) if experts <= 64 else (8, 8)


def _empty_routing(x_TD: Tensor, count: int, k: int, tiles: int, tokens: int) -> Routing:
    sizes = [tiles] * 3 + [count * k] * 3
    padded = [-(-size // 4) * 4 for size in sizes]  # aligned to 16 bytes, so that Triton compiles one variant
    numbers = x_TD.new_empty(sum(padded), dtype=torch.int32)  # one allocation for six arrays
    pieces = [piece[:size] for piece, size in zip(numbers.split(padded), sizes)]
    expert_I, first_I, count_I, chosen, rows_N, place = pieces
    return Routing(
        torch.empty_like(x_TD, dtype=torch.bfloat16),
        x_TD.new_empty(count),
        chosen.view(count, k),
        x_TD.new_empty((count, k)),
        rows_N,
        place.view(count, k),
        TileTable(expert_I, first_I, count_I, tokens),
    )


def kernel_specs(sizes: Sizes, groups: bool, ptx: bool) -> Iterator[KernelSpec]:
    """The kernels of this file, for few rows and for many."""
    each, warps = _each(sizes.experts)
    listed = dict.fromkeys(("chosen", "rows_N", "place", "expert_I", "first_I", "count_I", "counters"), "*i32")
    floats = {"x": "*fp32", "norm": "*fp32", "weight": "*bf16", "bias": "*fp32", "logits": "*fp32", "scaled": "*bf16"}
    whole = {"WIDE": "i32:16", "EXPERTS": "i32:16", "eps": "fp32", "rstd": "*fp32", "shares": "*fp32"}
    whole |= dict.fromkeys(("TOKENS", "TILES", "group", "PAIRS"), "i32")
    common = listed | floats | whole | {"TOP": sizes.top, "E": power_of_two(sizes.experts)}
    for rows in (1, 16, 4096):
        one = rows <= DECODE
        given = common | {"ONE": one, "T": rows if one else _GROUP, "EACH": each, "K": power_of_two(sizes.hidden)}
        yield spec(f"norm + router + top-k{' + sort' if one else ''}, {rows} rows", route_kernel, given, warps, 3)
    yield spec("sort, many rows", sort_kernel, common | {"TOKENS": 128, "N": 1024}, 4, 3)
