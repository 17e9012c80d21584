"""A row's bits do not depend on the rows beside it: the kernels' plan of sums is the same at every number of rows.

The interpreter's dot is replaced by a model of a tensor instruction: sixteen products at a time are added to the
accumulator at once, in ascending order, each column for itself. What remains is the order that the kernels choose.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

from ossia.kernels.triton.kernels.linear import Kind, linear_add, norm_linear, pack_dense, unembed
from tests.kernels.cases import Numbers
from tests.kernels.triton.test_moe import Layer

ROWS = 40
CUTS = [0, 1, 3, 8, 22, ROWS]  # 1, 2, 5, 14 and 18 rows: a tile of its own each


def in_steps_of_sixteen(self: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
    """Sixteen products of bfloat16 are exact in float64, and so is their sum in any order."""
    acc = d.data
    for k in range(0, a.data.shape[1], 16):
        acc = (acc + a.data[:, k : k + 16].astype(np.float64) @ b.data[k : k + 16].astype(np.float64)).astype(
            np.float32
        )
    return interpreter.TensorHandle(acc, d.dtype.scalar)


@pytest.fixture(autouse=True)
def a_tensor_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", in_steps_of_sixteen)


def parts(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Copies of the whole and of each cut, so that ops may work in place."""
    for first, last in [(0, ROWS), *itertools.pairwise(CUTS)]:
        yield tuple(tensor[first:last].clone() for tensor in tensors)


def check(found: list[torch.Tensor]) -> None:
    whole, *cuts = found
    assert torch.equal(torch.cat(cuts), whole)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_dense(kind: Kind):
    n = Numbers()
    weight = pack_dense(n.bf16(40, 160), n.f32(40), "cpu", kind)
    x, norm, residual = (
        torch.from_numpy(n.f32(ROWS, 160)),
        torch.from_numpy(n.f32(160)),
        torch.from_numpy(n.f32(ROWS, 40)),
    )
    check([norm_linear(part, norm, 1e-5, weight) for (part,) in parts(x)])
    check([linear_add(part.bfloat16(), weight, sums) for part, sums in parts(x, residual)])
    picks = [torch.arange(first, last, dtype=torch.int32) for first, last in [(0, ROWS), *itertools.pairwise(CUTS)]]
    check([unembed(x, pick, norm, 1e-5, weight) for pick in picks])


@pytest.mark.parametrize("form", ["mxfp4", "bf16"])
def test_routing_and_experts(form: str):
    layer = Layer(160, 48 if form == "bf16" else 32, 6, 3, form).pack()
    x = torch.from_numpy(Numbers().f32(ROWS, 160))
    check([layer.run(part) for (part,) in parts(x)])
