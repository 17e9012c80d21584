"""An adapter merged into its base: a checkpoint like the base's, with only what was trained made anew.

In: an open checkpoint and an adapter. Out: a folder that loads without the adapter, and how far its logits are from what
was trained. It does not know how the adapter was trained.

MXFP4 rounds: a small update of an expert may vanish in it. The report says how much of it stayed, and a merged model
that is still the base is refused.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.kernels import Batch, HostArray
from ossia.model.checkpoint import Checkpoint, LayerTensors, open_checkpoint, write_checkpoint
from ossia.model.layouts import Layout
from ossia.quant import Mxfp4, quantize_mxfp4, to_bf16, unpack_mxfp4, widen
from ossia.train.lora import KINDS
from ossia.train.model.trainable import TrainableModel, packed
from ossia.train.peft_format import AdapterFile

BESIDE = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja",
)  # fmt: skip
_FIELDS = {"self_attn.o_proj": "out_weight", "mlp.router": "router_weight"}
_EXPERT_FIELDS = {"mlp.experts.gate_up_proj": "up_weight", "mlp.experts.down_proj": "down_weight"}
_PROBE_TOKENS = 64


class Difference(NamedTuple):
    """Of logits from those they should be: the largest, and the mean Kullback-Leibler divergence in nats."""

    largest: float
    mean_kl: float


@dataclass(slots=True)
class Kept:
    """What became of the updates of one kind of weight."""

    weights: int = 0
    same: int = (
        0  # weights (experts counted one by one) whose stored bytes are the base's although an update asked for more
    )
    asked: float = 0.0  # the updates' squared length
    got: float = 0.0  # what of it the stored weights moved along

    @property
    def share(self) -> float:
        return self.got / self.asked if self.asked else 1.0


class MergeReport(NamedTuple):
    """`merged`: the merged model against base with adapter; `base`: the base against the same, for scale."""

    folder: Path
    kept: dict[str, Kept]
    merged: Difference
    base: Difference

    def __str__(self) -> str:
        lines = [f"merged into {self.folder}"]
        for kind, kept in self.kept.items():
            lost = f", {kept.same} of {kept.weights} unchanged by rounding" if kept.same else ""
            lines.append(f"  {kind:25} {kept.share:7.1%} of the update stayed{lost}")
        for name, each in (("merged", self.merged), ("base", self.base)):
            lines.append(
                f"  {name:6} against base + adapter: logits differ by {each.largest:.4g} at most, mean KL {each.mean_kl:.3g} nats"
            )
        if self.merged.mean_kl >= self.base.mean_kl:
            lines.append(
                "  the merged model is no nearer to what was trained than the base: write layout 'bf16' instead"
            )
        return "\n".join(lines)


def merge(
    checkpoint: Checkpoint, adapter: AdapterFile, folder: str | Path, layout: Layout = "hf", probe: Batch | None = None
) -> MergeReport:
    """Write the merged checkpoint and compare its logits on `probe`, or on random tokens. Weights without a trained update
    keep their bytes. "bf16" loses least; "hf" and "original" round experts to MXFP4.

    ValueError when the result is the base although the adapter is not nothing; then nothing is left in the folder.
    """
    folder = Path(folder)
    kept: dict[str, Kept] = {}
    before = set(folder.rglob("*")) if folder.exists() else set()
    write_checkpoint(folder, checkpoint.config, _Merged(checkpoint, adapter, layout, kept), layout)
    home = checkpoint.path.parent if checkpoint.layout == "original" else checkpoint.path
    for name in BESIDE:
        if (home / name).exists() and not (folder / name).exists():
            shutil.copyfile(home / name, folder / name)
    try:
        report = _compared(checkpoint, adapter, folder, kept, probe or _probe(checkpoint.config.vocab))
    except ValueError:
        for path in sorted(set(folder.rglob("*")) - before, reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        raise
    return report


def _compared(
    checkpoint: Checkpoint, adapter: AdapterFile, folder: Path, kept: dict[str, Kept], probe: Batch
) -> MergeReport:
    trained = _logits(checkpoint, adapter, probe)
    base = _logits(checkpoint, replace_matrices(adapter, zero=True), probe)
    merged = _logits(open_checkpoint(folder), replace_matrices(adapter, zero=True), probe)
    moved = any(each.asked for each in kept.values())
    if moved and (torch.equal(merged, base) or all(each.got == 0 for each in kept.values())):
        raise ValueError(
            f"{folder}: the merged model is still the base: the updates are smaller than MXFP4's steps; "
            "write layout 'bf16', or keep the adapter beside the base"
        )
    return MergeReport(folder, kept, _difference(merged, trained), _difference(base, trained))


def replace_matrices(adapter: AdapterFile, zero: bool) -> AdapterFile:
    """The adapter with its B matrices zero: the base alone."""
    keep = {
        name: np.zeros_like(value) if zero and name.endswith(".b") else value
        for name, value in adapter.matrices.items()
    }
    return adapter._replace(matrices=keep)


def _logits(checkpoint: Checkpoint, adapter: AdapterFile, probe: Batch) -> Tensor:
    network = TrainableModel.with_adapters(
        checkpoint, checkpoint.config, replace(adapter.lora, dropout=0.0), dtype=torch.float32
    )
    with torch.no_grad():
        for name, parameter in network.trained().items():
            parameter.copy_(torch.from_numpy(adapter.matrices[name].copy()))
        return network.logits(probe)


def _difference(logits_RV: Tensor, wanted_RV: Tensor) -> Difference:
    log_p, log_q = wanted_RV.double().log_softmax(-1), logits_RV.double().log_softmax(-1)
    return Difference(
        float((logits_RV - wanted_RV).abs().max()), float((log_p.exp() * (log_p - log_q)).sum(-1).mean().clamp(min=0))
    )


def _probe(vocab: int) -> Batch:
    tokens = np.random.default_rng(0).integers(0, vocab, _PROBE_TOKENS).tolist()
    return packed([tokens], [[True] * _PROBE_TOKENS]).batch


class _Merged:
    """The merged model's tensors, layer by layer, an expert at a time."""

    def __init__(self, checkpoint: Checkpoint, adapter: AdapterFile, layout: Layout, kept: dict[str, Kept]) -> None:
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
            if (name := f"model.layers.{index}.{kind}") + ".a" not in self._matrices:
                continue
            if field := _EXPERT_FIELDS.get(kind):
                changed[field] = self._experts(getattr(tensors, field), name, kind)
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

    def _experts(self, weight: HostArray | Mxfp4, name: str, kind: str) -> HostArray | Mxfp4:
        if isinstance(weight, Mxfp4) and self._layout != "bf16":
            blocks, scales = weight.blocks.copy(), weight.scales.copy()
            for expert, delta in self._deltas(name):
                old = unpack_mxfp4(Mxfp4(weight.blocks[expert], weight.scales[expert]))
                blocks[expert], scales[expert] = new = quantize_mxfp4(old + delta)
                self._count(kind, delta, old, unpack_mxfp4(new))
            return Mxfp4(blocks, scales)
        # dense: the writer rounds where its layout is MXFP4, so what stays is counted after that rounding
        experts, rows, columns = (weight.scales if isinstance(weight, Mxfp4) else weight).shape
        columns = columns * 32 if isinstance(weight, Mxfp4) else columns
        out = np.empty((experts, rows, columns), np.uint16)
        moved = dict(self._deltas(name))
        for expert in range(experts):
            own = Mxfp4(weight.blocks[expert], weight.scales[expert]) if isinstance(weight, Mxfp4) else weight[expert]
            old = unpack_mxfp4(own) if isinstance(own, Mxfp4) else np.ascontiguousarray(widen(own))
            delta = moved.get(expert)
            out[expert] = to_bf16(old if delta is None else old + delta)
            if delta is not None:
                new = widen(out[expert])
                if self._layout != "bf16":
                    old, new = (unpack_mxfp4(quantize_mxfp4(each)) for each in (old, new))
                self._count(kind, delta, old, new)
        return out

    def _deltas(self, name: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Experts whose update is not nothing."""
        for expert, b in enumerate(self._matrices[f"{name}.b"]):
            if b.any():
                yield expert, self._delta(name, expert)

    def _count(self, kind: str, delta: NDArray[np.float32], old: NDArray[np.float32], new: NDArray[np.float32]) -> None:
        kept = self._kept.setdefault(kind, Kept())
        kept.weights += 1
        kept.same += bool(np.array_equal(old, new))
        kept.asked += float(np.vdot(delta, delta))
        kept.got += float(np.vdot(delta, new - old))
