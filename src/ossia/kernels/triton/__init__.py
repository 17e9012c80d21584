"""The op set on a GPU, in Triton. `ops.py` is the op set; `check.py`, which needs neither torch nor Triton, says what a
machine lacks for it. Nothing is imported here, so that the latter can be asked where the former cannot even be imported.
"""
