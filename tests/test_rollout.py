"""Many conversations at once: all are submitted before any is read, and each goes on by itself through its tools."""

from ossia.chat import Answering, Done, ToolAnswer, gather
from ossia.harmony.constrain import Grammars
from ossia.rollout import play
from ossia.task import Example
from ossia.tasks.catalogue import tasks_named
from tests.evals.expert import Expert
from tests.vocabularies import small


def examples_of(*names: str) -> list[tuple[Example, Answering]]:
    tasks = tasks_named(names)
    made = [(task, next(task.examples(seed))) for task in tasks for seed in range(3)]
    return [(example, Answering(tools=task.tools(example))) for task, example in made]


def test_all_samplings_are_under_way_together():
    cases = examples_of("addition", "story")
    expert = Expert([example for example, _ in cases])
    played = play(expert, Grammars(small()), [(example.prompt("low"), how) for example, how in cases])  # type: ignore[arg-type]
    assert expert.waiting == len(cases)
    assert all(isinstance(events[-1], Done) for events in played)


def test_answers_come_in_the_order_of_the_prompts_and_tools_are_run():
    cases = examples_of("python", "addition", "using results", "one function")
    expert = Expert([example for example, _ in cases])
    played = play(expert, Grammars(small()), [(example.prompt("high"), how) for example, how in cases])  # type: ignore[arg-type]
    for (example, how), events in zip(cases, played, strict=True):
        answer = gather(events)
        assert [(m.role, m.text) for m in answer.messages] == [(m.role, m.text) for m in example.turn("high")]
        assert sum(isinstance(event, ToolAnswer) for event in events) == len(how.tools)
        assert answer.finish == ("tool_calls" if example.family == "one function" else "stop")


def test_the_python_tools_answer_stands_where_it_was_called_from():
    ((example, how), *_) = examples_of("python")
    (events,) = play(Expert([example]), Grammars(small()), [(example.prompt("high"), how)])  # type: ignore[arg-type]
    (answer,) = [event.message for event in events if isinstance(event, ToolAnswer)]
    assert (answer.name, answer.channel, answer.recipient) == ("python", "analysis", "assistant")
