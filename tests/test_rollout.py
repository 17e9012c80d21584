"""Many conversations at once: all are submitted before any is read, and each goes on by itself through its tools."""

from ossia.chat import Done, ToolResult, TurnOptions
from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import Effort
from ossia.mini.tasks.catalogue import tasks_named
from ossia.rollout import Rollout, RolloutRequest, roll_out
from ossia.task import Example
from tests.evals.expert import Expert
from tests.support.vocabularies import small


def examples_of(*names: str) -> list[tuple[Example, TurnOptions]]:
    tasks = tasks_named(names)
    made = [(task, next(task.examples(seed))) for task in tasks for seed in range(3)]
    return [(example, TurnOptions(tools=task.tools(example))) for task, example in made]


def played(expert: Expert, cases: list[tuple[Example, TurnOptions]], effort: Effort) -> list[Rollout]:
    asks = [RolloutRequest(example.prompt(effort), how) for example, how in cases]
    return roll_out(expert, GrammarCache(small()), asks)  # type: ignore[arg-type]


def test_all_samplings_are_under_way_together():
    cases = examples_of("addition", "story")
    expert = Expert([example for example, _ in cases])
    rollouts = played(expert, cases, "low")
    assert expert.waiting == len(cases)
    assert all(isinstance(rollout.events[-1], Done) for rollout in rollouts)


def test_answers_come_in_the_order_of_the_prompts_and_tools_are_run():
    cases = examples_of("python", "addition", "using results", "one function")
    expert = Expert([example for example, _ in cases])
    for (example, how), rollout in zip(cases, played(expert, cases, "high"), strict=True):
        assert [(m.role, m.text) for m in rollout.turn] == [(m.role, m.text) for m in example.turn("high")]
        assert sum(isinstance(event, ToolResult) for event in rollout.events) == len(how.tools)
        assert len(rollout.completions) == len(how.tools) + 1
        assert rollout.finish == ("tool_calls" if example.family == "one function" else "stop")


def test_the_python_tools_answer_stands_where_it_was_called_from():
    cases = examples_of("python")[:1]
    (rollout,) = played(Expert([cases[0][0]]), cases, "high")
    (answer,) = [event.message for event in rollout.events if isinstance(event, ToolResult)]
    assert (answer.name, answer.channel, answer.recipient) == ("python", "analysis", "assistant")
