"""A trainable model's weights on the host: as a checkpoint stores them, or merged for the engine.

Input: a `TrainableModel`. Output: host tensors in the form of `ossia.model.checkpoint.Tensors`.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ossia.kernels.ops import HostArray
from ossia.model.checkpoint import LayerTensors, Tensors
from ossia.quant import Mxfp4, quantize_mxfp4, to_bf16, unpack_mxfp4, widen
from ossia.train.model.trainable import EXPERT_WEIGHTS, TrainableModel
from ossia.train.model.weights.lora import Adapter


class StoredTensors:
    """A fully trained model as a checkpoint stores it: experts in MXFP4, the rest in bfloat16."""

    def __init__(self, model: TrainableModel) -> None:
        self.config = model.config
        self._host = {name: value.detach().cpu().numpy() for name, value in model.trained().items()}

    def embedding(self) -> NDArray[np.uint16]:
        return to_bf16(self._host["embedding"])

    def unembedding(self) -> NDArray[np.uint16]:
        return to_bf16(self._host["unembedding"])

    def norm(self) -> NDArray[np.uint16]:
        return to_bf16(self._host["norm"])

    def layer(self, index: int) -> LayerTensors:
        fields: dict[str, Any] = {}
        for field in LayerTensors._fields:
            value = self._host[f"layers.{index}.{field}"]
            fields[field] = quantize_mxfp4(value) if field in EXPERT_WEIGHTS else to_bf16(value)
        return LayerTensors(**fields)


class MergedTensors:
    """A frozen base with its adapters added in float32, as the trainer computes it, without rounding.

    A weight with an adapter takes four bytes per number, also of experts. Other weights stay as stored.
    """

    def __init__(self, base: Tensors, model: TrainableModel) -> None:
        self.config, self._base = model.config, base
        self._adapters = model.adapters()

    def embedding(self) -> HostArray:
        return self._base.embedding()

    def unembedding(self) -> HostArray:
        return self._base.unembedding()

    def norm(self) -> HostArray:
        return self._base.norm()

    def layer(self, index: int) -> LayerTensors:
        stored, c = self._base.layer(index), self.config
        rows = (c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim)
        ends = np.cumsum((0, *rows)).tolist()
        qkv = {f"self_attn.{part}_proj": slice(*ends[i : i + 2]) for i, part in enumerate("qkv")}
        every = slice(None)
        return stored._replace(
            qkv_weight=self._merged(index, stored.qkv_weight, qkv),
            out_weight=self._merged(index, stored.out_weight, {"self_attn.o_proj": every}),
            router_weight=self._merged(index, stored.router_weight, {"mlp.router": every}),
            up_weight=self._merged(index, stored.up_weight, {"mlp.experts.gate_up_proj": every}),
            down_weight=self._merged(index, stored.down_weight, {"mlp.experts.down_proj": every}),
        )

    def _merged(self, index: int, weight: Any, parts: dict[str, slice]) -> Any:
        found = {kind: self._adapters.get(f"model.layers.{index}.{kind}") for kind in parts}
        if not any(found.values()):
            return weight
        dense = unpack_mxfp4(weight) if isinstance(weight, Mxfp4) else np.array(widen(weight))
        for kind, rows in parts.items():
            if adapter := found[kind]:
                dense[..., rows, :] += _update(adapter)
        return dense


@torch.no_grad()
def _update(adapter: Adapter) -> NDArray[np.float32]:
    return ((adapter.b @ adapter.a) * adapter.scale).cpu().numpy()
