"""Benchmarks keep up with the package: every name that they import from it exists."""

import ast
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


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
