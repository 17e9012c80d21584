"""The CPU op set against the reference, op by op, and its promise that a row's bits do not depend on its neighbours."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.kernels import Batch, ops
from tests.kernels.cases import CASES, Case, Numbers, fresh_batch

CPU, REFERENCE = ops("cpu"), ops("reference")
BOTH = (CPU, REFERENCE)


def assert_close(ours: np.ndarray, truth: np.ndarray) -> None:
    assert ours.shape == truth.shape
    np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(truth).max()))


def answers(compute) -> list[np.ndarray]:
    return [np.array(op_set.host(compute(op_set))) for op_set in BOTH]


@pytest.mark.parametrize("case", CASES)
def test_norm_linear(case: Case):
    n = Numbers()
    x, norm, weight, bias = n.f32(7, case.hidden), n.bf16(case.hidden), n.bf16(33, case.hidden), n.bf16(33)
    assert_close(*answers(lambda o: o.norm_linear(o.vector(x.copy()), o.vector(norm), 1e-5, o.linear(weight, bias))))


@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_linear_add_takes_every_dense_form(kind: str):
    n = Numbers()
    weight = getattr(n, kind)(40, 64)
    x, residual = n.f32(3, 64), n.f32(3, 40)
    assert_close(
        *answers(lambda o: o.linear_add(o.vector(x.copy()), o.linear(weight, None), o.vector(residual.copy())))
    )


def test_float16_weights_are_taken():
    n = Numbers()
    weight, x = n.f32(8, 32).astype(np.float16), n.f32(2, 32)
    zero = np.zeros((2, 8), np.float32)
    assert_close(*answers(lambda o: o.linear_add(o.vector(x.copy()), o.linear(weight, None), o.vector(zero.copy()))))


@pytest.mark.parametrize("case", CASES)
def test_attend_without_a_cache(case: Case):
    n = Numbers()
    qkv = n.f32(sum(case.lengths), (case.heads + 2 * case.kv_heads) * case.head_dim, scale=2.0)
    sinks, batch = n.bf16(case.heads), fresh_batch(case.lengths)
    assert_close(*answers(lambda o: o.attend(o.vector(qkv.copy()), o.attention(case.shape, sinks), None, batch)))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", BOTH, ids=lambda o: o.name)
def test_attend_through_the_cache_equals_attend_at_once(case: Case, backend):
    """Prompt first, then a token at a time, through scattered blocks: as if all rows had come together."""
    n, steps = Numbers(), 3
    qkv = n.f32(sum(case.lengths), (case.heads + 2 * case.kv_heads) * case.head_dim, scale=2.0)
    attention = backend.attention(case.shape, n.bf16(case.heads))
    whole = fresh_batch(case.lengths)
    once = np.array(backend.host(backend.attend(backend.vector(qkv.copy()), attention, None, whole)))
    count = int(whole.blocks_SB.max()) + 1
    (cache,) = backend.cache([case.shape], count, count)
    longest = max(case.lengths)
    cuts = [0, *range(max(1, longest - steps), longest + 1)]
    for first, last in itertools.pairwise(cuts):
        rows, starts, picked_sequences = [], [0], []
        for s, length in enumerate(case.lengths):
            mine = range(min(first, length), min(last, length))
            if mine:
                rows += [int(whole.starts_S1[s]) + p for p in mine]
                starts.append(len(rows))
                picked_sequences.append(s)
        picked = np.array(rows, np.int32)
        tables = whole.blocks_SB[picked_sequences], whole.windows_SB[picked_sequences]
        part = Batch(picked * 0, whole.positions_T[picked], np.array(starts, np.int32), *tables, picked)
        out = np.array(backend.host(backend.attend(backend.vector(qkv[picked]), attention, cache, part)))
        np.testing.assert_allclose(out, once[picked], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["mxfp4", "bf16", "f32"])
def test_route_and_experts(case: Case, form: str):
    n = Numbers()
    x, norm = n.f32(9, case.hidden, scale=1.0), n.bf16(case.hidden)
    router, router_bias = n.bf16(case.experts, case.hidden), n.bf16(case.experts)
    make = getattr(n, form)
    up, up_bias = make(case.experts, 2 * case.width, case.hidden), n.f32(case.experts, 2 * case.width, scale=9.0)
    down, down_bias = make(case.experts, case.hidden, case.width), n.f32(case.experts, case.hidden)

    def compute(o):
        routing = o.route(o.vector(x.copy()), o.vector(norm), 1e-5, o.linear(router, router_bias), case.k)
        return o.experts_add(routing, o.experts(up, up_bias), o.experts(down, down_bias), 7.0, o.vector(x.copy()))

    assert_close(*answers(compute))


def test_equal_router_scores_go_to_the_lower_expert():
    n = Numbers()
    routing = CPU.route(n.f32(2, 32), np.ones(32, np.float32), 1e-5, CPU.linear(np.zeros((5, 32), np.float32), None), 2)
    assert routing.experts_TK.tolist() == [[0, 1], [0, 1]]
    assert routing.weights_TK.tolist() == [[0.5, 0.5], [0.5, 0.5]]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_a_row_has_the_same_bits_alone_and_in_a_crowd(seed: int, lengths: list[int]):
    case = CASES[0]
    n = Numbers(seed)
    layer = _Layer(n, case)
    x = n.f32(sum(lengths), case.hidden, scale=1.0)
    crowd = layer.run(x, fresh_batch(tuple(lengths)))
    first = 0
    for length in lengths:
        alone = layer.run(x[first : first + length], fresh_batch((length,)))
        assert alone.tobytes() == crowd[first : first + length].tobytes()
        first += length


class _Layer:
    """One block's ops on the CPU backend."""

    def __init__(self, n: Numbers, case: Case) -> None:
        self.case = case
        self.norm = CPU.vector(n.bf16(case.hidden, scale=1.0))
        width = (case.heads + 2 * case.kv_heads) * case.head_dim
        self.qkv = CPU.linear(n.bf16(width, case.hidden), n.bf16(width))
        self.attention = CPU.attention(case.shape, n.bf16(case.heads))
        self.out = CPU.linear(n.bf16(case.hidden, case.heads * case.head_dim), n.bf16(case.hidden))
        self.router = CPU.linear(n.bf16(case.experts, case.hidden), n.bf16(case.experts))
        self.up = CPU.experts(n.mxfp4(case.experts, 2 * case.width, case.hidden), n.f32(case.experts, 2 * case.width))
        self.down = CPU.experts(n.mxfp4(case.experts, case.hidden, case.width), n.f32(case.experts, case.hidden))

    def run(self, x: np.ndarray, batch: Batch) -> np.ndarray:
        qkv = CPU.norm_linear(x, self.norm, 1e-5, self.qkv)
        y = CPU.linear_add(CPU.attend(qkv, self.attention, None, batch), self.out, x.copy())
        routing = CPU.route(y, self.norm, 1e-5, self.router, self.case.k)
        return CPU.experts_add(routing, self.up, self.down, 7.0, y)
