"""Every backend implements the whole op set: each op by its name, and with the parameters that `Ops` declares."""

import inspect

import pytest

from ossia.kernels.cpu.ops import CpuOps
from ossia.kernels.ops import Ops
from ossia.kernels.reference import ReferenceOps

OPS = [name for name, member in vars(Ops).items() if inspect.isfunction(member) and not name.startswith("_")]


def parameters(owner: type, op: str) -> list[str]:
    return list(inspect.signature(getattr(owner, op)).parameters)


def test_the_op_set_is_found():
    assert {"linear", "norm_linear", "attend", "experts_add", "unembed"} <= set(OPS)


@pytest.mark.parametrize("op", OPS)
def test_the_backends_of_the_host_have_each_op(op: str):
    assert parameters(CpuOps, op) == parameters(ReferenceOps, op) == parameters(Ops, op)


@pytest.mark.parametrize("op", OPS)
def test_the_backend_of_the_gpu_has_each_op(op: str):
    triton = pytest.importorskip("ossia.kernels.triton.ops", reason="Triton is not installed", exc_type=ImportError)
    assert parameters(triton.TritonOps, op) == parameters(Ops, op)
