"""The protocol of a task for training: examples, a grade of any turn, an expert's conversation.

Input: tasks, such as those of `ossia.task`. Output: a generator of their experts' conversations.
"""

import random
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from typing import Any, Protocol

from ossia.harmony.messages import Effort, JsonObject, Message
from ossia.tools.functions import Tool


class Graded(Protocol):
    """A grade: its score is from 0 to 1."""

    @property
    def score(self) -> float: ...


class GradedExample(Protocol):
    """One problem: its prompt at an effort, and the prompt followed by an expert's turn."""

    @property
    def response_format(self) -> JsonObject | None: ...
    def prompt(self, effort: Effort) -> list[Message]: ...
    def conversation(self, effort: Effort) -> list[Message]: ...


class GradedTask(Protocol):
    """Endless examples, the same for the same seed; a grade of any turn; the tools that an answer may call."""

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> float: ...
    def examples(self, seed: int | str, /) -> Iterator[Any]: ...
    def grade(self, example: Any, turn: Several[Message], /) -> Graded: ...
    def tools(self, example: Any, /) -> tuple[Tool, ...]: ...


def expert(tasks: Several[GradedTask], efforts: Several[Effort]) -> Callable[[random.Random], list[Message]]:
    """A generator of expert conversations. Each draws a task by weight, an example and an effort."""
    weights = [task.weight for task in tasks]

    def make(rng: random.Random) -> list[Message]:
        task = rng.choices(tasks, weights)[0]
        example: GradedExample = next(task.examples(str(rng.getrandbits(64))))
        return example.conversation(rng.choice(efforts))

    return make
