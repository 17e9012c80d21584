"""What packed weights stand for, by the documented rules, in NumPy."""

import numpy as np

from ossia.kernels.cpu.codegen.jit import entry
from ossia.kernels.cpu.gemm import multiply, quantize_rows
from ossia.kernels.cpu.pack import BIAS, INPUTS, INT8, Panels
from ossia.quant import from_bf16


@entry
def quantized_rows(kind, x_TD, blocks, limbs, bias, workers):
    return quantize_rows(kind, x_TD, blocks, limbs, bias, workers)


@entry
def multiplied(kind, data, stride, blocks, quantized, bias_R, y_TR, workers):
    multiply(kind, data, stride, blocks, quantized, bias_R, y_TR, workers)


def blocks_of(x: np.ndarray, kind: int) -> np.ndarray:
    """float32 [..., blocks, inputs of a block of this kind], zeros beyond x."""
    inputs = INPUTS[kind]
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % inputs)]).reshape(*x.shape[:-1], -1, inputs)


def rounded(x_TD: np.ndarray, kind: int) -> np.ndarray:
    """float64 [T, whole blocks]: what weights of this kind meet, activations in int8 under a scale of amax / 127."""
    blocks = blocks_of(x_TD, kind)
    scales = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    codes = np.rint(blocks / np.where(scales > 0, scales, 1))
    return (codes.astype(np.float64) * scales).reshape(len(x_TD), -1)


def int8_weights(weight_RD: np.ndarray) -> np.ndarray:
    """float64 [R, whole blocks]: nearest codes under the least bfloat16 that is not below amax / 127."""
    blocks = blocks_of(weight_RD, INT8)
    exact = np.abs(blocks).max(-1) / np.float32(127)
    scales = from_bf16(((exact.view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16))
    codes = np.rint(blocks * (1 / np.where(scales > 0, scales, 1))[..., None])
    assert np.abs(codes).max() <= 127
    return (codes.astype(np.float64) * scales[..., None]).reshape(len(weight_RD), -1)


def read_back(panels: Panels, matrix: int = 0) -> np.ndarray:
    """float32 [rows in panels' order, whole blocks]: the weights themselves, each from a row of 127 in one place.

    127 is a code under the scale 1, and 127 times any weight is exact in float32.
    """
    width, size = INPUTS[panels.kind] * panels.blocks, panels.panels * panels.stride
    data = panels.data[matrix * size : (matrix + 1) * size]
    quantized = quantized_rows(
        panels.kind, 127 * np.eye(width, dtype=np.float32), panels.blocks, 1, BIAS[panels.kind], 1
    )
    out = np.zeros((width, 32 * panels.panels), np.float32)
    no_bias = np.zeros(32 * panels.panels, np.float32)
    multiplied(panels.kind, data, panels.stride, panels.blocks, quantized, no_bias, out, 1)
    return out.T / np.float32(127)
