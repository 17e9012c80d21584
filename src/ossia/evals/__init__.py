"""Measures how often a model's answers are right. `evaluate` runs a model on cases; `as_table` and `as_json` report.

Each name is imported when it is first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ossia.evals.mini import EvalCase, Score, cases_of, evaluate
    from ossia.evals.report.mini_scores import as_json, as_table

__all__ = ["EvalCase", "Score", "as_json", "as_table", "cases_of", "evaluate"]

_REPORT = ("as_json", "as_table")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'ossia.evals' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("ossia.evals.report.mini_scores" if name in _REPORT else "ossia.evals.mini"), name)
