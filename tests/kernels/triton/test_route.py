"""Routing under Triton's interpreter: the reference's choice and weights, and a tile table that lists every pair once."""

import itertools

import numpy as np
import pytest
import torch

from ossia.kernels.reference import ReferenceOps
from ossia.kernels.triton.kernels.route import DECODE, Routing, max_tiles, pack_router, route
from tests.kernels.cases import Numbers

REFERENCE = ReferenceOps()


def check_table(routing: Routing, experts: int) -> None:
    """Pairs by expert, then by row; tiles cover them, each of one expert, and no more than there is room for."""
    rows, k = routing.experts_TK.shape
    pairs = sorted((int(e), t, j) for t, chosen in enumerate(routing.experts_TK) for j, e in enumerate(chosen))
    assert [int(routing.place_TK[t, j]) for _, t, j in pairs] == list(range(rows * k))
    assert routing.rows_N.tolist() == [t for _, t, _ in pairs]
    tiles, covered = routing.tiles, []
    for expert, first, count in zip(tiles.expert_I.tolist(), tiles.first_I.tolist(), tiles.count_I.tolist()):
        if expert >= 0:
            assert 0 < count <= tiles.tokens
            assert {e for e, _, _ in pairs[first : first + count]} == {expert}
            covered += range(first, first + count)
    assert covered == list(range(rows * k))
    assert len(tiles.expert_I) == max_tiles(rows, k, experts, tiles.tokens)


CASES = [*itertools.product([1, 3, DECODE, DECODE + 1, 70], [(4, 1), (6, 2), (3, 3), (1, 1)])]
CASES += [(1, (32, 4)), (DECODE, (32, 4)), (40, (32, 4)), (3, (70, 4)), (20, (70, 4))]


@pytest.mark.parametrize(("rows", "shape"), CASES, ids=str)
def test_route(rows: int, shape: tuple[int, int]):
    (experts, k), n = shape, Numbers()
    x, norm = torch.from_numpy(n.f32(rows, 96)), torch.from_numpy(n.f32(96, scale=1.0))
    weight, bias = n.bf16(experts, 96), n.bf16(experts)
    router = pack_router(weight, bias, "cpu")
    truth = REFERENCE.route(x, norm, 1e-5, REFERENCE.router(weight, bias), k)
    for _ in range(2):  # the counters are as before
        found = route(x, norm, 1e-5, router, k)
        order = truth.experts_TK.argsort(dim=1)
        assert torch.equal(found.experts_TK.long(), truth.experts_TK.gather(1, order))
        torch.testing.assert_close(found.weights_TK, truth.weights_TK.gather(1, order), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.x_TD.float() * found.rstd_T[:, None], truth.x_TD, rtol=2**-8, atol=1e-6)
        check_table(found, experts)
        assert not router.counters.any()


def test_one_expert_may_have_all_rows_and_others_none():
    n = Numbers()
    bias = np.array([0, 0, 90, 0, 80, 0, 0, 0], np.float32)
    router = pack_router(n.bf16(8, 32), bias, "cpu")
    for rows in (5, 40):
        found = route(torch.from_numpy(n.f32(rows, 32)), torch.ones(32), 1e-5, router, 2)
        assert found.experts_TK.tolist() == [[2, 4]] * rows
        check_table(found, 8)


def test_equal_scores_go_to_the_lower_expert():
    router = pack_router(np.zeros((5, 32), np.float32), np.zeros(5, np.float32), "cpu")
    found = route(torch.ones(2, 32), torch.ones(32), 1e-5, router, 2)
    assert found.experts_TK.tolist() == [[0, 1], [0, 1]]
    assert found.weights_TK.tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize("rows", [3, 20])
def test_a_row_of_nan_harms_no_other(rows: int):
    n = Numbers()
    x, router = torch.from_numpy(n.f32(rows, 32)), pack_router(n.bf16(6, 32), n.bf16(6), "cpu")
    sound = route(x, torch.ones(32), 1e-5, router, 2)
    x[1] = torch.nan
    found = route(x, torch.ones(32), 1e-5, router, 2)
    others = [t for t in range(rows) if t != 1]
    assert torch.equal(found.experts_TK[others], sound.experts_TK[others])
    assert torch.equal(found.weights_TK[others], sound.weights_TK[others])
    check_table(found, 6)


def test_a_row_is_routed_alike_alone_and_in_a_crowd():
    n = Numbers()
    x, norm = torch.from_numpy(n.f32(40, 96)), torch.from_numpy(n.f32(96))
    router = pack_router(n.bf16(32, 96), n.bf16(32), "cpu")
    whole = route(x, norm, 1e-5, router, 4)
    for first, last in itertools.pairwise([0, 1, 3, 19, 40]):
        part = route(x[first:last].contiguous(), norm, 1e-5, router, 4)
        for name in ("x_TD", "rstd_T", "experts_TK", "weights_TK"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[first:last]), name


def test_too_many_rows_are_refused():
    with pytest.raises(ValueError, match="ask for fewer"):
        route(
            torch.empty(65537, 1),
            torch.ones(1),
            1e-5,
            pack_router(np.zeros((1, 1), np.float32), np.zeros(1, np.float32), "cpu"),
            1,
        )
