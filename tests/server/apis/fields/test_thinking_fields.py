"""How much is thought, and who sees it: by any server's fields (A3b, A10)."""

from typing import Any

import pytest

from tests.support.server import function, mini, scripted, user
from tests.support.turns import call, final, think

THOUGHT = think("hm") + final("ok")
OPENING = "Reasoning: {}\n"


@pytest.mark.parametrize(
    ("body", "effort"),
    [
        ({"chat_template_kwargs": {"reasoning_effort": "high"}}, "high"),
        ({"think": "high"}, "high"),
        ({"think": True}, "medium"),
        ({"reasoning": {"effort": "low"}}, "low"),
        ({"reasoning_effort": "low", "think": "high"}, "low"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "medium"),
    ],
)
def test_A3b_an_effort_in_any_field_is_the_models(body: dict[str, Any], effort: str):
    with scripted(final("ok")) as it:
        answer = it.client.post("/v1/chat/completions", json={"messages": [user("x")], **body})
        assert "x-ossia-warnings" not in answer.headers
        assert OPENING.format(effort) in it.script.prompts[0]


OFF: list[dict[str, Any]] = [
    {"think": False}, {"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning": {"enabled": False}},
    {"chat_template_kwargs": {"thinking": False}}, {"thinking": {"type": "disabled"}}, {"thinking": False},
]  # fmt: skip


@pytest.mark.parametrize("body", OFF, ids=str)
def test_A3b_no_thinking_is_the_least_effort_and_said(body: dict[str, Any]):
    with scripted(final("ok")) as it:
        answer = it.client.post("/v1/chat/completions", json={"messages": [user("x")], **body})
        assert "low" in answer.headers["x-ossia-warnings"]
        assert OPENING.format("low") in it.script.prompts[0]
    with scripted(final("ok")) as it:
        answer = it.client.post("/v1/responses", json={"input": "x", **body})
        assert "low" in answer.headers["x-ossia-warnings"]
        assert OPENING.format("low") in it.script.prompts[0]


@pytest.mark.parametrize("word", ["none", "None"])
def test_A3b_an_effort_of_none_is_low_and_said(word: str):
    with scripted(final("ok"), final("ok")) as it:
        for body in ({"reasoning_effort": word}, {"reasoning": {"effort": word}}):
            answer = it.client.post("/v1/chat/completions", json={"messages": [user("x")], **body})
            assert "gpt-oss always thinks" in answer.headers["x-ossia-warnings"]
            assert OPENING.format("low") in it.script.prompts[-1]
    with scripted(final("ok")) as it:
        answer = it.client.post("/v1/responses", json={"input": "x", "reasoning": {"effort": word}})
        assert "gpt-oss always thinks" in answer.headers["x-ossia-warnings"]
        assert OPENING.format("low") in it.script.prompts[0]


@pytest.mark.parametrize("output", [{}, {"output_config": {"effort": "high"}}])
def test_A3b_messages_says_that_thinking_is_not_switched_off(output: dict[str, Any]):
    with scripted(final("ok")) as it:
        body = {"messages": [user("x")], "max_tokens": 9, "thinking": {"type": "disabled"}, **output}
        answer = it.client.post("/v1/messages", json=body)
        assert "thinking: " in answer.headers["x-ossia-warnings"]
        assert OPENING.format("high" if output else "low") in it.script.prompts[0]


BUDGETS: list[dict[str, Any]] = [
    {"thinking_budget": 3}, {"thinking_token_budget": 3}, {"reasoning": {"max_tokens": 3}}, {"thinking": {"type": "enabled", "budget_tokens": 3}},
    {"chat_template_kwargs": {"thinking_budget": 3}},
]  # fmt: skip


