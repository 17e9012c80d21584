"""The choice of a backend: its op set by name, and the kinds of weights and caches that it has.

In: a backend's name, and the kinds that the caller wants. Out: an `Ops`. A backend's module is imported only when it is
chosen, so that torch, Numba and Triton stay optional.
"""

from importlib import import_module
from typing import get_args

from ossia.kernels.ops import Backend, Dense, KeyValues, Ops

# The kinds of dense weights, and of keys and values, that a backend has. The first is the default.
KINDS: dict[Backend, tuple[tuple[Dense, ...], tuple[KeyValues, ...]]] = {
    "cpu": (("int8", "int4", "bf16"), ("bf16", "int8", "f32")),
    "triton": (("bf16", "int8"), ("bf16", "fp8")),
}


def make_ops(
    backend: Backend, *, dense: Dense | None = None, kv: KeyValues | None = None, workers: int | None = None
) -> Ops:
    """The op set of `backend`: "reference" (torch, the oracle), "cpu" (Numba) or "triton" (an NVIDIA GPU).

    dense: the type of the weights outside the experts. CPU: int8, int4, or bf16, which keeps their bits and computes with
    activations of 24 bits or more. GPU: bf16 or int8. kv: the type of keys and values. CPU: bf16, int8 or f32. GPU: bf16,
    or fp8 in the full-attention layers. None: the backend's default, the first named. workers: threads of the CPU
    backend; None: one for each physical core. The reference has float32 only.

    Raises ValueError for an unknown name or kind, and where this machine cannot run the backend.
    """
    for name, given, known in (("dense", dense, get_args(Dense)), ("kv", kv, get_args(KeyValues))):
        if given is not None and given not in known:
            raise ValueError(f"{name} {given!r} is none of {', '.join(known)}")
    dense, kv = kinds_of(backend, dense, kv)
    match backend:
        case "reference":
            try:
                return import_module("ossia.kernels.reference").ReferenceOps()
            except ModuleNotFoundError as error:
                if error.name != "torch":
                    raise
                raise ModuleNotFoundError("backend 'reference' needs torch: pip install 'ossia[train]'") from error
        case "cpu":
            return import_module("ossia.kernels.cpu.ops").CpuOps(dense, kv, workers)
        case "triton":
            import_module("ossia.kernels.triton.tools.check").require_card()
            return import_module("ossia.kernels.triton.ops").TritonOps(dense, kv)
    raise ValueError(f"unknown backend {backend!r}: use 'cpu', 'triton' or 'reference'")


def kinds_of(backend: Backend, dense: Dense | None, kv: KeyValues | None) -> tuple[Dense, KeyValues]:
    """The given kinds, with the backend's defaults for None. Raises ValueError for a kind that the backend lacks."""
    if backend not in KINDS:
        return dense or "bf16", kv or "f32"
    denses, kvs = KINDS[backend]
    for name, given, known in (("dense", dense, denses), ("kv", kv, kvs)):
        if given is not None and given not in known:
            raise ValueError(f"{name} {given!r} is not one of backend {backend!r}: it has {', '.join(known)}")
    return dense or denses[0], kv or kvs[0]
