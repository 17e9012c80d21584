"""Packed weights: MXFP4 bit for bit, int8 and int4 within their bounds, and what is refused."""

import numpy as np
import pytest

from ossia.kernels.backends import make_ops
from ossia.kernels.cpu.ops import DenseExperts, PackedExperts
from ossia.kernels.cpu.pack import INT4, INT8, pack_dense, pack_mxfp4
from ossia.quant import Mxfp4, as_mxfp4, from_bf16, to_bf16, unpack_mxfp4
from tests.kernels.cases import CASES, Numbers
from tests.kernels.exactly import blocks_of, int8_weights, read_back

CPU = make_ops("cpu")


def any_mxfp4(matrices: int, rows: int, blocks: int, seed: int = 0) -> Mxfp4:
    """Every code, and scales over the whole range that the kernels keep."""
    rng = np.random.default_rng(seed)
    scales = rng.integers(67, 188, (matrices, rows, blocks), np.uint8)
    scales[0, 0, 0], scales[-1, -1, -1] = 67, 187
    return Mxfp4(rng.integers(0, 256, (matrices, rows, blocks, 16), np.uint8), scales)


def in_panels(rows: int, paired: bool) -> list[int]:
    """The row at each place of the panels; one beyond the matrix is padding."""
    if not paired:
        return list(range(-(-rows // 32) * 32))
    return [p * 32 + 2 * (lane % 16) + lane // 16 for p in range(-(-rows // 32)) for lane in range(32)]


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(("matrices", "rows", "blocks"), [(1, 32, 1), (3, 64, 2), (2, 70, 3), (1, 2, 1)])
def test_mxfp4_keeps_every_weight(matrices: int, rows: int, blocks: int, paired: bool):
    weight = any_mxfp4(matrices, rows, blocks)
    panels, truth = pack_mxfp4(weight, paired), unpack_mxfp4(weight)
    places = in_panels(rows, paired)
    for e in range(matrices):
        found = read_back(panels, e)
        for place, row in enumerate(places):
            assert np.array_equal(found[place], truth[e, row] if row < rows else np.zeros(32 * blocks)), (e, row)


def test_mxfp4_scales_no_model_has_are_refused():
    weight = any_mxfp4(1, 4, 1)
    weight.scales[0, 2, 0] = 188
    with pytest.raises(ValueError, match=r"2\^61 is outside"):
        pack_mxfp4(weight, False)


def test_mxfp4_weights_too_small_to_matter_are_zeros():
    weight = any_mxfp4(1, 4, 2)
    weight.scales[0, 1, 0], weight.scales[0, 2, 1] = 66, 0
    truth = unpack_mxfp4(weight)
    truth[0, 1, :32], truth[0, 2, 32:] = 0, 0
    assert np.array_equal(read_back(pack_mxfp4(weight, False))[:4], truth[0])


SHAPES = [(1, 32), (32, 64), (33, 40), (100, 7), (40, 160)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", ["f32", "bf16"])
def test_int8_is_the_nearest_code_under_a_scale_no_code_passes(shape: tuple[int, int], form: str):
    given = getattr(Numbers(), form)(*shape)
    weight = from_bf16(given) if form == "bf16" else given
    found = read_back(pack_dense(given, INT8))
    assert np.array_equal(found[: shape[0]], int8_weights(weight).astype(np.float32))
    assert not found[shape[0] :].any()
    blocks = blocks_of(weight, INT8)
    half_a_step = np.abs(blocks).max(-1, keepdims=True) / 127 * (1 + 2**-7) / 2
    error = np.abs(found[: shape[0]].reshape(blocks.shape) - blocks)
    assert (error <= half_a_step * (1 + 1e-5)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int4_stays_within_its_bounds(shape: tuple[int, int]):
    """Levels lie at most 26 / 125 of the largest apart; its scale, at most 6 % and a rounding off."""
    weight = Numbers().f32(*shape)
    found = read_back(pack_dense(weight, INT4))[: shape[0]]
    blocks = blocks_of(weight, INT4)
    error = np.abs(found.reshape(blocks.shape) - blocks) / np.abs(blocks).max(-1, keepdims=True)
    assert error.max() < 0.13


def test_int4_is_as_good_as_its_table():
    weight = Numbers().f32(64, 1024)
    error = read_back(pack_dense(weight, INT4)) - weight
    assert np.sqrt(np.square(error).mean() / np.square(weight).mean()) < 0.085


@pytest.mark.parametrize("kind", [INT8, INT4])
def test_zeros_and_tiny_weights_stay_finite(kind: int):
    weight = np.zeros((3, 96), np.float32)
    weight[1, :32], weight[2, 40] = 1e-38, 1e-42
    assert np.abs(read_back(pack_dense(weight, kind))).max() < 1e-35


@pytest.mark.parametrize("kind", [INT8, INT4])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["f32", "bf16"])
def test_weights_that_are_no_numbers_are_refused(kind: int, bad: float, form: str):
    weight = Numbers().f32(40, 70)
    weight[35, 69] = bad
    with pytest.raises(ValueError, match="NaN or infinite: the checkpoint is damaged"):
        pack_dense(to_bf16(weight) if form == "bf16" else weight, kind)


def test_mxfp4_is_found_again_in_what_was_unpacked_from_it():
    weight = any_mxfp4(2, 300, 2)
    found = as_mxfp4(to_bf16(unpack_mxfp4(weight)))
    assert found is not None
    assert np.array_equal(unpack_mxfp4(found), unpack_mxfp4(weight))


@pytest.mark.parametrize("place", [(0, 0, 0), (0, 299, 63), (1, 150, 5)])
@pytest.mark.parametrize("wrong", [1.1, np.nan, np.inf])
def test_mxfp4_is_not_found_where_one_value_does_not_fit(place: tuple[int, int, int], wrong: float):
    values = unpack_mxfp4(Mxfp4(np.full((2, 300, 2, 16), 0x22, np.uint8), np.full((2, 300, 2), 127, np.uint8)))
    assert as_mxfp4(values) is not None
    values[place] = wrong
    assert as_mxfp4(values) is None


def test_mxfp4_is_not_found_in_other_widths_or_in_nothing():
    assert as_mxfp4(np.zeros((1, 2, 40), np.float32)) is None
    assert as_mxfp4(np.zeros((0, 2, 32), np.float32)) is None


def test_unpacked_experts_are_packed_again_and_give_the_same_bits():
    case, n = CASES[0], Numbers()
    up, down = n.mxfp4(case.experts, 2 * case.width, case.hidden), n.mxfp4(case.experts, case.hidden, case.width)
    biases = n.f32(case.experts, 2 * case.width), n.f32(case.experts, case.hidden)
    x = n.f32(9, case.hidden, scale=1.0)
    routing = CPU.route(
        x, np.ones(case.hidden, np.float32), 1e-5, CPU.router(n.bf16(case.experts, case.hidden), None), 2
    )
    found = []
    for form in (lambda packed: packed, lambda packed: to_bf16(unpack_mxfp4(packed)), unpack_mxfp4):
        experts = CPU.experts(form(up), biases[0], True), CPU.experts(form(down), biases[1], False)
        assert all(isinstance(each, PackedExperts) for each in experts)
        found.append(CPU.experts_add(routing, *experts, 7.0, x.copy()).tobytes())
    assert found[0] == found[1] == found[2]


def test_other_experts_stay_as_they_are():
    n = Numbers()
    assert isinstance(CPU.experts(n.bf16(2, 64, 32), n.f32(2, 64), True), DenseExperts)
