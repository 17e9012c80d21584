"""The prompts of a GRPO step: efforts round-robin, tasks drawn by weight and by the curriculum.

Input: tasks, settings, and for each answered group whether its grades differed. Output: the prompts of a step, the same
on every process.

A group whose rewards are all equal has no gradient. The curriculum draws such tasks less often. (DAPO, Yu et al.,
arXiv:2503.14476, samples again instead.)
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

DECAY = 0.9  # of the moving average, for each group


@dataclass(frozen=True, slots=True)
class Prompt:
    """An example of a task, and the effort to answer it with."""

    task: GradedTask
    example: GradedExample
    effort: Effort


class PromptSampler:
    """Draws the prompts of a step. Its state is a moving average for each pair of task and effort."""

    def __init__(
        self, tasks: Sequence[GradedTask], settings: GrpoConfig, seed: int, processes: DistributedContext
    ) -> None:
        self._tasks, self._settings, self._seed, self._processes = tasks, settings, seed, processes
        kinds = product([task.name for task in tasks], settings.efforts)
        self._indices = {kind: index for index, kind in enumerate(kinds)}
        self._varied = [1.0] * len(self._indices)  # moving average: the fraction of groups whose grades differ

    def state_dict(self) -> list[float]:
        return list(self._varied)

    def load_state_dict(self, state: list[float]) -> None:
        """Raises ValueError for the state of other tasks or efforts."""
        if len(state) != len(self._varied):
            raise ValueError(
                f"the state has {len(state)} pairs of task and effort, the recipe has {len(self._varied)}: "
                "resume with the tasks and efforts of the saved run, or start in another folder"
            )
        self._varied = list(state)

    def of_step(self, number: int) -> list[Prompt]:
        """New examples, sorted by effort, so that processes that take every n-th prompt get equally many of each effort."""
        rng = random.Random(f"{self._seed}/{number}/questions")
        sources = {task.name: task.examples(f"rl/{self._seed}/{number}") for task in self._tasks}
        efforts = self._settings.efforts
        found: list[Prompt] = []
        for i in range(self._settings.prompts_per_step):
            # round-robin also with a curriculum: else low effort, whose groups differ most, would be drawn mostly
            effort = efforts[i % len(efforts)]
            (task,) = rng.choices(self._tasks, [self._weight(task, effort) for task in self._tasks])
            found.append(Prompt(task, next(sources[task.name]), effort))
        return sorted(found, key=lambda each: efforts.index(each.effort))

    def _weight(self, task: GradedTask, effort: Effort) -> float:
        curriculum = self._settings.curriculum
        return task.weight * (1 - curriculum + curriculum * self._varied[self._indices[task.name, effort]])

    def update(self, groups: Iterable[tuple[Prompt, bool]]) -> None:
        """Take this process's groups, each with whether its grades differed. All processes get the sums of all groups."""
        seen = torch.zeros(2, len(self._indices), dtype=torch.float64)
        for prompt, differed in groups:
            index = self._indices[prompt.task.name, prompt.effort]
            seen[0, index] += 1
            seen[1, index] += differed
        counts, different = self._processes.all_reduce(seen).tolist()
        for index, (count, varied) in enumerate(zip(counts, different)):
            if count:
                kept = DECAY**count
                self._varied[index] = kept * self._varied[index] + (1 - kept) * varied / count
