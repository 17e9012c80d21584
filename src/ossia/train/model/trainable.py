"""The trainable model: all weights trained, or a frozen checkpoint with adapters.

Input: a `ModelConfig` and a seed, or a checkpoint, and optionally a `Lora`. Output: losses and logits of a batch,
differentiable in the trained tensors; the trained tensors by name.

Each block builds the weight objects of the forward function when it runs. With `recompute`, a block's activations are
recomputed in the backward pass.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from ossia.kernels.ops import AttentionShape, Batch, HostArray
from ossia.kernels.reference import Attention, Experts, Linear
from ossia.model.checkpoint import LayerTensors, Tensors
from ossia.model.config import ModelConfig
from ossia.model.transformer import Layer, block
from ossia.quant import Mxfp4, unpack_mxfp4, widen
from ossia.train.model.autograd import ComputeConfig
from ossia.train.model.chunked_loss import row_losses
from ossia.train.model.experts import FrozenExperts
from ossia.train.model.heap import Heap
from ossia.train.model.ops import FrozenLinear, TrainingOps
from ossia.train.model.weights.fake_quant import fake_bf16, fake_quantize
from ossia.train.model.weights.frozen import DenseWeight, PackedWeight
from ossia.train.model.weights.lora import Adapter, Target, chosen
from ossia.train.recipe import Lora

Rounding = Literal["mxfp4", "stored", "none"]
NAN_SCALE = 255  # of MXFP4
EXPERT_WEIGHTS = ("up_weight", "down_weight")


class Targets(Protocol):
    """Rows to run, and the target token of each sampled row."""

    @property
    def batch(self) -> Batch: ...
    @property
    def targets_R(self) -> NDArray[np.int64]: ...


class PackedTargets(NamedTuple):
    """A plain `Targets`."""

    batch: Batch
    targets_R: NDArray[np.int64]


class Block(nn.Module):
    """One block. Trained tensors are float32 parameters; frozen ones stay as stored, without a gradient."""

    def __init__(self, config: ModelConfig, shape: AttentionShape) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.adapters = nn.ModuleDict()

    def train_all(self, tensors: dict[str, Tensor]) -> Self:
        """Make every tensor a trained parameter, named as in `LayerTensors`."""
        for name, value in tensors.items():
            self.register_parameter(name, nn.Parameter(value))
        return self

    def freeze(self, tensors: LayerTensors, targets: list[Target], lora: Lora, seed: int, device: str) -> Self:
        """Use a checkpoint's tensors without a gradient, with new adapters for `targets`."""
        for name, host in zip(LayerTensors._fields, tensors):
            if isinstance(host, Mxfp4):
                self._freeze(f"{name}_blocks", host.blocks, device)
                self._freeze(f"{name}_scales", host.scales, device)
            else:
                self._freeze(name, host, device)
        for target in targets:
            self.adapters[target.kind.replace(".", "/")] = Adapter(target, lora, seed, device)
        return self

    def forward(
        self, x_TD: Tensor, batch: Batch, ops: TrainingOps, rounding: Rounding = "none", recompute: bool = False
    ) -> Tensor:
        def run(x_TD: Tensor) -> Tensor:
            return block(self.config, ops, self._layer(rounding), x_TD, None, batch)

        if recompute and torch.is_grad_enabled():
            return recomputed(run, x_TD, use_reentrant=False)  # type: ignore[return-value]
        return run(x_TD)

    def _layer(self, rounding: Rounding) -> Layer:
        c = self.config
        keyed = c.kv_heads * c.head_dim
        qkv = (("q", c.heads * c.head_dim), ("k", keyed), ("v", keyed))
        return Layer(
            attn_norm=self._tensor("attn_norm", rounding),
            qkv=self._linear("qkv", [(f"self_attn.{part}_proj", rows) for part, rows in qkv], rounding),
            attention=Attention(self.shape, self._tensor("sinks", rounding)),
            out=self._linear("out", [("self_attn.o_proj", c.hidden)], rounding),
            mlp_norm=self._tensor("mlp_norm", rounding),
            router=self._linear("router", [("mlp.router", c.experts)], rounding),
            up=self._experts("up", "mlp.experts.gate_up_proj", rounding),
            down=self._experts("down", "mlp.experts.down_proj", rounding),
        )

    def _freeze(self, name: str, host: HostArray | NDArray[np.uint8], device: str) -> None:
        self.register_parameter(name, nn.Parameter(frozen_tensor(host, device), requires_grad=False))

    def _tensor(self, name: str, rounding: Rounding) -> Tensor:
        value = self.get_parameter(name)
        return rounded(name, value, rounding) if value.requires_grad else value

    def _is_trained(self, name: str) -> bool:
        return self.get_parameter(f"{name}_bias").requires_grad

    def _adapter(self, kind: str) -> Adapter | None:
        own: dict[str, Any] = dict(self.adapters.items())
        return own.get(kind.replace(".", "/"))

    def _linear(self, name: str, parts: list[tuple[str, int]], rounding: Rounding) -> Linear | FrozenLinear:
        weight, bias = (self._tensor(f"{name}_{part}", rounding) for part in ("weight", "bias"))
        if self._is_trained(name):
            return Linear(weight, bias)
        return FrozenLinear(DenseWeight(weight[None]), bias, tuple((rows, self._adapter(kind)) for kind, rows in parts))

    def _experts(self, name: str, kind: str, rounding: Rounding) -> Experts | FrozenExperts:
        bias = self._tensor(f"{name}_bias", rounding)
        if self._is_trained(name):
            return Experts(self._tensor(f"{name}_weight", rounding), bias)
        if f"{name}_weight_blocks" in self._parameters:
            blocks, scales = (self.get_parameter(f"{name}_weight_{part}") for part in ("blocks", "scales"))
            weight = PackedWeight(blocks, scales)
        else:
            weight = DenseWeight(self.get_parameter(f"{name}_weight"))
        adapter = self._adapter(kind)
        return FrozenExperts(weight, bias, None if adapter is None else adapter.update())


