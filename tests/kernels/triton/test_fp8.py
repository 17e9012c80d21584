"""Keys and values in e4m3: exact encoding, attention that adds no error of its own, and what it costs beside bfloat16."""

import itertools

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from ossia.kernels.sizes import cache_bytes
from ossia.kernels.triton.kernels import attention
from ossia.kernels.triton.kernels.attention import LayerCache, make_cache
from ossia.kernels.triton.kernels.kv_write import FP8, FP8_BY_HAND, rotation, to_e4m3, widened
from tests.kernels.cases import Numbers
from tests.kernels.triton.paged import SHORT, batch_of, by_hand, ours, projection, shape_of


@triton.jit
def encode(x, out, N: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(out + at, to_e4m3(tl.load(x + at)))


@triton.jit
def decode(codes, out, N: tl.constexpr, KIND: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, widened(tl.load(codes + at), KIND))


@triton.jit
def turn(position, inverse, cos, sin, N: tl.constexpr, LANES: tl.constexpr):
    lane, row = tl.arange(0, LANES)[None, :], tl.arange(0, N)[:, None]
    c, s = rotation(tl.load(position + row), lane, inverse, 1.0)
    tl.store(cos + row * LANES + lane, c)
    tl.store(sin + row * LANES + lane, s)


def codes_of(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty(len(x), dtype=torch.uint8)
    encode[(len(x) // 1024,)](x, out, 1024)
    return out


def test_encoding_is_to_the_nearest_ties_to_even():
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    finite = every[every.isfinite()].sort().values
    between = (finite[1:] + finite[:-1]) / 2
    random = torch.randn(2048, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 2, 2048)
    x = torch.cat([finite, between, random.clamp(-448, 448)])
    x = torch.cat([x, torch.zeros(-len(x) % 1024)])
    truth = x.to(torch.float8_e4m3fn).view(torch.uint8)
    assert torch.equal(codes_of(x) & 0x7F, truth & 0x7F)
    assert torch.equal(codes_of(x)[x != 0], truth[x != 0])
    assert codes_of(torch.full((1024,), 460.0)).unique().tolist() == [0x7E]


@pytest.mark.parametrize("kind", [FP8, FP8_BY_HAND])
def test_codes_are_widened_exactly(kind: int):
    codes, out = torch.arange(256, dtype=torch.uint8), torch.empty(256, dtype=torch.float16)
    decode[(1,)](codes, out, 256, kind)
    truth = codes.view(torch.float8_e4m3fn).float()
    finite = truth.isfinite()
    assert torch.equal(out.float()[finite] * (256 if kind == FP8_BY_HAND else 1), truth[finite])


def test_angles_are_turned_as_precisely_far_on_as_near():
    position = torch.tensor([0, 1, 7, 4095, 70001, 131071, 1000000, 2**23], dtype=torch.int32)
    inverse = torch.logspace(0, -5, 32)
    cos, sin = torch.empty(8, 32), torch.empty(8, 32)
    turn[(1,)](position, inverse, cos, sin, 8, 32)
    angle = (position.float()[:, None] * inverse).double()
    for found, truth in ((cos, angle.cos()), (sin, angle.sin())):
        assert (found - truth).abs().max() < 3e-7


def kept(cache: LayerCache) -> LayerCache:
    """What an fp8 cache holds, as numbers."""
    scales = [torch.exp2(each.float() - 127)[..., None] for each in cache[2:]]
    codes = [each.view(torch.float8_e4m3fn).float() for each in cache[:2]]
    return LayerCache(*(c * s for c, s in zip(codes, scales)), None, None)


def through(
    kind: int, keys: torch.Tensor, rows: list[int], heads: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A prompt written in one step and a row in each that follows: ours over e4m3, by hand over what it kept, and bfloat16."""
    shape, whole = shape_of(*heads), batch_of([(0, len(keys))])
    sinks, count = Numbers(1).bf16(shape.heads), int(whole.blocks_SB.max()) + 1
    monkeypatch.setattr(attention, "kind_of", lambda cache: kind if cache.key_scales is not None else 0)
    caches = [make_cache([shape], count, count, kv, "cpu")[0] for kv in ("fp8", "bf16")]
    out = []
    for first, last in itertools.pairwise(rows):
        step = batch_of([(first, last - first)])._replace(blocks_SB=whole.blocks_SB, windows_SB=whole.windows_SB)
        found, plain = (ours(keys[first:last], shape, sinks, cache, step, chunks=SHORT) for cache in caches)
        out.append((found, by_hand(keys[first:last], shape, sinks, step, kept(caches[0])), plain))
    return tuple(np.concatenate(each) for each in zip(*out))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("kind", [FP8, FP8_BY_HAND])
def test_attention_rounds_what_it_keeps_and_nothing_else(kind: int, monkeypatch: pytest.MonkeyPatch):
    qkv = projection(Numbers(), 100, shape_of(8, 2, 32))
    found, truth, _ = through(kind, qkv, [0, 97, 98, 100], (8, 2, 32), monkeypatch)
    assert np.abs(found - truth).max() < 2**-8 * np.abs(truth).max()


def realistic(rows: int, heads: int, groups: int, d: int) -> torch.Tensor:
    """Keys with a few lanes far from zero in every row, as trained models have; small values whose size differs by row."""
    n = Numbers(2)
    x = n.f32(rows, heads + 2 * groups, d, scale=1.0)
    x[:, heads : heads + groups, [1, d // 2 + 1, d - 3]] += np.float32([25, -18, 40])
    x[:, :heads] *= 0.3
    x[:, heads + groups :] *= 0.02 * np.exp(n.f32(rows, groups, 1, scale=1.0))
    return torch.from_numpy(x.reshape(rows, -1)).bfloat16()


@pytest.mark.parametrize(("data", "bound"), [("random", 0.055), ("realistic", 0.09)])
def test_error_beside_bfloat16(data: str, bound: float, monkeypatch: pytest.MonkeyPatch):
    """Root mean square over that of the output."""
    heads = (8, 1, 64)
    qkv = projection(Numbers(), 192, shape_of(*heads)) if data == "random" else realistic(192, *heads)
    found, _, plain = through(FP8_BY_HAND, qkv, [0, 192], heads, monkeypatch)
    error = np.sqrt(np.square(found - plain).mean() / np.square(plain).mean())
    assert error < bound


def test_only_layers_that_see_everything_are_kept_in_fp8():
    shapes = [shape_of(8, 2, 32, 128), shape_of(8, 2, 32)]
    sliding, full = make_cache(shapes, 3, 2, "fp8", "cpu")
    assert sliding.key_scales is None
    taken = [sum(each.nbytes for each in cache if each is not None) for cache in (sliding, full)]
    assert tuple(cache_bytes(shapes, "fp8")) == (taken[1] // 3, taken[0] // 2)
    assert 2 * cache_bytes(shapes, "fp8").full < 1.04 * cache_bytes(shapes, "bf16").full
