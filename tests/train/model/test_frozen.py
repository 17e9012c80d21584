"""Frozen weights: unpacked by blocks, exact against plain torch, and with gradients to activations and updates only."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ossia.kernels.ops import AttentionShape, Batch, Rope
from ossia.kernels.reference import Experts
from ossia.quant import Mxfp4, quantize_mxfp4, unpack_mxfp4
from ossia.train.model import attention as attention_module
from ossia.train.model import chunked_loss
from ossia.train.model import experts as experts_module
from ossia.train.model.attention import attention, packings, query_tiles
from ossia.train.model.autograd import ComputeConfig, frozen_product
from ossia.train.model.chunked_loss import row_losses
from ossia.train.model.experts import FrozenExperts, SortedRows, experts, sort_rows
from ossia.train.model.weights import frozen
from ossia.train.model.weights.frozen import DenseWeight, PackedWeight, Update, unpack

F64 = ComputeConfig(torch.float64)


def packed_weight(*shape: int, seed: int = 0) -> tuple[PackedWeight, torch.Tensor]:
    packed = quantize_mxfp4(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
    weight = PackedWeight(torch.from_numpy(packed.blocks), torch.from_numpy(packed.scales))
    return weight, torch.from_numpy(unpack_mxfp4(packed))


@pytest.fixture(params=[0, frozen.SMALL_WEIGHT], ids=["by blocks", "whole"])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that everything takes several; small weights are unpacked by blocks, or whole."""
    monkeypatch.setattr(frozen, "_BLOCK_BYTES", {"cpu": 1024})
    monkeypatch.setattr(frozen, "SMALL_WEIGHT", request.param)
    monkeypatch.setattr(attention_module, "MAX_SCORES", 40)
    monkeypatch.setattr(chunked_loss, "LOGITS", 50)
    monkeypatch.setattr(experts_module, "SWIGLU_ELEMENTS", 80)


def test_every_code_under_every_scale_unpacks_as_the_format_says():
    codes = np.arange(256, dtype=np.uint8).reshape(16, 1, 16)
    for first in range(0, 255, 16):
        scales = np.arange(first, min(first + 16, 255), dtype=np.uint8)[:, None]
        blocks = codes[: len(scales)]
        want = unpack_mxfp4(Mxfp4(blocks, scales))
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            ours = unpack(torch.from_numpy(blocks), torch.from_numpy(scales), dtype)
            assert torch.equal(ours.double(), torch.from_numpy(want).to(dtype).double()), dtype


def sorted_rows(choices: list[list[int]], experts_: int) -> SortedRows:
    return sort_rows(torch.tensor(choices), experts_, 2)


CHOICES = [[0, 2], [2, 0], [2, 1], [0, 2], [2, 0]]


@pytest.mark.parametrize("updated", [False, True])
def test_the_gradient_of_frozen_experts_passes_gradcheck(small_blocks: None, updated: bool):
    """Of rows, routing weights and low-rank updates, in float64; one expert has a single row."""
    up, _ = packed_weight(3, 64, 32)
    down, _ = packed_weight(3, 32, 32, seed=1)
    shapes = ((5, 32), (5, 2), (3, 2, 32), (3, 64, 2), (3, 2, 32), (3, 32, 2))
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    biases = torch.randn(3, 64, dtype=torch.float64), torch.randn(3, 32, dtype=torch.float64)

    def run(x, weights, up_a, up_b, down_a, down_b):
        updates = (Update(up_a, up_b, 0.7), Update(down_a, down_b, 0.7)) if updated else (None, None)
        kinds = FrozenExperts(up, biases[0], updates[0]), FrozenExperts(down, biases[1], updates[1])
        return experts(x, weights, *kinds, sorted_rows(CHOICES, 3), 3.0, F64)

    if updated:
        torch.autograd.gradcheck(run, given)
    else:
        torch.autograd.gradcheck(lambda x, weights: run(x, weights, *given[2:]), given[:2])


@pytest.mark.parametrize("kind", ["packed", "bf16"])
def test_frozen_experts_with_updates_are_trained_experts_of_the_sum(small_blocks: None, kind: str):
    up, dense_up = packed_weight(3, 64, 32)
    down, dense_down = packed_weight(3, 32, 32, seed=1)
    if kind == "bf16":
        up, down = (DenseWeight(each.bfloat16()) for each in (dense_up, dense_down))
        dense_up, dense_down = up.values.float(), down.values.float()
    x, weights, up_a, up_b, down_a, down_b = (
        torch.randn(shape, requires_grad=True)
        for shape in ((5, 32), (5, 2), (3, 2, 32), (3, 64, 2), (3, 2, 32), (3, 32, 2))
    )
    up_bias, down_bias = torch.randn(3, 64), torch.randn(3, 32)
    rows, f32 = sorted_rows(CHOICES, 3), ComputeConfig()
    frozen_pair = (
        FrozenExperts(up, up_bias, Update(up_a, up_b, 1.5)),
        FrozenExperts(down, down_bias, Update(down_a, down_b, 1.5)),
    )
    ours = experts(x, weights, *frozen_pair, rows, 3.0, f32)
    merged = Experts(dense_up + 1.5 * up_b @ up_a, up_bias), Experts(dense_down + 1.5 * down_b @ down_a, down_bias)
    theirs = experts(x, weights, *merged, rows, 3.0, f32)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    grad = torch.randn_like(ours)
    trained = (x, weights, up_a, up_b, down_a, down_b)
    for mine, plain in zip(torch.autograd.grad(ours, trained, grad), torch.autograd.grad(theirs, trained, grad)):
        torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-2)


