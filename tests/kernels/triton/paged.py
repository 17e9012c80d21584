"""Attention's test cases and oracles: batches over scattered blocks, and float64 by hand with the intended roundings."""

import numpy as np
import torch

from ossia.kernels.ops import BLOCK, AttentionShape, Batch
from ossia.kernels.reference import ReferenceOps
from ossia.kernels.rope import frequencies
from ossia.kernels.triton.batch import Layout, layout_for, on_device
from ossia.kernels.triton.kernels.attention import LayerCache, attend, make_attention, make_cache
from ossia.kernels.triton.work_table import Chunks
from ossia.quant import from_bf16
from tests.kernels.cases import ROPE, Numbers

REFERENCE = ReferenceOps()
STALE = 2**30  # entry of a sliding layer's table whose block no row sees any more; there is no such block
SHORT = Chunks(near=256, far=512, small=64, middle=128, large=256)  # many chunks of every size in few keys


def shape_of(heads: int, kv_heads: int, head_dim: int, window: int = 0) -> AttentionShape:
    return AttentionShape(heads, kv_heads, head_dim, window, ROPE)


def batch_of(rows: list[tuple[int, int]], window: int = 0, seed: int = 0) -> Batch:
    """Sequences of (first position, rows) over random blocks. Released window blocks are stale."""
    counts = [-(-(first + length) // BLOCK) for first, length in rows]
    dealt = np.random.default_rng(seed).permutation(sum(counts)).astype(np.int32)
    tables = np.zeros((2, len(rows), max(counts)), np.int32)
    for s, count in enumerate(counts):
        start = sum(counts[:s])
        tables[:, s, :count] = dealt[start : start + count], dealt[::-1][start : start + count]
        if window:
            tables[1, s, : max(0, rows[s][0] - window + 1) // BLOCK] = STALE
    positions = np.concatenate([np.arange(first, first + length) for first, length in rows]).astype(np.int32)
    starts = np.cumsum([0, *(length for _, length in rows)]).astype(np.int32)
    every = np.arange(len(positions), dtype=np.int32)
    return Batch(every * 0, positions, starts, tables[0], tables[1], every)


def projection(n: Numbers, rows: int, shape: AttentionShape, scale: float = 1.0) -> torch.Tensor:
    bits = n.bf16(rows, (shape.heads + 2 * shape.kv_heads) * shape.head_dim, scale=scale)
    return torch.from_numpy(bits).view(torch.bfloat16)


def filled(n: Numbers, shape: AttentionShape, blocks: int, kv: str = "bf16", scale: float = 1.0) -> LayerCache:
    """A cache that holds random keys and values everywhere."""
    (cache,) = make_cache([shape], blocks, blocks, kv, "cpu")
    for each in (cache.keys, cache.values):
        if kv == "bf16":
            each.copy_(torch.from_numpy(n.f32(*each.shape, scale=scale)).bfloat16())
    return cache


def layout_of(shape: AttentionShape, **changed) -> Layout:
    return layout_for(shape, "cpu")._replace(**changed)


def ours(
    qkv: torch.Tensor, shape: AttentionShape, sinks: np.ndarray, cache: LayerCache | None, batch: Batch, **changed
) -> np.ndarray:
    attention = make_attention(shape, sinks, "cpu")
    placed = on_device(batch, "cpu", layout_of(shape, **changed))
    return attend(qkv.clone(), attention, cache, placed).float().numpy()


def reference(
    qkv: torch.Tensor, shape: AttentionShape, sinks: np.ndarray, cache: LayerCache, batch: Batch
) -> np.ndarray:
    """In float32 over the same bfloat16 numbers. An unseen block may have any number for us, but not for the
    reference.
    """
    (theirs,) = REFERENCE.cache([shape], len(cache.keys), len(cache.keys))
    theirs.keys.copy_(cache.keys.float().transpose(1, 2))
    theirs.values.copy_(cache.values.float().transpose(1, 2))
    batch = batch._replace(windows_SB=np.where(batch.windows_SB == STALE, 0, batch.windows_SB))
    return REFERENCE.attend(qkv.float(), REFERENCE.attention(shape, sinks), theirs, batch).numpy()


def turned(x: np.ndarray, positions: np.ndarray, shape: AttentionShape) -> np.ndarray:
    """[T, heads, d] rotated to its positions, in float32."""
    inverse, concentration = frequencies(shape.rope, shape.head_dim)
    angle = positions.astype(np.float32)[:, None, None] * inverse
    cos, sin = (f(angle) * np.float32(concentration) for f in (np.cos, np.sin))
    low, high = np.split(x, 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def rounded(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).bfloat16().double().numpy()


def by_hand(qkv: torch.Tensor, shape: AttentionShape, sinks: np.ndarray, batch: Batch, cache: LayerCache) -> np.ndarray:
    """float64 over what the cache holds after the batch. Queries are rounded as in the kernel: to float16 if the cache
    is e4m3.
    """
    heads = qkv.float().numpy().reshape(len(qkv), -1, shape.head_dim)[:, : shape.heads]
    queries, sinks = turned(heads, batch.positions_T, shape), from_bf16(sinks).astype(np.float64)
    is_fp8 = cache.keys.dtype == torch.float32
    queries = queries.astype(np.float16).astype(np.float64) if is_fp8 else rounded(queries)
    tables = batch.windows_SB if shape.window else batch.blocks_SB
    sequence_T = np.repeat(np.arange(len(tables)), np.diff(batch.starts_S1))
    group = np.arange(shape.heads) // (shape.heads // shape.kv_heads)
    out = np.zeros((len(qkv), shape.heads, shape.head_dim))
    for t, position in enumerate(batch.positions_T):
        seen = np.arange(max(0, position - shape.window + 1) if shape.window else 0, position + 1)
        block = torch.from_numpy(tables[sequence_T[t]][seen // BLOCK].astype(np.int64))
        keys, values = (x[block, :, seen % BLOCK].double().numpy()[:, group] for x in (cache.keys, cache.values))
        scores = np.einsum("nhd,hd->nh", keys, queries[t]) / np.sqrt(shape.head_dim)
        most = np.maximum(scores.max(0), sinks)
        weights = np.exp(scores - most)
        out[t] = np.einsum("nh,nhd->hd", weights, values) / (weights.sum(0) + np.exp(sinks - most))[:, None]
    return out.reshape(len(qkv), -1)
