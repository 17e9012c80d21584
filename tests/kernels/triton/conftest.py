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
    import triton.language as tl
    from triton.runtime import interpreter

    def call_device_function(self, *args, **kwargs):
        """As the interpreter's own, which patches the whole language for each call; once for a kernel is enough."""
        languages = [each for each in self.fn.__globals__.values() if each is tl or each is tl.core]
        if any(tl.core.is_builtin(each.load) for each in languages):
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call_device_function

    @pytest.fixture(autouse=True)
    def one_thread():
        """The interpreter's tiles are far too small for a second thread."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)
