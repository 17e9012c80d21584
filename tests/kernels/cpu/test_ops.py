"""The CPU op set against the reference and exact arithmetic, and its promise that a row's bits do not depend on its neighbours."""

import itertools
import mmap
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.kernels.backends import make_ops
from ossia.kernels.cpu import ops as cpu
from ossia.kernels.cpu.pack import INT8
from ossia.kernels.ops import AttentionShape, Batch
from ossia.kernels.rope import frequencies
from ossia.quant import from_bf16, to_bf16
from tests.kernels import exactly
from tests.kernels.cases import CASES, ROPE, Case, Numbers, fresh_batch

CPU, REFERENCE = make_ops("cpu", dense="bf16", kv="f32"), make_ops("reference")
BOTH = (CPU, REFERENCE)
KINDS = ("f32", "bf16", "int8")
NEAR = 5e-6  # of a number: what float32 sums and the short exp may be off
ODD = Case(hidden=64, heads=3, kv_heads=1, head_dim=24, window=20, experts=1, width=32, k=1, lengths=(37, 2))
FAR = Case(hidden=32, heads=2, kv_heads=1, head_dim=16, window=0, experts=1, width=32, k=1, lengths=(2200,))


def assert_close(ours: np.ndarray, truth: np.ndarray) -> None:
    assert ours.shape == truth.shape
    np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(truth).max()))


def answers(compute) -> list[np.ndarray]:
    return [np.array(op_set.host(compute(op_set))) for op_set in BOTH]


@pytest.mark.parametrize("kv", KINDS)
@given(st.sets(st.integers(0, 39)))
@settings(deadline=None, max_examples=20)
def test_discarded_blocks_hold_zeros_and_the_others_what_they_held(kv: Any, chosen: set[int]):
    shapes = [AttentionShape(4, 2, 64, window, ROPE) for window in (0, 128)]
    op_set = make_ops("cpu", kv=kv)
    layers = op_set.cache(shapes, 40, 40)
    for layer in layers:
        layer.data[:] = 7
    op_set.discard(layers, shapes, sorted(chosen), [])
    left_alone = layers[1].data
    assert (left_alone == 7).all()
    blocks = layers[0].data.reshape(40, -1)
    for number in range(40):
        held = blocks[number]
        if number not in chosen:
            assert (held == 7).all()
        elif len(held) >= 2 * mmap.PAGESIZE:
            assert not held[mmap.PAGESIZE : -mmap.PAGESIZE].any()


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


@pytest.mark.parametrize("case", [*CASES, ODD])
def test_attend_without_a_cache(case: Case):
    n = Numbers()
    qkv = n.f32(sum(case.lengths), (case.heads + 2 * case.kv_heads) * case.head_dim, scale=2.0)
    sinks, batch = n.bf16(case.heads), fresh_batch(case.lengths)
    assert_close(*answers(lambda o: o.attend(o.vector(qkv.copy()), o.attention(case.shape, sinks), None, batch)))


def cut(case: Case, cuts: list[int]) -> list[Batch]:
    """The case's sequences in steps: each takes from every sequence its rows between two cuts."""
    whole, steps = fresh_batch(case.lengths), []
    for first, last in itertools.pairwise(cuts):
        rows, starts, picked = [], [0], []
        for s, length in enumerate(case.lengths):
            mine = range(min(first, length), min(last, length))
            if mine:
                rows += [int(whole.starts_S1[s]) + p for p in mine]
                starts.append(len(rows))
                picked.append(s)
        numbers = np.array(rows, np.int32)
        tables = whole.blocks_SB[picked], whole.windows_SB[picked]
        steps.append(Batch(numbers * 0, whole.positions_T[numbers], np.array(starts, np.int32), *tables, numbers))
    return steps


def in_steps(backend: Any, case: Case, qkv: np.ndarray, attention: Any, cuts: list[int]) -> np.ndarray:
    """Attention through a cache of scattered blocks, a step after the other, in the order of the rows."""
    count = int(fresh_batch(case.lengths).blocks_SB.max()) + 1
    (cache,) = backend.cache([case.shape], count, count)
    out = np.full((len(qkv), case.heads * case.head_dim), np.nan, np.float32)
    for step in cut(case, cuts):
        rows = step.sampled_R
        out[rows] = np.array(backend.host(backend.attend(backend.vector(qkv[rows]), attention, cache, step)))
    return out


def queries_keys_values(n: Numbers, case: Case) -> np.ndarray:
    return n.f32(sum(case.lengths), (case.heads + 2 * case.kv_heads) * case.head_dim, scale=2.0)


