"""The network's parameters, and the page's weight tree made of them for each step.

In: a `ModelConfig` and a seed. Out: named float32 parameters; a `Transformer` over them; host tensors for a checkpoint.
It does not know data, losses or optimizers.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ossia.kernels.reference import Attention, Experts, Linear, ReferenceOps, Routing
from ossia.model.checkpoint import LayerTensors
from ossia.model.config import ModelConfig
from ossia.model.transformer import Layer, Transformer, Weights
from ossia.quant import to_bf16
from ossia.train.fake_quant import fake_quantize


class RecordingOps(ReferenceOps):
    """The reference ops, which besides keep each layer's routing for the balance loss."""

    def __init__(self) -> None:
        super().__init__()
        self.routings: list[Routing] = []

    def route(self, x_TD: Tensor, norm_D: Tensor, eps: float, router: Linear, k: int) -> Routing:
        self.routings.append(super().route(x_TD, norm_D, eps, router, k))
        return self.routings[-1]


class Network(nn.Module):
    """Parameters under the names of `LayerTensors`, "layers.I.NAME"; projections that add to the residual start small."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        for name, shape, std in _shapes(config):
            value = torch.ones(shape) if std is None else torch.randn(shape, generator=generator) * std
            self.register_parameter(name.replace(".", "/"), nn.Parameter(value))

    def named(self) -> dict[str, Tensor]:
        return {name.replace("/", "."): parameter for name, parameter in self.named_parameters()}

    def transformer(self, ops: ReferenceOps, quantized: bool = True) -> Transformer:
        """The page over the current parameters; `quantized` shows it the experts as MXFP4 will hold them."""
        p, c = self.named(), self.config
        expert = fake_quantize if quantized else (lambda weight: weight)
        layers = []
        for i, shape in enumerate(c.shapes):
            own = {
                name.removeprefix(f"layers.{i}."): value for name, value in p.items() if name.startswith(f"layers.{i}.")
            }
            layers.append(
                Layer(
                    attn_norm=own["attn_norm"],
                    qkv=Linear(own["qkv_weight"], own["qkv_bias"]),
                    attention=Attention(shape, own["sinks"]),
                    out=Linear(own["out_weight"], own["out_bias"]),
                    mlp_norm=own["mlp_norm"],
                    router=Linear(own["router_weight"], own["router_bias"]),
                    up=Experts(expert(own["up_weight"]), own["up_bias"]),
                    down=Experts(expert(own["down_weight"]), own["down_bias"]),
                )
            )
        weights = Weights(p["embedding"], tuple(layers), p["norm"], Linear(p["unembedding"], None))
        return Transformer(c, weights, ops)


def _shapes(c: ModelConfig) -> Iterator[tuple[str, tuple[int, ...], float | None]]:
    """Name, shape, and the deviation it starts with (None: ones)."""
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


class NetworkTensors:
    """A network's parameters as a checkpoint's tensors: bfloat16, and experts in float32 for the writer to quantize."""

    def __init__(self, network: Network) -> None:
        self._host = {name: value.detach().cpu().numpy() for name, value in network.named().items()}

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
            fields[field] = value if field in ("up_weight", "down_weight") else to_bf16(value)
        return LayerTensors(**fields)
