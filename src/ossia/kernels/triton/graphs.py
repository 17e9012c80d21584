"""Decoding steps as recorded graphs: hundreds of launches in one call, over buffers that keep their place.

In: a page, and batches whose every row is sampled. Out: the logits of their rows, which the next step overwrites.
It does not know what the page does, or CUDA, but for `record`: whatever can record and play again will do.

A graph is made for a number of rows, the least that the batch fits, when it is first wanted: the kernels' grids depend on that
alone. What a batch lacks of its bucket is padding that harms nobody. A bucket has room for so many cache blocks, too.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ossia.kernels.card_memory import MOST_ROWS
from ossia.kernels.ops import BLOCK, Batch

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, MOST_ROWS)
LEAST_BLOCKS, MORE_BLOCKS = (
    1 << 10,
    8,
)  # in the tables of all sequences together: so many, or that times a power of the other

Page = Callable[[Any], Tensor]


class Graph(Protocol):
    """Work that was recorded; playing it reads and writes the very memory that recording it did."""

    def replay(self) -> None: ...


class Bucket(NamedTuple):
    rows: int
    blocks: int


class Recorded(NamedTuple):
    held: Any  # the batch on the device, in buffers of the graph's own
    graph: Graph


Record = Callable[[Callable[[], None]], Graph]
Hold = Callable[
    [Batch, Bucket, Any], Any
]  # puts a batch into buffers: fresh ones for None, else those that were made before


class Graphs:
    """The graphs over one cache. Steps of one engine come one after the other, so all share their work space."""

    def __init__(self, record: Record, hold: Hold) -> None:
        self._record, self._hold = record, hold
        self._graphs: dict[Bucket, Recorded] = {}
        self._logits_RV: Tensor | None = None

    @property
    def count(self) -> int:
        return len(self._graphs)

    def run(self, page: Page, batch: Batch) -> Tensor:
        """Logits of all rows of a batch that has a bucket."""
        bucket = bucket_of(batch)
        assert bucket is not None, "asked for before"
        if bucket not in self._graphs:
            self._graphs[bucket] = self._recorded(page, batch, bucket)
        else:
            self._hold(batch, bucket, self._graphs[bucket].held)
        self._graphs[bucket].graph.replay()
        assert self._logits_RV is not None, "recording made it"
        return self._logits_RV[: len(batch.tokens_T)]

    def _recorded(self, page: Page, batch: Batch, bucket: Bucket) -> Recorded:
        held = self._hold(batch, bucket, None)
        if self._logits_RV is None:
            logits_RV = page(held)  # an ordinary pass, to learn how wide they are
            self._logits_RV = logits_RV.new_empty((MOST_ROWS, logits_RV.shape[1]))
        out_RV = self._logits_RV[: bucket.rows]

        def work() -> None:
            out_RV.copy_(page(held))

        return Recorded(held, self._record(work))


def bucket_of(batch: Batch) -> Bucket | None:
    """None for a batch that no graph is for: one that computes a prompt, or holds more rows than the largest."""
    rows, sequences = len(batch.tokens_T), len(batch.starts_S1) - 1
    if not 0 < rows <= MOST_ROWS or not rows == sequences == len(batch.sampled_R):
        return None
    needed, blocks = int((batch.positions_T // BLOCK).sum()) + rows, LEAST_BLOCKS
    while blocks < needed:
        blocks *= MORE_BLOCKS
    return Bucket(ROWS[bisect_left(ROWS, rows)], blocks)


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None]) -> Graph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()  # compiles what was not, which a recording must not meet
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # another thread may compute logits of its own meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        return graph
