"""A real checkpoint as a network for fine-tuning: the base frozen as it is stored, adapters beside it.

In: an open checkpoint of any size and a `Lora`. Out: each target token's loss for a batch, differentiable in the
adapters alone. It does not know optimizers, files of adapters or how many processes there are.

The page's weight tree is made of a block's tensors each time the block runs; a block's activations are computed again
for its gradient.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ossia.kernels import AttentionShape, Batch, HostArray
from ossia.kernels.reference import Attention, ReferenceOps, Routing, rms_norm
from ossia.model.checkpoint import Checkpoint, LayerTensors
from ossia.model.config import ModelConfig
from ossia.model.transformer import Layer, block
from ossia.quant import Mxfp4
from ossia.train.activation import lean_swiglu
from ossia.train.attention import packed_attention
from ossia.train.chunked_loss import row_losses
from ossia.train.frozen import DenseWeight, Frozen, PackedWeight, Update, grouped_linear
from ossia.train.heap import Heap
from ossia.train.lora import Adapter, Target, chosen
from ossia.train.recipe import Lora


class TuneBatch(Protocol):
    """Rows to run, and the token that each sampled row must predict."""

    @property
    def batch(self) -> Batch: ...
    @property
    def targets_R(self) -> NDArray[np.int64]: ...


class Packed(NamedTuple):
    """The plainest `TuneBatch`."""

    batch: Batch
    targets_R: NDArray[np.int64]


class TuneLinear(NamedTuple):
    """A frozen [1, R, C] matrix and its bias; adapters, each over so many of the rows (None: these have none)."""

    weight: DenseWeight
    bias_1R: Tensor
    parts: tuple[tuple[int, Adapter | None], ...]

    def __call__(self, x_TC: Tensor) -> Tensor:
        base = grouped_linear(x_TC, [x_TC.shape[0]], self.weight, self.bias_1R)
        if all(adapter is None for _, adapter in self.parts):
            return base
        columns = base.split([rows for rows, _ in self.parts], dim=1)
        added = [own if adapter is None else own + adapter(x_TC) for own, (_, adapter) in zip(columns, self.parts)]
        return added[0] if len(added) == 1 else torch.cat(added, dim=1)


class TuneExperts(NamedTuple):
    weight: Frozen
    bias_ER: Tensor
    update: Update | None

    def __call__(self, x_MC: Tensor, counts: list[int]) -> Tensor:
        return grouped_linear(x_MC, counts, self.weight, self.bias_ER, self.update)


class TuneOps(ReferenceOps):
    """The page's ops over frozen weights with adapters, in `dtype`, the router in float32; without a cache."""

    name = "tune"

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        super().__init__(dtype, device)
        self.heap = Heap()

    def norm_linear(self, x_TD: Tensor, norm_D: Tensor, eps: float, weight: Any) -> Tensor:
        return weight(rms_norm(x_TD, norm_D, eps))

    def linear_add(self, x: Tensor, weight: Any, residual_TD: Tensor) -> Tensor:
        return residual_TD + weight(x)

    def attend(self, qkv: Tensor, attention: Attention, cache: Any, batch: Batch, soon: object = None) -> Tensor:
        if cache is not None:
            raise ValueError("training runs whole sequences: it has no cache")
        q_THd, k_TGd, v_TGd = self._heads(qkv, attention.shape, batch)
        out = packed_attention(q_THd, k_TGd, v_TGd, batch.starts_S1, attention.shape.window, attention.sinks_H)
        return out.reshape(qkv.shape[0], -1)

    def route(self, x_TD: Tensor, norm_D: Tensor, eps: float, router: Any, k: int) -> Routing:
        normed_TD = rms_norm(x_TD, norm_D, eps)
        logits_TE = router(normed_TD.to(torch.promote_types(self.dtype, torch.float32)))
        best_TK, experts_TK = torch.topk(logits_TE, k, dim=-1)
        return Routing(normed_TD, experts_TK, torch.softmax(best_TK, dim=-1), logits_TE)

    def experts_add(self, routing: Routing, up: Any, down: Any, limit: float, residual_TD: Tensor) -> Tensor:
        """Rows sorted by expert go through all experts as one."""
        k, experts = routing.experts_TK.shape[1], routing.logits_TE.shape[1]
        flat = routing.experts_TK.reshape(-1)
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=experts).tolist()
        rows = order // k
        h_MF = lean_swiglu(up(routing.x_TD[rows], counts), limit)
        weights_M1 = routing.weights_TK.reshape(-1)[order][:, None].to(residual_TD.dtype)
        return residual_TD.index_add(0, rows, down(h_MF, counts) * weights_M1)