@pytest.mark.parametrize("case", [*CASES, ODD])
@pytest.mark.parametrize("kind", [*KINDS, "reference"])
def test_attend_through_the_cache_equals_attend_at_once(case: Case, kind: Any):
    """Prompt first, then a token at a time: as if all rows had come together."""
    backend = REFERENCE if kind == "reference" else make_ops("cpu", kv=kind)
    n, longest = Numbers(), max(case.lengths)
    qkv = queries_keys_values(n, case)
    attention = backend.attention(case.shape, n.bf16(case.heads))
    once = np.array(
        backend.host(backend.attend(backend.vector(qkv.copy()), attention, None, fresh_batch(case.lengths)))
    )
    steps = in_steps(backend, case, qkv, attention, [0, *range(max(1, longest - 3), longest + 1)])
    if kind == "reference":
        np.testing.assert_allclose(steps, once, rtol=2e-5, atol=2e-5)
    else:
        assert steps.tobytes() == once.tobytes()


@pytest.mark.parametrize("window", [0, 3, 200])
@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_far_rows_have_the_same_bits_however_they_come(kind: Any, window: int, monkeypatch: pytest.MonkeyPatch):
    """Past splits of 1024 keys: chunks across their edges, single rows shared out by key, windows over the edges."""
    case, n = FAR._replace(window=window), Numbers()
    qkv, backend = queries_keys_values(n, case), make_ops("cpu", kv=kind)
    attention = backend.attention(case.shape, n.bf16(case.heads))
    once = in_steps(backend, case, qkv, attention, [0, 2200])
    shared = []
    monkeypatch.setattr(cpu, "SPLIT_CONTEXT", 0)
    run = cpu.place_and_attend_splits
    monkeypatch.setattr(cpu, "place_and_attend_splits", lambda *args: (shared.append(args), run(*args)))
    cuts = [0, *range(100, 130), 700, 1020, 1021, 1030, 2040, 2047, 2048, 2049, 2060, 2199, 2200]
    assert in_steps(backend, case, qkv, attention, cuts).tobytes() == once.tobytes()
    assert bool(shared) == (window == 0)


@pytest.mark.parametrize("window", [0, 200])
def test_far_rows_equal_the_reference(window: int):
    case, n = FAR._replace(window=window), Numbers()
    qkv, sinks, batch = queries_keys_values(n, case), n.bf16(case.heads), fresh_batch(case.lengths)
    assert_close(*answers(lambda o: o.attend(o.vector(qkv.copy()), o.attention(case.shape, sinks), None, batch)))


def rounded(x: np.ndarray, kind: str) -> np.ndarray:
    """A head's keys or values as the cache keeps them."""
    if kind == "bf16":
        return from_bf16(to_bf16(x)).astype(np.float64)
    scale = np.abs(x).max(-1, keepdims=True) / np.float32(127)
    return np.rint(x / scale).astype(np.float64) * scale


def unsure(x: np.ndarray) -> np.ndarray:
    """By how much the bfloat16 of x may differ: a step where x is so near a tie that float32's errors decide, else 0."""
    return np.abs(rounded(x * (1 + NEAR), "bf16") - rounded(x * (1 - NEAR), "bf16"))


