"""The paged cache: what each sequence holds, what is kept for those that begin alike, and the limits in bytes.

In: token ids, and how many of them are computed. Out: block tables.
It does not know who runs when, or what lies in a block.

A kept block is found by a hash of all tokens up to its end. Blocks of full attention are always kept; those of sliding
layers only where a snapshot of the window is wanted: at the last boundary of a prompt, of a sequence's end, and
where a second request left the path of a first, so that the third can go on from there.
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

USUAL_TOKENS = 512  # of a sequence: for shorter ones only, the windows could run out before the full blocks
UNLIMITED = 2**31 - 1


@dataclass(slots=True)
class Table:
    """The blocks of one sequence in one pool, by their place in it; those before `first` have been let go."""

    blocks: "array[int]" = field(default_factory=lambda: array("i"))
    first: int = 0


@dataclass(slots=True)
class Holding:
    """What one sequence has of the cache. kept, marks: counted in whole blocks from its start."""

    full: Table = field(default_factory=Table)
    window: Table = field(default_factory=Table)
    keys: list[bytes] = field(default_factory=list)
    kept: int = 0  # the full blocks before it can be found by others
    marks: list[int] = field(default_factory=list)  # where a snapshot of the window is wanted, still ahead


class Found(NamedTuple):
    """Whole blocks of a sequence that are in the cache: to go on from, and of the full-attention layers alone."""

    hit: int
    branch: int


class PagedCache:
    """Two pools of blocks, for full and for sliding layers, within `cache_bytes`; of those at most `prefix_bytes` idle."""

    def __init__(self, full: BlockPool, window: BlockPool, prefix_bytes: int) -> None:
        self.full, self.window, self.prefix_bytes = full, window, prefix_bytes
        self._pools = [pool for pool in (full, window) if pool.block_bytes]  # of layers that there are

    @staticmethod
    def sized(
        block: CacheBytes,
        window: int,
        context: int,
        step_tokens: int,
        cache_bytes: int | None,
        prefix_bytes: int,
        room: int | None = None,
    ) -> "PagedCache":
        """As many full blocks as fit beside the windows that usual sequences need; None for one whole context, or for as
        much of it as there is `room` for.
        """
        limit = PagedCache.cost(block, window, context, step_tokens) if cache_bytes is None else cache_bytes
        if room is not None and limit > room:
            if cache_bytes is not None:
                raise ValueError(f"cache_bytes is {limit:,} and {room:,} are free: ask for less, or free some memory")
            limit = room
        least = PagedCache.cost(block, window, 1, step_tokens)
        if limit < least:
            raise ValueError(f"cache_bytes is {limit}: one block takes {least}")
        if block.full:
            blocks = bisect_right(
                range(limit // block.full + 1),
                limit,
                key=lambda blocks: PagedCache.cost(block, window, blocks * BLOCK, step_tokens),
            )
            counts = blocks - 1, _window_blocks(window, blocks - 1, step_tokens)
        else:
            counts = 0, limit // block.window
        ticks = count()
        full = BlockPool(counts[0], block.full, 0, ticks)
        return PagedCache(full, BlockPool(counts[1], block.window, window, ticks), prefix_bytes)

    @staticmethod
    def cost(block: CacheBytes, window: int, tokens: int, step_tokens: int) -> int:
        """Bytes for so many tokens of full attention, and for the windows beside them."""
        blocks = blocks_for(tokens)
        return blocks * block.full + _window_blocks(window, blocks, step_tokens) * block.window

    @property
    def tokens(self) -> int:
        """The longest sequence that it can hold."""
        if self.full.block_bytes:
            return self.full.count * BLOCK
        return UNLIMITED if self.window.count >= self.window.most(UNLIMITED) else self.window.count * BLOCK

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

    def find(self, held: Holding, tokens: "array[int]") -> Found:
        """The longest beginning to go on from; at least one token is left to compute."""
        if not self.prefix_bytes:
            return Found(0, 0)
        last = (len(tokens) - 1) // BLOCK
        _name_blocks(held.keys, tokens, last)
        branch = last
        if self.full.block_bytes:
            branch = next((i for i in range(last) if self.full.find(held.keys[i]) is None), last)
        hit = branch
        while hit and self.window.block_bytes:
            seen = range(hit - 1, self.window.first_seen(hit) - 1, -1)
            gap = next((i for i in seen if self.window.find(held.keys[i]) is None), None)
            if gap is None:
                break
            hit = gap  # every snapshot between would need the missing block too
        return Found(hit, branch)

    def fits(self, held: Holding, length: int, hit: int, others: Iterable[tuple[Holding, int]]) -> bool:
        """Whether so long a sequence, its first `hit` blocks found, has room beside what others still need for theirs."""
        lengths = list(others)
        for pool in self._pools:
            tables = [(self._table(pool, other), pool.most(tokens)) for other, tokens in lengths]
            promised = sum(max(0, most - len(table.blocks) + table.first) for table, most in tables)
            found = [] if pool.window else [pool.find(key) for key in held.keys[:hit]]
            shared = sum(block is not None and pool.is_held(block) for block in found)
            if pool.most(length) - shared + promised > pool.free:
                return False
        return True

    def attach(self, held: Holding, found: Found, prompt_tokens: int) -> None:
        """Begin a sequence with the blocks found, and mark where it is to leave snapshots."""
        for pool, table in self._tables(held):
            table.first = pool.first_seen(found.hit)
            table.blocks = array("i", bytes(4 * table.first))
            for key in held.keys[table.first : found.hit]:
                block = pool.find(key)
                assert block is not None, "nothing was evicted since it was found"
                pool.hold(block)
                table.blocks.append(block)
        held.kept = found.hit
        wanted = {found.branch, (prompt_tokens - 1) // BLOCK}
        held.marks = sorted(mark for mark in wanted if mark > found.hit)

    def room(self, held: Holding) -> int:
        """How long the sequence can get with the blocks it has and those that are free."""
        return min((len(table.blocks) + pool.free) * BLOCK for pool, table in self._tables(held))

    def reserve(self, held: Holding, tokens: int) -> None:
        """Take the blocks that so many tokens of the sequence still lack."""
        for pool, table in self._tables(held):
            if (lacking := blocks_for(tokens) - len(table.blocks)) > 0:
                table.blocks.extend(pool.take(lacking))

    def advance(self, held: Holding, tokens: "array[int]", computed: int) -> None:
        """So many tokens are computed: keep what others may want, let go of what no later token sees."""
        whole = computed // BLOCK
        if whole == held.kept:
            return
        if self.prefix_bytes:
            _name_blocks(held.keys, tokens, whole)
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

    def release(self, held: Holding) -> None:
        """The sequence ends, or gives way: let go of everything, after a last snapshot."""
        if self.prefix_bytes:
            self._snapshot(held, held.kept)
        tables = self._tables(held)
        longest = max(len(table.blocks) for _, table in tables)
        for i in reversed(range(longest)):  # the last first: without it the ones before are still of use
            for pool, table in tables:
                if table.first <= i < len(table.blocks):
                    pool.drop(table.blocks[i])
        held.full, held.window, held.kept, held.marks = Table(), Table(), 0, []
        self._trim()

    def discard(self) -> tuple[list[int], list[int]]:
        """The free blocks of full and of sliding layers whose memory can be given back to the system."""
        return self.full.discard(), self.window.discard()

    def reusable(self, held: Holding, prompt_tokens: int) -> int:
        """Tokens of a computed prompt that an equal prompt, sent next, would find: 0 where they are more than is kept idle."""
        blocks = (prompt_tokens - 1) // BLOCK
        wanted = {pool: range(pool.first_seen(blocks), blocks) for pool in self._pools}
        if sum(pool.block_bytes * len(places) for pool, places in wanted.items()) > self.prefix_bytes:
            return 0
        found = all(pool.find(held.keys[i]) is not None for pool, places in wanted.items() for i in places)
        return blocks * BLOCK if found else 0

    def _snapshot(self, held: Holding, blocks: int) -> None:
        """Keep what a token behind so many blocks sees of the sliding layers."""
        _keep(self.window, held.window, held.keys, range(self.window.first_seen(blocks), blocks))

    def _trim(self) -> None:
        while self.idle_bytes > self.prefix_bytes:
            min(self._pools, key=lambda pool: pool.oldest).evict()

    def _table(self, pool: BlockPool, held: Holding) -> Table:
        return held.full if pool is self.full else held.window

    def _tables(self, held: Holding) -> list[tuple[BlockPool, Table]]:
        return [(pool, self._table(pool, held)) for pool in self._pools]


def _window_blocks(window: int, blocks: int, step_tokens: int) -> int:
    """Blocks of sliding layers beside so many of full ones."""
    span = blocks_for(window - 1) + 1
    return min(blocks, span + blocks_for(step_tokens) + blocks * span // blocks_for(USUAL_TOKENS))


def _keep(pool: BlockPool, table: Table, keys: list[bytes], places: range) -> None:
    if pool.block_bytes:
        for i in places:
            pool.keep(table.blocks[i], keys[i])


def _name_blocks(keys: list[bytes], tokens: "array[int]", blocks: int) -> None:
    """Complete the keys of the first blocks: each a hash of the one before and the block's own tokens."""
    for i in range(len(keys), blocks):
        text = tokens[i * BLOCK : (i + 1) * BLOCK].tobytes()
        keys.append(blake2b((keys[-1] if keys else b"") + text, digest_size=16).digest())
