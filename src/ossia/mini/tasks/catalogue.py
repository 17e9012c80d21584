"""All task families by name, and a weighted draw of them. Families with built-in tools are known, but not drawn.

Input: a name, or a seeded random source. Output: a `Task`.
"""

import random
from collections.abc import Sequence

from ossia.mini.tasks import (
    arithmetic,
    authority,
    calendar,
    calls,
    forms,
    letters,
    logic,
    order,
    python,
    stories,
    units,
)
from ossia.mini.tasks.tools import browse, patch, python_state, shell_find
from ossia.task import Task

GROUPS = (arithmetic, stories, order, letters, calendar, units, logic, calls, python, forms, authority)
TASKS: tuple[Task, ...] = tuple(task for group in GROUPS for task in group.TASKS)

TOOL_TASKS: tuple[Task, ...] = tuple(
    task for group in (browse, python_state, shell_find, patch) for task in group.TASKS
)


def tasks_named(names: Sequence[str]) -> tuple[Task, ...]:
    """The tasks of these names. Raises ValueError for an unknown name."""
    known = {task.name: task for task in (*TASKS, *TOOL_TASKS)}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no task family {unknown[0]!r}; there are {', '.join(known)}")
    return tuple(known[name] for name in names)


def drawn(rng: random.Random, tasks: Sequence[Task] = TASKS) -> Task:
    """A task drawn by weight."""
    (task,) = rng.choices(tasks, [task.weight for task in tasks])
    return task
