"""Frozen weights: unpacked by blocks, exact against plain torch, and with gradients to activations and updates only."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ossia.kernels.reference import sink_attention, swiglu
from ossia.quant import Mxfp4, quantize_mxfp4, unpack_mxfp4
from ossia.train import activation, attention, chunked_loss, frozen
from ossia.train.activation import lean_swiglu
from ossia.train.attention import packed_attention
from ossia.train.chunked_loss import row_losses
from ossia.train.frozen import DenseWeight, PackedWeight, Update, grouped_linear, unpack


def packed_weight(*shape: int, seed: int = 0) -> tuple[PackedWeight, torch.Tensor]:
    packed = quantize_mxfp4(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
    weight = PackedWeight(torch.from_numpy(packed.blocks), torch.from_numpy(packed.scales))
    return weight, torch.from_numpy(unpack_mxfp4(packed))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that everything takes several."""
    monkeypatch.setattr(frozen, "_BLOCK_BYTES", {"cpu": 1024})
    monkeypatch.setattr(attention, "SCORES", 40)
    monkeypatch.setattr(chunked_loss, "LOGITS", 50)
    monkeypatch.setattr(activation, "ELEMENTS", 20)


def test_every_code_under_every_scale_unpacks_as_the_format_says():
    codes = np.arange(256, dtype=np.uint8).reshape(16, 1, 16)
    for first in range(0, 255, 16):
        scales = np.arange(first, min(first + 16, 255), dtype=np.uint8)[:, None]
        blocks = codes[: len(scales)]
        want = unpack_mxfp4(Mxfp4(blocks, scales))
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            ours = unpack(torch.from_numpy(blocks), torch.from_numpy(scales), dtype)
            assert torch.equal(ours.double(), torch.from_numpy(want).to(dtype).double()), dtype


@pytest.mark.parametrize("updated", [False, True])
def test_the_linears_gradient_passes_gradcheck(small_blocks: None, updated: bool):
    weight, _ = packed_weight(3, 10, 32)
    x = torch.randn(7, 32, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, 10, dtype=torch.float64)
    a = torch.randn(3, 2, 32, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, 10, 2, dtype=torch.float64, requires_grad=True)
    counts = [4, 0, 3]

    def linear(x, a, b):
        return grouped_linear(x, counts, weight, bias, Update(a, b, 0.7) if updated else None)

    if updated:
        torch.autograd.gradcheck(linear, (x, a, b))
    else:
        torch.autograd.gradcheck(lambda x: linear(x, a, b), (x,))


@pytest.mark.parametrize("kind", ["packed", "bf16"])
def test_the_linear_is_plain_torchs(small_blocks: None, kind: str):
    weight, dense = packed_weight(3, 40, 64)
    given = weight if kind == "packed" else DenseWeight(dense.bfloat16())
    dense = dense if kind == "packed" else dense.bfloat16().float()
    x, a, b, bias = (torch.randn(*s, requires_grad=True) for s in ((9, 64), (3, 4, 64), (3, 40, 4), (3, 40)))
    counts, scale = [2, 6, 1], 1.5
    ours = grouped_linear(x, counts, given, bias.detach(), Update(a, b, scale))
    grad = torch.randn_like(ours)
    got = torch.autograd.grad(ours, (x, a, b), grad)
    parts = x.split(counts)
    plain = torch.cat(
        [F.linear(part, dense[e] + scale * b[e] @ a[e], bias[e].detach()) for e, part in enumerate(parts)]
    )
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-4)
    for mine, theirs in zip(got, torch.autograd.grad(plain, (x, a, b), grad)):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3)


def test_never_more_than_a_block_is_unpacked(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    real = frozen.unpack

    def watched(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        out = real(blocks, scales, dtype)
        sizes.append(out.nbytes)
        return out

    monkeypatch.setattr(frozen, "_BLOCK_BYTES", {"cpu": 4096})
    monkeypatch.setattr(frozen, "unpack", watched)
    weight, dense = packed_weight(4, 96, 64)
    x = torch.randn(8, 64, requires_grad=True)
    grouped_linear(x, [2, 2, 2, 2], weight, None).sum().backward()
    assert max(sizes) <= 4096
    assert sum(sizes) == 2 * dense.nbytes  # forward and backward, once each


def test_without_an_update_no_activation_is_kept():
    weight, _ = packed_weight(2, 16, 32)
    kept: list[torch.Tensor] = []
    x = torch.randn(4, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        grouped_linear(x, [2, 2], weight, None)
    assert kept == []


@pytest.mark.parametrize("window", [0, 3])
def test_attention_by_blocks_is_the_references(small_blocks: None, window: int):
    lengths, heads, groups, d = [11, 1, 6], 4, 2, 8
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    q, k, v = (torch.randn(18, h, d, dtype=torch.float64, requires_grad=True) for h in (heads, groups, groups))
    sinks = torch.randn(heads, dtype=torch.float64, requires_grad=True)
    ours = packed_attention(q, k, v, starts, window, sinks)
    want = []
    for first, last in itertools.pairwise(starts):
        at = torch.arange(last - first)
        distance = at[:, None] - at[None]
        seen = (distance >= 0) & ((distance < window) if window else True)
        want.append(sink_attention(q[None, first:last], k[None, first:last], v[None, first:last], seen[None], sinks)[0])
    plain, grad = torch.cat(want), torch.randn_like(ours)
    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (q, k, v, sinks), grad), torch.autograd.grad(plain, (q, k, v, sinks), grad)
    ):
        torch.testing.assert_close(mine, theirs)


def test_the_sinks_gradient_passes_gradcheck(small_blocks: None):
    q, k, v = (torch.randn(6, h, 4, dtype=torch.float64, requires_grad=True) for h in (2, 1, 1))
    sinks = torch.randn(2, dtype=torch.float64, requires_grad=True)
    starts = np.array([0, 4, 6], np.int32)
    torch.autograd.gradcheck(lambda *given: packed_attention(*given[:3], starts, 3, given[3]), (q, k, v, sinks))


@pytest.mark.parametrize("heads", [1, 64])
@pytest.mark.parametrize("window", [0, 128])
@pytest.mark.parametrize("length", [1, 127, 4096, 131072])
def test_query_blocks_cover_the_rows_and_bound_the_scores(length: int, window: int, heads: int):
    blocks = attention.query_blocks(length, window, heads)
    assert [begin for begin, _, _ in blocks[1:]] == [end for _, end, _ in blocks[:-1]]
    assert (blocks[0][0], blocks[-1][1]) == (0, length)
    for begin, end, seen in blocks:
        assert seen == (max(0, begin - window + 1) if window else 0)
        assert heads * (end - begin) * (end - seen) <= attention.SCORES or end - begin == 1


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


def test_swiglu_by_blocks_is_the_references(small_blocks: None):
    x = (torch.randn(9, 16, dtype=torch.float64) * 8).requires_grad_()
    torch.testing.assert_close(lean_swiglu(x, 7.0), swiglu(x, 7.0))
    grad = torch.randn(9, 8, dtype=torch.float64)
    (mine,), (theirs,) = (torch.autograd.grad(f(x, 7.0), x, grad) for f in (lean_swiglu, swiglu))
    torch.testing.assert_close(mine, theirs)
    torch.autograd.gradcheck(lambda x: lean_swiglu(x, 7.0), (x,))
