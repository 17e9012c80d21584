"""Calls in one turn (A19), and OpenAI's older functions (A3b)."""

import json
from typing import Any

import pytest

from tests.support.server import function, mini, scripted, user
from tests.support.turns import call, final, think

TOOLS = [function("f", {"a": {"type": "string"}}), function("g")]
TWO = think("hm") + call("f", '{"a": "x"}') + "<|start|>assistant" + call("g", "{}")
ENDED = TWO + "<|start|>functions.g to=assistant"
FLAT = [{"type": "function", **tool["function"]} for tool in TOOLS]
NAMED = [{"name": tool["function"]["name"], "input_schema": tool["function"]["parameters"]} for tool in TOOLS]


def names(message: dict[str, Any]) -> list[str]:
    return [called["function"]["name"] for called in message["tool_calls"]]


@pytest.mark.parametrize("said", [TWO, ENDED])
def test_A19_a_chat_gives_all_calls_of_the_turn(said: str):
    with scripted(said, said) as it:
        answer = it.chat(tools=TOOLS, parallel_tool_calls=True)["choices"][0]
        assert names(answer["message"]) == ["f", "g"]
        assert answer["finish_reason"] == "tool_calls"
        assert answer["message"]["content"] is None
        calls = [
            called
            for chunk in it.chunks(tools=TOOLS, parallel_tool_calls=True)
            for choice in chunk["choices"]
            for called in choice["delta"].get("tool_calls", ())
        ]
    assert [(called["index"], called["function"]["name"]) for called in calls if "id" in called] == [(0, "f"), (1, "g")]
    arguments = {0: "", 1: ""}
    for called in calls:
        arguments[called["index"]] += called["function"].get("arguments", "")
    assert [json.loads(each) for each in arguments.values()] == [{"a": "x"}, {}]


def test_A19_responses_and_messages_give_them_too():
    with scripted(ENDED, ENDED) as it:
        items = it.respond(input="x", tools=FLAT, parallel_tool_calls=True)["output"]
        assert [item.get("name") for item in items] == [None, "f", "g"]
        it.events(input="x", tools=FLAT, parallel_tool_calls=True)
    with scripted(ENDED) as it:
        choice = {"type": "auto", "disable_parallel_tool_use": False}
        body = {"messages": [user("x")], "tools": NAMED, "tool_choice": choice, "max_tokens": 200}
        answer = it.client.post("/v1/messages", json=body).json()
        assert [block["name"] for block in answer["content"]] == ["f", "g"]
        assert answer["stop_reason"] == "tool_use"


@pytest.mark.parametrize("given", [None, False])
def test_A19_one_call_a_turn_unless_the_request_says_otherwise(given: bool | None):
    one = call("f", '{"a": "x"}')
    with scripted(one) as it:
        assert names(it.message(tools=TOOLS, parallel_tool_calls=given)) == ["f"]
        assert it.service.grammars.call in it.script.params[0].stop_tokens


def test_A19_a_call_that_repeats_an_earlier_one_ends_the_turn():
    again = call("f", '{"a": "x"}') + "<|start|>assistant" + call("f", '{"a":"x"}')
    with scripted(again + "<|start|>assistant" + call("g", "{}")) as it:
        answer = it.chat(tools=TOOLS, parallel_tool_calls=True)["choices"][0]
    assert names(answer["message"]) == ["f"]
    assert answer["finish_reason"] == "tool_calls"


def test_A19_the_calls_of_a_turn_are_bounded():
    many = "<|start|>assistant".join(call("f", json.dumps({"a": str(number)})) for number in range(30))
    with scripted(many, cache_tokens=9000) as it:
        assert len(it.message(tools=TOOLS, parallel_tool_calls=True, max_tokens=2000)["tool_calls"]) == 16


def test_A19_a_call_cut_by_the_limit_is_dropped_where_an_earlier_one_is_whole():
    with scripted(TWO) as it:
        first = len(it.service.tokenizer.encode_with_special(TWO.partition("<|call|>")[0])) + 1
        answer = it.chat(tools=TOOLS, parallel_tool_calls=True, max_tokens=first + 4)["choices"][0]
    assert (names(answer["message"]), answer["finish_reason"]) == (["f"], "tool_calls")


def test_A19_a_history_of_two_calls_has_each_result_after_its_call():
    calls = [{"id": each, "type": "function", "function": {"name": each, "arguments": "{}"}} for each in ("f", "g")]
    results = [{"role": "tool", "tool_call_id": each, "content": f"of {each}"} for each in ("g", "f")]
    history = [user("x"), {"role": "assistant", "tool_calls": calls}, *results]
    with scripted() as it:
        (shown,) = it.client.post("/v1/render", json={"messages": history, "tools": TOOLS}).json()["prompts"]
    places = [shown["prompt"].index(part) for part in ("to=functions.f", "of f", "to=functions.g", "of g")]
    assert places == sorted(places)


def test_A19_a_real_model_ends_its_turn():
    with mini() as it:
        weather = function("get_weather", {"city": {"type": "string"}})
        answer = it.chat("What is the weather in Kyoto?", tools=[weather], parallel_tool_calls=True, temperature=0)
    calls = answer["choices"][0]["message"]["tool_calls"]
    assert len({called["function"]["arguments"] for called in calls}) == len(calls) >= 1
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


FUNCTIONS = [tool["function"] for tool in TOOLS]
ONE = think("hm") + call("f", '{"a": "x"}')


def test_A3b_older_functions_are_called_the_older_way():
    with scripted(ONE, ONE, final("ok")) as it:
        answer = it.chat(functions=FUNCTIONS)["choices"][0]
        assert answer["message"]["function_call"] == {"name": "f", "arguments": '{"a": "x"}'}
        assert "tool_calls" not in answer["message"]
        assert answer["finish_reason"] == "function_call"
        chunks = [choice for chunk in it.chunks(functions=FUNCTIONS) for choice in chunk["choices"]]
        deltas = [choice["delta"]["function_call"] for choice in chunks if "function_call" in choice["delta"]]
        assert deltas[0]["name"] == "f"
        assert "".join(delta.get("arguments", "") for delta in deltas) == '{"a": "x"}'
        assert chunks[-1]["finish_reason"] == "function_call"
        said = {"role": "assistant", "content": None, "function_call": answer["message"]["function_call"]}
        result = {"role": "function", "name": "f", "content": "42"}
        it.client.post("/v1/chat/completions", json={"messages": [user("x"), said, result], "functions": FUNCTIONS})
        assert "<|start|>functions.f to=assistant<|channel|>commentary<|message|>42<|end|>" in it.script.prompts[2]


@pytest.mark.parametrize(("choice", "called"), [({"name": "g"}, ["g"]), ("none", []), ("auto", ["f", "g"])])
def test_A3b_the_older_choice_is_kept_to(choice: Any, called: list[str]):
    with mini() as it:
        answer = it.chat("Call f!", functions=FUNCTIONS, function_call=choice, temperature=0, max_tokens=300)
    made = answer["choices"][0]["message"].get("function_call")
    assert (made is None and choice != {"name": "g"}) or made["name"] in called


def test_A3b_refusals_name_the_older_fields():
    with scripted() as it:
        assert it.refused(messages=[user("x")], functions=[{"name": ""}])[:2] == (400, "functions[0].name")
        assert it.refused(messages=[user("x")], functions=FUNCTIONS, function_call={"name": "h"})[:2] == (
            400,
            "function_call",
        )
        assert it.refused(messages=[user("x")], functions=FUNCTIONS, tools=TOOLS)[:2] == (400, "functions")
