"""The paged cache: each sequence's blocks, blocks kept for prompts with the same beginning, and limits in bytes.

In: token ids, and how many of them are computed. Out: block tables.

A kept block is found by a hash of all tokens up to its end. Full-attention blocks are always kept. Blocks of sliding
layers are kept only as snapshots of the window: at the last block boundary of a prompt, at the end of a sequence, and
where a second request diverged from a first, so that a third can resume there.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from typing import NamedTuple

from ossia.engine.blocks import BlockPool, blocks_for
from ossia.kernels.ops import BLOCK, CacheBytes

USUAL_TOKENS = 512  # the sequence length that the ratio of window blocks to full blocks is made for
UNLIMITED = 2**31 - 1


@dataclass(slots=True)
class BlockTable:
    """One sequence's blocks in one pool, by position. Entries before `first` are released."""

    blocks: "array[int]" = field(default_factory=lambda: array("i"))
    first: int = 0


@dataclass(slots=True)
class SequenceCache:
    """One sequence's part of the cache. kept, marks: in whole blocks from the start of the sequence."""

    full: BlockTable = field(default_factory=BlockTable)
    window: BlockTable = field(default_factory=BlockTable)
    keys: list[bytes] = field(default_factory=list)
    kept: int = 0  # the full-attention blocks before this one can be found by other requests
    marks: list[int] = field(default_factory=list)  # where to take the next snapshots of the window


class PrefixMatch(NamedTuple):
    """Whole blocks of a sequence that are in the cache: `hit` in all layers, `branch` in full-attention layers."""

    hit: int
    branch: int


