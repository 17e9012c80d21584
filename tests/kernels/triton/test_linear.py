"""Dense projections under Triton's interpreter, against the reference on the same bfloat16 numbers."""

import numpy as np
import pytest
import torch

from ossia.kernels.reference import ReferenceOps, rms_norm
from ossia.kernels.triton.kernels.linear import FUSED, embed, linear_add, norm_linear, pack_dense, unembed
from ossia.quant import from_bf16
from tests.kernels.cases import Numbers

REFERENCE = ReferenceOps()
SHAPES = [(1, 64, 33), (2, 96, 16), (5, 40, 48), (FUSED, 130, 40), (FUSED + 1, 96, 100), (70, 72, 130), (130, 32, 20)]


def close(found: torch.Tensor, truth: torch.Tensor, bound: float = 2**-7) -> None:
    """bfloat16 activations: each is off by at most 2^-9, and so is what is stored."""
    assert found.shape == truth.shape
    assert (found.float() - truth).abs().max() <= bound * truth.abs().max()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_norm_linear(shape: tuple[int, int, int], has_bias: bool):
    rows, width, features = shape
    n = Numbers()
    x, norm, weight = n.f32(rows, width), n.f32(width, scale=1.0), n.bf16(features, width)
    bias = n.bf16(features) if has_bias else None
    found = norm_linear(torch.from_numpy(x), torch.from_numpy(norm), 1e-5, pack_dense(weight, bias, "cpu"))
    truth = REFERENCE.norm_linear(torch.from_numpy(x), torch.from_numpy(norm), 1e-5, REFERENCE.linear(weight, bias))
    assert found.dtype == torch.bfloat16
    close(found, truth)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", ["bf16", "f32"])
def test_linear_add_is_in_place(shape: tuple[int, int, int], form: str):
    rows, width, features = shape
    n = Numbers()
    x, weight, bias = n.bf16(rows, width), getattr(n, form)(features, width), n.f32(features)
    residual = torch.from_numpy(n.f32(rows, features))
    truth = REFERENCE.linear_add(REFERENCE.vector(x), REFERENCE.linear(weight, bias), residual)
    found = linear_add(REFERENCE.vector(x).bfloat16(), pack_dense(weight, bias, "cpu"), residual)
    assert found is residual
    close(found, truth, 1e-5 if form == "bf16" else 2**-7)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_weights_are_within_their_rounding(shape: tuple[int, int, int]):
    """The root mean square error over that of the truth: int8 in blocks of 32 is off by 0.6 % of normal numbers."""
    rows, width, features = shape
    n = Numbers()
    x, weight = torch.from_numpy(n.bf16(rows, width)).view(torch.bfloat16), n.bf16(features, width)
    found = linear_add(x, pack_dense(weight, None, "cpu", "int8"), torch.zeros(rows, features))
    truth = x.float() @ torch.from_numpy(from_bf16(weight)).T
    assert (found - truth).square().mean().sqrt() < 0.012 * truth.square().mean().sqrt()


def test_int8_takes_rows_of_zeros():
    found = linear_add(
        torch.ones(1, 32).bfloat16(), pack_dense(np.zeros((3, 32), np.float32), None, "cpu", "int8"), torch.ones(1, 3)
    )
    assert found.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("count", [1, 3, 20])
def test_unembed_norms_and_computes_picked_rows_only(count: int):
    n = Numbers()
    x, norm, weight = torch.from_numpy(n.f32(30, 96)), torch.from_numpy(n.f32(96, scale=1.0)), n.bf16(210, 96)
    picked = n.rng.permutation(30)[:count].astype(np.int32)
    x[[t for t in range(30) if t not in picked]] = torch.nan
    found = unembed(x, torch.from_numpy(picked), norm, 1e-5, pack_dense(weight, None, "cpu"))
    truth = rms_norm(x[picked.astype(np.int64)], norm, 1e-5) @ torch.from_numpy(from_bf16(weight)).T
    assert found.dtype == torch.float32
    close(found, truth)


def test_embed():
    n = Numbers()
    table = n.bf16(50, 1100)
    tokens = torch.tensor([3, 49, 0, 3], dtype=torch.int32)
    found = embed(tokens, torch.from_numpy(table).view(torch.bfloat16))
    assert found.numpy().tobytes() == from_bf16(table)[tokens.numpy()].tobytes()
