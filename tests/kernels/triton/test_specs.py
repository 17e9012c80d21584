"""The kernels as machine code for cards that are not at hand, at the 20b's own shapes: they fit, and load in 16 bytes.

In a process of its own: here Triton is an interpreter.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu_compile.py"
STREAMING = ("qkv", "out + residual", "experts' up", "experts' down")


def compiled(target: str, *more: str) -> list[dict]:
    """What benchmarks/gpu_compile.py finds; it fails where a kernel spills or does not fit."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, SCRIPT, "--json", "--target", target, *more]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def check(kernels: list[dict], instructions: set[str]) -> None:
    for kernel in kernels:
        if any(part in kernel["kernel"] for part in STREAMING):
            assert kernel["loads_16"], kernel
            assert kernel["instruction"] in instructions, kernel


def test_a_decode_step_of_an_h100():
    kernels = compiled("sm_90", "--only", "1 pairs a tile")
    assert len(kernels) == 2
    check(kernels, {"mma.sync"})


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["gpt-oss-20b", "gpt-oss-120b"])
@pytest.mark.parametrize(
    ("target", "instructions"), [("sm_90", {"mma.sync", "wgmma"}), ("sm_80", {"mma.sync"}), ("gfx942", {"mfma"})]
)
def test_all_kernels(target: str, instructions: set[str], shape: str):
    check(compiled(target, "--shape", shape), instructions)


def launches(*rows: int) -> dict[str, list[str]]:
    """What tests/kernels/triton/launches.py would launch; it fails where the host would wait for the card."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, Path(__file__).with_name("launches.py"), *map(str, rows)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


FEW = ["linear_kernel", "linear_kernel", "route_kernel", "up_kernel", "down_kernel"]
MANY = ["scale_kernel", *FEW[:3], "sort_kernel", "up_kernel", "down_kernel", "add_kernel"]


def test_a_layer_is_five_launches_at_decode_besides_attention():
    assert launches(1) == {"1": FEW}


@pytest.mark.slow
def test_a_layer_is_eight_launches_at_prefill_besides_attention():
    assert launches(2, 16, 17, 600) == {"2": FEW, "16": FEW, "17": MANY, "600": MANY}
