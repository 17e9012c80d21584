"""Experts under Triton's interpreter, against the reference: MXFP4 and bfloat16, few rows and many, experts without any."""

import numpy as np
import pytest
import torch

from ossia.kernels.reference import ReferenceOps
from ossia.kernels.triton.moe import experts_add, pack_experts
from ossia.kernels.triton.route import DECODE, pack_router, route
from ossia.kernels.triton.mxfp4 import Packed
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
        self.packed = pack_router(*self.router, "cpu"), pack_experts(*self.up, True, "cpu"), pack_experts(*self.down, False, "cpu")
        return self

    def run(self, x: torch.Tensor) -> torch.Tensor:
        router, up, down = self.packed
        return experts_add(route(x, self.norm, 1e-5, router, self.k), up, down, 7.0, x.clone())

    def reference(self, x: torch.Tensor) -> torch.Tensor:
        routing = REFERENCE.route(x, self.norm, 1e-5, REFERENCE.router(*self.router), self.k)
        return REFERENCE.experts_add(routing, REFERENCE.experts(*self.up, True), REFERENCE.experts(*self.down, False), 7.0, x)


def rows(count: int, width: int) -> torch.Tensor:
    return torch.from_numpy(Numbers(count).f32(count, width))


def close(found: torch.Tensor, truth: torch.Tensor, bound: float = 2**-8) -> None:
    """Two roundings to bfloat16 lie between: of the normed rows, and of what up gives."""
    assert (found - truth).abs().max() <= 2 * bound * truth.abs().max()
    assert (found - truth).square().mean().sqrt() <= bound * truth.square().mean().sqrt()


SHAPES = [(64, 96, 6, 2), (96, 32, 12, 4), (160, 64, 4, 1), (32, 96, 5, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 3, DECODE, DECODE + 1, 70])
def test_experts_of_mxfp4(shape: tuple[int, int, int, int], count: int):
    layer, x = Layer(*shape).pack(), rows(count, shape[0])
    truth = layer.reference(x)
    for _ in range(2):  # the counters are as before
        close(layer.run(x), truth)


@pytest.mark.parametrize("shape", [(64, 40, 6, 2), (36, 20, 4, 4)], ids=str)
@pytest.mark.parametrize("form", ["bf16", "f32"])
@pytest.mark.parametrize("count", [1, 5, 40])
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


def test_thirty_two_experts():
    layer, x = Layer(64, 32, 32, 4).pack(), rows(9, 64)
    close(layer.run(x), layer.reference(x))


@pytest.mark.parametrize("count", [300, 600])
def test_many_rows_of_few_experts_fill_large_tiles(count: int):
    layer, x = Layer(64, 32, 4, 1).pack(), rows(count, 64)
    close(layer.run(x), layer.reference(x))


@pytest.mark.parametrize("count", [4, 40])
def test_experts_without_a_row_are_not_read(count: int):
    layer = Layer(64, 32, 8, 2)
    layer.router[1][:] = [0, 0, 90, 0, 80, 0, 0, 0]
    x = rows(count, 64)
    truth = layer.reference(x)
    for weight, bias in (layer.up, layer.down):
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
