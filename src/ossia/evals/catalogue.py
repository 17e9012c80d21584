"""All benchmarks, by name.

In: the tuples `BENCHMARKS` of the modules in `ossia.evals.tasks`. Out: a `Benchmark`, or an error that lists the names.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from ossia.evals import tasks
from ossia.evals.core.benchmark import Benchmark


@cache
def benchmarks() -> tuple[Benchmark, ...]:
    """Every benchmark, in the order of their modules' names."""
    found: list[Benchmark] = []
    for module in sorted(iter_modules(tasks.__path__), key=lambda each: each.name):
        found += getattr(import_module(f"{tasks.__name__}.{module.name}"), "BENCHMARKS", ())
    return tuple(found)


def benchmarks_named(names: str) -> list[Benchmark]:
    """The benchmarks of a list with commas, each once. Raises ValueError for an unknown name."""
    known = {each.name: each for each in benchmarks()}
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if unknown := [name for name in wanted if name not in known]:
        choices = ", ".join(("mini", *known))
        raise ValueError(f"no benchmark {unknown[0]!r}: there are {choices}, and tasks of your own as module:name")
    if not wanted:
        raise ValueError("no benchmark named: `ossia eval list` shows them")
    return [known[name] for name in wanted]
