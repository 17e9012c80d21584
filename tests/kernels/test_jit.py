"""How kernels are kept on disk: one thread's code is never given for several threads'."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import numpy as np
from ossia.kernels.cpu.norm import rms_norm
out = rms_norm(np.ones((3, 32), np.float32), np.ones(32, np.float32), 1e-5, 32, {workers})
print(out.sum())
"""


def cached(folder: Path, workers: int | None) -> set[Path]:
    """Files that hold compiled code after the kernel has run on so many threads, or on the caller's, in a process of its own."""
    environment = {"NUMBA_CACHE_DIR": str(folder), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", SCRIPT.format(workers=workers)], env=environment, check=True, timeout=120)
    return {path for path in folder.rglob("*.nbc") if "rms_norm" in path.name}


def test_the_code_for_one_thread_and_for_several_are_kept_apart(tmp_path: Path):
    alone = cached(tmp_path, None)
    assert len(alone) == 1
    both = cached(tmp_path, 2)
    assert len(both) == 2
    assert cached(tmp_path, None) == cached(tmp_path, 2) == both
