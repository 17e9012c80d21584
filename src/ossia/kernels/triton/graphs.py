# pyright: standard
"""Decode steps as captured graphs: hundreds of launches in one call, over buffers at fixed addresses.

In: a forward function, and batches whose rows are all sampled. Out: their logits, which the next step overwrites.

Grids depend on the number of rows only, so a graph is captured for a bucket of rows when one is first needed. A batch
takes the smallest bucket that fits; the rest is padding, which changes no result. A bucket also limits the cache
blocks. `record` hides CUDA, so tests can record without a GPU.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ossia.kernels.ops import BLOCK, Batch
from ossia.kernels.sizes import MAX_GRAPH_ROWS

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, MAX_GRAPH_ROWS)
MIN_BLOCKS, MORE_BLOCKS = 1 << 10, 8  # a bucket has MIN_BLOCKS * MORE_BLOCKS**n blocks in its tables

Forward = Callable[[Any], Tensor]


class Graph(Protocol):
    """A captured step. A replay reads and writes the same memory as the capture."""

    def replay(self) -> None: ...


class Bucket(NamedTuple):
    rows: int
    blocks: int


class CapturedGraph(NamedTuple):
    held: Any  # the batch in the graph's device buffers
    graph: Graph


Record = Callable[[Callable[[], None]], Graph]
# writes a batch into buffers: into new ones for None, else into the given ones
WriteBatch = Callable[[Batch, Bucket, Any], Any]


class Graphs:
    """The graphs over one cache. The steps of an engine run one after the other, so all graphs share their work space."""

    def __init__(self, record: Record, hold: WriteBatch) -> None:
        self._record, self._write_batch = record, hold
        self._graphs: dict[Bucket, CapturedGraph] = {}
        self._logits_RV: Tensor | None = None

    @property
    def count(self) -> int:
        return len(self._graphs)

    def run(self, forward: Forward, batch: Batch) -> Tensor:
        """The logits of all rows of a batch that has a bucket."""
        bucket = bucket_of(batch)
        assert bucket is not None, "the caller checks that the batch has a bucket"
        if bucket not in self._graphs:
            self._graphs[bucket] = self._recorded(forward, batch, bucket)
        else:
            self._write_batch(batch, bucket, self._graphs[bucket].held)
        self._graphs[bucket].graph.replay()
        assert self._logits_RV is not None, "the first capture allocates it"
        return self._logits_RV[: len(batch.tokens_T)]

    def _recorded(self, forward: Forward, batch: Batch, bucket: Bucket) -> CapturedGraph:
        held = self._write_batch(batch, bucket, None)
        if self._logits_RV is None:
            logits_RV = forward(held)  # an ordinary pass, to get the width of the logits
            self._logits_RV = logits_RV.new_empty((MAX_GRAPH_ROWS, logits_RV.shape[1]))
        out_RV = self._logits_RV[: bucket.rows]

        def work() -> None:
            out_RV.copy_(forward(held))

        return CapturedGraph(held, self._record(work))


def bucket_of(batch: Batch) -> Bucket | None:
    """The bucket of a decode batch; None for a prefill batch, or one with more rows than the largest bucket."""
    rows, sequences = len(batch.tokens_T), len(batch.starts_S1) - 1
    if not 0 < rows <= MAX_GRAPH_ROWS or not rows == sequences == len(batch.sampled_R):
        return None
    needed, blocks = int((batch.positions_T // BLOCK).sum()) + rows, MIN_BLOCKS
    while blocks < needed:
        blocks *= MORE_BLOCKS
    return Bucket(ROWS[bisect_left(ROWS, rows)], blocks)


class CudaRecorder:
    """Captures CUDA graphs that share one memory pool."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None]) -> Graph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()  # compiles the kernels first: a capture must not compile
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # another thread may use the GPU meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        return graph
