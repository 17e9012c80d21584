"""Kernels are cached on disk and distributed over threads: each worker runs once, errors are raised, one caller at a
time if needed.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ossia.kernels.cpu.codegen.jit import entry, kernel, share, take

KEPT = """
import numpy as np
from ossia.kernels.cpu.gemm import normed_exact
x, out = np.ones((3, 32), np.float32), np.zeros((3, 16), np.float32)
normed_exact(x, x[0], 1e-5, 32, {workers}, np.ones(16 * 32, np.float32), np.zeros(16, np.float32), out, {workers})
assert np.allclose(out, 32, rtol=1e-4), out
"""
TWO_CALLERS = """
import threading
import numba
from ossia.chat import Chat
from ossia.engine.request import SamplingParams
from ossia.loading import load
answers = {}
def ask(name):
    chat = Chat(load("ossia-mini", threads=2), params=SamplingParams(temperature=0, max_tokens=40))
    for turn in range(3):
        answers[name, turn] = chat.ask("Repeat the word harbour. " * 40).text
callers = [threading.Thread(target=ask, args=(name,)) for name in "ab"]
[caller.start() for caller in callers]
[caller.join() for caller in callers]
assert len(answers) == 6 and all(answers["a", turn] == answers["b", turn] for turn in range(3)), answers
print(numba.threading_layer())
"""


def run(script: str, **environment: str) -> str:
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run([sys.executable, "-c", script], env=given, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.strip()


@kernel
def _count(counter, calls_W, amount):
    calls_W[take(counter)] += amount


@entry
def _shared(workers, calls_W, amount):
    share(workers, _count, np.zeros(1, np.int64), calls_W, amount)


@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_a_kernel_is_called_once_for_each_worker(workers: int):
    calls_W = np.zeros(workers, np.int64)
    _shared(workers, calls_W, 5)
    assert calls_W.tolist() == [5] * workers


@kernel
def _fail(counter, sizes_N):
    if sizes_N[take(counter)] < 0:
        raise MemoryError


@entry
def _failing(workers, sizes_N):
    share(workers, _fail, np.zeros(1, np.int64), sizes_N)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_thread_without_memory_is_an_error_of_the_caller(workers: int):
    _failing(workers, np.zeros(workers, np.int64))
    with pytest.raises(MemoryError):
        _failing(workers, np.full(workers, -1))


def test_C6_one_compilation_serves_one_thread_and_several(tmp_path: Path):
    def kept() -> set[Path]:
        return {path for path in tmp_path.rglob("*.nbc") if "normed_exact" in path.name}

    for workers in (1, 2):
        run(KEPT.format(workers=workers), NUMBA_CACHE_DIR=str(tmp_path))
        assert len(kept()) == 1


@pytest.mark.parametrize("layer", ["workqueue", "omp"])
def test_M12_two_threads_with_a_model_each_on_any_threading_layer(layer: str):
    assert run(TWO_CALLERS, NUMBA_THREADING_LAYER=layer) == layer
