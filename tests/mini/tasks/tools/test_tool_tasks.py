"""Families with built-in tools: an expert with the real tools is right, other turns are not, and splits do not mix."""

import hashlib
import json
import random
import re
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evals.expert import Expert
from tests.support.vocabularies import small

from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import Message, assistant
from ossia.harmony.parse import parse
from ossia.harmony.render import render
from ossia.loop import TurnOptions, turn_grammar
from ossia.mini.curriculum.dialogues import dialogue
from ossia.mini.parts.expression import Cells
from ossia.mini.tasks.catalogue import TASKS, TOOL_TASKS, drawn, tasks_named
from ossia.mini.tasks.tools.pages import web
from ossia.rollout import RolloutRequest, roll_out
from ossia.task import EFFORTS, SPLITS, Example, Split, Task

SEEDS = st.integers(0, 2**32 - 1)
ANY_TASK = st.sampled_from(TOOL_TASKS)
each_task = pytest.mark.parametrize("task", TOOL_TASKS, ids=lambda task: task.name)


def first(task: Task, seed: int, split: Split = "train") -> Example:
    return next(task.examples(seed, split))


@settings(max_examples=120, deadline=None)
@given(seed=SEEDS, task=ANY_TASK, split=st.sampled_from(SPLITS), effort=st.sampled_from(EFFORTS))
def test_the_expert_is_right_at_every_effort(seed: int, task: Task, split: Split, effort: Any):
    example = first(task, seed, split)
    assert task.grade(example, example.turn(effort))[:2] == (1.0, "right")
    assert (example.family, example.split) == (task.name, split)


@each_task
def test_the_loop_with_the_real_tools_gives_the_same_turn(task: Task):
    """An engine says what the expert says; the tools are run as for a model."""
    examples = [first(task, seed, split) for seed in range(6) for split in SPLITS]
    requests = [
        RolloutRequest(each.prompt("high"), TurnOptions(tools=task.tools(each), max_steps=task.max_turns))
        for each in examples
    ]
    rollouts = roll_out(Expert(examples), GrammarCache(small()), requests)  # type: ignore[arg-type]
    for example, rollout in zip(examples, rollouts, strict=True):
        assert [(m.role, m.name, m.channel, m.text) for m in rollout.turn] == [
            (m.role, m.name, m.channel, m.text) for m in example.turn("high")
        ]
        assert task.grade(example, rollout.turn).score == 1.0
        assert rollout.finish == "stop"


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, other=SEEDS, task=ANY_TASK)
def test_the_turn_of_another_problem_is_wrong(seed: int, other: int, task: Task):
    example, another = first(task, seed), first(task, other)
    if example.answer != another.answer and example.reply[-1].text != another.reply[-1].text:
        assert task.grade(another, example.turn("high")).score == 0.0


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, task=ANY_TASK)
def test_a_turn_without_calls_or_without_an_answer_is_worth_nothing(seed: int, task: Task):
    example = first(task, seed)
    whole = example.turn("high")
    for turn in (
        [],
        whole[-1:],
        whole[:-1],
        [*whole[:-1], Message("assistant", (whole[-1].text,), channel="final", flaws=("x",))],
    ):
        assert task.grade(example, turn).score == 0.0


@settings(max_examples=150, deadline=None)
@given(
    seed=SEEDS,
    task=ANY_TASK,
    text=st.one_of(
        st.text(max_size=60),
        st.sampled_from(["9" * 9999, "[" * 9999, "{}", "null", "\x00", "print(" * 900, "【0†L1】"]),
    ),
    called=st.sampled_from([None, "python", "browser.search", "repo_browser.apply_patch", "repo_browser.open_file"]),
)
def test_whatever_a_model_says_has_a_grade_and_a_reason(seed: int, task: Task, text: str, called: str | None):
    example = first(task, seed)
    grade = task.grade(example, [assistant(text, "analysis", called), assistant(text)])
    assert grade.score == 0.0
    assert grade.reason
    for tool in task.tools(example):
        assert isinstance(tool.call(text).text, str)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, task=ANY_TASK, split=st.sampled_from(SPLITS), effort=st.sampled_from(EFFORTS))
def test_every_conversation_renders_and_is_parsed_back(seed: int, task: Task, split: Split, effort: Any):
    example = first(task, seed, split)
    tokens = render(small(), example.conversation(effort), drop_analysis=False)
    turn = parse(small(), tokens, role=None)[len(example.messages) :]
    assert [(m.role, m.channel, m.recipient, m.text) for m in turn] == [
        (m.role, m.channel, m.recipient, m.text) for m in example.turn(effort)
    ]
    assert not any(message.flaws for message in turn)
    assert len(tokens) < 4_096  # ossia-mini's context


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, task=ANY_TASK, effort=st.sampled_from(EFFORTS))
def test_the_format_allows_what_the_expert_says(seed: int, task: Task, effort: Any):
    """Each completion, with the results of the calls before it in the prompt."""
    example = first(task, seed)
    prompt: list[Message] = [*example.prompt(effort)]
    mine: list[Message] = []
    grammars = GrammarCache(small())
    for message in [*example.turn(effort), None]:
        if mine and (message is None or message.role == "tool"):
            constraint = turn_grammar(grammars, prompt, TurnOptions(tools=task.tools(example))).start()
            opening = render(small(), prompt, "assistant", drop_analysis=False)
            for token in render(small(), [*prompt, *mine], drop_analysis=False)[len(opening) :][:-1]:
                constraint.accept(token)
                assert not constraint.strayed, small().decode([token])
            prompt, mine = [*prompt, *mine], []
        if message is not None:
            (prompt if message.role == "tool" else mine).append(message)


