"""Training's own norms, attention and experts: the reference's numbers and gradients, exact in float32, near in bfloat16."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from ossia.kernels.ops import AttentionShape, Batch, Rope
from ossia.kernels.reference import Attention, Experts, Linear, ReferenceOps
from ossia.train.model.autograd import ComputeConfig
from ossia.train.model.elementwise import compiled
from ossia.train.model.experts import sort_rows
from ossia.train.model.ops import TrainingOps

F32, BF16 = ComputeConfig(), ComputeConfig(torch.bfloat16)
LENGTHS = (5, 12, 1, 70)
ROPE = Rope(150000.0, 8.0, 64, 32.0, 1.0)


def batch() -> Batch:
    positions_T = np.concatenate([np.arange(length, dtype=np.int32) for length in LENGTHS])
    starts_S1 = np.cumsum([0, *LENGTHS]).astype(np.int32)
    none = np.zeros((len(LENGTHS), 0), np.int32)
    return Batch(positions_T, positions_T, starts_S1, none, none, np.arange(0, len(positions_T), 3, dtype=np.int32))


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def agree(made: Callable[[ReferenceOps], Tensor], given: Sequence[Tensor], compute: ComputeConfig) -> None:
    """The output and every gradient, by the size of their difference against their own."""
    near = (
        1e-5 if compute.dtype == torch.float32 else 0.1
    )  # a value that rounding moves over the limit loses its gradient
    wanted, found = made(ReferenceOps()), made(TrainingOps(compute=compute)).float()
    slope = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    pairs = zip(
        [wanted, *torch.autograd.grad(wanted, given, slope)], [found, *torch.autograd.grad(found, given, slope)]
    )
    for want, find in pairs:
        assert (find - want).norm() <= near * want.norm()


@pytest.mark.parametrize("compute", [F32, BF16], ids=["f32", "bf16"])
@pytest.mark.parametrize("window", [0, 7, 66])
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (3, 1), (2, 2)])
def test_attention_is_the_references(heads: int, kv_heads: int, window: int, compute: ComputeConfig):
    shape = AttentionShape(heads, kv_heads, 16, window, ROPE)
    qkv_TP, sinks_H = leaves((sum(LENGTHS), (heads + 2 * kv_heads) * 16), (heads,))

    def made(ops: ReferenceOps) -> Tensor:
        given = qkv_TP if type(ops) is ReferenceOps else qkv_TP.to(compute.dtype)
        return ops.attend(given, Attention(shape, sinks_H), None, batch())

    agree(made, [qkv_TP, sinks_H], compute)


@pytest.mark.parametrize("compute", [F32, BF16], ids=["f32", "bf16"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_experts_are_the_references_one_without_rows_too(k: int, compute: ComputeConfig):
    d, f, e = 32, 48, 6
    x_TD, norm_D, up, up_bias, down, down_bias = leaves((40, d), (d,), (e, 2 * f, d), (e, 2 * f), (e, d, f), (e, d))
    router = Linear(
        torch.randn(e, d, generator=torch.Generator().manual_seed(2)), torch.tensor([-1e3, 0, 0, 0, 0, 0.0])
    )

    def made(ops: ReferenceOps) -> Tensor:
        routing = ops.route(x_TD, norm_D, 1e-5, router, k)
        # a limit that some gates and ups are beyond
        return ops.experts_add(routing, Experts(up, up_bias), Experts(down, down_bias), 3.0, x_TD)

    agree(made, [x_TD, norm_D, up, up_bias, down, down_bias], compute)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 300])
def test_rows_stand_with_their_expert_and_each_expert_is_filled_up(count: int):
    experts_TK = torch.stack([torch.arange(count) % 3, torch.full((count,), 4)], 1)
    found = sort_rows(experts_TK, 6, 64)
    assert [filled % 64 for filled in found.counts] == [0] * 6
    assert found.counts[3] == found.counts[5] == 0
    assert sum(found.counts) == len(found.rows_N)
    owner_N = torch.repeat_interleave(torch.arange(6), torch.tensor(found.counts))
    assert torch.equal(owner_N[found.at_TK], experts_TK)
    assert torch.equal(found.rows_N[found.at_TK], torch.arange(count)[:, None].expand(count, 2))
    assert len(found.at_TK.unique()) == 2 * count


@pytest.mark.parametrize("compute", [F32, BF16], ids=["f32", "bf16"])
def test_projections_are_the_references(compute: ComputeConfig):
    x_TD, norm_D, weight_RD, bias_R, out_DR = leaves((sum(LENGTHS), 32), (32,), (48, 32), (48,), (32, 48))

    def made(ops: ReferenceOps) -> Tensor:
        wide = ops.norm_linear(x_TD, norm_D, 1e-5, Linear(weight_RD, bias_R))
        x = ops.linear_add(wide, Linear(out_DR, None), x_TD)
        return ops.unembed(x, batch().sampled_R, norm_D, 1e-5, Linear(weight_RD, None))

    agree(made, [x_TD, norm_D, weight_RD, bias_R, out_DR], compute)


@pytest.mark.slow  # torch's compiler takes a minute, and needs a C++ compiler
def test_compiled_steps_give_the_same():
    compute = ComputeConfig(torch.float32, compiled())
    test_attention_is_the_references(6, 2, 7, compute)
    test_experts_are_the_references_one_without_rows_too(2, compute)
    test_projections_are_the_references(compute)
