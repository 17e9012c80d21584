"""The op set in torch: the oracle for every other backend. All of it is differentiable.

In: host tensors and a `Batch`. Out: torch tensors. Expert weights are held unpacked in `dtype`, so this backend suits
small models, training and tests.

Shape suffixes: see `ossia.kernels.ops`. Besides, L query rows and N keys of one sequence after padding, M = H / G, P =
(H + 2G) d.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ossia.kernels.ops import BLOCK, SWIGLU_SLOPE, AttentionShape, Batch, CacheBytes, HostArray, HostOps
from ossia.kernels.rope import frequencies
from ossia.quant import Mxfp4, unpack_mxfp4


class Linear(NamedTuple):
    weight_RD: Tensor
    bias_R: Tensor | None


class Experts(NamedTuple):
    weight_ERD: Tensor
    bias_ER: Tensor


class Attention(NamedTuple):
    shape: AttentionShape
    sinks_H: Tensor


class LayerCache(NamedTuple):
    """Keys and values of one layer: [blocks, BLOCK, G, d] each."""

    keys: Tensor
    values: Tensor


class Routing(NamedTuple):
    """The normed rows, the experts chosen for each row, their weights, and the router's logits (for training)."""

    x_TD: Tensor
    experts_TK: Tensor
    weights_TK: Tensor
    logits_TE: Tensor


