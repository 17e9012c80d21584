"""Triton's kernels run on the CPU here, under its interpreter, which has to be chosen before Triton is imported.

Tests that compile kernels want the true compiler: they start a process of their own.
"""

import os

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")

try:
    import torch
    import triton  # noqa: F401
except ModuleNotFoundError:  # Triton's wheels are for Linux; torch is optional
    collect_ignore_glob = ["test_*.py"]
else:

    @pytest.fixture(autouse=True)
    def one_thread():
        """The interpreter's tiles are far too small for a second thread."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)
