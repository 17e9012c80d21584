"""Attention under Triton's interpreter: against the reference, against float64 by hand, and its promise about a row's bits."""

import itertools

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from ossia.kernels.ops import AttentionShape, Batch
from ossia.kernels.triton.batch import make_buffers, on_device
from ossia.kernels.triton.kernels.attention import attend, make_attention, make_cache
from tests.kernels.cases import CASES, Case, Numbers, fresh_batch
from tests.kernels.triton.paged import (
    REFERENCE,
    SHORT,
    batch_of,
    by_hand,
    filled,
    layout_of,
    ours,
    projection,
    reference,
    shape_of,
)  # fmt: skip

# decoders beside chunks of prompts, at the start and far on; what a batch may hold
DECODE = [(0, 1), (15, 1), (16, 1), (130, 1), (520, 1)]
PAIRS = [(3, 2), (63, 2), (200, 2)]
MIXED = [(90, 1), (0, 20), (37, 5), (260, 7), (255, 1)]
EVERY = [
    (DECODE, 0, (8, 1, 32)), (DECODE, 9, (16, 2, 64)), (DECODE, 128, (4, 4, 32)), (PAIRS, 0, (16, 2, 64)),
    (PAIRS, 9, (8, 1, 32)), (MIXED, 0, (6, 2, 16)), (MIXED, 9, (4, 2, 32)), (MIXED, 128, (8, 1, 64)),
]  # fmt: skip


