"""Random weights of any gpt-oss shape, scaled so that activations and logits have ordinary sizes.

In: a config and a seed. Out: tensors, layer by layer, that can be run or written as a checkpoint.

Weights come from a bit generator's integers and exactly rounded arithmetic, so a seed gives the same bytes on every
machine. A backend may use its own generator, which gives other bytes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ossia.kernels.ops import HostArray
from ossia.model.checkpoint import LayerTensors
from ossia.model.config import ModelConfig
from ossia.model.layouts import EMBEDDING, LAYER, NORM, UNEMBEDDING, LayoutRow, shape
from ossia.quant import E2M1, QBLOCK, Mxfp4, to_bf16

_SPAN = 1 << 20  # elements made at a time; a multiple of the generator's 8 bytes, so it does not change the bytes
_SCALE_STEPS = np.array([-1, 0, 0, 1], np.int8)  # offsets of a block's scale from the tensor's
_UNIFORM_RMS = math.sqrt(1 / 3)  # root mean square of uniform numbers in -1..1
_MXFP4_RMS = math.sqrt(float(np.mean(E2M1**2)) * float(np.mean(4.0**_SCALE_STEPS)))

# The standard deviation of a tensor's output for unit input. An expert's down input passes SwiGLU first.
_GAINS = {
    "embedding": 1.0,
    "qkv_weight": 1.0,
    "qkv_bias": 0.1,
    "sinks": 1.0,
    "out_weight": 1.0,
    "out_bias": 0.1,
    "router_weight": 1.5,
    "router_bias": 0.1,
    "up_weight": 1.0,
    "up_bias": 0.1,
    "down_weight": 0.5,
    "down_bias": 0.1,
    "unembedding": 2.0,
}
_NORM_SPREAD = 0.25  # norm weights are uniform in 1 - spread .. 1 + spread


class RandomStream(Protocol):
    """Random arrays: entries of a table of 256 with equal probability, or bytes."""

    def pick(self, table: NDArray[Any], shape: Sequence[int]) -> Any: ...
    def bytes(self, shape: Sequence[int]) -> Any: ...


class HostStream:
    """NumPy's generator."""

    def __init__(self, key: Sequence[int]) -> None:
        self._random = np.random.SFC64(key)

    def pick(self, table: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        out = np.empty(shape, table.dtype)
        flat = out.reshape(-1)
        for start in range(0, flat.size, _SPAN):
            span = flat[start : start + _SPAN]
            np.take(table, _bytes(self._random, span.size), out=span, mode="clip")
        return out

    def bytes(self, shape: Sequence[int]) -> NDArray[np.uint8]:
        return _bytes(self._random, math.prod(shape)).reshape(shape)


@dataclass(frozen=True, slots=True)
class RandomTensors:
    """A model's weights. Each tensor is made on demand from the seed, the layer and its place in the table."""

    config: ModelConfig
    seed: int
    stream: Callable[[Sequence[int]], RandomStream] = HostStream

    def embedding(self) -> HostArray:
        return self._dense(EMBEDDING, 0, 1)

    def norm(self) -> HostArray:
        return self._dense(NORM, 0, 2)

    def unembedding(self) -> HostArray:
        return self._dense(UNEMBEDDING, 0, 3)

    def layer(self, index: int) -> LayerTensors:
        return LayerTensors(*(self._make(row, index + 1, place) for place, row in enumerate(LAYER)))

    def _make(self, row: LayoutRow, layer: int, place: int) -> Any:
        make = self._mxfp4 if row.field in ("up_weight", "down_weight") else self._dense
        return make(row, layer, place)

    def _dense(self, row: LayoutRow, layer: int, place: int) -> Any:
        """Uniform over 256 evenly spaced bfloat16 values: a byte chooses one."""
        dims = shape(self.config, row)
        steps = np.arange(-255, 256, 2) / 255
        if row.field.endswith("norm"):
            levels = 1 + _NORM_SPREAD * steps
        else:
            inputs = dims[-1] if row.field.endswith(("_weight", "unembedding")) else 1
            levels = steps * (_GAINS[row.field] / (_UNIFORM_RMS * math.sqrt(inputs)))
        table = to_bf16(levels.astype(np.float32))
        return self.stream([self.seed, layer, place]).pick(table, dims)

    def _mxfp4(self, row: LayoutRow, layer: int, place: int) -> Mxfp4:
        """Uniform nibbles, with scales near the power of two that is closest to the gain."""
        *rows, inputs = shape(self.config, row)
        middle = 127 + round(math.log2(_GAINS[row.field] / (_MXFP4_RMS * math.sqrt(inputs))))
        scale_shape = (*rows, inputs // QBLOCK)
        table = np.resize(_SCALE_STEPS + middle, 256).astype(np.uint8)
        stream = self.stream([self.seed, layer, place])
        scales = stream.pick(table, scale_shape)
        return Mxfp4(stream.bytes((*scale_shape, QBLOCK // 2)), scales)


def _bytes(random: np.random.SFC64, count: int) -> NDArray[np.uint8]:
    return random.random_raw(-(-count // 8)).astype("<u8", copy=False).view(np.uint8)[:count]
