"""Attention and sampling as machine code at the 20b's real shapes: nothing spills, and keys come 16 bytes at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu_compile.py"
INSTRUCTION = {"sm_90": "wgmma", "sm_80": "mma.sync", "gfx942": "mfma"}


@pytest.mark.slow
@pytest.mark.parametrize("target", INSTRUCTION)
@pytest.mark.parametrize("only", ["columns", "sampling"])
def test_kernels_fit_their_cards(target: str, only: str):
    """In a process of its own: the interpreter's kernels are no kernels."""
    command = [sys.executable, str(SCRIPT), "--json", "--target", target, "--only", only]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    for kernel in json.loads(done.stdout):
        if only == "columns":
            assert kernel["instruction"] == INSTRUCTION[target]
            assert kernel["loads_16"] >= 8
