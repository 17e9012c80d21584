# pyright: standard
"""Float32 sums over weights as stored: dot products with bfloat16 or float32 rows, and sums of squares.

In: rows of activations and of weights, both padded to whole vectors of 16. Out: float32.

A dot product is always summed in the same order, alone or in a 4 x 4 tile. So a row's bits do not depend on other
rows.
"""

from typing import Any

import numpy as np
from numba import types

from ossia.kernels.cpu.codegen.jit import kernel
from ossia.kernels.cpu.codegen.simd import FLOATS, LANES, TARGET, Emit, arguments, emitter, intrinsic, wants


def _weights(e: Emit, is_bf16: bool, pointer: Any) -> Any:
    return e.load_bf16(pointer) if is_bf16 else e.load(pointer, FLOATS)


def _emit_tile(count: int, rows: int) -> Any:
    def body(e: Emit, is_bf16: bool, x: Any, at: Any, w: Any, first: Any, width: Any, out: Any) -> None:
        """out[t * rows + r] = x[at + t * width:] . w[first + r * width:]"""
        b, size = e.b, 2 if is_bf16 else 4
        xs = [e.at(x, b.mul(b.add(at, b.mul(width, e.whole(t))), e.whole(4))) for t in range(count)]
        ws = [e.at(w, b.mul(b.add(first, b.mul(width, e.whole(r))), e.whole(size))) for r in range(rows)]
        steps = b.udiv(width, e.whole(LANES))
        with e.loop(steps, [e.floats(0.0)] * (count * rows)) as loop:
            weights = [_weights(e, is_bf16, e.at(each, b.mul(loop.index, e.whole(LANES * size)))) for each in ws]
            sums = []
            for t in range(count):
                values = e.load(e.at(xs[t], b.mul(loop.index, e.whole(4 * LANES))), FLOATS)
                sums += [e.fma(values, weights[r], loop.carried[t * rows + r]) for r in range(rows)]
            loop.carry(*sums)
        for place, total in enumerate(loop.out):
            e.store(e.sum(total), e.at(out, 4 * place))

    return body


def _make_tile(count: int, rows: int) -> Any:
    body = _emit_tile(count, rows)

    @intrinsic
    def tile(typingctx, x, at, w, first, width, out):
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            is_bf16 = signature.args[2].dtype == types.uint16
            body(Emit(builder, TARGET), is_bf16, *arguments(context, builder, signature, args))
            return context.get_dummy_value()

        return wants(x, at, w, first, width, out), generate

    return tile


_tile_1x1, _tile_1x4, _tile_4x1, _tile_4x4 = (_make_tile(*shape) for shape in ((1, 1), (1, 4), (4, 1), (4, 4)))


@intrinsic
def sum_squares(typingctx, x, at, width):
    """The sum of squares of x[at:at + width]. width: a multiple of 16."""

    def body(e: Emit, x: Any, at: Any, width: Any) -> Any:
        source = e.at(x, e.b.mul(at, e.whole(4)))
        with e.loop(e.b.udiv(width, e.whole(LANES)), [e.floats(0.0)]) as loop:
            values = e.load(e.at(source, e.b.mul(loop.index, e.whole(4 * LANES))), FLOATS)
            loop.carry(e.fma(values, values, loop.carried[0]))
        return e.sum(loop.out[0])

    return wants(x, at, width, gives=types.float32), emitter(body)


@kernel
def dots(x, at, count, w, first, rows, width, y, to, step):
    """y[to + t * step + r] += x[at + t * width:] . w[first + r * width:], for `count` rows of x and `rows` rows of w;
    all flat.
    """
    out = np.empty(16, np.float32)
    t = 0
    while t < count:
        tokens = 4 if count - t >= 4 else 1
        r = 0
        while r < rows:
            taken = 4 if rows - r >= 4 else 1
            xa, wa = at + t * width, first + r * width
            if tokens == 4 and taken == 4:
                _tile_4x4(x, xa, w, wa, width, out)
            elif tokens == 4:
                _tile_4x1(x, xa, w, wa, width, out)
            elif taken == 4:
                _tile_1x4(x, xa, w, wa, width, out)
            else:
                _tile_1x1(x, xa, w, wa, width, out)
            for i in range(tokens):
                for j in range(taken):
                    y[to + (t + i) * step + r + j] += out[i * taken + j]
            r += taken
        t += tokens
