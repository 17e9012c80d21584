"""The ops' host code through Triton's true compiler, for a card that is not there: which kernels it would launch.

In: numbers of rows, as arguments. Out: JSON, the names of a layer's launches (without attention's) for each.
Nothing is launched. Whatever would wait for the card, a tensor's number read on the host, raises.
"""

import json
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from ossia.kernels.triton.kernels.linear import Dense, linear_add, norm_linear, unembed
from ossia.kernels.triton.kernels.moe import Experts, experts_add
from ossia.kernels.triton.kernels.mxfp4 import Packed, row_tiles
from ossia.kernels.triton.kernels.route import Router, route

WIDTH, EXPERTS, K = 2880, 4, 2


class NoCard:
    """As much of Triton's driver as compiling asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("the host waits for the card")


def dense(rows: int, width: int) -> Dense:
    return Dense(torch.zeros(rows, width, dtype=torch.bfloat16), torch.zeros(rows), None)


def experts(rows: int, gated: bool) -> Experts:
    tiles, blocks = row_tiles(rows, gated), WIDTH // 32
    data = torch.zeros(EXPERTS, tiles, blocks, 16, 16, dtype=torch.uint8)
    packed = Packed(data, torch.zeros(EXPERTS, tiles, blocks, 16, dtype=torch.uint8), 1.0)
    counters = torch.zeros(tiles, dtype=torch.int32)
    return Experts(packed, torch.zeros(EXPERTS, tiles * 16), rows // 2 if gated else rows, counters)


def main() -> None:
    names: list[str] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **more: Any) -> Any:
        names.append(self.fn.__name__)
        return run(self, *args, grid=grid, warmup=True, **more)

    driver.set_active(NoCard())  # pyright: ignore[reportArgumentType]
    JITFunction.run = compile_only
    qkv, out, norm = dense(5120, WIDTH), dense(WIDTH, 4096), torch.ones(WIDTH)
    router = Router(torch.zeros(EXPERTS, WIDTH).bfloat16(), torch.zeros(EXPERTS), torch.zeros(64, dtype=torch.int32))
    up, down = experts(2 * WIDTH, True), experts(WIDTH, False)
    for name in ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__"):
        setattr(torch.Tensor, name, refuse)
    found = {}
    for rows in map(int, sys.argv[1:]):
        x_TD, heads = torch.zeros(rows, WIDTH), torch.zeros(rows, 4096, dtype=torch.bfloat16)
        picked = torch.zeros(1, dtype=torch.int32)
        names.clear()
        norm_linear(x_TD, norm, 1e-5, qkv)
        x_TD = linear_add(heads, out, x_TD)
        x_TD = experts_add(route(x_TD, norm, 1e-5, router, K), up, down, 7.0, x_TD)
        found[rows] = list(names)
        unembed(x_TD, picked, norm, 1e-5, qkv)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
