"""Cache blocks of one kind of layer: reference counts, and blocks kept for reuse.

In: counts and keys. Out: block numbers. A block holds the keys and values of `kernels.ops.BLOCK` tokens.
"""

import sys
from collections import OrderedDict
from collections.abc import Iterator

from ossia.kernels.ops import BLOCK


def blocks_for(tokens: int) -> int:
    """Blocks that hold this many tokens."""
    return -(-tokens // BLOCK)


class BlockPool:
    """Blocks 0..count-1. A block is held by one or more sequences, idle (unheld, but kept under a key), or free.

    window: how many tokens back the layers see; 0 for all. ticks: a clock shared by pools that are evicted together.
    """

    def __init__(self, count: int, block_bytes: int, window: int, ticks: Iterator[int]) -> None:
        self.count, self.block_bytes, self.window = count, block_bytes, window
        self._ticks = ticks
        self._untouched = 0  # blocks from here on were never taken, so their memory is not mapped yet
        self._free: list[int] = []
        self._discarded: list[int] = []  # free blocks whose memory was returned to the system
        self._holders: dict[int, int] = {}
        self._idle: OrderedDict[int, int] = OrderedDict()  # block: tick when it became idle, oldest first
        self._kept: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        """Blocks that can be taken, idle ones included."""
        return self.count - len(self._holders)

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def oldest(self) -> int:
        """The tick when the oldest idle block became idle; the maximum int if there is none."""
        return next(iter(self._idle.values()), sys.maxsize)

    def first_seen(self, blocks: int) -> int:
        """The first block that a token after this many whole blocks, or any later token, can see."""
        return max(0, blocks * BLOCK - self.window + 1) // BLOCK if self.window else 0

    def max_blocks(self, tokens: int) -> int:
        """The most blocks that a sequence of this many tokens holds between steps."""
        return min(blocks_for(tokens), blocks_for(self.window - 1) + 1) if self.window else blocks_for(tokens)

    def take(self, count: int) -> list[int]:
        """Take free blocks: used ones first, new ones next, then the longest idle ones."""
        return [self._take() for _ in range(count)]

    def hold(self, block: int) -> None:
        """Add a holder to a held or idle block."""
        self._idle.pop(block, None)
        self._holders[block] = self._holders.get(block, 0) + 1

    def drop(self, block: int) -> None:
        """Remove a holder from a block."""
        self._holders[block] -= 1
        if self._holders[block]:
            return
        del self._holders[block]
        if block in self._keys:
            self._idle[block] = next(self._ticks)
        else:
            self._free.append(block)

    def is_held(self, block: int) -> bool:
        return block in self._holders

    def keep(self, block: int, key: bytes) -> None:
        """Make this held block findable by a key. If a block has the key already, that one stays."""
        if key not in self._kept and block not in self._keys:
            self._kept[key] = block
            self._keys[block] = key

    def find(self, key: bytes) -> int | None:
        return self._kept.get(key)

    def evict(self) -> None:
        """Forget the longest idle block."""
        block, _ = self._idle.popitem(last=False)
        del self._kept[self._keys.pop(block)]
        self._free.append(block)

    def discard(self) -> list[int]:
        """The free blocks that were written, sorted. The caller returns their memory to the system."""
        written = sorted(self._free)
        self._discarded += written
        self._free.clear()
        return written

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        elif self._discarded:
            block = self._discarded.pop()
        elif self._untouched < self.count:
            block = self._untouched
            self._untouched += 1
        else:
            self.evict()
            block = self._free.pop()
        self._holders[block] = 1
        return block
