"""Captured steps: one graph per bucket, new numbers in the same buffers, invisible padding. Here a graph is a closure."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ossia.kernels.ops import BLOCK, Batch
from ossia.kernels.triton.graphs import MAX_GRAPH_ROWS, MIN_BLOCKS, MORE_BLOCKS, ROWS, Bucket, Graphs, bucket_of

VOCAB = 7


class Closure:
    """A graph for tests: a replay calls the captured function."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        work()

    def replay(self) -> None:
        self.work()


def decoding(rows: int, reach: int = 20, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    blocks = np.zeros((rows, -(-reach // BLOCK)), np.int32)
    every = np.arange(rows, dtype=np.int32)
    positions = np.full(rows, reach - 1, np.int32)
    return Batch(
        rng.integers(0, 50, rows, dtype=np.int32), positions, np.arange(rows + 1, dtype=np.int32), blocks, blocks, every
    )


class Counting:
    """A forward function with buffers. It counts its calls and their rows."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.made = 0

    def hold(self, batch: Batch, bucket: Bucket, held: Tensor | None) -> Tensor:
        if held is None:
            held, self.made = torch.zeros(bucket.rows, dtype=torch.int32), self.made + 1
        held[: len(batch.tokens_T)] = torch.from_numpy(batch.tokens_T)
        held[len(batch.tokens_T) :] = 0
        return held

    def forward(self, held: Tensor) -> Tensor:
        self.calls.append(len(held))
        return held[:, None].float() * torch.arange(VOCAB)

    @staticmethod
    def expected(batch: Batch) -> np.ndarray:
        return batch.tokens_T[:, None].astype(np.float32) * np.arange(VOCAB)


def test_each_step_has_its_own_numbers_and_each_bucket_one_graph():
    counting = Counting()
    graphs = Graphs(Closure, counting.hold)
    for seed, rows in enumerate([3, 4, 1, 3, 200, 4]):
        batch = decoding(rows, seed=seed)
        np.testing.assert_array_equal(graphs.run(counting.forward, batch).numpy(), counting.expected(batch))
    assert graphs.count == counting.made == 3
    assert set(counting.calls) == {1, 4, 224}


def test_tables_that_outgrow_a_buckets_room_get_another():
    counting = Counting()
    graphs = Graphs(Closure, counting.hold)
    for reach in (20, 8 * 1024, 8 * 1024 + 1, 20000):
        graphs.run(counting.forward, decoding(2, reach))
    assert graphs.count == 2


@pytest.mark.parametrize("rows", [1, 2, 3, 17, 100, MAX_GRAPH_ROWS])
@pytest.mark.parametrize("reach", [1, 1024, 1025, 131072])
def test_the_least_bucket_that_fits_is_taken(rows: int, reach: int):
    bucket = bucket_of(decoding(rows, reach))
    assert bucket is not None
    assert bucket.rows == min(each for each in ROWS if each >= rows)
    needed = rows * -(-reach // BLOCK)
    assert needed <= bucket.blocks < max(MIN_BLOCKS + 1, MORE_BLOCKS * needed)


def test_prompts_and_crowds_have_no_bucket():
    prompt = decoding(3)._replace(starts_S1=np.array([0, 3], np.int32))
    unsampled = decoding(3)._replace(sampled_R=np.array([0, 2], np.int32))
    assert [bucket_of(batch) for batch in (prompt, unsampled, decoding(MAX_GRAPH_ROWS + 1))] == [None] * 3
