"""What a step of reinforcement asks: efforts by turns, tasks by their weights, rarer where answers are all right or all wrong.

In: tasks, settings, and of each group whether its grades differed. Out: the questions of a step, the same on every process.
It does not know answers, rewards or models.

Groups that are all alike teach nothing (Yu et al., DAPO, arXiv:2503.14476, draw on until they have enough of the others).
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from ossia.harmony.messages import Effort
from ossia.train.data.graded import GradedExample, GradedTask
from ossia.train.loop.distributed import DistributedContext
from ossia.train.recipe import GrpoConfig

MEMORY = 0.9  # what a group leaves of what was known of its kind


@dataclass(frozen=True, slots=True)
class Prompt:
    """An example of a task, to be answered at an effort."""

    task: GradedTask
    example: GradedExample
    effort: Effort


class PromptSampler:
    """Draws questions. `position` is all that is needed to go on from here."""

    def __init__(
        self, tasks: Sequence[GradedTask], settings: GrpoConfig, seed: int, processes: DistributedContext
    ) -> None:
        self._tasks, self._settings, self._seed, self._processes = tasks, settings, seed, processes
        kinds = product([task.name for task in tasks], settings.efforts)
        self._places = {kind: place for place, kind in enumerate(kinds)}
        self.position = [1.0] * len(self._places)  # the share of groups of each kind whose grades differ, of late

    def load_state_dict(self, position: list[float]) -> None:
        """Raises ValueError where that is a position among other tasks and efforts."""
        if len(position) != len(self.position):
            raise ValueError(
                f"the state is of {len(position)} pairs of a task and an effort, the recipe has {len(self.position)}: "
                "go on with the tasks and efforts it was made with, or start anew in another folder"
            )
        self.position = list(position)

    def of_step(self, number: int) -> list[Prompt]:
        """New examples, low efforts first: so each of several processes that take them by turns has as many of each."""
        rng = random.Random(f"{self._seed}/{number}/questions")
        sources = {task.name: task.examples(f"rl/{self._seed}/{number}") for task in self._tasks}
        efforts = self._settings.efforts
        found: list[Prompt] = []
        for i in range(self._settings.prompts):
            # turns, also with focus: low effort, whose groups differ most, would crowd out the others
            effort = efforts[i % len(efforts)]
            (task,) = rng.choices(self._tasks, [self._weight(task, effort) for task in self._tasks])
            found.append(Prompt(task, next(sources[task.name]), effort))
        return sorted(found, key=lambda each: efforts.index(each.effort))

    def _weight(self, task: GradedTask, effort: Effort) -> float:
        focus = self._settings.focus
        return task.weight * (1 - focus + focus * self.position[self._places[task.name, effort]])

    def note(self, groups: Iterable[tuple[Prompt, bool]]) -> None:
        """This process's groups, each with whether its grades differed; all processes learn of all."""
        seen = torch.zeros(2, len(self._places), dtype=torch.float64)
        for question, differed in groups:
            place = self._places[question.task.name, question.effort]
            seen[0, place] += 1
            seen[1, place] += differed
        counts, different = self._processes.add(seen).tolist()
        for place, (count, apart) in enumerate(zip(counts, different)):
            if count:
                kept = MEMORY**count
                self.position[place] = kept * self.position[place] + (1 - kept) * apart / count
