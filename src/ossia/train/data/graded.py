"""What training asks of a task: examples, a grade of any turn, an expert's conversation. `ossia.task` gives such.

In: tasks. Out: the protocol that they keep; a generator of what their experts say.
It does not know any task, nor what is done with a grade.
"""

import random
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from typing import Any, Protocol

from ossia.harmony.messages import Effort, JsonObject, Message
from ossia.tools.functions import Tool


class Graded(Protocol):
    """What a grade must have: from 0 to 1."""

    @property
    def score(self) -> float: ...


class GradedExample(Protocol):
    """One problem: its prompt at an effort, and the same with an expert's turn behind it."""

    @property
    def response_format(self) -> JsonObject | None: ...
    def prompt(self, effort: Effort) -> list[Message]: ...
    def conversation(self, effort: Effort) -> list[Message]: ...


class GradedTask(Protocol):
    """Examples without end, the same for the same seed; a grade of any turn; tools that are run while it is answered."""

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> float: ...
    def examples(self, seed: int | str, /) -> Iterator[Any]: ...
    def grade(self, example: Any, turn: Several[Message], /) -> Graded: ...
    def tools(self, example: Any, /) -> tuple[Tool, ...]: ...


def expert(tasks: Several[GradedTask], efforts: Several[Effort]) -> Callable[[random.Random], list[Message]]:
    """A generator of conversations: a task by its weight, an example, an effort, and what the expert says."""
    weights = [task.weight for task in tasks]

    def make(rng: random.Random) -> list[Message]:
        task = rng.choices(tasks, weights)[0]
        example: GradedExample = next(task.examples(str(rng.getrandbits(64))))
        return example.conversation(rng.choice(efforts))

    return make
