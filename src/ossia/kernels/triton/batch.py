# pyright: standard
"""Copies a `Batch` to the device in one transfer: its rows, their cache slots, and attention's work items.

In: a host `Batch` and the layout of attention. Out: a `DeviceBatch`, in its own memory or in a graph's `Buffers`.

Everything is int32, copied asynchronously from pinned memory. Bytes: 20 per row, 64 per work item, and 4 per cache
block, twice. In `Buffers`, extra rows are padding: token 0 at position 0, with no cache slot, no visible keys and zero
outputs.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ossia.kernels.ops import BLOCK, AttentionShape, Batch
from ossia.kernels.triton.kernels.tiles import power_of_two
from ossia.kernels.triton.work_table import FIELDS, PLACE, ROW, TOKENS, Chunks, Ints, Places, shared_out, whole_tiles

NARROW, MIDDLE, WIDE = 16, 32, 64  # columns of a tile: the query heads of one group, token by token
MAX_SHARED_ROWS = 64  # up to this many rows of a sequence, its tiles may be split over programs
COUNTS = 16  # ints at the start of the buffer


class Layout(NamedTuple):
    """The layout of attention on a GPU.

    programs: enough to occupy it, two per multiprocessor. slots: partial sums of a token in a chunk that memory is
    reserved for, 4 H (d + 2) bytes each. widest: columns of a tile that fit the registers; below 64 before compute
    capability 9.0 and with e4m3.
    """

    heads: int
    kv_heads: int
    head_dim: int
    programs: int = 264
    slots: int = 1024
    chunks: Chunks = Chunks()
    widest: int = WIDE

    @property
    def each(self) -> int:
        """Columns of one token."""
        return power_of_two(self.heads // self.kv_heads)

    def tokens(self, columns: int) -> int:
        return max(1, columns // self.each)


class AttentionWork(NamedTuple):
    """Work items for one tile width: whole tiles for sliding layers, and split tiles for full-attention layers."""

    tokens: int
    whole: Tensor
    split: Tensor
    whole_count: Tensor
    split_count: Tensor
    whole_items: int
    split_items: int


class DeviceBatch(NamedTuple):
    """A batch as int32 tensors.

    - full_T, window_T: cache slot (block * BLOCK + offset) of each row in full and sliding layers; -1 for none.
    - tables: block numbers; `work` holds the offsets.
    - rows: including padding. longest: rows of the longest sequence. host: the source batch.
    - sums, parts, arrivals: partial sums of split attention, and counters.
    """

    tokens_T: Tensor
    positions_T: Tensor
    full_T: Tensor
    window_T: Tensor
    sampled_R: Tensor
    tables: Tensor
    work: tuple[AttentionWork, ...]
    sums: Tensor
    parts: Tensor
    arrivals: Tensor
    rows: int
    longest: int
    layout: Layout
    host: Batch


class Buffers(NamedTuple):
    """Memory at fixed addresses for decode batches of up to `rows` rows and `blocks` blocks in total."""

    ints: Tensor
    sums: Tensor
    parts: Tensor
    arrivals: Tensor
    rows: int
    layout: Layout


def layout_for(shape: AttentionShape, device: torch.device | str, kv: str = "bf16") -> Layout:
    """The layout for a model whose layers all have these heads. ValueError if the kernels do not support the shape."""
    d = shape.head_dim
    if d != power_of_two(d) or not 16 <= d <= 256 or shape.heads // shape.kv_heads > MIDDLE:
        raise ValueError(
            f"attention on the GPU takes head widths of 16, 32, 64, 128 or 256 and up to {MIDDLE} query heads a group, and "
            f"the model has {d} and {shape.heads // shape.kv_heads}: use backend='cpu'"
        )
    layout = Layout(shape.heads, shape.kv_heads, d)
    if torch.device(device).type == "cuda":
        card = torch.cuda.get_device_properties(device)
        has_room = card.major >= 9 or torch.version.hip is not None
        widest = WIDE if has_room and kv == "bf16" else MIDDLE
        layout = layout._replace(programs=2 * card.multi_processor_count, widest=widest)
    return layout


def make_buffers(layout: Layout, device: torch.device | str, rows: int, blocks: int) -> Buffers:
    """blocks: of all sequences together. A block that several sequences share counts once for each."""
    ints = torch.zeros(_fixed_ints(layout, rows) + 2 * blocks, dtype=torch.int32, device=device)
    arrivals = torch.zeros((layout.slots + 1) * layout.kv_heads, dtype=torch.int32, device=device)
    return Buffers(ints, *_room(layout, layout.slots, device), arrivals, rows, layout)


def on_device(
    batch: Batch,
    device: torch.device | str,
    layout: Layout,
    into: Buffers | None = None,
    bucket: int | None = None,
    has_cache: bool = True,
) -> DeviceBatch:
    """The batch on the device.

    into: buffers for decode batches, padded to `bucket` rows. All batches of a bucket then use the same addresses and
    grids. Without a cache, each sequence has temporary blocks numbered from 0.
    """
    places, tables, slots_2T = _placed(batch, has_cache)
    longest = int(places.lengths_S.max(initial=1))
    works = _works(places, layout, longest)
    rows = batch.tokens_T.size if into is None else bucket or into.rows
    if into is not None and (len(works) > 1 or works[0][0] > layout.tokens(NARROW) or batch.tokens_T.size > rows):
        raise ValueError(
            f"buffers of {rows} rows take decode batches only, of up to {layout.tokens(NARROW)} rows a sequence: leave "
            "`into` out for others"
        )
    each = batch.tokens_T, batch.positions_T, *slots_2T, batch.sampled_R
    if into is None:
        lists = [items for _, whole, split in works for items in (whole, split)]
        sizes = [rows] * 4 + [batch.sampled_R.size] + [items.size for items in lists]
    else:
        lists = [_padded_items(items, batch.tokens_T.size, rows) for items in works[0][1:]]
        sizes = [rows] * 5 + [size * FIELDS for size in _items(layout, rows)]
    counts = np.array([len(items) for items in lists], np.int32)
    ints = _packed((counts, *each, *(items.reshape(-1) for items in lists)), (COUNTS, *sizes), tables)
    device_ints = _copied(ints, device, None if into is None else into.ints)
    parts = device_ints[: sum(sizes) + COUNTS].split_with_sizes([COUNTS, *sizes])
    tables_at = device_ints[sum(sizes) + COUNTS :]
    work = tuple(
        AttentionWork(
            tokens=tokens,
            whole=parts[6 + 2 * i],
            split=parts[7 + 2 * i],
            whole_count=parts[0][2 * i :],
            split_count=parts[0][2 * i + 1 :],
            whole_items=sizes[5 + 2 * i] // FIELDS,
            split_items=sizes[6 + 2 * i] // FIELDS,
        )
        for i, (tokens, _, _) in enumerate(works)
    )
    if into is not None:
        room = into.sums, into.parts, into.arrivals
    else:
        room = _fresh_room(layout, [split for _, _, split in works], device)
    _, tokens_T, positions_T, full_T, window_T, sampled_R, *_ = parts
    rows_of_ints = tokens_T, positions_T, full_T, window_T, sampled_R
    return DeviceBatch(*rows_of_ints, tables_at, work, *room, rows, longest, layout, batch)


def _placed(batch: Batch, has_cache: bool) -> tuple[Places, Ints, Ints]:
    """Positions of the sequences, all block tables concatenated, and each row's slots in full and sliding layers."""
    lengths_S = np.diff(batch.starts_S1).astype(np.int32)
    sequence_T = np.repeat(np.arange(lengths_S.size), lengths_S)
    places_T = batch.positions_T
    if not has_cache:
        places_T = places_T - places_T[batch.starts_S1[:-1]][sequence_T]
    places_S = places_T[batch.starts_S1[:-1]]
    counts_S = (places_S + lengths_S - 1) // BLOCK + 1
    at_S = np.cumsum(counts_S) - counts_S
    if has_cache:
        inside = np.arange(batch.blocks_SB.shape[1])[None] < counts_S[:, None]
        tables = np.concatenate([batch.blocks_SB[inside], batch.windows_SB[inside]])
    else:
        tables = np.tile(np.arange(counts_S.sum()), 2)
    window_S = at_S + counts_S.sum()
    tables = tables.astype(np.int32)
    blocks_2T = np.stack([tables[start_S[sequence_T] + places_T // BLOCK] for start_S in (at_S, window_S)])
    slots_2T = (blocks_2T * BLOCK + places_T % BLOCK).astype(np.int32)
    return Places(batch.starts_S1[:-1], lengths_S, places_S, at_S, window_S), tables, slots_2T


def _works(places: Places, layout: Layout, longest: int) -> list[tuple[int, Ints, Ints]]:
    """Tokens per tile, whole items and split items: for sequences with few rows, and for those with many."""
    few = layout.tokens(NARROW)
    columns = layout.widest if longest > MAX_SHARED_ROWS else MIDDLE
    many = layout.tokens(columns)
    is_many = places.lengths_S > few
    works = []
    for tokens, chosen in ((few, ~is_many), (many, is_many)):
        if chosen.any():
            whole = whole_tiles(Places(*(each[chosen] for each in places)), tokens)
            programs = -(-layout.programs // layout.kv_heads)
            slots = 0 if tokens == many and columns == WIDE else layout.slots
            works.append((tokens, whole, shared_out(whole, layout.chunks, programs, slots)))
    return works


def _padded_items(items: Ints, rows: int, bucket: int) -> Ints:
    """Add one item without keys for each row of padding."""
    padding = np.zeros((bucket - rows, FIELDS), np.int32)
    padding[:, ROW], padding[:, TOKENS], padding[:, PLACE] = np.arange(rows, bucket), 1, -1
    return np.concatenate([items, padding])


def _items(layout: Layout, rows: int) -> tuple[int, int]:
    """The maximum numbers of whole and split items of a decode batch with this many rows."""
    return rows, rows + layout.slots


def _fixed_ints(layout: Layout, rows: int) -> int:
    return COUNTS + 5 * rows + sum(_items(layout, rows)) * FIELDS


def _packed(given: tuple[Ints, ...], sizes: tuple[int, ...], tables: Ints) -> Ints:
    """Concatenate the arrays, each padded to its size with zeros; slots are padded with -1."""
    out = np.zeros(sum(sizes) + tables.size, np.int32)
    start = 0
    for place, (part, size) in enumerate(zip(given, sizes)):
        out[start : start + part.size] = part
        if place in (3, 4):
            out[start + part.size : start + size] = -1
        start += size
    out[start:] = tables
    return out


def _copied(ints: Ints, device: torch.device | str, into: Tensor | None) -> Tensor:
    """Copy to the device. torch reuses the pinned memory only after the copy has finished."""
    host = torch.from_numpy(ints)
    if torch.device(device).type == "cuda":
        host = host.pin_memory()
    if into is None:
        return host.to(device, non_blocking=True)
    if len(ints) > len(into):
        raise ValueError(
            f"the batch takes {len(ints)} ints and the buffers have {len(into)}: make them for more blocks"
        )
    into[: len(ints)].copy_(host, non_blocking=True)
    return into


def _room(layout: Layout, slots: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    shape = (max(1, slots), layout.heads)
    sums = torch.empty(*shape, 2, dtype=torch.float32, device=device)
    return sums, torch.empty(*shape, layout.head_dim, dtype=torch.float32, device=device)


def _fresh_room(layout: Layout, lists: list[Ints], device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for the partial sums of these items. The tile widths use it one after the other."""
    is_split = any((items[:, 7] > 0).any() for items in lists)
    slots = layout.slots if is_split else 0
    return *_room(layout, slots, device), torch.zeros((slots + 1) * layout.kv_heads, dtype=torch.int32, device=device)
