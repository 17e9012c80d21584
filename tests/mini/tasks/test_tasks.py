"""Tasks: an expert is always right, another's answer is wrong, every conversation has its form, and splits do not mix."""

import json
import re
from itertools import islice

import pytest
from hypothesis import example as such_as
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.vocabularies import small

from ossia.chat import TurnOptions, turn_grammar
from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import Developer, Message, ToolSpec, assistant
from ossia.harmony.parse import parse
from ossia.harmony.render import render
from ossia.mini.parts.grades import numbers_in
from ossia.mini.parts.toolbox import names_in
from ossia.mini.parts.words import COMMON, FRAMING, HELD_LOWER
from ossia.mini.tasks.catalogue import TASKS, tasks_named
from ossia.task import EFFORTS, SPLITS, Example, Split, Task

SEEDS = st.integers(0, 2**32 - 1)
ANY_TASK = st.sampled_from(TASKS)
# Of these, what one example's expert says is right for many others: tests of their own say what is wrong.
ANSWERED_ALIKE = {"forbidden topic", "secret", "no function"}


def first(task: Task, seed: int | str, split: Split = "train") -> Example:
    return next(task.examples(seed, split))


def named(name: str) -> Task:
    return tasks_named([name])[0]


def schemas(example: Example) -> list[ToolSpec]:
    contents = [part for message in example.messages for part in message.content]
    return [tool for part in contents if isinstance(part, Developer) for space in part.tools for tool in space.tools]


@settings(max_examples=1500, deadline=None)
@given(seed=SEEDS, task=ANY_TASK, split=st.sampled_from(SPLITS), effort=st.sampled_from(EFFORTS))
@such_as(seed=3579538880, task=named("ruling out"), split="train", effort="high")  # would draw "the" as a choice
@such_as(seed=28896, task=named("whereabouts"), split="train", effort="high")  # "In" as a place
@such_as(seed=2982251329, task=named("forbidden topic"), split="train", effort="high")  # "cannot" as a topic
def test_the_expert_is_right_at_every_effort(seed: int, task: Task, split: Split, effort):
    example = first(task, seed, split)
    assert task.grade(example, example.turn(effort)).score == 1.0
    assert (example.family, example.split) == (task.name, split)


@settings(max_examples=1000, deadline=None)
@given(seed=SEEDS, other=SEEDS, task=st.sampled_from([task for task in TASKS if task.name not in ANSWERED_ALIKE]))
def test_the_answer_to_another_problem_is_wrong(seed: int, other: int, task: Task):
    example, another = first(task, seed), first(task, other)
    said, otherwise = ("".join(message.text for message in each.reply) for each in (example, another))
    right = task.grade(another, example.turn("high")).score
    # where a number is asked for, "June 1" says 1
    read = (lambda text: numbers_in(text)[-1:]) if isinstance(another.answer, int) else words_in
    if example.answer != another.answer and read(said) != read(otherwise):
        assert right == 0.0, (example.reply, another.answer)


def words_in(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@settings(max_examples=300, deadline=None)
@given(seed=SEEDS, task=ANY_TASK)
def test_a_turn_that_was_cut_is_worth_nothing(seed: int, task: Task):
    example = first(task, seed)
    for turn in (
        [],
        [assistant("Let me think.", "analysis")],
        [Message("assistant", ("42",), channel="final", flaws=("unterminated",))],
    ):
        assert task.grade(example, turn).score == 0.0


ANY_TEXT = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["9" * 9999, "[" * 9999, "-", "1,000,000", "{}", "null", "٣٤", "\x00", "print(" * 900]),
)


@settings(max_examples=600, deadline=None)
@given(seed=SEEDS, task=ANY_TASK, text=ANY_TEXT, called=st.sampled_from([None, "python", "functions.f", ""]))
def test_whatever_a_model_says_has_a_grade_and_a_reason(seed: int, task: Task, text: str, called: str | None):
    example = first(task, seed)
    name = f"functions.{example.answer[0]}" if called == "functions.f" and isinstance(example.answer, list) else called
    grade = task.grade(example, [assistant(text, "commentary", name), assistant(text)])
    assert grade.score in (0.0, 1.0)
    assert grade.reason
    for tool in task.tools(example):
        assert isinstance(tool.call(text).text, str)


