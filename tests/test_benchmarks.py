"""Benchmarks keep up with the package: their imports exist, and the smallest case of each runs to its end."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.data_sets import shared

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
HELD = {  # without a command of their own
    "attacks.py": "read by hostile.py and soak.py",
    "gpu_cases.py": "read by gpu.py",
    "hostile.py": "server.py --hostile",
    "rounding.py": "needs a training run's folder",
    "tools_round_trip.py": "read by tools.py",
    "tools_sandbox.py": "read by tools.py",
}
QUICK = [
    "answer_extraction.py {root}/tests/data/extraction.jsonl",
    "bounds.py 200",
    "constrain.py",
    "cpu.py --model {tiny} --groups batched --rounds 1 --kl-tokens 0 --raw {out}/cpu.json",
    "declared.py 4",
    "evals.py --count 20",
    "gpu.py --shape tiny --only ops decode --parity-rows 1 --batches 1 --contexts 16 --out {out}/gpu.json --table {out}/gpu.md",
    "sampler.py",
    "schemas.py 1",
    "server.py --requests 20 --streams 2 --at-once 2 --repeats 1",
    "tools.py --part pages",
]
SLOW = [
    "divergence.py trained",
    "gpu_compile.py --target sm_90 --only norm",
    "same_bits.py {root} {root} --prompts 4 --steps 2",
    "server.py --hostile --only K4",
    "soak.py --minutes 0.05",
    "tools.py --part round-trip",
    "tools.py --part sandbox",
    "train.py --experts 4 --tokens 16 --steps 1 --rounds 1",
    "train_adapters.py --rounds 1 --steps 4",
    "train_mini.py --rounds 1 --only adamw",
]


def test_every_name_that_benchmarks_import_exists():
    """Imports inside functions count too. In a process of its own, because it imports torch, Triton and Numba."""
    statements = {
        f"from {node.module} import {alias.name}"
        for path in BENCHMARKS.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ossia")
        for alias in node.names
    }
    assert statements
    code = "\n".join(sorted(statements))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_benchmark_has_a_smallest_case_here():
    covered = {case.split()[0] for case in (*QUICK, *SLOW)}
    assert {path.name for path in BENCHMARKS.glob("*.py")} == covered | set(HELD)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of ossia-mini's shape, with two layers."""
    folder = tmp_path_factory.mktemp("tiny")
    command = [sys.executable, "-m", "ossia", "synth", "ossia-mini", str(folder), "--layers", "2"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("case", [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)])
def test_the_smallest_case_runs_to_its_end(case: str, tiny: Path, tmp_path: Path):
    if case.startswith("schemas.py"):
        shared("json_schema_test_suite")
    words = case.format(tiny=tiny, out=tmp_path, root=ROOT).split()
    interpreted = {"TRITON_INTERPRET": "1"} if words[0] == "gpu.py" else {}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / words[0]), *words[1:]],
        capture_output=True, text=True, timeout=280, env=os.environ | interpreted, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert any(sign.isdigit() for sign in done.stdout), "a benchmark prints figures"
