"""Merges an adapter into its base: a checkpoint like the base, in which only the trained weights differ.

Input: an open checkpoint and an adapter. Output: a folder that loads without the adapter, and, before it is written, a
report of how far its logits are from base and adapter.

Rounding to MXFP4 can remove a small update of an expert. The report says how much remains; a merged model that equals the
base is refused.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ossia.kernels.ops import Batch, HostArray
from ossia.model.checkpoint import Checkpoint, LayerTensors, write_checkpoint
from ossia.model.layouts import Layout
from ossia.quant import QBLOCK, Mxfp4, quantize_mxfp4, to_bf16, unpack_mxfp4, widen
from ossia.train.model.autograd import ComputeConfig
from ossia.train.model.ops import TrainingOps
from ossia.train.model.trainable import Block, TrainableModel, frozen_tensor, packed
from ossia.train.model.weights.lora import KINDS, chosen
from ossia.train.peft.format import AdapterFile

BESIDE = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja",
)  # fmt: skip
_FIELDS = {"self_attn.o_proj": "out_weight", "mlp.router": "router_weight"}
_EXPERT_FIELDS = {"mlp.experts.gate_up_proj": "up_weight", "mlp.experts.down_proj": "down_weight"}
_PROBE_TOKENS = 64


class Difference(NamedTuple):
    """Difference of logits: the largest, and the mean Kullback-Leibler divergence in nats."""

    largest: float
    mean_kl: float


@dataclass(slots=True)
class KeptUpdate:
    """How much of the updates of one kind of weight remains after rounding.

    weights: number with an update; each expert counts. same: those of them whose stored bytes equal the base's.
    asked: squared norm of the updates. got: dot product of the updates with the change of the stored weights.
    wanted, lost: squared norms of the weights before rounding to MXFP4, and of the rounding error.
    """

    weights: int = 0
    same: int = 0
    asked: float = 0.0
    got: float = 0.0
    wanted: float = 0.0
    lost: float = 0.0

    @property
    def share(self) -> float:
        return self.got / self.asked if self.asked else 1.0

    @property
    def rounding(self) -> float:
        """The relative error of the stored weights by MXFP4."""
        return math.sqrt(self.lost / self.wanted) if self.wanted else 0.0


class MergeReport(NamedTuple):
    """`merged`: the merged model against base with adapter; `base`: the base against the same, for scale."""

    layout: Layout
    kept: dict[str, KeptUpdate]
    merged: Difference
    base: Difference

    def __str__(self) -> str:
        lines = [f"layout {self.layout!r}"]
        for kind, kept in self.kept.items():
            update = f"{kept.share:7.1%} of the update remains" if kept.weights else "not trained"
            lost = f", {kept.same} of {kept.weights} unchanged by rounding" if kept.same else ""
            rounded = f"; rounding to MXFP4 changes the weights by {kept.rounding:.2%}" if kept.lost else ""
            lines.append(f"  {kind:25} {update}{lost}{rounded}")
        for name, each in (("merged", self.merged), ("base", self.base)):
            lines.append(
                f"  {name:6} against base + adapter: logits differ by {each.largest:.4g} at most, mean KL {each.mean_kl:.3g} nats"
            )
        if self.merged.mean_kl >= self.base.mean_kl > 0:
            lines.append("  the merged model is no closer to base + adapter than the base: write layout 'bf16' instead")
        elif any(kept.lost for kept in self.kept.values()):
            lines.append(f"  layout {self.layout!r} rounds experts to MXFP4; layout 'bf16' loses least")
        return "\n".join(lines)


def merge(
    checkpoint: Checkpoint,
    adapter: AdapterFile,
    folder: str | Path,
    layout: Layout | None = None,
    probe: Batch | None = None,
    say: Callable[[str], None] = print,
) -> MergeReport:
    """Compare the merged model's logits on `probe`, or on random tokens, print the report, then write the checkpoint.

    layout: default that of the base. "bf16" loses least; "hf" and "original" round trained or dense experts to MXFP4.
    Weights without an update keep their bytes if the layout allows it. On an error nothing is written.
    ValueError if the result equals the base although the adapter is not zero.
    """
    layout, folder = layout or checkpoint.layout, Path(folder)
    kept: dict[str, KeptUpdate] = {}
    report = _compared(checkpoint, adapter, layout, kept, probe or _probe(checkpoint.config.vocab))
    say(str(report))
    home = checkpoint.path.parent if checkpoint.layout == "original" else checkpoint.path
    folder.mkdir(parents=True, exist_ok=True)
    copied = [folder / name for name in BESIDE if (home / name).exists() and not (folder / name).exists()]
    try:
        for path in copied:  # first, so that weights are never without their tokenizer
            shutil.copyfile(home / path.name, path)
        write_checkpoint(folder, checkpoint.config, _Merged(checkpoint, adapter, layout, {}), layout)
    except BaseException:
        for path in copied:
            path.unlink(missing_ok=True)
        raise
    return report


def _compared(
    checkpoint: Checkpoint, adapter: AdapterFile, layout: Layout, kept: dict[str, KeptUpdate], probe: Batch
) -> MergeReport:
    trained, base, merged = _logits(checkpoint, adapter, _Merged(checkpoint, adapter, layout, kept), probe)
    moved = any(each.asked for each in kept.values())
    if moved and (torch.equal(merged, base) or all(each.got == 0 for each in kept.values() if each.asked)):
        raise ValueError(
            "the merged model would equal the base: the updates are smaller than MXFP4's steps; "
            "write layout 'bf16', or use the adapter without merging"
        )
    return MergeReport(layout, kept, _difference(merged, trained), _difference(base, trained))


def _logits(checkpoint: Checkpoint, adapter: AdapterFile, merged: "_Merged", probe: Batch) -> tuple[Tensor, ...]:
    """Logits of base with adapter, of the base, and of the merged model. Memory holds one layer at a time."""
    config, lora, ops = checkpoint.config, replace(adapter.lora, dropout=0.0), TrainingOps("cpu", ComputeConfig())
    targets = chosen(config, lora)
    states = [frozen_tensor(checkpoint.embedding()[probe.tokens_T], "cpu").float()] * 3
    with torch.no_grad():
        for index, shape in enumerate(config.shapes):
            own, tensors = [target for target in targets if target.layer == index], checkpoint.layer(index)
            trained = Block(config, shape).freeze(tensors, own, lora, 0, "cpu")
            for target in own:
                each = trained.adapters[target.kind.replace(".", "/")]
                for part in "ab":
                    getattr(each, part).copy_(torch.from_numpy(adapter.matrices[f"{target.name}.{part}"].copy()))
            base = Block(config, shape).freeze(tensors, [], lora, 0, "cpu")
            made = Block(config, shape).freeze(merged.layer(index), [], lora, 0, "cpu")
            states = [block(state, probe, ops) for block, state in zip((trained, base, made), states)]
        head, rows = TrainableModel(config), torch.from_numpy(probe.sampled_R.astype(np.int64))
        for name in ("norm", "unembedding"):
            value = frozen_tensor(getattr(checkpoint, name)(), "cpu")
            head.register_parameter(name, nn.Parameter(value, requires_grad=False))
        return tuple(head.unembed(state[rows], ops, "none") for state in states)


def _difference(logits_RV: Tensor, wanted_RV: Tensor) -> Difference:
    log_p, log_q = wanted_RV.double().log_softmax(-1), logits_RV.double().log_softmax(-1)
    return Difference(
        float((logits_RV - wanted_RV).abs().max()), float((log_p.exp() * (log_p - log_q)).sum(-1).mean().clamp(min=0))
    )


def _probe(vocab: int) -> Batch:
    tokens = np.random.default_rng(0).integers(0, vocab, _PROBE_TOKENS).tolist()
    return packed([tokens], [[True] * _PROBE_TOKENS]).batch


class _Merged:
    """The merged model's tensors as stored, layer by layer, an expert at a time. Adds to `kept`."""

    def __init__(
        self, checkpoint: Checkpoint, adapter: AdapterFile, layout: Layout, kept: dict[str, KeptUpdate]
    ) -> None:
        self._from, self._lora, self._matrices = checkpoint, adapter.lora, adapter.matrices
        self._layout, self._kept = layout, kept

    def embedding(self) -> HostArray:
        return self._from.embedding()

    def norm(self) -> HostArray:
        return self._from.norm()

    def unembedding(self) -> HostArray:
        return self._from.unembedding()

    def layer(self, index: int) -> LayerTensors:
        tensors = self._from.layer(index)
        changed: dict[str, Any] = {}
        for kind in KINDS:
            name = f"model.layers.{index}.{kind}"
            trained = f"{name}.a" in self._matrices
            if field := _EXPERT_FIELDS.get(kind):
                weight = getattr(tensors, field)
                if trained or (self._layout != "bf16" and not isinstance(weight, Mxfp4)):
                    changed[field] = self._experts(weight, dict(self._deltas(name)) if trained else {}, kind)
            elif not trained:
                continue
            elif field := _FIELDS.get(kind):
                changed[field] = self._dense(getattr(tensors, field), slice(None), name, kind)
            else:
                weight = changed.get("qkv_weight", tensors.qkv_weight)
                changed["qkv_weight"] = self._dense(weight, self._rows(kind), name, kind)
        return tensors._replace(**changed)

    def _rows(self, kind: str) -> slice:
        c = self._from.config
        first = c.heads * c.head_dim
        keyed = c.kv_heads * c.head_dim
        edges = {"self_attn.q_proj": (0, first), "self_attn.k_proj": (first, first + keyed)}
        return slice(*edges.get(kind, (first + keyed, first + 2 * keyed)))

    def _delta(self, name: str, expert: int | None = None) -> NDArray[np.float32]:
        a, b = self._matrices[f"{name}.a"], self._matrices[f"{name}.b"]
        return (
            (b if expert is None else b[expert]) @ (a if expert is None else a[expert]) * np.float32(self._lora.scale)
        )

    def _dense(self, weight: HostArray, rows: slice, name: str, kind: str) -> HostArray:
        delta = self._delta(name)
        if not delta.any():
            return weight
        whole = weight.copy() if weight.dtype == np.uint16 else to_bf16(widen(weight))
        old = widen(weight[rows])
        whole[rows] = to_bf16(old + delta)
        self._count(kind, delta, old, widen(whole[rows]))
        return whole

    def _experts(
        self, weight: HostArray | Mxfp4, deltas: Mapping[int, NDArray[np.float32]], kind: str
    ) -> HostArray | Mxfp4:
        """Merged experts: dense for layout "bf16", else in MXFP4. Experts without an update keep their bytes if possible."""
        experts, rows, columns = (weight.scales if isinstance(weight, Mxfp4) else weight).shape
        columns = columns * QBLOCK if isinstance(weight, Mxfp4) else columns
        dense = np.empty((experts, rows, columns), np.uint16) if self._layout == "bf16" else None
        packed = None if dense is not None else _empty_mxfp4(experts, rows, columns)
        for expert in range(experts):
            own = Mxfp4(weight.blocks[expert], weight.scales[expert]) if isinstance(weight, Mxfp4) else weight[expert]
            delta = deltas.get(expert)
            if packed is not None and isinstance(own, Mxfp4) and delta is None:
                packed.blocks[expert], packed.scales[expert] = own
                continue
            old = unpack_mxfp4(own) if isinstance(own, Mxfp4) else np.ascontiguousarray(widen(own), np.float32)
            wanted = old if delta is None else old + delta
            if packed is not None:
                packed.blocks[expert], packed.scales[expert] = made = quantize_mxfp4(wanted)
                new = unpack_mxfp4(made)
                self._count_rounding(kind, wanted, new)
            else:
                assert dense is not None
                dense[expert] = to_bf16(wanted)
                new = widen(dense[expert])
            if delta is not None:
                # against the base as this layout would hold it, so that only the update counts
                kept = old if packed is None or isinstance(own, Mxfp4) else unpack_mxfp4(quantize_mxfp4(old))
                self._count(kind, delta, kept, new)
        return dense if packed is None else packed  # type: ignore[return-value]

    def _deltas(self, name: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Experts with a non-zero update."""
        for expert, b in enumerate(self._matrices[f"{name}.b"]):
            if b.any():
                yield expert, self._delta(name, expert)

    def _count(self, kind: str, delta: NDArray[np.float32], old: NDArray[np.float32], new: NDArray[np.float32]) -> None:
        kept = self._kept.setdefault(kind, KeptUpdate())
        kept.weights += 1
        kept.same += bool(np.array_equal(old, new))
        kept.asked += float(np.vdot(delta, delta))
        kept.got += float(np.vdot(delta, new - old))

    def _count_rounding(self, kind: str, wanted: NDArray[np.float32], stored: NDArray[np.float32]) -> None:
        kept = self._kept.setdefault(kind, KeptUpdate())
        off = stored - wanted
        kept.wanted += float(np.vdot(wanted, wanted))
        kept.lost += float(np.vdot(off, off))


def _empty_mxfp4(experts: int, rows: int, columns: int) -> Mxfp4:
    groups = columns // QBLOCK
    return Mxfp4(np.empty((experts, rows, groups, QBLOCK // 2), np.uint8), np.empty((experts, rows, groups), np.uint8))
