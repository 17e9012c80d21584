"""The command line: one module per group of commands; importing a module registers its commands.

A command parses its options and calls the layer that does the work. It exits with 0, or with 1 and one line that says
what was wrong and what to do.
"""

import os

from ossia.cli import (
    apply_patch,
    bench,
    browse,
    chat,
    checkpoints,
    evaluate,
    mcp,
    render,
    sandbox,
    schema,
    serve,
    train,
    warmup,
)
from ossia.cli.app import app

__all__ = [
    "app",
    "apply_patch",
    "bench",
    "browse",
    "chat",
    "checkpoints",
    "evaluate",
    "main",
    "mcp",
    "render",
    "sandbox",
    "schema",
    "serve",
    "train",
    "warmup",
]

# OpenMP threads spin this many times (about 30 µs) before they sleep. Spinning without end slows every other process.
_SPINS = "2000"


def main() -> None:
    """Entry point of the `ossia` script."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    app()