@each_task
def test_the_same_seed_gives_the_same_problems_and_another_gives_others(task: Task):
    one, again, other = (list(islice(task.examples(seed), 8)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


@each_task
def test_low_effort_thinks_at_most_a_third_of_high(task: Task):
    lengths = {effort: sum(len(each.thoughts[effort]) for each in islice(task.examples(3), 40)) for effort in EFFORTS}
    assert 3 * lengths["low"] <= lengths["high"]
    assert lengths["low"] < lengths["medium"] < lengths["high"]


@each_task
def test_no_held_template_is_seen_in_training(task: Task):
    train, held = (list(islice(task.examples(5, split), 60)) for split in SPLITS)
    assert not {each.template for each in train} & {each.template for each in held}
    forms = ({re.sub(r"\d+", "#", each.question) for each in each_split} for each_split in (train, held))
    assert not set.intersection(*forms)


def test_the_splits_share_no_page():
    train, held = (web(split).pages for split in SPLITS)
    assert len(train) == len(held) == 200
    assert not set(train) & set(held)


def test_browsing_takes_one_to_three_links():
    hops = {each.template.split("/")[1][0] for each in islice(tasks_named(["browse"])[0].examples(1), 40)}
    assert hops == {"1", "2", "3"}


def test_a_citation_must_mean_lines_with_the_answer():
    (task,) = tasks_named(["browse"])
    example = first(task, 1)
    whole = example.turn("low")
    value, said = example.answer, whole[-1].text
    for text in (
        f"The answer is {value}.",
        f"The answer is {value}. 【0†L1】",
        f"The answer is {value}. 【99†L4】",
        re.sub(r"†L\d+", "†L1", said),
        said.replace(value, "something else"),
    ):
        assert task.grade(example, [*whole[:-1], assistant(text)]).score == 0.0, text
    wide = re.sub(r"†L(\d+)", r"†L1-L\1†corpus", said)
    assert task.grade(example, [*whole[:-1], assistant(wide)]).score == 1.0


def test_a_patch_may_need_several_tries():
    (task,) = tasks_named(["patch"])
    example = first(task, 1)
    *before, call, result, final = example.turn("low")
    bad = assistant(
        json.dumps({"patch": "*** Begin Patch\n*** Delete File: nothing\n*** End Patch"}),
        "analysis",
        call.recipient,
        "code",
    )
    assert task.grade(example, [*before, bad, result, call, result, final]).score == 1.0
    assert task.grade(example, [*before, bad, result, final]).score == 0.0


def test_a_variable_must_be_carried_over():
    (task,) = tasks_named(["python_state"])
    example = first(task, 1)
    calls = [message.text for message in example.turn("low") if message.recipient]
    final = example.turn("low")[-1]
    assert not task.grade(example, [assistant("; ".join(calls), "analysis", "python", "code"), final]).score
    assert not task.grade(example, [assistant(calls[1], "analysis", "python", "code"), final]).score
    assert task.grade(example, [*(assistant(each, "analysis", "python", "code") for each in calls), final]).score


def test_cells_keep_variables_and_refuse_the_rest():
    cells = Cells()
    assert cells.run("x = 6 * 7") == ""
    assert cells.run("y = [x, -x]\nprint(sum(y) + x)\nlen(y)") == "42\n2\n"
    for code in (
        "import os",
        "x.real",
        "z",
        "x = z",
        "open('a')",
        "for i in y: print(i)",
        "x, y = 1, 2",
        "print(x, x)",
        "x = 9 ** 9 ** 9",
    ):
        with pytest.raises(ValueError, match=r"\w"):
            cells.run(code)
    assert cells.run("print(x)") == "42\n"


def test_opt_in_families_change_no_draw_of_the_curriculum():
    """The digest was taken before these families existed."""
    assert not {task.name for task in TOOL_TASKS} & {task.name for task in TASKS}
    rng = random.Random(7)
    names = [drawn(rng).name for _ in range(2_000)]
    assert set(names) <= {task.name for task in TASKS}
    texts = [message.text for seed in range(150) for message in dialogue(random.Random(seed))]
    digest = hashlib.sha256(json.dumps([names, texts]).encode()).hexdigest()
    assert digest == "239b869828b1eb2690ab07e96da42aff5c9ed58c734196a06eb713db65134047"