def attention_by_hand(
    qkv: np.ndarray, sinks_H: np.ndarray, shape: AttentionShape, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """One sequence of at most 128 from position 0, in float64 but for what is rounded; and what near ties may change."""
    rows, heads, groups, d = len(qkv), shape.heads, shape.kv_heads, shape.head_dim
    each = qkv.reshape(rows, heads + 2 * groups, d)
    inverse, concentration = frequencies(shape.rope, d)
    angles = (np.arange(rows, dtype=np.float32)[:, None] * inverse)[:, None]
    cos, sin = (np.cos(angles) * concentration).astype(np.float32), (np.sin(angles) * concentration).astype(np.float32)
    low, high = np.split(each, 2, axis=-1)
    turned = np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
    keys, values = rounded(turned[:, heads:-groups], kind), rounded(each[:, -groups:], kind)
    out, slack = np.zeros((2, rows, heads, d))
    for t, h in itertools.product(range(rows), range(heads)):
        seen, g = slice(max(0, t - shape.window + 1) if shape.window else 0, t + 1), h // (heads // groups)
        query = turned[t, h] * np.float32(1 / np.sqrt(d))
        scores = keys[seen, g] @ (rounded(query, kind) if kind == "bf16" else query.astype(np.float64))
        top = max(scores.max(), sinks_H[h])
        exact, sink = np.exp(scores - top), np.exp(sinks_H[h].astype(np.float64) - top)
        weights = rounded(exact.astype(np.float32), kind) if kind == "bf16" else exact
        total = weights.sum() + sink
        out[t, h] = weights / total @ values[seen, g]
        if kind == "bf16":
            off = unsure(exact.astype(np.float32)) + weights * (np.abs(keys[seen, g]) @ unsure(query))
            slack[t, h] = off / total @ np.abs(values[seen, g] - out[t, h])
    return out.reshape(rows, heads * d), slack.reshape(rows, heads * d)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
@pytest.mark.parametrize("window", [0, 8])
@pytest.mark.parametrize("heads", [(4, 2, 32), (3, 1, 24), (5, 5, 10)], ids=str)
def test_attention_rounds_what_its_cache_asks_for_and_nothing_else(kind: Any, window: int, heads: tuple[int, int, int]):
    """Keys and values; beside bfloat16 queries and weights too."""
    n, shape = Numbers(), AttentionShape(*heads, window, ROPE)
    qkv, sinks, backend = (
        n.f32(40, (heads[0] + 2 * heads[1]) * heads[2], scale=1.0),
        n.f32(heads[0]),
        make_ops("cpu", kv=kind),
    )
    found = backend.attend(qkv.copy(), backend.attention(shape, sinks), None, fresh_batch((40,)))
    truth, slack = attention_by_hand(qkv, sinks, shape, kind)
    assert (np.abs(found - truth) <= 2e-6 + slack).all()
    assert (slack > 0).mean() < 0.2


@pytest.mark.parametrize(("kind", "bound"), [("bf16", 8e-3), ("int8", 2e-2), ("f32", 1e-6)])
def test_attention_stays_near_float32(kind: Any, bound: float):
    """The root mean square error over that of the truth, with scores of some 4 and lanes four times as large as others."""
    case = Case(hidden=64, heads=8, kv_heads=1, head_dim=64, window=0, experts=1, width=32, k=1, lengths=(300,))
    n, batch = Numbers(), fresh_batch(case.lengths)
    qkv, sinks, backend = n.f32(300, 10 * 64, scale=1.0), n.f32(8), make_ops("cpu", kv=kind)
    qkv.reshape(300, 10, 64)[:, :9, :4] *= 4
    attend = lambda o: np.array(o.host(o.attend(o.vector(qkv.copy()), o.attention(case.shape, sinks), None, batch)))  # noqa: E731
    found, truth = attend(backend), attend(REFERENCE)
    assert np.sqrt(np.square(found - truth).mean() / np.square(truth).mean()) < bound


@pytest.mark.parametrize("shape", [(7, 64, 33), (1, 96, 32), (13, 40, 100), (5, 20, 7), (40, 1200, 64)], ids=str)
def test_an_int8_linear_rounds_weights_and_activations_and_nothing_else(shape: tuple[int, int, int]):
    rows, width, features = shape
    n, backend = Numbers(), make_ops("cpu", dense="int8")
    x, weight, bias, residual = n.f32(rows, width), n.bf16(features, width), n.f32(features), n.f32(rows, features)
    seen, kept = exactly.rounded(x, INT8), exactly.int8_weights(from_bf16(weight))
    truth = residual + bias + seen @ kept.T
    found = backend.linear_add(x.copy(), backend.linear(weight, bias), residual.copy())
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-5 * (np.abs(seen) @ np.abs(kept.T)).max())


@pytest.mark.parametrize(("dense", "bound"), [("int8", 0.012), ("int4", 0.12)])
@pytest.mark.parametrize("case", CASES)
def test_packed_linears_stay_near_the_reference(case: Case, dense: Any, bound: float):
    """The root mean square error over that of the truth: an int8 of normal numbers is off by 0.6 %, an int4 by 8 %."""
    n, backend = Numbers(), make_ops("cpu", dense=dense)
    x, norm, weight = n.f32(7, case.hidden), n.bf16(case.hidden, scale=1.0), n.bf16(200, case.hidden)
    rows = np.array([6, 2], np.int32)

    def error(compute: Any) -> float:
        found, truth = (np.array(o.host(compute(o))) for o in (backend, REFERENCE))
        return float(np.sqrt(np.square(found - truth).mean() / np.square(truth).mean()))

    normed = lambda o: o.norm_linear(o.vector(x.copy()), o.vector(norm), 1e-5, o.linear(weight, None))  # noqa: E731
    logits = lambda o: o.unembed(o.vector(x.copy()), rows, o.vector(norm), 1e-5, o.linear(weight, None))  # noqa: E731
    assert error(normed) < bound
    assert error(logits) < bound


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
        routing = o.route(o.vector(x.copy()), o.vector(norm), 1e-5, o.router(router, router_bias), case.k)
        packed = o.experts(up, up_bias, True), o.experts(down, down_bias, False)
        return o.experts_add(routing, *packed, 7.0, o.vector(x.copy()))

    assert_close(*answers(compute))


