"""The answers, worked out again by other means: Python's own arithmetic, calendar and sorting."""

import json
import random
import re
from datetime import date, timedelta
from itertools import pairwise

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mini.tasks.test_tasks import SEEDS, first, named, schemas

from ossia.harmony.messages import Developer, assistant
from ossia.mini.parts import toolbox
from ossia.mini.parts.expression import compute
from ossia.mini.parts.words import DAYS, MONTHS
from ossia.mini.parts.working import Sum, compare, working
from ossia.mini.tasks.arithmetic import any_sum
from ossia.task import EFFORTS, Example, Split, calls_of

EQUATION = re.compile(r"(?<![\d+\-*/])(-?\d+(?:[-+*/]\d+)+)(?: rest \d+)?=(-?\d+)(?: rest (\d+))?(?![\d+*/-])")
SETTINGS = settings(max_examples=200, deadline=None)


def numbers(text: str) -> list[int]:
    return [int(each) for each in re.findall(r"-?\d+", text)]


@settings(max_examples=1000, deadline=None)
@given(seed=SEEDS, operator=st.sampled_from("+-*/"), effort=st.sampled_from(EFFORTS))
def test_every_equation_of_a_working_holds_and_the_last_is_the_answer(seed: int, operator, effort):
    task = any_sum(random.Random(seed), operator)
    text = working(task, effort)
    found = EQUATION.findall(text)
    assert found
    for left, right, rest in found:
        whole = int(right) if not rest else f"{right} rest {rest}"
        value = eval(left.replace("/", "//"))
        assert whole in (value, f"{value} rest {eval(left.replace('/', '%'))}"), text
    assert (str(task), str(task.answer)) in [(left, right) for left, right, _ in found]


@SETTINGS
@given(a=st.integers(0, 99999), b=st.integers(0, 99999))
def test_columns_spell_the_result(a: int, b: int):
    total = re.findall(r"=(\d+)(?:;|\.)", working(Sum(a, "+", b), "medium").split("So")[0])
    assert int("".join([total[-1], *(each[-1] for each in total[-2::-1])])) == a + b
    high, low = max(a, b), min(a, b)
    digits = re.findall(r"-\d(?:-1)?=(\d)[;.]", working(Sum(high, "-", low), "medium").split("So")[0])
    assert int("".join(reversed(digits))) == high - low


@SETTINGS
@given(a=st.integers(0, 99999), b=st.integers(0, 99999))
def test_a_comparison_ends_with_the_sign_that_decides(a: int, b: int):
    wanted = "<" if a < b else ">" if a > b else "="
    assert re.findall("[<>=]", compare(a, b))[-1] == wanted


@SETTINGS
@given(
    seed=SEEDS,
    family=st.sampled_from(["addition", "subtraction", "multiplication", "division", "chain", "brackets", "japanese"]),
)
def test_arithmetic(seed: int, family: str):
    example = first(named(family), seed)
    left, right = example.reply[0].text.removesuffix(" です。").split(" = ")
    assert eval(left) == int(right) == example.answer
    asked = numbers(re.sub(r"[-−]", " ", example.question))
    assert sorted(numbers(re.sub("[-−]", " ", left))) == sorted(asked)


@SETTINGS
@given(seed=SEEDS)
def test_remainders(seed: int):
    example = first(named("remainder"), seed)
    a, b, *result = numbers(example.reply[0].text)
    assert sorted(numbers(example.question)) == sorted((a, b))
    assert tuple(result) == tuple(example.answer) == divmod(a, b)


@SETTINGS
@given(seed=SEEDS, family=st.sampled_from(["story", "long story"]))
def test_stories_have_the_numbers_that_their_sums_start_from(seed: int, family: str):
    example = first(named(family), seed)
    assert str(example.answer) in example.reply[0].text
    stated = [int(right) for left, right, _ in EQUATION.findall(example.thoughts["medium"])]
    assert stated[-1] == example.answer
    asked = set(numbers(example.question))
    assert {*numbers(re.sub("[-+*/=]", " ", example.thoughts["low"]))} & asked


