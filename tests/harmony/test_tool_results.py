"""Each tool result stands directly after its own call, however the client ordered and named them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.harmony.errors import InputError
from ossia.harmony.messages import Message, assistant, user
from ossia.harmony.tool_results import Call, Entry, Result, pair_results


def call(id: str | None, text: str = "{}", name: str = "functions.f") -> Call:
    return Call(assistant(text, "commentary", name), id, "call")


def result(id: str | None, text: str, **more: str) -> Result:
    return Result(text, id, "result", **more)


def texts(*entries: Entry) -> list[str]:
    return [message.text for _, message in pair_results(entries).messages]


def test_A9_results_in_another_order_stand_each_after_its_call():
    assert texts(call("a", "Kyoto"), call("b", "Oslo"), result("b", "-5"), result("a", "20")) == [
        "Kyoto",
        "20",
        "Oslo",
        "-5",
    ]


def test_M2_an_id_used_again_in_a_later_turn_gets_the_later_result():
    entries = [call("0", "one"), result("0", "1"), user("more"), call("0", "two"), result("0", "2")]
    assert texts(*entries) == ["one", "1", "more", "two", "2"]


def test_M2_one_id_for_all_calls_of_a_turn_is_matched_in_order():
    assert texts(call("0", "one"), call("0", "two"), result("0", "1"), result("0", "2")) == ["one", "1", "two", "2"]
    named = [
        call("0", "one", "functions.f"), call("0", "two", "functions.g"),
        result("0", "2", recipient="functions.g"), result("0", "1", recipient="functions.f"),
    ]  # fmt: skip
    assert texts(*named) == ["one", "1", "two", "2"]


def test_M2_a_call_that_never_got_its_result_does_not_take_a_later_turns():
    paired = pair_results([call("0", "one"), user("stop"), call("0", "two"), result("0", "2")])
    assert [message.text for _, message in paired.messages] == ["one", "stop", "two", "2"]
    assert paired.unanswered == [0]


@pytest.mark.parametrize("ids", [(None, None), ("", ""), ("a", None), (None, "b"), ("a", "")])
def test_A16_calls_and_results_without_ids_are_matched_in_order(ids: tuple[str | None, str | None]):
    calls, results = ids
    entries = [call(calls and f"{calls}1", "one"), call(calls and f"{calls}2", "two")]
    entries += [result(results and f"{results}1", "1"), result(results and f"{results}2", "2")]
    assert texts(*entries) == ["one", "1", "two", "2"]


def test_a_result_without_an_id_does_not_take_the_call_of_one_with_an_id():
    assert texts(call("a", "one"), call("b", "two"), result(None, "2"), result("a", "1")) == ["one", "1", "two", "2"]


def test_a_result_without_an_id_goes_by_the_tools_name():
    calls = [call(None, "one", "functions.f"), call(None, "two", "functions.g")]
    assert texts(*calls, result(None, "2", recipient="functions.g"), result(None, "1")) == ["one", "1", "two", "2"]
    with pytest.raises(InputError, match="answers 'h', which no message before it calls"):
        texts(*calls, result(None, "3", recipient="functions.h"))


def test_a_further_result_of_a_call_is_kept_after_the_first_and_named():
    paired = pair_results([call("a", "one"), result("a", "1"), user("hm"), result("a", "1b")])
    assert [message.text for _, message in paired.messages] == ["one", "1", "1b", "hm"]
    assert paired.repeated == [3]


@pytest.mark.parametrize(
    "entries", [[result("a", "1"), call("a")], [result(None, "1"), call("a")], [call("a"), result("b", "1")]]
)
def test_a_result_before_or_without_its_call_is_refused(entries: list[Entry]):
    with pytest.raises(InputError) as caught:
        pair_results(entries)
    assert caught.value.param == "result.tool_call_id"


@given(st.integers(0, 2**32), st.booleans())
def test_A9_any_order_of_results_within_a_turn_gives_the_same_messages(seed: int, reused: bool):
    rng = random.Random(seed)
    shuffled: list[Entry] = []
    wanted: list[str] = []
    for turn in range(rng.randint(1, 3)):
        count = rng.randint(0, 4)
        ids = [f"{'' if reused else turn}/{number}" for number in range(count)]
        results = [result(each, f"{turn} of {each}") for each in ids]
        rng.shuffle(results)
        shuffled += [user(str(turn)), *(call(each, each) for each in ids), *results]
        wanted += [str(turn), *(text for each in ids for text in (each, f"{turn} of {each}"))]
    assert texts(*shuffled) == wanted


def test_a_hundred_thousand_results_of_one_id_take_no_quadratic_time():
    count = 100_000
    entries: list[Entry] = [*(call("a") for _ in range(count)), *(result("a", "x") for _ in range(count))]
    messages = pair_results(entries).messages
    assert len(messages) == 2 * count
    assert all(isinstance(message, Message) for _, message in messages)
