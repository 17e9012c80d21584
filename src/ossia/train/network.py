"""The network's parameters, and the page's weight tree made of them for each step.

In: a `ModelConfig` and a seed, or a checkpoint. Out: named float32 parameters; a `Transformer` over them; host tensors.
It does not know data, losses or optimizers.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ossia.kernels import AttentionShape, Batch, Rope
from ossia.kernels.reference import Attention, Experts, Linear, ReferenceOps, Routing, padded_rows
from ossia.kernels.rope import frequencies
from ossia.model.checkpoint import LayerTensors, Tensors
from ossia.model.config import ModelConfig
from ossia.model.transformer import Layer, Transformer, Weights
from ossia.quant import Mxfp4, quantize_mxfp4, to_bf16, unpack_mxfp4, widen
from ossia.train import functions
from ossia.train.fake_quant import fake_bf16, fake_quantize

Rounding = Literal["mxfp4", "stored", "none"]
EXPERTS = ("up_weight", "down_weight")


class RecordingOps(ReferenceOps):
    """The ops of training, which besides keep each layer's routing for the balance loss.

    means: what products are computed in; the residual, softmax and routing are in float32, so that experts are chosen as in
    inference. One packed batch at a time.
    """

    def __init__(self, device: str = "cpu", means: functions.Means | None = None) -> None:
        super().__init__(device=device)
        self.routings: list[Routing] = []
        self._means = means or functions.Means()
        self._packings: dict[Rope, functions.Packing] = {}

    def norm_linear(self, x_TD: Tensor, norm_D: Tensor, eps: float, weight: Linear) -> Tensor:
        normed_TD = functions.rms_norm(x_TD, norm_D, eps, self._means, self._means.dtype)
        return functions.product(normed_TD, weight.weight_RD, weight.bias_R, self._means)

    def linear_add(self, x: Tensor, weight: Linear, residual_TD: Tensor) -> Tensor:
        return residual_TD + functions.product(x, weight.weight_RD, weight.bias_R, self._means)

    def attend(self, qkv: Tensor, attention: Attention, cache: object, batch: Batch, soon: object = None) -> Tensor:
        shape = attention.shape
        if shape.rope not in self._packings:
            self._packings[shape.rope] = packing_of(batch, shape, self.device)
        return functions.attention(qkv, attention.sinks_H, shape, self._packings[shape.rope], self._means)

    def norm(self, x_TD: Tensor, norm_D: Tensor, eps: float) -> Tensor:
        return functions.rms_norm(x_TD, norm_D, eps, self._means)

    def route(self, x_TD: Tensor, norm_D: Tensor, eps: float, router: Linear, k: int) -> Routing:
        self.routings.append(super().route(x_TD, norm_D, eps, router, k))
        return self.routings[-1]

    def experts_add(self, routing: Routing, up: Experts, down: Experts, limit: float, residual_TD: Tensor) -> Tensor:
        rows = functions.chosen(routing.experts_TK, len(up.weight_ERD))
        return residual_TD + functions.experts(routing.x_TD, routing.weights_TK, up, down, rows, limit, self._means)

    def unembed(self, x_TD: Tensor, rows_R: NDArray[np.int32], norm_D: Tensor, eps: float, table: Linear) -> Tensor:
        return self.norm_linear(x_TD[self._index(rows_R)], norm_D, eps, table).float()


def packing_of(batch: Batch, shape: AttentionShape, device: str) -> functions.Packing:
    _, held_SL = padded_rows(batch.starts_S1)
    held_SL = np.pad(held_SL, ((0, 0), (0, -held_SL.shape[1] % functions.LENGTHS)))
    inverse, concentration = frequencies(shape.rope, shape.head_dim)
    angles = torch.from_numpy(batch.positions_T)[:, None, None].float() * torch.from_numpy(inverse)
    parts = (torch.from_numpy(np.flatnonzero(held_SL)), angles.cos() * concentration, angles.sin() * concentration)
    return functions.Packing(*held_SL.shape, *(part.to(device) for part in parts))


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

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def transformer(self, ops: ReferenceOps, rounding: Rounding = "mxfp4") -> Transformer:
        """The page over the current parameters, rounded straight-through: experts in MXFP4, or all as it is stored."""
        named = {name: _rounded(name, value, rounding) for name, value in self.named().items()}
        c, layers = self.config, []
        for i, shape in enumerate(c.shapes):
            own = {field: named[f"layers.{i}.{field}"] for field in LayerTensors._fields}
            layers.append(
                Layer(
                    attn_norm=own["attn_norm"],
                    qkv=Linear(own["qkv_weight"], own["qkv_bias"]),
                    attention=Attention(shape, own["sinks"]),
                    out=Linear(own["out_weight"], own["out_bias"]),
                    mlp_norm=own["mlp_norm"],
                    router=Linear(own["router_weight"], own["router_bias"]),
                    up=Experts(own["up_weight"], own["up_bias"]),
                    down=Experts(own["down_weight"], own["down_bias"]),
                )
            )
        weights = Weights(named["embedding"], tuple(layers), named["norm"], Linear(named["unembedding"], None))
        return Transformer(c, weights, ops)

    @torch.no_grad()
    def take(self, tensors: Tensors) -> None:
        """A checkpoint's weights, unpacked."""
        named = self.named()
        for name in ("embedding", "norm", "unembedding"):
            named[name].copy_(torch.from_numpy(np.array(widen(getattr(tensors, name)()))))
        for i in range(self.config.layers):
            for field, value in tensors.layer(i)._asdict().items():
                dense = unpack_mxfp4(value) if isinstance(value, Mxfp4) else np.array(widen(value))
                named[f"layers.{i}.{field}"].copy_(torch.from_numpy(dense))


def _rounded(name: str, value: Tensor, rounding: Rounding) -> Tensor:
    if rounding != "none" and name.endswith(EXPERTS):
        return fake_quantize(value)
    return fake_bf16(value) if rounding == "stored" else value


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
    """A network's parameters as a checkpoint holds them: experts in MXFP4, the rest in bfloat16."""

    def __init__(self, network: Network) -> None:
        self.config = network.config
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
            fields[field] = quantize_mxfp4(value) if field in EXPERTS else to_bf16(value)
        return LayerTensors(**fields)