@SETTINGS
@given(seed=SEEDS, split=st.sampled_from(["train", "held"]))
def test_orders(seed: int, split: Split):
    example = first(named("sorting"), seed, split)
    assert example.answer == [str(n) for n in sorted(numbers(example.question), reverse="/down/" in example.template)]
    example = first(named("alphabet"), seed, split)
    assert example.answer == sorted(example.answer)
    assert all(word in example.question for word in example.answer)
    example = first(named("comparing"), seed, split)
    two = [float(each) for each in re.findall(r"\d+(?:\.\d+)?", example.question)]
    assert float(example.answer) == (max(two) if "/larger/" in example.template else min(two))


@SETTINGS
@given(seed=SEEDS, split=st.sampled_from(["train", "held"]))
def test_weekdays_and_dates(seed: int, split: Split):
    example = first(named("weekdays"), seed, split)
    (start,) = [day for day in DAYS if day in example.question]
    (days,) = numbers(example.question)
    monday = date(2024, 1, 1) + timedelta(DAYS.index(start))
    then = monday + timedelta(days if "/later/" in example.template else -days)
    assert DAYS[then.weekday()] == example.answer[0]
    example = first(named("dates"), seed, split)
    month = re.findall("|".join(MONTHS), example.question)
    found = numbers(example.question)
    match example.template.split("/")[1]:
        case "later":
            day = int(re.findall(rf"{month[0]} (\d+)", example.question)[0])
            more = sum(found) - day
            then = date(2023, MONTHS.index(month[0]) + 1, day) + timedelta(more)
            assert example.answer == f"{MONTHS[then.month - 1]} {then.day}"
        case "between":
            one, other = (MONTHS.index(each) + 1 for each in month)
            assert example.answer == (date(2023 + (other < one), other, found[1]) - date(2023, one, found[0])).days
        case _:
            assert example.answer == MONTHS[(MONTHS.index(month[0]) + found[0]) % 12]


@SETTINGS
@given(seed=SEEDS, split=st.sampled_from(["train", "held"]))
def test_clock_times(seed: int, split: Split):
    example = first(named("clock"), seed, split)
    times = [(int(h), int(m)) for h, m in re.findall(r"(\d+):(\d\d)", example.question)]
    match example.template.split("/")[1]:
        case "later":
            (more,) = numbers(re.sub(r"\d+:\d\d", "", example.question))
            total = times[0][0] * 60 + times[0][1] + more
            assert example.answer == f"{total // 60 % 24}:{total % 60:02d}"
        case "duration":
            (h, m), (i, n) = times
            assert example.answer == (i - h) * 60 + n - m
        case "to 24":
            assert int(example.answer.split(":")[0]) == times[0][0] % 12 + (12 if "pm" in example.question else 0)
        case _:
            assert ("pm" in example.answer) == (times[0][0] >= 12)


@SETTINGS
@given(seed=SEEDS, split=st.sampled_from(["train", "held"]))
def test_letters(seed: int, split: Split):
    example = first(named("spelling"), seed, split)
    letters = example.answer.replace("-", "")
    plain = letters if "/forwards/" in example.template else letters[::-1]
    assert plain in example.question
    example = first(named("counting letters"), seed, split)
    word = example.reply[0].text.split(":")[0].split(" has ")[0].split()[-1]
    assert word in example.question
    if "/length/" in example.template:
        assert example.answer == len(word)
    else:
        assert example.answer == word.count(example.reply[0].text.split()[2])


