"""What a step asks: by weight, the same for the same step and position, and rarer where answers are all alike."""

from collections import Counter

import pytest

from ossia.mini.tasks.catalogue import tasks_named
from ossia.train.loop.distributed import DistributedContext
from ossia.train.objectives.prompts import Prompt, PromptSampler
from ossia.train.recipe import GrpoConfig

TASKS = tasks_named(["addition", "sorting", "clock"])


def questions(curriculum: float, prompts: int = 300) -> PromptSampler:
    settings = GrpoConfig(
        tasks=("any:TASKS",), steps=1, prompts_per_step=prompts, efforts=("low", "high"), curriculum=curriculum
    )
    return PromptSampler(TASKS, settings, seed=1, processes=DistributedContext())


def drawn(asked: list[Prompt]) -> Counter[tuple[str, str]]:
    return Counter((each.task.name, each.effort) for each in asked)


@pytest.mark.parametrize("curriculum", [0.0, 0.9])
def test_a_step_asks_the_same_again_and_each_effort_together(curriculum: float):
    one, other = questions(curriculum), questions(curriculum)
    assert one.of_step(3) == other.of_step(3) != one.of_step(4)
    efforts = [each.effort for each in one.of_step(0)]
    assert efforts == ["low"] * 150 + ["high"] * 150


def test_an_effort_whose_grades_are_all_alike_is_asked_as_often():
    asking = questions(0.9)
    asking.update((each, each.effort == "low") for each in asking.of_step(0))
    assert [each.effort for each in asking.of_step(1)].count("high") == 150


def test_what_is_all_alike_at_an_effort_is_drawn_rarer_there_alone_and_comes_back():
    asking = questions(0.9)
    alike = [each for each in asking.of_step(0) if each.task.name == "addition" and each.effort == "high"]
    before = drawn(asking.of_step(1))
    asking.update((each, False) for each in alike)
    after = drawn(asking.of_step(1))
    assert 0 < after["addition", "high"] < before["addition", "high"] / 3
    assert after["addition", "low"] >= before["addition", "low"]
    asking.update((each, True) for each in alike)
    assert drawn(asking.of_step(1))["addition", "high"] > after["addition", "high"] * 2


def test_a_position_says_all():
    one, other = questions(0.9), questions(0.9)
    one.update((each, i % 3 == 0) for i, each in enumerate(one.of_step(0)))
    assert one.of_step(1) != other.of_step(1)
    other.load_state_dict(one.state_dict())
    assert one.of_step(1) == other.of_step(1)
    with pytest.raises(ValueError, match="the state has 5 pairs of task and effort, the recipe has 6"):
        other.load_state_dict(one.state_dict()[:5])


def test_without_a_curriculum_grades_change_nothing():
    asking = questions(0.0)
    before = asking.of_step(1)
    asking.update((each, False) for each in asking.of_step(0))
    assert asking.of_step(1) == before


@pytest.mark.parametrize("curriculum", [-0.1, 1.0])
def test_no_task_is_left_out_for_good(curriculum: float):
    with pytest.raises(ValueError, match=r"curriculum .* must be"):
        questions(curriculum)
