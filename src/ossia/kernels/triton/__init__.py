# pyright: standard
"""The op set on an NVIDIA GPU, in Triton. `ops.py` is the op set.

`tools/check.py` reports what a machine lacks. It needs neither torch nor Triton, so this file imports nothing.
"""
