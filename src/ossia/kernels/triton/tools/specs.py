# pyright: standard
"""Compiles kernels for a GPU that is not present, and reports registers, spills, shared memory, loads and tensor
instructions.

In: a `KernelSpec`, which each kernel file provides for the model's real shapes, and a target. Out: a `Compiled`.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_80": GPUTarget("cuda", 80, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED = {"sm_90": 232448, "sm_80": 166912, "gfx942": 65536}  # shared memory of a program, in bytes


class Sizes(NamedTuple):
    """The sizes of a model that its kernels are compiled for."""

    hidden: int
    features: int
    experts: int
    top: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


SIZES = {
    "gpt-oss-20b": Sizes(2880, 2880, 32, 4, 64, 8, 64, 201088),
    "gpt-oss-120b": Sizes(2880, 2880, 128, 4, 64, 8, 64, 201088),
}


class KernelSpec(NamedTuple):
    """A kernel for one shape.

    signature: the type of each non-constant argument: "*bf16", "i32", "fp32"; "i32:16" if divisible by 16. Pointers
    are aligned to 16 bytes, as in torch.
    """

    name: str
    fn: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int


def spec(name: str, fn: Any, given: Mapping[str, Any], warps: int, stages: int) -> KernelSpec:
    """Build a spec from one table of types and constants. The kernel takes those that match its arguments."""
    types = {key: given[key] for key in fn.arg_names if isinstance(given[key], str) and given[key] in _TYPES}
    constants = {key: given[key] for key in fn.arg_names if key not in types}
    return KernelSpec(name, fn, types, constants, warps, stages)


class Compiled(NamedTuple):
    """loads_16: 16-byte loads of global memory, to registers or to shared memory."""

    registers: int
    spilled: int
    shared: int
    loads_16: int
    instruction: str


def compiled(spec: KernelSpec, target: str) -> Compiled:
    """Compile to machine code and read its facts. Not available under the interpreter."""
    names = spec.fn.arg_names
    signature = {name: spec.signature.get(name, "constexpr").removesuffix(":16") for name in names}
    aligned = [name for name, type_ in spec.signature.items() if type_.startswith("*") or type_.endswith(":16")]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(spec.fn, signature, spec.constexprs, attributes)
    options = {"num_warps": spec.num_warps, "num_stages": spec.num_stages, "enable_fp_fusion": False}
    made = triton.compile(source, target=TARGETS[target], options=options)
    return _amd(made) if TARGETS[target].backend == "hip" else _nvidia(made)


_TYPES = {
    *(p + t for t in ("bf16", "fp16", "fp32", "fp64", "fp8e4nv", "i8", "u8", "i32", "i64", "u32") for p in ("", "*")), "i32:16"
}  # fmt: skip


def _nvidia(made: Any) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(made.asm["cubin"])
        tool = knobs.nvidia.cuobjdump.path
        usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    registers, stack = (int(found) for found in re.findall(r"REG:(\d+) STACK:(\d+)", usage)[-1])
    ptx = made.asm["ptx"]
    loads = len(re.findall(r"ld\.global\S*\.v4\.b32|ld\.global\S*\.v2\.b64|cp\.async\.cg\.\S+ [^;]*, 0x10", ptx))
    kinds = [name for name in ("wgmma", "mma.sync") if f"{name}." in ptx or f"{name} " in ptx]
    return Compiled(registers, stack, made.metadata.shared, loads, kinds[0] if kinds else "-")


def _amd(made: Any) -> Compiled:
    text = made.asm["amdgcn"]
    count = {name: int(re.search(rf"\.{name}:\s*(\d+)", text)[1]) for name in ("vgpr_count", "vgpr_spill_count")}  # pyright: ignore[reportOptionalSubscript]
    loads = len(re.findall(r"(?:global|buffer)_load_dwordx4", text))
    return Compiled(
        count["vgpr_count"], count["vgpr_spill_count"], made.metadata.shared, loads, "mfma" if "v_mfma" in text else "-"
    )