class PagedCache:
    """Two block pools, for full and for sliding layers, within `cache_bytes`. At most `prefix_bytes` of them are idle."""

    def __init__(self, full: BlockPool, window: BlockPool, prefix_bytes: int) -> None:
        self.full, self.window, self.prefix_bytes = full, window, prefix_bytes
        self._pools = [pool for pool in (full, window) if pool.block_bytes]  # pools that have layers

    @staticmethod
    def sized(
        block: CacheBytes,
        window: int,
        context: int,
        max_batched_tokens: int,
        cache_bytes: int | None,
        prefix_bytes: int,
        room: int | None = None,
    ) -> "PagedCache":
        """As many full-attention blocks as fit beside the windows of usual sequences.

        cache_bytes: None for one whole context, or as much of it as fits in `room` bytes.
        """
        limit = PagedCache.cost(block, window, context, max_batched_tokens) if cache_bytes is None else cache_bytes
        if room is not None and limit > room:
            if cache_bytes is not None:
                raise ValueError(
                    f"cache_bytes is {limit:,} and {room:,} bytes are free: lower cache_bytes, or free some memory"
                )
            limit = room
        least = PagedCache.cost(block, window, 1, max_batched_tokens)
        if limit < least:
            raise ValueError(f"cache_bytes is {limit}: one block takes {least}, so give at least that")
        if block.full:
            blocks = bisect_right(
                range(limit // block.full + 1),
                limit,
                key=lambda blocks: PagedCache.cost(block, window, blocks * BLOCK, max_batched_tokens),
            )
            counts = blocks - 1, _window_blocks(window, blocks - 1, max_batched_tokens)
        else:
            counts = 0, limit // block.window
        ticks = count()
        full = BlockPool(counts[0], block.full, 0, ticks)
        return PagedCache(full, BlockPool(counts[1], block.window, window, ticks), prefix_bytes)

    @staticmethod
    def cost(block: CacheBytes, window: int, tokens: int, max_batched_tokens: int) -> int:
        """Bytes for this many tokens of full attention, with the windows beside them."""
        blocks = blocks_for(tokens)
        return blocks * block.full + _window_blocks(window, blocks, max_batched_tokens) * block.window

    @property
    def tokens(self) -> int:
        """The longest sequence that it can hold."""
        if self.full.block_bytes:
            return self.full.count * BLOCK
        return UNLIMITED if self.window.count >= self.window.max_blocks(UNLIMITED) else self.window.count * BLOCK

    @property
    def blocks(self) -> int:
        return sum(pool.count for pool in self._pools)

    @property
    def free_blocks(self) -> int:
        return sum(pool.free for pool in self._pools)

    @property
    def idle_blocks(self) -> int:
        return sum(pool.idle for pool in self._pools)

    @property
    def idle_bytes(self) -> int:
        return sum(pool.idle * pool.block_bytes for pool in self._pools)

    def find(self, held: SequenceCache, tokens: "array[int]") -> PrefixMatch:
        """The longest cached prefix to resume from. At least one token is left to compute."""
        if not self.prefix_bytes:
            return PrefixMatch(0, 0)
        last = (len(tokens) - 1) // BLOCK
        _hash_blocks(held.keys, tokens, last)
        branch = last
        if self.full.block_bytes:
            branch = next((i for i in range(last) if self.full.find(held.keys[i]) is None), last)
        hit = branch
        while hit and self.window.block_bytes:
            seen = range(hit - 1, self.window.first_seen(hit) - 1, -1)
            gap = next((i for i in seen if self.window.find(held.keys[i]) is None), None)
            if gap is None:
                break
            hit = gap  # every snapshot after the gap would need the missing block too
        return PrefixMatch(hit, branch)

    def fits(self, held: SequenceCache, length: int, hit: int, others: Iterable[tuple[SequenceCache, int]]) -> bool:
        """Whether a sequence of this length, with `hit` blocks found, fits beside the remaining needs of the others."""
        lengths = list(others)
        for pool in self._pools:
            tables = [(self._table(pool, other), pool.max_blocks(tokens)) for other, tokens in lengths]
            promised = sum(max(0, blocks - len(table.blocks) + table.first) for table, blocks in tables)
            found = [] if pool.window else [pool.find(key) for key in held.keys[:hit]]
            shared = sum(block is not None and pool.is_held(block) for block in found)
            if pool.max_blocks(length) - shared + promised > pool.free:
                return False
        return True

    def attach(self, held: SequenceCache, found: PrefixMatch, prompt_tokens: int) -> None:
        """Start a sequence with the blocks found, and mark where to take snapshots."""
        for pool, table in self._tables(held):
            table.first = pool.first_seen(found.hit)
            table.blocks = array("i", bytes(4 * table.first))
            for key in held.keys[table.first : found.hit]:
                block = pool.find(key)
                assert block is not None, "no block was evicted since the lookup"
                pool.hold(block)
                table.blocks.append(block)
        held.kept = found.hit
        wanted = {found.branch, (prompt_tokens - 1) // BLOCK}
        held.marks = sorted(mark for mark in wanted if mark > found.hit)

    def room(self, held: SequenceCache) -> int:
        """The length that the sequence can reach with its blocks and the free ones."""
        return min((len(table.blocks) + pool.free) * BLOCK for pool, table in self._tables(held))

    def reserve(self, held: SequenceCache, tokens: int) -> None:
        """Take the missing blocks for this many tokens of the sequence."""
        for pool, table in self._tables(held):
            if (lacking := blocks_for(tokens) - len(table.blocks)) > 0:
                table.blocks.extend(pool.take(lacking))

    def advance(self, held: SequenceCache, tokens: "array[int]", computed: int) -> None:
        """Record computed tokens: keep blocks for other requests, and release blocks that no later token sees."""
        whole = computed // BLOCK
        if whole == held.kept:
            return
        if self.prefix_bytes:
            _hash_blocks(held.keys, tokens, whole)
            _keep(self.full, held.full, held.keys, range(held.kept, whole))
            while held.marks and held.marks[0] <= whole:
                self._snapshot(held, held.marks.pop(0))
        held.kept = whole
        for pool, table in self._tables(held):
            seen = pool.first_seen(whole)
            for i in range(table.first, seen):
                pool.drop(table.blocks[i])
            table.first = max(table.first, seen)
        self._trim()

    def release(self, held: SequenceCache) -> None:
        """End or preempt a sequence: take a last snapshot, and release all blocks."""
        if self.prefix_bytes:
            self._snapshot(held, held.kept)
        tables = self._tables(held)
        longest = max(len(table.blocks) for _, table in tables)
        for i in reversed(range(longest)):  # the last block becomes the oldest: a prefix is useful without its end
            for pool, table in tables:
                if table.first <= i < len(table.blocks):
                    pool.drop(table.blocks[i])
        held.full, held.window, held.kept, held.marks = BlockTable(), BlockTable(), 0, []
        self._trim()

    def discard(self) -> tuple[list[int], list[int]]:
        """Free blocks of full and of sliding layers whose memory can be returned to the system."""
        return self.full.discard(), self.window.discard()

    def reusable(self, held: SequenceCache, prompt_tokens: int) -> int:
        """Tokens of a computed prompt that an equal prompt would find next; 0 if they exceed the idle limit."""
        blocks = (prompt_tokens - 1) // BLOCK
        wanted = {pool: range(pool.first_seen(blocks), blocks) for pool in self._pools}
        if sum(pool.block_bytes * len(places) for pool, places in wanted.items()) > self.prefix_bytes:
            return 0
        found = all(pool.find(held.keys[i]) is not None for pool, places in wanted.items() for i in places)
        return blocks * BLOCK if found else 0

    def _snapshot(self, held: SequenceCache, blocks: int) -> None:
        """Keep the blocks of sliding layers that a token after this many blocks sees."""
        _keep(self.window, held.window, held.keys, range(self.window.first_seen(blocks), blocks))

    def _trim(self) -> None:
        while self.idle_bytes > self.prefix_bytes:
            min(self._pools, key=lambda pool: pool.oldest).evict()

    def _table(self, pool: BlockPool, held: SequenceCache) -> BlockTable:
        return held.full if pool is self.full else held.window

    def _tables(self, held: SequenceCache) -> list[tuple[BlockPool, BlockTable]]:
        return [(pool, self._table(pool, held)) for pool in self._pools]


def _window_blocks(window: int, blocks: int, max_batched_tokens: int) -> int:
    """Blocks of sliding layers beside this many full-attention blocks."""
    span = blocks_for(window - 1) + 1
    return min(blocks, span + blocks_for(max_batched_tokens) + blocks * span // blocks_for(USUAL_TOKENS))


def _keep(pool: BlockPool, table: BlockTable, keys: list[bytes], places: range) -> None:
    if pool.block_bytes:
        for i in places:
            pool.keep(table.blocks[i], keys[i])


def _hash_blocks(keys: list[bytes], tokens: "array[int]", blocks: int) -> None:
    """Complete the keys of the first blocks: a hash of the key before and the block's tokens."""
    for i in range(len(keys), blocks):
        text = tokens[i * BLOCK : (i + 1) * BLOCK].tobytes()
        keys.append(blake2b((keys[-1] if keys else b"") + text, digest_size=16).digest())