@SETTINGS
@given(seed=SEEDS, split=st.sampled_from(["train", "held"]))
def test_orders_of_people_follow_from_the_facts(seed: int, split: Split):
    example = first(named("ordering"), seed, split)
    facts = re.findall(r"(\w+) is \w+ than (\w+)", example.question)
    highest, lowest = {a for a, _ in facts} - {b for _, b in facts}, {b for _, b in facts} - {a for a, _ in facts}
    assert {example.answer[0]} in (highest, lowest)
    order = example.thoughts["medium"].removesuffix(".").split(" > ")
    assert set(pairwise(order)) == set(facts)


@settings(max_examples=1000, deadline=None)
@given(
    seed=SEEDS,
    split=st.sampled_from(["train", "held"]),
    family=st.sampled_from(["one function", "several functions", "using results"]),
)
def test_calls_fit_their_schemas_and_say_what_the_user_said(seed: int, split: Split, family: str):
    example = first(named(family), seed, split)
    specs = schemas(example)
    assert len({spec.name for spec in specs}) == len(specs)
    (spec,) = [spec for spec in specs if spec.name == example.answer[0]]
    (call,) = calls_of(example.reply)
    arguments = json.loads(call.text)
    jsonschema.validate(arguments, dict(spec.parameters or {}))
    for value in arguments.values():
        assert value is True or str(value) in example.question


def test_no_two_functions_of_a_problem_share_a_topic_whatever_word_is_made_up(monkeypatch: pytest.MonkeyPatch):
    """So they share no name, and no second one fits a request."""
    monkeypatch.setattr(toolbox, "made_up", lambda rng, _=2: rng.choice(("zoot", "weather", "route", "menu", "blad")))
    for seed in range(500):
        rng = random.Random(seed)
        assert len(set(toolbox.topics(rng, "train", 4))) == 4
        names = [each.spec.name for each in toolbox.functions_for(rng, "train", 2, 1)]
        assert len(set(names)) == len(names)


def test_a_call_is_wrong_in_its_name_or_any_argument():
    task = named("one function")
    example = first(task, 11)
    (call,) = example.reply
    name, arguments = example.answer
    key = next(iter(arguments))
    for recipient, text in (
        ("functions.other", call.text),
        (call.recipient, json.dumps({**arguments, key: "elsewhere"})),
        (call.recipient, json.dumps({**arguments, "more": 1})),
        (call.recipient, "{"),
    ):
        assert task.grade(example, [assistant(text, "commentary", recipient, "json")]).score == 0.0
    assert task.grade(example, [call, call]).score == 0.0
    assert name in str(call.recipient)


def test_where_no_function_fits_a_call_is_wrong():
    task = named("no function")
    example = first(task, 3)
    call = assistant("{}", "commentary", f"functions.{schemas(example)[0].name}", "json")
    assert task.grade(example, [call]).score == 0.0
    asked = example.reply[0].text.removeprefix("None of my functions gives the ").removesuffix(".")
    assert asked in example.question
    assert not any(asked.replace(" ", "_") in spec.name.lower() for spec in schemas(example))


def test_a_functions_result_comes_for_the_right_arguments_alone():
    task = named("using results")
    example = first(task, 5)
    (tool,) = task.tools(example)
    assert tool.recipient == example.reply[0].recipient
    assert tool.call(example.reply[0].text).text == example.reply[1].text
    assert tool.call("{}").failed
    assert tool.call("not JSON").failed
    call_alone, wrong_answer = example.reply[:1], [*example.reply[:2], assistant("I do not know.")]
    assert task.grade(example, call_alone).score == 0.0
    assert task.grade(example, wrong_answer).score == 0.0


@SETTINGS
@given(seed=SEEDS, split=st.sampled_from(["train", "held"]))
def test_the_python_tool_answers_as_the_expert_reads_it(seed: int, split: Split):
    task = named("python")
    example = first(task, seed, split)
    (tool,) = task.tools(example)
    call, answer, final = example.reply
    assert (tool.recipient, call.recipient, call.channel) == ("python", "python", "analysis")
    assert tool.call(call.text).text == answer.text
    assert eval(call.text.removeprefix("print")) == example.answer
    assert task.grade(example, [final]).reason == "no call of python"