@settings(max_examples=500, deadline=None)
@given(seed=SEEDS, task=ANY_TASK, split=st.sampled_from(SPLITS), effort=st.sampled_from(EFFORTS))
def test_every_conversation_renders_and_is_parsed_back(seed: int, task: Task, split: Split, effort):
    example = first(task, seed, split)
    parsed = parse(small(), render(small(), example.conversation(effort), drop_analysis=False), role=None)
    turn = parsed[len(example.messages) :]
    told = [(m.role, m.channel, m.recipient, m.text) for m in turn]
    wanted = [(m.role, m.channel, m.recipient, m.text) for m in example.turn(effort)]
    assert told == wanted
    assert not any(message.flaws for message in turn)
    assert f"Reasoning: {effort}" in parsed[0].text


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, task=ANY_TASK, effort=st.sampled_from(EFFORTS))
def test_the_rules_of_the_format_allow_what_the_expert_says(seed: int, task: Task, effort):
    """Up to the first tool's answer, where a sampling ends. A form's schema is enforced as well."""
    example = first(task, seed)
    prompt, turn = example.prompt(effort), example.turn(effort)
    said = turn[: next((i + 1 for i, message in enumerate(turn) if message.recipient), len(turn))]
    grammars = GrammarCache(small())
    how = TurnOptions(response_format=example.response_format)
    constraint = turn_grammar(grammars, prompt, how).start()
    opening = render(small(), prompt, "assistant")
    for token in render(small(), [*prompt, *said], drop_analysis=False)[len(opening) :][:-1]:
        constraint.accept(token)
        assert not constraint.strayed, small().decode([token])


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_same_seed_gives_the_same_problems_and_another_gives_others(task: Task):
    one, again, other = (list(islice(task.examples(seed), 20)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_low_effort_thinks_at_most_a_third_of_high(task: Task):
    lengths = {effort: sum(len(each.thoughts[effort]) for each in islice(task.examples(3), 300)) for effort in EFFORTS}
    assert 3 * lengths["low"] <= lengths["high"]
    assert lengths["low"] < lengths["medium"] < lengths["high"]


@pytest.fixture(scope="module")
def shown() -> dict[Split, list[Example]]:
    """Thousands of examples of each split."""
    return {split: [each for task in TASKS for each in islice(task.examples(5, split), 250)] for split in SPLITS}


def test_no_held_template_is_seen_in_training(shown: dict[Split, list[Example]]):
    train, held = ({each.template for each in shown[split]} for split in SPLITS)
    assert len(train) > 500
    assert len(held) > 150
    assert not train & held
    forms = ({re.sub(r"\d+", "#", each.question) for each in shown[split]} for split in SPLITS)
    assert not set.intersection(*forms)


def test_no_held_word_is_seen_in_training(shown: dict[Split, list[Example]]):
    words = {word for each in shown["train"] for word in re.findall(r"[a-z]+", all_text(each).lower())}
    assert not words & HELD_LOWER
    held = {word for each in shown["held"] for word in re.findall(r"[a-z]+", all_text(each).lower())}
    assert len(held & HELD_LOWER) > 100


def all_text(example: Example) -> str:
    return " ".join(str(part) for message in example.conversation("high") for part in message.content)


def test_no_held_schema_name_parameter_or_enum_is_seen_in_training(shown: dict[Split, list[Example]]):
    specs = {split: [spec for each in shown[split] for spec in schemas(each)] for split in SPLITS}
    forms = {split: [each.response_format for each in shown[split] if each.response_format] for split in SPLITS}
    train, held = ({json.dumps(spec.parameters) for spec in specs[split]} for split in SPLITS)
    assert not train & held
    words = {
        split: names_in(specs[split]) | {key for form in forms[split] for key in form["properties"]}  # type: ignore[attr-defined]
        for split in SPLITS
    }
    assert not words["train"] & words["held"]
    assert not {*COMMON, *FRAMING} & words["held"]
    assert len(names_in(specs["train"])) > 500


def test_every_name_is_known_and_no_other():
    assert len({task.name for task in TASKS}) == len(TASKS)
    with pytest.raises(ValueError, match="no task family 'singing'; there are addition"):
        tasks_named(["singing"])