@pytest.fixture
def exact_dots(monkeypatch: pytest.MonkeyPatch):
    """NumPy's own float32 products are summed in an order that depends on how many columns there are."""

    def create_dot(self, a, b, d, *precision):
        return TensorHandle(np.matmul(a.data.astype(np.float64), b.data).astype(np.float32) + d.data, d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


def blocks(batch: Batch) -> int:
    return int(batch.blocks_SB.max()) + 1


def close(found: np.ndarray, truth: np.ndarray) -> None:
    """What is rounded: a column's weights and its output, to 2^-9 each."""
    assert np.abs(found - truth).max() <= 2**-8 * np.abs(truth).max()


@pytest.mark.parametrize("case", CASES)
def test_without_a_cache_a_sequence_sees_its_own_rows(case: Case):
    n, batch = Numbers(), fresh_batch(case.lengths)
    qkv, sinks = projection(n, sum(case.lengths), case.shape), n.bf16(case.heads)
    truth = REFERENCE.attend(qkv.float(), REFERENCE.attention(case.shape, sinks), None, batch).numpy()
    np.testing.assert_allclose(ours(qkv, case.shape, sinks, None, batch), truth, rtol=0.02, atol=0.01)


def test_without_a_cache_rows_may_begin_at_any_position():
    n, shape, batch = Numbers(), shape_of(4, 2, 32), batch_of([(75, 9), (3, 30)])
    qkv, sinks = projection(n, 39, shape), n.bf16(4)
    truth = REFERENCE.attend(qkv.float(), REFERENCE.attention(shape, sinks), None, batch).numpy()
    np.testing.assert_allclose(ours(qkv, shape, sinks, None, batch), truth, rtol=0.02, atol=0.01)


@pytest.mark.parametrize(("rows", "window", "heads"), EVERY)
def test_through_the_cache(rows: list[tuple[int, int]], window: int, heads: tuple[int, int, int]):
    """Keys of earlier steps are in scattered blocks, and before a window there is no memory at all."""
    n, shape = Numbers(), shape_of(*heads, window)
    batch = batch_of(rows, window)
    qkv, sinks, cache = (
        projection(n, len(batch.tokens_T), shape),
        n.bf16(shape.heads, scale=2.0),
        filled(n, shape, blocks(batch)),
    )
    truth = reference(qkv, shape, sinks, cache, batch)
    found = ours(qkv, shape, sinks, cache, batch, chunks=SHORT)
    close(found, by_hand(qkv, shape, sinks, batch, cache))
    np.testing.assert_allclose(found, truth, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("window", [0, 128])
def test_over_thousands_of_keys(window: int):
    """Past the edges at which chunks grow, each with a program of its own."""
    n, shape = Numbers(), shape_of(8, 1, 32, window)
    batch = batch_of([(4700, 1), (2100, 3)], window)
    qkv, sinks, cache = projection(n, 4, shape), n.bf16(8), filled(n, shape, blocks(batch))
    found = ours(qkv, shape, sinks, cache, batch)
    close(found, by_hand(qkv, shape, sinks, batch, cache))


def test_rows_are_written_where_the_tables_say_and_nowhere_else():
    n, shape, batch = Numbers(), shape_of(4, 2, 32), batch_of([(20, 3), (31, 1)])
    qkv, cache = projection(n, 4, shape), filled(n, shape, blocks(batch))
    (theirs,) = REFERENCE.cache([shape], blocks(batch), blocks(batch))
    theirs.keys.copy_(cache.keys.float().transpose(1, 2))
    theirs.values.copy_(cache.values.float().transpose(1, 2))
    REFERENCE.attend(qkv.float(), REFERENCE.attention(shape, n.bf16(4)), theirs, batch)
    ours(qkv, shape, n.bf16(4), cache, batch)
    for mine, their in ((cache.keys, theirs.keys), (cache.values, theirs.values)):
        np.testing.assert_allclose(mine.float().transpose(1, 2), their.bfloat16().float(), rtol=2**-7, atol=0)
        assert (mine.float().transpose(1, 2) == their).float().mean() > 0.5  # all else is as it was, to the bit


def test_a_head_that_looks_at_its_sink_alone_says_nothing():
    n, shape, batch = Numbers(), shape_of(2, 1, 16), batch_of([(10, 1)])
    sinks = np.array([200.0, -200.0], np.float32)
    found = ours(projection(n, 1, shape), shape, sinks, filled(n, shape, blocks(batch)), batch).reshape(2, 16)
    assert np.abs(found[0]).max() < 1e-30
    assert np.abs(found[1]).max() > 1e-3


def in_steps(qkv: torch.Tensor, shape: AttentionShape, sinks: np.ndarray, cuts: list[int], **changed) -> np.ndarray:
    """One sequence through a cache, a step from each cut to the next."""
    whole = batch_of([(0, len(qkv))])
    (cache,) = make_cache([shape], blocks(whole), blocks(whole), "bf16", "cpu")
    out = []
    for first, last in itertools.pairwise(cuts):
        step = batch_of([(first, last - first)])
        step = step._replace(blocks_SB=whole.blocks_SB, windows_SB=whole.windows_SB)
        out.append(ours(qkv[first:last], shape, sinks, cache, step, chunks=SHORT, **changed))
    return np.concatenate(out)


@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.usefixtures("exact_dots")
def test_a_row_has_the_same_bits_however_its_sequence_is_cut(window: int):
    n, shape = Numbers(), shape_of(8, 1, 32, window)
    qkv, sinks = projection(n, 140, shape), n.bf16(8)
    once = in_steps(qkv, shape, sinks, [0, 140])
    assert in_steps(qkv, shape, sinks, [0, 60, 61, 63, 64, 67, 128, 139, 140]).tobytes() == once.tobytes()


@pytest.mark.usefixtures("exact_dots")
def test_a_row_has_the_same_bits_however_work_is_shared_out():
    n, shape, batch = Numbers(), shape_of(8, 1, 32), batch_of([(190, 1), (37, 5), (260, 6)])
    qkv, sinks, cache = projection(n, len(batch.tokens_T), shape), n.bf16(8), filled(n, shape, blocks(batch))
    found = [
        ours(qkv, shape, sinks, cache, batch, chunks=SHORT, programs=programs, slots=slots).tobytes()
        for programs, slots in ((1, 0), (4, 1024), (1000, 9), (1000, 1024))
    ]
    assert found == found[:1] * 4


@pytest.mark.usefixtures("exact_dots")
def test_a_row_has_the_same_bits_alone_and_in_a_crowd():
    n, shape, batch = Numbers(), shape_of(8, 1, 32), batch_of([(130, 1), (90, 1), (0, 20), (260, 3)])
    qkv, sinks = projection(n, len(batch.tokens_T), shape), n.bf16(8)
    cache = filled(n, shape, blocks(batch))
    crowd = ours(qkv, shape, sinks, cache, batch, chunks=SHORT)
    for s, (first, last) in enumerate(itertools.pairwise(batch.starts_S1.tolist())):
        alone = Batch(
            batch.tokens_T[first:last], batch.positions_T[first:last], np.array([0, last - first], np.int32),
            batch.blocks_SB[s : s + 1], batch.windows_SB[s : s + 1], np.arange(last - first, dtype=np.int32),
        )  # fmt: skip
        assert ours(qkv[first:last], shape, sinks, cache, alone, chunks=SHORT).tobytes() == crowd[first:last].tobytes()


@pytest.mark.parametrize("window", [0, 9])
def test_padding_harms_nothing_and_counters_are_left_at_zero(window: int):
    """The same buffers for one batch after another, as a captured graph has them."""
    n, shape = Numbers(), shape_of(8, 2, 32, window)
    layout = layout_of(shape, chunks=SHORT, programs=16)
    buffers = make_buffers(layout, "cpu", 4, 200)
    for rows in ([(130, 1), (40, 1), (5, 1)], [(70, 1)], [(65, 1)] + [(3, 1)] * 3):
        batch = batch_of(rows, window)
        qkv, sinks = projection(n, 4, shape), n.bf16(8)
        cache = filled(n, shape, blocks(batch))
        before = cache.keys.clone()
        placed = on_device(batch, "cpu", layout, into=buffers, bucket=4)
        found = attend(qkv, make_attention(shape, sinks, "cpu"), cache, placed).float().numpy()
        assert (cache.keys != before).any(-1).sum() == len(rows) * shape.kv_heads
        assert (found[len(rows) :] == 0).all()
        alone = ours(qkv[: len(rows)], shape, sinks, cache, batch, chunks=SHORT)
        assert found[: len(rows)].tobytes() == alone.tobytes()
        assert not buffers.arrivals.any()