class TrainableModel(nn.Module):
    """A model with all weights trained (`random`, `from_checkpoint`), or frozen with adapters (`with_adapters`).

    recompute: recompute a block's activations in the backward pass. compute: used by `forward` and `logits` without ops.
    base: the frozen checkpoint, if any.
    """

    def __init__(self, config: ModelConfig, lora: Lora | None = None) -> None:
        super().__init__()
        self.config, self.lora = config, lora
        self.targets = [] if lora is None else chosen(config, lora)
        self.compute, self.recompute = ComputeConfig(), False
        self.blocks = nn.ModuleList()
        self.base: Tensors | None = None
        self._embedding: HostArray | None = None  # frozen: stays in its file, only a batch's rows are read
        self._heap: Heap | None = None

    @classmethod
    def random(cls, config: ModelConfig, seed: int) -> Self:
        """All weights trained, random. Projections that add to the residual start smaller."""
        generator = torch.Generator().manual_seed(seed)
        made = {
            name: torch.ones(shape) if std is None else torch.randn(shape, generator=generator) * std
            for name, shape, std in _shapes(config)
        }
        return cls(config)._train_all(made)

    @classmethod
    def from_checkpoint(cls, tensors: Tensors, config: ModelConfig) -> Self:
        """All weights trained, starting from a checkpoint's."""
        made = {"embedding": _dense(tensors.embedding())}
        for i in range(config.layers):
            made |= {f"layers.{i}.{field}": _dense(value) for field, value in tensors.layer(i)._asdict().items()}
        made |= {"norm": _dense(tensors.norm()), "unembedding": _dense(tensors.unembedding())}
        return cls(config)._train_all(made)

    @classmethod
    def with_adapters(
        cls, tensors: Tensors, config: ModelConfig, lora: Lora, *, seed: int = 0,
        dtype: torch.dtype = torch.bfloat16, device: str = "cpu", each: Callable[[nn.Module], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:  # fmt: skip
        """A frozen checkpoint with adapters. each: called with every new block, to shard it before the next is read."""
        model = cls(config, lora)
        model.compute, model.recompute, model._heap = ComputeConfig(dtype), True, Heap()
        model.base, model._embedding = tensors, tensors.embedding()
        for i, shape in enumerate(config.shapes):
            own = [target for target in model.targets if target.layer == i]
            made = Block(config, shape).freeze(tensors.layer(i), own, lora, seed, device)
            if each:
                each(made)
            model.blocks.append(made)
            if progress:
                progress(i + 1, config.layers)
        model.norm = nn.Parameter(frozen_tensor(tensors.norm(), device), requires_grad=False)
        model.unembedding = nn.Parameter(frozen_tensor(tensors.unembedding(), device), requires_grad=False)
        return model

    def _train_all(self, tensors: dict[str, Tensor]) -> Self:
        self.embedding = nn.Parameter(tensors["embedding"])
        for i, shape in enumerate(self.config.shapes):
            own = {field: tensors[f"layers.{i}.{field}"] for field in LayerTensors._fields}
            self.blocks.append(Block(self.config, shape).train_all(own))
        self.norm, self.unembedding = nn.Parameter(tensors["norm"]), nn.Parameter(tensors["unembedding"])
        return self

    @property
    def device(self) -> torch.device:
        return self.norm.device

    def trained(self) -> dict[str, nn.Parameter]:
        """All trained parameters by name, in a fixed order."""
        if self.lora is not None:
            return {f"{name}.{part}": getattr(each, part) for name, each in self.adapters().items() for part in "ab"}
        named: dict[str, nn.Parameter] = {"embedding": self.embedding}
        for i, each in enumerate(self.blocks):
            named |= {f"layers.{i}.{field}": each.get_parameter(field) for field in LayerTensors._fields}
        return named | {"norm": self.norm, "unembedding": self.unembedding}

    def adapters(self) -> dict[str, Adapter]:
        """Adapters by the name of the weight that they update."""
        blocks: list[Any] = list(self.blocks)
        return {target.name: blocks[target.layer].adapters[target.kind.replace(".", "/")] for target in self.targets}

    def damaged(self) -> str | None:
        """The first frozen tensor with a NaN or an infinity, or None. Reads every frozen weight."""
        for name, value in self.named_parameters():
            if value.requires_grad:
                continue
            scales = name.endswith("_scales")
            if (value == NAN_SCALE).any() if scales else value.is_floating_point() and not value.isfinite().all():
                return name.replace("blocks.", "layers.", 1)
        if self._embedding is not None and not frozen_tensor(self._embedding, "cpu").isfinite().all():
            return "embedding"
        return None

    def ops(self) -> TrainingOps:
        """Ops for one forward pass, with this model's compute config."""
        return TrainingOps(str(self.device), self.compute)

    def forward(self, given: Targets, ops: TrainingOps | None = None, rounding: Rounding = "mxfp4") -> Tensor:
        """-log p of each target, [R]."""
        ops = ops or self.ops()
        targets_R = torch.from_numpy(given.targets_R).to(ops.device)
        if self.unembedding.requires_grad:
            return F.cross_entropy(self.logits(given.batch, ops, rounding), targets_R, reduction="none")
        x_RD = self.sampled_rows(given.batch, ops, rounding)
        normed_RD = ops.norm(x_RD, self.norm, self.config.norm_eps).to(ops.compute.dtype)
        return row_losses(normed_RD, DenseWeight(self.unembedding[None]), targets_R)

    def loss_sum(self, given: Targets, ops: TrainingOps | None = None, rounding: Rounding = "mxfp4") -> Tensor:
        """The sum over the targets of -log p."""
        if not self.unembedding.requires_grad:
            return self(given, ops, rounding).sum()
        logits_RV = self.logits(given.batch, ops, rounding)
        return F.cross_entropy(logits_RV, torch.from_numpy(given.targets_R).to(logits_RV.device), reduction="sum")

    def logits(self, batch: Batch, ops: TrainingOps | None = None, rounding: Rounding = "mxfp4") -> Tensor:
        """[R, V] of the sampled rows."""
        ops = ops or self.ops()
        return self.unembed(self.sampled_rows(batch, ops, rounding), ops, rounding)

    def sampled_rows(self, batch: Batch, ops: TrainingOps, rounding: Rounding) -> Tensor:
        """[R, D]: the residual of the batch's sampled rows after the last block."""
        rows_R = torch.from_numpy(batch.sampled_R.astype(np.int64)).to(self.device)
        return self._hidden(batch, ops, rounding)[rows_R]

    def unembed(self, x_RD: Tensor, ops: TrainingOps, rounding: Rounding) -> Tensor:
        """[R, V]: the last norm and the unembedding."""
        if self.unembedding.requires_grad:
            table = Linear(rounded("unembedding", self.unembedding, rounding), None)
        else:
            table = FrozenLinear(DenseWeight(self.unembedding[None]), x_RD.new_zeros(self.config.vocab), ())
        norm_D = rounded("norm", self.norm, rounding) if self.norm.requires_grad else self.norm
        return ops.norm_linear(x_RD, norm_D, self.config.norm_eps, table).to(ops.dtype)  # type: ignore[arg-type]

    def _hidden(self, batch: Batch, ops: TrainingOps, rounding: Rounding) -> Tensor:
        if self._embedding is None:
            x_TD = ops.embed(batch.tokens_T, rounded("embedding", self.embedding, rounding))
        else:
            x_TD = frozen_tensor(self._embedding[batch.tokens_T], ops.device).to(ops.dtype)
        for each in self.blocks:
            if self._heap and self.recompute:  # activations that are kept fill no holes
                self._heap.trim()
            x_TD = each(x_TD, batch, ops, rounding, self.recompute)
        return x_TD


def rounded(name: str, value: Tensor, rounding: Rounding) -> Tensor:
    """The value rounded as it will be stored, with a straight-through gradient."""
    if rounding != "none" and name.endswith(EXPERT_WEIGHTS):
        return fake_quantize(value)
    return fake_bf16(value) if rounding == "stored" else value


def frozen_tensor(host: HostArray | NDArray[np.uint8], device: str) -> Tensor:
    """A host array as stored. On the CPU without a copy, so a mapped file stays mapped; do not write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        if host.dtype == np.uint16:
            return torch.from_numpy(host.view(np.int16)).view(torch.bfloat16).to(device)
        return torch.from_numpy(host).to(device)


def packed(tokens: list[list[int]], targets: list[list[bool]]) -> PackedTargets:
    """Sequences in one batch. targets: marks of the tokens to predict; a sequence's first token never is one."""
    for number, (ids, marks) in enumerate(zip(tokens, targets, strict=True)):
        if len(ids) != len(marks) or not ids:
            raise ValueError(
                f"sequence {number} has {len(ids)} tokens and {len(marks)} marks: give equal, non-zero counts"
            )
    marked = np.array([mark and place > 0 for marks in targets for place, mark in enumerate(marks)])
    rows = np.flatnonzero(marked).astype(np.int32) - 1
    batch = Batch.whole(tokens, rows)
    return PackedTargets(batch, batch.tokens_T[rows + 1].astype(np.int64))


def _dense(value: HostArray | Mxfp4) -> Tensor:
    return torch.from_numpy(unpack_mxfp4(value) if isinstance(value, Mxfp4) else np.array(widen(value)))


def _shapes(c: ModelConfig) -> Iterator[tuple[str, tuple[int, ...], float | None]]:
    """Name, shape, and standard deviation of the initial values (None: ones)."""
    wide, narrow = c.hidden**-0.5, c.hidden**-0.5 / (2 * c.layers) ** 0.5
    attended, rows = c.heads * c.head_dim, (c.heads + 2 * c.kv_heads) * c.head_dim
    yield "embedding", (c.vocab, c.hidden), 1.0
    for i in range(c.layers):
        layer: dict[str, tuple[tuple[int, ...], float | None]] = {
            "attn_norm": ((c.hidden,), None),
            "qkv_weight": ((rows, c.hidden), wide),
            "qkv_bias": ((rows,), 0.0),
            "sinks": ((c.heads,), 0.0),
            "out_weight": ((c.hidden, attended), narrow),
            "out_bias": ((c.hidden,), 0.0),
            "mlp_norm": ((c.hidden,), None),
            "router_weight": ((c.experts, c.hidden), wide),
            "router_bias": ((c.experts,), 0.0),
            "up_weight": ((c.experts, 2 * c.intermediate, c.hidden), wide),
            "up_bias": ((c.experts, 2 * c.intermediate), 0.0),
            "down_weight": ((c.experts, c.hidden, c.intermediate), narrow),
            "down_bias": ((c.experts, c.hidden), 0.0),
        }
        for name, (shape, std) in layer.items():
            yield f"layers.{i}.{name}", shape, std
    yield "norm", (c.hidden,), None
    yield "unembedding", (c.vocab, c.hidden), wide