class ReferenceOps(HostOps):
    """All tensors in one dtype on one device: float32 on the CPU by default."""

    name = "reference"

    def __init__(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        self.dtype, self.device = dtype, device

    # Makers: called once, at load.

    def vector(self, host: HostArray) -> Tensor:
        bits = torch.from_numpy(np.array(host))
        if host.dtype == np.uint16:
            bits = bits.view(torch.bfloat16)
        return bits.to(self.device, self.dtype)

    def embedding(self, table_VD: HostArray) -> Tensor:
        return self.vector(table_VD)

    def linear(self, weight_RD: HostArray, bias_R: HostArray | None) -> Linear:
        return Linear(self.vector(weight_RD), None if bias_R is None else self.vector(bias_R))

    def router(self, weight_ED: HostArray, bias_E: HostArray) -> Linear:
        return self.linear(weight_ED, bias_E)

    def experts(self, weight_ERD: HostArray | Mxfp4, bias_ER: HostArray, gated: bool) -> Experts:
        weight = unpack_mxfp4(weight_ERD) if isinstance(weight_ERD, Mxfp4) else weight_ERD
        return Experts(self.vector(weight), self.vector(bias_ER))

    def attention(self, shape: AttentionShape, sinks_H: HostArray) -> Attention:
        return Attention(shape, self.vector(sinks_H))

    def cache(self, shapes: list[AttentionShape], blocks: int, window_blocks: int) -> list[LayerCache]:
        def zeros(shape: AttentionShape) -> Tensor:
            size = (window_blocks if shape.window else blocks, BLOCK, shape.kv_heads, shape.head_dim)
            return torch.zeros(size, dtype=self.dtype, device=self.device)

        return [LayerCache(zeros(shape), zeros(shape)) for shape in shapes]

    def cache_bytes(self, shapes: list[AttentionShape]) -> CacheBytes:
        sizes = [2 * BLOCK * shape.kv_heads * shape.head_dim * self.dtype.itemsize for shape in shapes]
        window = sum(size for size, shape in zip(sizes, shapes) if shape.window)
        return CacheBytes(sum(sizes) - window, window)

    # Ops.

    def embed(self, tokens_T: NDArray[np.int32], table: Tensor) -> Tensor:
        return F.embedding(self._index(tokens_T), table)

    def norm_linear(self, x_TD: Tensor, norm_D: Tensor, eps: float, weight: Linear) -> Tensor:
        return F.linear(self.norm(x_TD, norm_D, eps), weight.weight_RD, weight.bias_R)

    def linear_add(self, x: Tensor, weight: Linear, residual_TD: Tensor) -> Tensor:
        return residual_TD + F.linear(x, weight.weight_RD, weight.bias_R)

    def attend(
        self, qkv: Tensor, attention: Attention, cache: LayerCache | None, batch: Batch, prefetch: object = None
    ) -> Tensor:
        """RoPE, cache write, attention with sinks. Without a cache, a sequence sees only its rows of this batch."""
        shape = attention.shape
        q_THd, k_TGd, v_TGd = self._heads(qkv, shape, batch)
        rows_SL, held_SL = (self._index(part) for part in padded_rows(batch.starts_S1))
        at_T = self._index(batch.positions_T)
        if cache is None:
            k_SNGd, v_SNGd, keys_at_SN, held_SN = k_TGd[rows_SL], v_TGd[rows_SL], at_T[rows_SL], held_SL > 0
        else:
            blocks_SB = batch.windows_SB if shape.window else batch.blocks_SB
            k_SNGd, v_SNGd = self._through_cache(cache, k_TGd, v_TGd, batch, blocks_SB)
            keys_at_SN = torch.arange(k_SNGd.shape[1], device=self.device)[None]
            held_SN = torch.ones_like(keys_at_SN, dtype=torch.bool)
        distance_SLN = at_T[rows_SL][:, :, None] - keys_at_SN[:, None, :]
        seen_SLN = (distance_SLN >= 0) & held_SN[:, None, :]
        if shape.window:
            seen_SLN = seen_SLN & (distance_SLN < shape.window)
        out_SLHd = sink_attention(q_THd[rows_SL], k_SNGd, v_SNGd, seen_SLN, attention.sinks_H)
        return out_SLHd[held_SL > 0].reshape(qkv.shape[0], -1)

    def norm(self, x_TD: Tensor, norm_D: Tensor, eps: float) -> Tensor:
        return rms_norm(x_TD, norm_D, eps)

    def route(self, x_TD: Tensor, norm_D: Tensor, eps: float, router: Linear, k: int) -> Routing:
        normed_TD = self.norm(x_TD, norm_D, eps)
        logits_TE = F.linear(normed_TD, router.weight_RD, router.bias_R)
        best_TK, experts_TK = torch.topk(logits_TE, k, dim=-1)
        return Routing(normed_TD, experts_TK, torch.softmax(best_TK, dim=-1), logits_TE)

    def experts_add(self, routing: Routing, up: Experts, down: Experts, limit: float, residual_TD: Tensor) -> Tensor:
        """Each expert computes its rows together. Each row adds its experts in ascending order."""
        k = routing.experts_TK.shape[1]
        order = torch.argsort(routing.experts_TK.reshape(-1), stable=True)
        counts = torch.bincount(routing.experts_TK.reshape(-1), minlength=up.weight_ERD.shape[0]).tolist()
        rows, weights = order // k, routing.weights_TK.reshape(-1)[order]
        parts = []
        # one gather for all experts: a gather per expert would have a gradient as large as x
        for expert, x_ND in enumerate(F.embedding(rows, routing.x_TD).split(counts)):
            if len(x_ND):
                h_NF = swiglu(F.linear(x_ND, up.weight_ERD[expert], up.bias_ER[expert]), limit)
                parts.append(F.linear(h_NF, down.weight_ERD[expert], down.bias_ER[expert]))
        return residual_TD.index_add(0, rows, torch.cat(parts) * weights[:, None])

    def unembed(self, x_TD: Tensor, rows_R: NDArray[np.int32], norm_D: Tensor, eps: float, table: Linear) -> Tensor:
        return F.linear(self.norm(x_TD[self._index(rows_R)], norm_D, eps), table.weight_RD).float()

    def host(self, logits_RV: Tensor) -> NDArray[np.float32]:
        return logits_RV.detach().cpu().numpy()

    def _index(self, host: NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(host.astype(np.int64)).to(self.device)

    def _heads(self, qkv: Tensor, shape: AttentionShape, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Split the projection into heads. Apply RoPE to queries and keys."""
        heads = qkv.reshape(len(qkv), -1, shape.head_dim)
        q_THd, k_TGd, v_TGd = heads.split([shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
        inverse, concentration = frequencies(shape.rope, shape.head_dim)
        angles = self._index(batch.positions_T)[:, None].float() * torch.from_numpy(inverse).to(self.device)
        cos = (angles.cos() * concentration).to(qkv.dtype)[:, None]
        sin = (angles.sin() * concentration).to(qkv.dtype)[:, None]
        return rotate(q_THd, cos, sin), rotate(k_TGd, cos, sin), v_TGd

    def _through_cache(
        self, cache: LayerCache, k_TGd: Tensor, v_TGd: Tensor, batch: Batch, blocks_SB: NDArray[np.int32]
    ) -> tuple[Tensor, Tensor]:
        """Write the batch's keys and values. Return each sequence's whole blocks as [S, N, G, d]."""
        sequence_T = np.repeat(np.arange(len(blocks_SB)), np.diff(batch.starts_S1))
        block_T = self._index(blocks_SB[sequence_T, batch.positions_T // BLOCK])
        offset_T = self._index(batch.positions_T % BLOCK)
        cache.keys[block_T, offset_T] = k_TGd.detach()
        cache.values[block_T, offset_T] = v_TGd.detach()
        tables = self._index(blocks_SB)
        return cache.keys[tables].flatten(1, 2), cache.values[tables].flatten(1, 2)


def rms_norm(x_TD: Tensor, scale_D: Tensor, eps: float) -> Tensor:
    """RMSNorm in float32. The scale is applied before the cast back, as in gpt-oss."""
    x = x_TD.float()
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * scale_D.float()).to(x_TD.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate lane i with lane i + d/2: the two halves, not adjacent lanes."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def swiglu(x: Tensor, limit: float) -> Tensor:
    """Even lanes are the gate, clamped above. Odd lanes are up, clamped on both sides, plus one."""
    gate, up = x[..., ::2].clamp(max=limit), x[..., 1::2].clamp(-limit, limit)
    return gate * torch.sigmoid(SWIGLU_SLOPE * gate) * (up + 1)


def sink_attention(q_SLHd: Tensor, k_SNGd: Tensor, v_SNGd: Tensor, seen_SLN: Tensor, sinks_H: Tensor) -> Tensor:
    """Softmax attention with one learned sink logit per head, which adds to the denominator only.

    The sink is an extra key with a zero value. It uses an extra lane that is zero in all other keys.
    """
    s, _, heads, d = q_SLHd.shape
    q = F.pad(q_SLHd, (0, 1), value=1.0).transpose(1, 2)
    k, v = (F.pad(x.repeat_interleave(heads // x.shape[2], dim=2), (0, 1)).transpose(1, 2) for x in (k_SNGd, v_SNGd))
    sink = F.pad(sinks_H[:, None, None] * d**0.5, (d, 0)).expand(s, -1, -1, -1)
    k, v = torch.cat([k, sink], dim=2), F.pad(v, (0, 0, 0, 1))
    seen = F.pad(seen_SLN, (0, 1), value=True)[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=d**-0.5)[..., :d].transpose(1, 2)


def padded_rows(starts_S1: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Row numbers of each sequence padded to the longest, [S, L], and 1 where a row is real."""
    lengths = np.diff(starts_S1)
    lane = np.arange(lengths.max(), dtype=np.int32)
    held = (lane[None] < lengths[:, None]).astype(np.int32)
    rows = np.where(held > 0, starts_S1[:-1, None] + lane[None], starts_S1[:-1, None])
    return rows.astype(np.int32), held
