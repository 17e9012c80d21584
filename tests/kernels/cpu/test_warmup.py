"""Kernels compiled ahead: all that a model needs, once for all processes, with a word on how far it is."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ossia import progress
from ossia.kernels.cpu import warmup
from ossia.kernels.cpu.warmup import Kinds

MINI = Kinds("bf16", "f32", ("uint16",), "uint16", "mxfp4", False, False, 2)
NORM = """
import numpy as np
from ossia.kernels.cpu.gemm import normed_exact
x, out = np.ones((1, 16), np.float32), np.zeros((1, 16), np.float32)
normed_exact(x, x[0], 1e-5, 16, 1, np.ones(256, np.float32), np.zeros(16, np.float32), out, 1)
print(out[0, 0].round(2))
"""


def ossia(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "ossia", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    return out, err


def compiled(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.nbc")}


def test_C6_two_that_start_at_once_compile_once_and_the_first_answer_compiles_nothing(tmp_path: Path):
    both = [ossia(tmp_path, "warmup") for _ in range(2)]
    said = [finished(each) for each in both]
    assert all("are compiled" in out for out, _ in said)
    progress = "".join(err for _, err in said)
    assert "compiling kernels for this processor, once: " in progress
    assert "waiting for another process" in progress
    before = compiled(tmp_path)
    out, err = finished(ossia(tmp_path, "chat", "--temperature", "0", "What is 17 + 25?"))
    assert "42" in out
    assert "compiling" not in err
    assert compiled(tmp_path) == before
    assert len(before) == len({name.partition("-")[0] for name in before}), "a kernel was compiled for two types"


@pytest.mark.slow
@pytest.mark.parametrize("dense", ["int8", "int4"])
def test_C6_other_kinds_of_weights_are_complete_too(dense: str, tmp_path: Path):
    finished(ossia(tmp_path, "warmup", "--dense", dense, "--kv", "bf16"))
    before = compiled(tmp_path)
    finished(ossia(tmp_path, "chat", "--dense", dense, "--kv", "bf16", "--temperature", "0", "Count to 60." * 60))
    assert compiled(tmp_path) == before


def test_C6_nowhere_to_write_compiles_in_memory():
    environment = {**os.environ, "NUMBA_CACHE_DIR": "/dev/null/kernels", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", NORM], env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout.strip()) == (0, "16.0"), done.stderr


def test_C6_a_kernel_that_cannot_be_written_is_compiled_all_the_same():
    said: list[str] = []
    work = warmup._Work(said.append, 1)
    calls: list[int] = []

    def step() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise OSError(28, "No space left on device")

    work.run({"router": step})
    assert (len(calls), work.unsaved, work.done) == (3, True, {"router"})
    assert "No space left on device" in said[0]


def test_C6_something_is_said_while_a_step_lasts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(progress, "NEXT_SECONDS", 0.01)
    said: list[str] = []
    work = warmup._Work(said.append, 5)
    with work.reported():
        while len(said) < 3:
            time.sleep(0.01)
    assert all(line.startswith("compiling kernels for this processor, once: 0 of 5 (") for line in said)


@pytest.mark.parametrize("processes", [1, 2, 3, 64])
def test_C6_every_step_is_one_processs(processes: int):
    names = list(warmup.steps_of(MINI._replace(far=True, reads_ahead=True, stored=("float32", "uint16"))))
    shares = warmup._shares(names, processes)
    assert sorted(name for share in shares for name in share) == sorted(names)
    assert len(shares) == min(processes, 3)


def test_C6_what_is_complete_depends_on_kinds():
    assert warmup._complete(MINI) == warmup._complete(Kinds(*MINI))
    assert warmup._complete(MINI) != warmup._complete(MINI._replace(kv="bf16"))
