"""Which cache blocks are free, and how many a sequence needs.

In: counts. Out: block numbers. A block holds `kernels.BLOCK` tokens of every layer.
It does not know requests or arrays.
"""

from ossia.kernels import BLOCK


def blocks_for(tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // BLOCK)


class BlockPool:
    """Blocks 0..count-1, given out and taken back."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        assert count <= self.free, "the scheduler asks only for blocks that are free"
        return [self._free.pop() for _ in range(count)]

    def give_back(self, blocks: list[int]) -> None:
        self._free += reversed(blocks)
        assert self.free <= self.count, "a block was given back twice"
