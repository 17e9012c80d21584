"""Experts under Triton's interpreter, against the reference: MXFP4 and bfloat16, few rows and many, experts without any."""

import numpy as np
import pytest
import torch

from ossia.kernels.reference import ReferenceOps
from ossia.kernels.triton.kernels.moe import experts_add, pack_experts
from ossia.kernels.triton.kernels.mxfp4 import Packed
from ossia.kernels.triton.kernels.route import DECODE, pack_router, route
from ossia.quant import Mxfp4, unpack_mxfp4
from tests.kernels.cases import Numbers

REFERENCE = ReferenceOps()


class Layer:
    """Router and experts of one layer, for both."""

    def __init__(self, width: int, features: int, experts: int, k: int, form: str = "mxfp4") -> None:
        n = Numbers()
        make = getattr(n, form)
        self.k = k
        self.router = n.bf16(experts, width), n.f32(experts)
        self.up = make(experts, 2 * features, width), n.f32(experts, 2 * features, scale=3.0)
        self.down = make(experts, width, features), n.f32(experts, width)
        self.norm = torch.from_numpy(n.f32(width, scale=1.0))

    def pack(self) -> "Layer":
        self.packed = (
            pack_router(*self.router, "cpu"),
            pack_experts(*self.up, True, "cpu"),
            pack_experts(*self.down, False, "cpu"),
        )
        return self

    def run(self, x: torch.Tensor) -> torch.Tensor:
        router, up, down = self.packed
        return experts_add(route(x, self.norm, 1e-5, router, self.k), up, down, 7.0, x.clone())

    def reference(self, x: torch.Tensor) -> torch.Tensor:
        routing = REFERENCE.route(x, self.norm, 1e-5, REFERENCE.router(*self.router), self.k)
        return REFERENCE.experts_add(
            routing, REFERENCE.experts(*self.up, True), REFERENCE.experts(*self.down, False), 7.0, x
        )


def rows(count: int, width: int) -> torch.Tensor:
    return torch.from_numpy(Numbers(count).f32(count, width))


def close(found: torch.Tensor, truth: torch.Tensor, bound: float = 2**-8) -> None:
    """Two roundings to bfloat16 lie between: of the normed rows, and of what up gives."""
    assert (found - truth).abs().max() <= 2 * bound * truth.abs().max()
    assert (found - truth).square().mean().sqrt() <= bound * truth.square().mean().sqrt()


CASES = [  # width, features, experts, k; rows
    ((64, 96, 6, 2), 1), ((64, 96, 6, 2), 3), ((64, 32, 6, 2), DECODE + 1), ((96, 32, 12, 4), 1), ((96, 32, 12, 4), DECODE),
    ((96, 32, 4, 4), 70), ((160, 64, 4, 1), 5), ((160, 32, 4, 1), 40), ((32, 96, 5, 3), 2), ((64, 32, 32, 4), 9),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "count"), CASES, ids=str)
def test_experts_of_mxfp4(shape: tuple[int, int, int, int], count: int):
    layer, x = Layer(*shape).pack(), rows(count, shape[0])
    close(layer.run(x), layer.reference(x))


@pytest.mark.parametrize("count", [2, 20])
def test_a_second_step_finds_the_counters_as_the_first_did(count: int):
    layer, x = Layer(32, 32, 4, 2).pack(), rows(count, 32)
    assert torch.equal(layer.run(x), layer.run(x))
    assert not layer.packed[2].counters.any()


@pytest.mark.parametrize("shape", [(64, 40, 6, 2), (36, 20, 4, 4)], ids=str)
@pytest.mark.parametrize("form", ["bf16", "f32"])
@pytest.mark.parametrize("count", [1, 5, 20])
def test_dense_experts(shape: tuple[int, int, int, int], form: str, count: int):
    """float32 weights are rounded, too."""
    layer, x = Layer(*shape, form).pack(), rows(count, shape[0])
    assert isinstance(layer.packed[1].weight, torch.Tensor)
    close(layer.run(x), layer.reference(x), 2**-8 if form == "bf16" else 2**-7)


def test_dense_experts_that_mxfp4_holds_are_packed_again():
    layer = Layer(64, 32, 3, 2)
    wanted = layer.pack().run(rows(3, 64))
    layer.up, layer.down = ((unpack_mxfp4(weight), bias) for weight, bias in (layer.up, layer.down))
    layer.pack()
    assert isinstance(layer.packed[1].weight, Packed)
    assert torch.equal(layer.run(rows(3, 64)), wanted)


@pytest.mark.parametrize("count", [280])
def test_many_rows_of_few_experts_fill_large_tiles(count: int):
    layer, x = Layer(64, 32, 4, 1).pack(), rows(count, 64)
    close(layer.run(x), layer.reference(x))


@pytest.mark.parametrize("count", [4, 40])
def test_experts_without_a_row_are_not_read(count: int):
    layer = Layer(64, 32, 8, 2)
    layer.router[1][:] = [0, 0, 90, 0, 80, 0, 0, 0]
    x = rows(count, 64)
    truth = layer.reference(x)
    for _, bias in (layer.up, layer.down):
        bias[[0, 1, 3, 5, 6, 7]] = np.nan
    layer.pack()
    close(layer.run(x), truth)


def test_scales_above_two_are_taken():
    layer = Layer(64, 32, 4, 2)
    (blocks, scales), bias = layer.down
    layer.down = Mxfp4(blocks, scales + np.uint8(8)), bias
    layer.pack()
    assert layer.packed[2].weight.factor > 1
    close(layer.run(rows(3, 64)), layer.reference(rows(3, 64)))


def test_no_rows_are_no_work():
    layer = Layer(64, 32, 4, 2).pack()
    assert layer.run(torch.empty(0, 64)).shape == (0, 64)