@pytest.mark.parametrize("body", BUDGETS, ids=str)
def test_A3b_a_budget_in_any_field_ends_the_thinking(body: dict[str, Any]):
    with mini() as it:
        answer = it.chat("What is 17 + 25?", temperature=0, max_tokens=100, **body)
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 6


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"think": "hard"}, "think"),
        ({"thinking_budget": -5}, "thinking_budget"),
        ({"chat_template_kwargs": {"reasoning_effort": 3}}, "chat_template_kwargs.reasoning_effort"),
        ({"chat_template_kwargs": {"thinking_budget": "x"}}, "chat_template_kwargs.thinking_budget"),
    ],
)
def test_A3b_what_cannot_be_is_named(body: dict[str, Any], param: str):
    with scripted() as it:
        assert it.refused(messages=[user("x")], **body)[:2] == (400, param)


def test_A3b_no_limit_is_no_limit():
    with scripted(final("ok")) as it:
        it.chat(thinking_budget=-1)


HIDES: list[dict[str, Any]] = [
    {"reasoning": {"exclude": True}}, {"include_reasoning": False}, {"separate_reasoning": False}, {"reasoning_format": "hidden"},
]  # fmt: skip


@pytest.mark.parametrize("body", HIDES, ids=str)
def test_A10_reasoning_is_left_out_and_still_counted(body: dict[str, Any]):
    with scripted(THOUGHT, THOUGHT, THOUGHT) as it:
        answer = it.chat(**body)
        assert answer["choices"][0]["message"] == {**answer["choices"][0]["message"], "content": "ok"}
        assert not {"reasoning", "reasoning_content"} & answer["choices"][0]["message"].keys()
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
        chunks = it.chunks(stream_options={"include_usage": True}, **body)
        assert chunks[-1]["usage"] == answer["usage"]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == "ok"
        assert not any("reasoning" in delta or "reasoning_content" in delta for delta in deltas)
        assert it.message()["reasoning"] == "hm", "without the field it is there"


@pytest.mark.parametrize("body", HIDES, ids=str)
def test_A10_a_response_leaves_reasoning_items_out_and_still_counts_them(body: dict[str, Any]):
    with scripted(THOUGHT, THOUGHT) as it:
        response = it.respond(input="x", **body)
        assert [item["type"] for item in response["output"]] == ["message"]
        assert response["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
        events = it.events(input="x", **body)
    assert not [event for event in events if "reasoning" in event["type"]]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "ok"
    added = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    assert added == [0]


def test_A10_hidden_thinking_before_a_call_is_shown_to_the_model_again(tmp_path: Any):
    called = think("look it up") + call("f", "{}")
    with scripted(called, final("ok"), state=tmp_path) as it:
        tools = [{"type": "function", **function("f")["function"]}]
        first = it.respond(input="x", tools=tools, reasoning={"exclude": True})
        (called,) = first["output"]
        output = {"type": "function_call_output", "call_id": called["call_id"], "output": "1"}
        it.respond(previous_response_id=first["id"], input=[output], tools=tools)
        assert "<|channel|>analysis<|message|>look it up<|end|>" in it.script.prompts[1]


@pytest.mark.parametrize("streams", [False, True])
def test_A10_sealed_reasoning_is_given_where_both_are_asked_for(streams: bool):
    """exclude hides the words; include asks for the seal, by which a server without a store has them again."""
    called = think("look it up") + call("f", "{}")
    with scripted(called, final("ok")) as it:
        tools = [{"type": "function", **function("f")["function"]}]
        body: dict[str, Any] = {
            "input": "x",
            "tools": tools,
            "store": False,
            "reasoning": {"exclude": True, "summary": "auto"},
            "include": ["reasoning.encrypted_content"],
        }
        events = it.events(**body) if streams else []
        response = events[-1]["response"] if streams else it.respond(**body)
        assert not [event for event in events if "reasoning" in event["type"]]
        thought, called = response["output"]
        assert (thought["type"], thought["summary"], thought["content"]) == ("reasoning", [], [])
        assert "look it up" not in str(response)
        output = {"type": "function_call_output", "call_id": called["call_id"], "output": "1"}
        asked = [
            {"role": "user", "content": "x"},
            thought,
            {**called, "call_id": "other"},
            {**output, "call_id": "other"},
        ]
        it.respond(input=asked, tools=tools)
        assert "<|channel|>analysis<|message|>look it up<|end|>" in it.script.prompts[1]