class Block(nn.Module):
    """One block: frozen tensors as parameters without gradient (so that they can be sharded), adapters by kind."""

    def __init__(
        self, config: ModelConfig, shape: AttentionShape, tensors: LayerTensors, targets: list[Target], lora: Lora,
        seed: int, device: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.shape = config, shape
        for name, host in zip(LayerTensors._fields, tensors):
            if isinstance(host, Mxfp4):
                self._freeze(f"{name}_blocks", host.blocks, device)
                self._freeze(f"{name}_scales", host.scales, device)
            else:
                self._freeze(name, host, device)
        made = {target.kind.replace(".", "/"): Adapter(target, lora, seed, device) for target in targets}
        self.adapters = nn.ModuleDict(made)

    def forward(self, x_TD: Tensor, batch: Batch, ops: TuneOps, recompute: bool = True) -> Tensor:
        if recompute and torch.is_grad_enabled():
            return checkpoint(self._run, x_TD, batch, ops, use_reentrant=False)  # type: ignore[return-value]
        return self._run(x_TD, batch, ops)

    def _run(self, x_TD: Tensor, batch: Batch, ops: TuneOps) -> Tensor:
        ops.heap.give_back()
        return block(self.config, ops, self._layer(), x_TD, None, batch)

    def _layer(self) -> Layer:
        c = self.config
        keyed = c.kv_heads * c.head_dim
        qkv = (("q", c.heads * c.head_dim), ("k", keyed), ("v", keyed))
        return Layer(
            attn_norm=self._own("attn_norm"),
            qkv=self._linear("qkv", [(rows, self._adapter(f"self_attn.{part}_proj")) for part, rows in qkv]),
            attention=Attention(self.shape, self._own("sinks")),
            out=self._linear("out", [(c.hidden, self._adapter("self_attn.o_proj"))]),
            mlp_norm=self._own("mlp_norm"),
            router=self._linear("router", [(c.experts, self._adapter("mlp.router"))]),
            up=self._experts("up", "mlp.experts.gate_up_proj"),
            down=self._experts("down", "mlp.experts.down_proj"),
        )

    def _freeze(self, name: str, host: HostArray | NDArray[np.uint8], device: str) -> None:
        self.register_parameter(name, nn.Parameter(frozen_tensor(host, device), requires_grad=False))

    def _own(self, name: str) -> Tensor:
        return self.get_parameter(name)

    def _adapter(self, kind: str) -> Adapter | None:
        own: dict[str, Any] = dict(self.adapters.items())
        return own.get(kind.replace(".", "/"))

    def _linear(self, name: str, parts: list[tuple[int, Adapter | None]]) -> TuneLinear:
        weight, bias = self._own(f"{name}_weight"), self._own(f"{name}_bias")
        return TuneLinear(DenseWeight(weight[None]), bias[None], tuple(parts))

    def _experts(self, name: str, kind: str) -> TuneExperts:
        if f"{name}_weight_blocks" in self._parameters:
            weight = PackedWeight(self._own(f"{name}_weight_blocks"), self._own(f"{name}_weight_scales"))
        else:
            weight = DenseWeight(self._own(f"{name}_weight"))
        adapter = self._adapter(kind)
        return TuneExperts(weight, self._own(f"{name}_bias"), None if adapter is None else adapter.update())


class Tunable(nn.Module):
    """The whole model. The embedding stays in its file: only the batch's rows of it are read."""

    def __init__(
        self, checkpoint: Checkpoint, lora: Lora, *, seed: int = 0, dtype: torch.dtype = torch.bfloat16,
        device: str = "cpu", each: Callable[[nn.Module], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        """`each` is given every block as soon as it is made: to shard it before the next is read."""
        super().__init__()
        self.config, self.lora = checkpoint.config, lora
        self.ops = TuneOps(dtype, device)
        self.targets = chosen(self.config, lora)
        self.recompute = True
        self._embedding = checkpoint.embedding()
        self.blocks = nn.ModuleList()
        for i, shape in enumerate(self.config.shapes):
            own = [target for target in self.targets if target.layer == i]
            made = Block(self.config, shape, checkpoint.layer(i), own, lora, seed, device)
            if each:
                each(made)
            self.blocks.append(made)
            if progress:
                progress(i + 1, self.config.layers)
        self.norm = nn.Parameter(frozen_tensor(checkpoint.norm(), device), requires_grad=False)
        self.unembedding = nn.Parameter(frozen_tensor(checkpoint.unembedding(), device), requires_grad=False)

    def forward(self, given: TuneBatch) -> Tensor:
        """-log p of each target, [R]."""
        targets_R = torch.from_numpy(given.targets_R).to(self.ops.device)
        return row_losses(self._hidden(given.batch), DenseWeight(self.unembedding[None]), targets_R)

    def logits(self, batch: Batch) -> Tensor:
        """[R, V] of the sampled rows: for comparisons, not for training."""
        x_RD = self._hidden(batch)
        rows = DenseWeight(self.unembedding[None]).row_blocks(0, x_RD.dtype)
        return torch.cat([(x_RD @ values.T).float() for _, values in rows], dim=1)

    def adapters(self) -> dict[str, Adapter]:
        """By the weight's name."""
        blocks: list[Any] = list(self.blocks)
        return {target.name: blocks[target.layer].adapters[target.kind.replace(".", "/")] for target in self.targets}

    def trained(self) -> dict[str, nn.Parameter]:
        """Everything that has a gradient, by name, in an order that never changes."""
        return {f"{name}.{part}": getattr(each, part) for name, each in self.adapters().items() for part in "ab"}

    def _hidden(self, batch: Batch) -> Tensor:
        x_TD = frozen_tensor(self._embedding[batch.tokens_T], self.ops.device).to(self.ops.dtype)
        for each in self.blocks:
            x_TD = each(x_TD, batch, self.ops, self.recompute)
        rows = torch.from_numpy(batch.sampled_R.astype(np.int64)).to(self.ops.device)
        return rms_norm(x_TD[rows], self.norm, self.config.norm_eps)


def frozen_tensor(host: HostArray | NDArray[np.uint8], device: str) -> Tensor:
    """A host array as it is stored; on the CPU without a copy, so that a mapped file stays mapped and cannot be written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        if host.dtype == np.uint16:
            return torch.from_numpy(host.view(np.int16)).view(torch.bfloat16).to(device)
        return torch.from_numpy(host).to(device)


def packed(tokens: list[list[int]], said: list[list[bool]]) -> Packed:
    """Sequences side by side, none seeing another; `said` marks the tokens that are targets (a first one never is)."""
    for number, (ids, marks) in enumerate(zip(tokens, said, strict=True)):
        if len(ids) != len(marks) or not ids:
            raise ValueError(
                f"sequence {number}: {len(ids)} tokens and {len(marks)} marks: want as many, and one at least"
            )
    flat = np.array([token for ids in tokens for token in ids], np.int32)
    starts = np.cumsum([0, *map(len, tokens)]).astype(np.int32)
    positions = np.concatenate([np.arange(len(ids), dtype=np.int32) for ids in tokens])
    marked = np.array([mark and place > 0 for marks in said for place, mark in enumerate(marks)])
    rows = np.flatnonzero(marked).astype(np.int32) - 1
    none = np.zeros((len(tokens), 0), np.int32)
    return Packed(Batch(flat, positions, starts, none, none, rows), flat[rows + 1].astype(np.int64))