def test_equal_router_scores_go_to_the_lower_expert():
    n = Numbers()
    routing = CPU.route(n.f32(2, 32), np.ones(32, np.float32), 1e-5, CPU.router(np.zeros((5, 32), np.float32), None), 2)
    assert routing.experts_TK.tolist() == [[0, 1], [0, 1]]
    assert routing.weights_TK.tolist() == [[0.5, 0.5], [0.5, 0.5]]


@settings(max_examples=20, deadline=None)
@given(
    dense=st.sampled_from(["int8", "bf16"]),
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
)
def test_a_row_has_the_same_bits_alone_and_in_a_crowd(dense: Any, seed: int, lengths: list[int]):
    case, n = CASES[0], Numbers(seed)
    layer = _Layer(n, case, make_ops("cpu", dense=dense))
    x = n.f32(sum(lengths), case.hidden, scale=1.0)
    crowd = layer.run(x, fresh_batch(tuple(lengths)))
    first = 0
    for length in lengths:
        alone = layer.run(x[first : first + length], fresh_batch((length,)))
        assert alone.tobytes() == crowd[first : first + length].tobytes()
        first += length


@pytest.mark.parametrize("dense", ["int8", "bf16"])
@pytest.mark.parametrize("lengths", [(1,), (40, 3, 1)], ids=["few rows", "many rows"])
def test_threads_change_no_bit(dense: Any, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpu, "_WORTH_WAKING", 0)
    monkeypatch.setattr(cpu, "LARGE", 0)
    found = []
    for workers in (1, 2):
        n = Numbers()
        layer = _Layer(n, CASES[0], make_ops("cpu", dense=dense, workers=workers))
        found.append(layer.run(n.f32(sum(lengths), 64, scale=1.0), fresh_batch(lengths)).tobytes())
    assert found[0] == found[1]


def test_threads_change_no_bit_of_shared_out_attention(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpu, "_WORTH_WAKING", 0)
    monkeypatch.setattr(cpu, "SPLIT_CONTEXT", 0)
    n = Numbers()
    qkv, sinks = queries_keys_values(n, FAR), n.bf16(FAR.heads)
    one, two = (
        in_steps(backend, FAR, qkv, backend.attention(FAR.shape, sinks), [0, 2190, 2199, 2200])
        for backend in (make_ops("cpu", workers=1), make_ops("cpu", workers=2))
    )
    assert one.tobytes() == two.tobytes()


class _Layer:
    """One block's ops."""

    def __init__(self, n: Numbers, case: Case, backend: Any) -> None:
        self.case, self.ops = case, backend
        self.norm = backend.vector(n.bf16(case.hidden, scale=1.0))
        width = (case.heads + 2 * case.kv_heads) * case.head_dim
        self.qkv = backend.linear(n.bf16(width, case.hidden), n.bf16(width))
        self.attention = backend.attention(case.shape, n.bf16(case.heads))
        self.out = backend.linear(n.bf16(case.hidden, case.heads * case.head_dim), n.bf16(case.hidden))
        self.router = backend.router(n.bf16(case.experts, case.hidden), n.bf16(case.experts))
        up = n.mxfp4(case.experts, 2 * case.width, case.hidden), n.f32(case.experts, 2 * case.width)
        down = n.mxfp4(case.experts, case.hidden, case.width), n.f32(case.experts, case.hidden)
        self.up, self.down = backend.experts(*up, True), backend.experts(*down, False)

    def run(self, x: np.ndarray, batch: Batch) -> np.ndarray:
        qkv = self.ops.norm_linear(x, self.norm, 1e-5, self.qkv)
        heads = self.ops.attend(qkv, self.attention, None, batch, prefetch=self.out)
        y = self.ops.linear_add(heads, self.out, x.copy())
        routing = self.ops.route(y, self.norm, 1e-5, self.router, self.case.k)
        return self.ops.experts_add(routing, self.up, self.down, 7.0, y)