def test_a_frozen_product_is_plain_torchs_and_keeps_no_activation(small_blocks: None):
    weight, bias = torch.randn(40, 64).bfloat16(), torch.randn(40)
    x = torch.randn(9, 64, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ours = frozen_product(x, DenseWeight(weight[None]), bias)
    assert kept == []
    plain = F.linear(x, weight.float(), bias)
    torch.testing.assert_close(ours, plain)
    grad = torch.randn_like(ours)
    (mine,), (theirs,) = (torch.autograd.grad(each, x, grad) for each in (ours, plain))
    torch.testing.assert_close(mine, theirs)


def test_never_more_than_a_block_is_unpacked(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    real = frozen.unpack

    def watched(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        out = real(blocks, scales, dtype)
        sizes.append(out.nbytes)
        return out

    monkeypatch.setattr(frozen, "_BLOCK_BYTES", {"cpu": 4096})
    monkeypatch.setattr(frozen, "SMALL_WEIGHT", 0)
    monkeypatch.setattr(frozen, "unpack", watched)
    (up, dense_up), (down, dense_down) = packed_weight(4, 128, 64), packed_weight(4, 64, 64)
    x, weights = torch.randn(8, 64, requires_grad=True), torch.ones(8, 1)
    kinds = FrozenExperts(up, torch.zeros(4, 128), None), FrozenExperts(down, torch.zeros(4, 64), None)
    rows = sorted_rows([[i % 4] for i in range(8)], 4)
    experts(x, weights, *kinds, rows, 7.0, ComputeConfig()).sum().backward()
    assert max(sizes) <= 4096
    assert sum(sizes) == 2 * (dense_up.nbytes + dense_down.nbytes)  # forward and backward, once each


def attended(qkv: torch.Tensor, sinks: torch.Tensor, lengths: list[int], window: int) -> torch.Tensor:
    batch = Batch.whole([range(length) for length in lengths], [0])
    shape = AttentionShape(4, 2, 8, window, Rope(150000.0, 8.0, 64, 32.0, 1.0))
    return attention(qkv, sinks, shape, packings(batch, shape, "cpu"), F64)


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("limits", [{}, {"KEPT_SCORES": 0}, {"PADDED_ROWS": 0, "KEPT_SCORES": 0}, {"MAX_SCORES": 40}])
def test_attention_is_the_same_kept_or_computed_again_in_any_tiles_and_packings(
    monkeypatch: pytest.MonkeyPatch, window: int, limits: dict[str, int]
):
    """Sequences of very unlike length, so that they are packed apart where that is allowed."""
    lengths = [70, 1, 2, 3, 1, 2]
    qkv = torch.randn(sum(lengths), 64, dtype=torch.float64, requires_grad=True)
    sinks = torch.randn(4, dtype=torch.float64, requires_grad=True)
    want = torch.cat([attended(part, sinks, [len(part)], window) for part in qkv.split(lengths)])
    grad = torch.randn_like(want)
    wanted = torch.autograd.grad(want, (qkv, sinks), grad)
    for name, value in limits.items():
        monkeypatch.setattr(attention_module, name, value)
    ours = attended(qkv, sinks, lengths, window)
    torch.testing.assert_close(ours, want)
    for mine, theirs in zip(torch.autograd.grad(ours, (qkv, sinks), grad), wanted):
        torch.testing.assert_close(mine, theirs)


def test_the_gradient_of_attention_passes_gradcheck(small_blocks: None):
    qkv = torch.randn(6, 64, dtype=torch.float64, requires_grad=True)
    sinks = torch.randn(4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda *given: attended(*given, [4, 2], 3), (qkv, sinks))


@pytest.mark.parametrize("heads", [1, 64])
@pytest.mark.parametrize("window", [0, 128])
@pytest.mark.parametrize("length", [1, 127, 4096, 131072])
def test_query_tiles_cover_the_rows_and_bound_the_scores(length: int, window: int, heads: int):
    tiles = list(query_tiles(length, window, heads))
    assert [begin for begin, _, _ in tiles[1:]] == [end for _, end, _ in tiles[:-1]]
    assert (tiles[0][0], tiles[-1][1]) == (0, length)
    for begin, end, seen in tiles:
        assert seen == (max(0, begin - window + 1) if window else 0)
        assert heads * (end - begin) * (end - seen) <= attention_module.MAX_SCORES or end - begin == 1


def test_chunked_cross_entropy_is_the_plain_one(small_blocks: None):
    x = torch.randn(9, 16, requires_grad=True)
    table, targets, share = torch.randn(30, 16), torch.randint(0, 30, (9,)), torch.rand(9)
    ours = row_losses(x, DenseWeight(table[None]), targets)
    plain = F.cross_entropy(x @ table.T, targets, reduction="none")
    torch.testing.assert_close(ours, plain)
    (mine,), (theirs,) = (torch.autograd.grad((each * share).sum(), x) for each in (ours, plain))
    torch.testing.assert_close(mine, theirs)


def test_chunked_cross_entropy_passes_gradcheck_and_takes_huge_logits(small_blocks: None):
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    table, targets = torch.randn(1, 20, 6, dtype=torch.float64), torch.tensor([0, 3, 19, 3])
    torch.autograd.gradcheck(lambda x: row_losses(x, DenseWeight(table), targets), (x,))
    losses = row_losses(1e4 * x.detach(), DenseWeight(table), targets)
    assert losses.isfinite().all()


def test_the_whole_logits_never_exist():
    seen: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            seen.extend(t.numel() for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, torch.Tensor))
            return out

    vocab, rows = 70_000, 1100
    x, table = torch.randn(rows, 8, requires_grad=True), torch.randn(1, vocab, 8)
    with Watch():
        row_losses(x, DenseWeight(table), torch.zeros(rows, dtype=torch.int64)).sum().backward()
    assert max(seen) <= chunked_loss.LOGITS < rows * vocab
