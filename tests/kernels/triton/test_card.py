"""The same promises on a card, at the 20b's own widths: near the reference, and a row's bits alone as in a crowd.

TRITON_INTERPRET=0 pytest -m gpu tests/kernels/triton/test_card.py
"""

import itertools

import pytest
import torch

from ossia.kernels.reference import ReferenceOps
from ossia.kernels.triton.kernels.linear import linear_add, norm_linear, pack_dense, unembed
from ossia.kernels.triton.kernels.moe import experts_add, pack_experts
from ossia.kernels.triton.kernels.route import pack_router, route
from ossia.kernels.triton.kernels.tiles import INTERPRETED
from tests.kernels.cases import Numbers

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        INTERPRETED.value or not torch.cuda.is_available(), reason="wants a card and TRITON_INTERPRET=0"
    ),
]
WIDTH = 2880
CUTS = [0, 1, 3, 8, 24, 41, 90, 200, 700]  # 1, 2, 5, 16, 17, 49, 110 and 500 rows: every tile of the tables
ROWS = CUTS[-1]


def near(found: torch.Tensor, truth: torch.Tensor, bound: float) -> None:
    error = (found.cpu().float() - truth).square().mean().sqrt()
    assert error <= bound * truth.square().mean().sqrt()


def same_in_parts(whole: torch.Tensor, parts: list[torch.Tensor]) -> None:
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_dense(kind: str):
    n, reference = Numbers(), ReferenceOps()
    weight, bias = n.bf16(5120, WIDTH), n.bf16(5120)
    x, norm = torch.from_numpy(n.f32(ROWS, WIDTH)), torch.from_numpy(n.f32(WIDTH, scale=1.0))
    packed, on_card, scale = pack_dense(weight, bias, "cuda", kind), x.cuda(), norm.cuda()  # pyright: ignore[reportArgumentType]
    bound = 0.004 if kind == "bf16" else 0.012
    whole = norm_linear(on_card, scale, 1e-5, packed)
    near(whole, reference.norm_linear(x, norm, 1e-5, reference.linear(weight, bias)), bound)
    same_in_parts(whole, [norm_linear(on_card[a:b], scale, 1e-5, packed) for a, b in itertools.pairwise(CUTS)])
    added = linear_add(on_card.bfloat16(), packed, torch.zeros(ROWS, 5120, device="cuda"))
    near(added, reference.linear_add(x, reference.linear(weight, bias), torch.zeros(ROWS, 5120)), bound)
    parts = [(on_card[a:b].bfloat16(), torch.zeros(b - a, 5120, device="cuda")) for a, b in itertools.pairwise(CUTS)]
    same_in_parts(added, [linear_add(rows, packed, zeros) for rows, zeros in parts])
    picks = [torch.arange(a, b, dtype=torch.int32, device="cuda") for a, b in itertools.pairwise(CUTS)]
    logits = unembed(on_card, torch.arange(ROWS, dtype=torch.int32, device="cuda"), scale, 1e-5, packed)
    same_in_parts(logits, [unembed(on_card, pick, scale, 1e-5, packed) for pick in picks])


@pytest.mark.parametrize("form", ["mxfp4", "bf16"])
@pytest.mark.parametrize(("experts", "k"), [(32, 4), (8, 2)])
def test_routing_and_experts(form: str, experts: int, k: int):
    n, reference = Numbers(), ReferenceOps()
    features = 320
    router = n.bf16(experts, WIDTH), n.f32(experts)
    up = getattr(n, form)(experts, 2 * features, WIDTH), n.f32(experts, 2 * features)
    down = getattr(n, form)(experts, WIDTH, features), n.f32(experts, WIDTH)
    x, norm = torch.from_numpy(n.f32(ROWS, WIDTH)), torch.from_numpy(n.f32(WIDTH, scale=1.0))
    packed = pack_router(*router, "cuda"), pack_experts(*up, True, "cuda"), pack_experts(*down, False, "cuda")

    def run(rows: torch.Tensor) -> torch.Tensor:
        return experts_add(route(rows, norm.cuda(), 1e-5, packed[0], k), *packed[1:], 7.0, rows.clone())

    whole = run(x.cuda())
    routing = reference.route(x, norm, 1e-5, reference.router(*router), k)
    weights = reference.experts(*up, True), reference.experts(*down, False)
    near(whole, reference.experts_add(routing, *weights, 7.0, x), 0.01)
    same_in_parts(whole, [run(x[a:b].cuda()) for a, b in itertools.pairwise(CUTS)])
    assert torch.equal(run(x.cuda()), whole)
