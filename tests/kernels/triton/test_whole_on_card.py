"""Parity on a card: every op and two whole layers of the 20b against the reference, and answers in graphs and crowds.

Each in a process of its own: in this one Triton interprets.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def run(*arguments: str, cwd: Path = ROOT) -> str:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def test_every_op_and_two_layers_agree_with_the_reference(tmp_path: Path):
    run(str(ROOT / "benchmarks" / "gpu.py"), "--only", "ops", "model", "--out", "gpu.json", cwd=tmp_path)
    results = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    assert not [name for name, section in results.items() if "error" in section]
    rows = results["ops"]["rows"]
    assert len({row["op"] for row in rows}) == 7
    assert all(row["worst_by_spread"] < 0.1 for row in rows)
    assert all(row.get("rows_elsewhere", 0) <= 0.02 * row["rows"] + 1 for row in rows)
    (model,) = results["model"]["rows"]
    assert model["mean_kl"] < 1e-3
    assert model["same_likeliest"] > 0.9


def test_an_answer_is_the_same_alone_and_in_a_crowd():
    found = json.loads(run("-m", "tests.kernels.triton.card").splitlines()[-1])
    assert all(found["same"])
    assert found["median_off"] < 0.05
    assert found["likeliest"] > 0.95