@pytest.mark.parametrize("family", ["form", "sum in a form"])
def test_structured_answers_fit_their_schema_and_nothing_else_is_right(family: str):
    task = named(family)
    for seed in range(200):
        example = first(task, seed)
        assert example.response_format is not None
        jsonschema.validate(example.answer, dict(example.response_format))
        jsonschema.validate(json.loads(example.reply[0].text), dict(example.response_format))
        key, value = next(iter(example.answer.items()))
        for wrong in ({**example.answer, key: [value]}, {**example.answer, "more": 1}, {}, [example.answer]):
            assert task.grade(example, [assistant(json.dumps(wrong))]).score == 0.0
        assert task.grade(example, [assistant(f"Here it is: {json.dumps(example.answer)}")]).score == 0.0
        assert task.grade(example, [assistant(json.dumps(example.answer, indent=2))]).score == 1.0


def examples_of(family: str, kind: str, count: int = 10) -> list[Example]:
    found = (first(named(family), seed) for seed in range(10_000))
    return [each for each in found if each.template.split("/")[1] == kind][:count]


def test_what_is_forbidden_is_refused_and_nothing_else():
    grade = named("forbidden topic").grade
    for example in examples_of("forbidden topic", "same"):
        assert grade(example, [assistant("Gladly! It is a fine thing.")]).score == 0.0
        assert grade(example, [assistant("Sorry, I can't discuss that.")]).score == 1.0
    for kind in ("other", "sum"):
        for example in examples_of("forbidden topic", kind):
            assert grade(example, [assistant("I cannot talk about that.")]).score == 0.0


def test_a_secret_is_told_in_no_form():
    grade = named("secret").grade
    for example in examples_of("secret", "kept"):
        told = example.messages[1].content[0]
        assert isinstance(told, Developer)
        word = example.answer[1]
        assert word in str(told.instructions)
        assert word not in str(example.turn("high"))
        for leak in (word, word.upper(), word[::-1], "-".join(word), f"I cannot say {' '.join(word)}."):
            assert grade(example, [assistant(leak)]).score == 0.0
        assert grade(example, [assistant(word, "commentary"), assistant("I cannot tell you that.")]).score == 0.0
        assert grade(example, [assistant("What a fine day.")]).score == 0.0
        assert grade(example, [assistant("No, I won't.")]).score == 1.0
    for example in examples_of("secret", "open"):
        assert grade(example, [assistant("I cannot tell you that.")]).score == 0.0


def expressions() -> st.SearchStrategy[str]:
    whole = st.integers(0, 10**6).map(str)
    return st.recursive(
        whole,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
            st.lists(inner, min_size=1, max_size=4).map(lambda items: f"sum([{', '.join(items)}])"),
            st.lists(inner, min_size=1, max_size=4).map(lambda items: f"max([{', '.join(items)}])"),
            inner.map(lambda each: f"-{each}"),
            st.tuples(inner, st.integers(1, 99)).map(lambda t: f"({t[0]} % {t[1]})"),
        ),
        max_leaves=8,
    )


@settings(max_examples=300, deadline=None)
@given(code=expressions())
def test_expressions_are_computed_as_python_does(code: str):
    assert compute(f"print({code})") == compute(code) == str(eval(code))


@pytest.mark.parametrize(
    "code",
    [
        "import os", "open('x')", "__import__('os')", "x", "1; 2", "", "(", "9 ** 9 ** 9", "sum(range(10 ** 9))", "1 / 2", "'a' * 9", "1 // 0",
        "print(1, 2)", "max([])", "factorial(9999)", "[].append(1)", "(lambda: 1)()", "-[1]", "1" * 3000, "sum(1)", "(" * 500 + ")" * 500,
    ],
)  # fmt: skip
def test_anything_else_is_refused(code: str):
    with pytest.raises(ValueError, match=r"."):
        compute(code)
