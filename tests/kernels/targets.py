"""What one target computes, for comparison with others: run as a program, it writes the arrays to a file.

A target is Numba's for the life of a process (NUMBA_CPU_NAME and NUMBA_CPU_FEATURES), so others need their own.
"""

import sys
from typing import Any

import numba
import numpy as np

from ossia.kernels.backends import make_ops
from ossia.kernels.cpu.codegen.simd import FLOATS, TARGET, Emit, emitter, intrinsic, wants
from ossia.kernels.cpu.pack import BIAS, INT4, INT8, Panels, pack_dense, pack_mxfp4
from ossia.kernels.cpu.tiles.gemm_tiles import _fp4_2, _fp4_6, _int4_2, _int4_6, _int8_2, _int8_6
from ossia.quant import Mxfp4
from tests.kernels.cases import CASES, Numbers, fresh_batch
from tests.kernels.exactly import quantized_rows

EXPONENTS = np.concatenate([np.linspace(-87, 88, 4000), [0, -0.0, -87.5, -200, -1e30, -np.inf, 0, 0]])
EXPONENTS = np.resize(EXPONENTS, -(-EXPONENTS.size // 16) * 16).astype(np.float32)
NARROW, WIDE = 32, 160  # one block, whose sum is rounded once on any target; several, where a fused product matters


def _make_exp(name: str) -> Any:
    def body(e: Emit, x: Any, at: Any, out: Any) -> None:
        place = e.b.mul(at, e.whole(4))
        e.store(getattr(e, name)(e.load(e.at(x, place), FLOATS)), e.at(out, place))

    generate = emitter(body)

    @intrinsic
    def exp_16(typingctx: Any, x: Any, at: Any, out: Any) -> Any:
        return wants(x, at, out), generate

    @numba.njit
    def run(x, out):
        for at in range(0, x.size, 16):
            exp_16(x, at, out)

    return run


_EXPS = {name: _make_exp(name) for name in ("exp", "exp_short")}


def exp(x: np.ndarray, name: str = "exp") -> np.ndarray:
    """Of a multiple of 16 numbers."""
    out = np.empty_like(x)
    _EXPS[name](x, out)
    return out


@numba.njit
def _eight(kind, panels, quantized, y):
    """The first panel times eight rows, by the tiles of six and of two: to compile a tile takes seconds."""
    numbers, out, blocks = np.arange(8).astype(np.int32), y.reshape(-1), panels.blocks
    if kind == 0:
        _fp4_6(panels.data, 0, 0, 1, blocks, 0, blocks, quantized, numbers, 0, out, 0, 0)
        _fp4_2(panels.data, 0, 0, 1, blocks, 0, blocks, quantized, numbers, 6, out, 192, 0)
    elif kind == 1:
        _int8_6(panels.data, 0, 0, 1, blocks, 0, blocks, quantized, numbers, 0, out, 0, 0)
        _int8_2(panels.data, 0, 0, 1, blocks, 0, blocks, quantized, numbers, 6, out, 192, 0)
    else:
        _int4_6(panels.data, 0, 0, 1, blocks, 0, blocks, quantized, numbers, 0, out, 0, 0)
        _int4_2(panels.data, 0, 0, 1, blocks, 0, blocks, quantized, numbers, 6, out, 192, 0)


def weights(width: int) -> dict[str, Panels]:
    """A panel of each kind; the extreme codes are among them."""
    rng, dense = np.random.default_rng(width), Numbers(1).f32(32, width)
    dense[0], dense[1] = 1, -1
    blocks = rng.integers(0, 256, (1, 32, width // 32, 16), np.uint8)
    fp4 = Mxfp4(blocks, rng.integers(120, 130, (1, 32, width // 32), np.uint8))
    return {"int8": pack_dense(dense, INT8), "int4": pack_dense(dense, INT4), "mxfp4": pack_mxfp4(fp4, False)}


def activations(width: int) -> np.ndarray:
    """8 rows, two of them codes of 127 and -127 only."""
    x = Numbers(2).f32(8, width)
    x[0], x[1] = 1, -1
    return x


def computed() -> dict[str, np.ndarray]:
    out = {"exp": exp(EXPONENTS), "exp_short": exp(np.minimum(EXPONENTS, 0), "exp_short")}
    for width in (NARROW, WIDE):
        for name, panels in weights(width).items():
            quantized = quantized_rows(panels.kind, activations(width), panels.blocks, 1, BIAS[panels.kind], 1)
            y = np.zeros((8, 32), np.float32)
            _eight(panels.kind, panels, quantized, y)
            out[f"{name} {width}"] = y
    return out


def attended() -> np.ndarray:
    case, n = CASES[0], Numbers()
    qkv = n.f32(sum(case.lengths), (case.heads + 2 * case.kv_heads) * case.head_dim, scale=2.0)
    backend = make_ops("cpu", kv="bf16", workers=1)
    return backend.attend(qkv, backend.attention(case.shape, n.f32(case.heads)), None, fresh_batch(case.lengths))


if __name__ == "__main__":
    # attention takes long to compile: AVX2 stands for all that widen pairs of bfloat16 instead of multiplying them
    more = {"attention": attended()} if TARGET.name == "avx2" else {}
    np.savez(sys.argv[1], target=np.array(TARGET.name), **computed(), **more)
