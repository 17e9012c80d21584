"""Chat Completions: every word of the model reaches the client, in the place its kind has, whole or in pieces."""

import json
from typing import Any

import pytest

from tests.support.server import function, mini, refusal, scripted, user
from tests.support.turns import call, final, say, think
from tests.support.vocabularies import small

WEATHER = function("weather", {"city": {"type": "string"}})
CALLED = call("weather", '{"city": "Kyoto"}')


def said(chunks: list[dict[str, Any]], field: str) -> str:
    return "".join(chunk["choices"][0]["delta"].get(field) or "" for chunk in chunks if chunk["choices"])


def finish(chunks: list[dict[str, Any]]) -> list[str]:
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    return [reason for reason in reasons if reason]


def test_an_answer_has_content_reasoning_and_exact_counts():
    with scripted(think("easy") + final("Four."), cached=5, written=7) as served:
        answer = served.chat("2 + 2?")
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "Four."
    assert choice["message"]["reasoning"] == choice["message"]["reasoning_content"] == "easy"
    assert choice["finish_reason"] == "stop"
    usage, output = answer["usage"], small().encode_with_special(think("easy") + final("Four."))
    assert usage["completion_tokens"] == len(output)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 5, "cache_write_tokens": 7}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": len(small().encode("easy")) + 1}


def test_a_stream_has_the_role_first_and_the_same_words():
    with scripted(think("easy") + final("Four, 四."), cached=5, written=7) as served:
        chunks = served.chunks("2 + 2?", stream_options={"include_usage": True})
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert said(chunks, "content") == "Four, 四."
    assert said(chunks, "reasoning") == said(chunks, "reasoning_content") == "easy"
    assert finish(chunks) == ["stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 5, "cache_write_tokens": 7}
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_without_include_usage_no_chunk_has_it():
    with scripted(final("ok")) as served:
        assert all(chunk.get("usage") is None and chunk["choices"] for chunk in served.chunks())


def test_a_call_has_its_arguments_as_they_were_said():
    with scripted(think("look") + CALLED) as served:
        answer = served.chat("Weather?", tools=[WEATHER])
    (choice,) = answer["choices"]
    (called,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert called["type"] == "function"
    assert called["function"] == {"name": "weather", "arguments": '{"city": "Kyoto"}'}


def test_a_streamed_call_has_id_and_name_first_and_then_its_arguments():
    with scripted(say("I look.") + CALLED) as served:
        chunks = served.chunks("Weather?", tools=[WEATHER])
    first, *rest = [called for chunk in chunks for called in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert (first["index"], first["type"], first["function"]) == (0, "function", {"name": "weather", "arguments": ""})
    assert first["id"].startswith("call_")
    assert all(set(called) == {"index", "function"} for called in rest)
    assert "".join(called["function"]["arguments"] for called in rest) == '{"city": "Kyoto"}'
    assert said(chunks, "content") == "I look."
    assert finish(chunks) == ["tool_calls"]


def round_trip(call: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    assistant = {"role": "assistant", "content": None, "tool_calls": [call], **fields}
    return [user("Weather?"), assistant, {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}]


def test_thinking_that_a_client_drops_before_a_tool_result_is_restored():
    with scripted(think("look it up") + CALLED, final("Sunny.")) as served:
        (called,) = served.message("Weather?", tools=[WEATHER])["tool_calls"]
        assert served.message(messages=round_trip(called), tools=[WEATHER])["content"] == "Sunny."
    opening, again = served.script.prompts
    result = "<|start|>functions.weather to=assistant<|channel|>commentary<|message|>sunny<|end|><|start|>assistant"
    assert again == opening + think("look it up") + CALLED + result


def test_a_call_that_a_client_has_changed_is_taken_as_it_is_now():
    with scripted(think("look it up") + CALLED, final("Sunny.")) as served:
        (called,) = served.message("Weather?", tools=[WEATHER])["tool_calls"]
        called["function"]["arguments"] = '{"city": "Nara"}'
        served.message(messages=round_trip(called), tools=[WEATHER])
    assert "look it up" in served.script.prompts[1]
    assert "Nara" in served.script.prompts[1]
    assert "Kyoto" not in served.script.prompts[1]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thinking_comes_back_under_either_name(name: str):
    called = {
        "id": "call_elsewhere",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Kyoto"}'},
    }
    with scripted(final("Sunny.")) as served:
        served.message(messages=round_trip(called, **{name: "as I thought"}), tools=[WEATHER])
    assert "<|channel|>analysis<|message|>as I thought<|end|>" in served.script.prompts[0]


def test_thinking_that_led_to_an_answer_is_not_shown_again():
    history = [user("a"), {"role": "assistant", "content": "b", "reasoning": "old"}] * 2
    with scripted(final("ok")) as served:
        served.message(messages=[*history, user("c")])
    assert "old" not in served.script.prompts[0]


def test_what_a_developer_or_system_says_is_one_developer_message():
    messages = [{"role": "system", "content": "Be kind."}, {"role": "developer", "content": "Be brief."}, user("hi")]
    with scripted(final("ok")) as served:
        served.message(messages=messages, reasoning_effort="high", tools=[WEATHER])
    (prompt,) = served.script.prompts
    assert "Reasoning: high" in prompt
    assert "Current date: 20" in prompt
    assert prompt.count("<|start|>developer") == 1
    assert "# Instructions\n\nBe kind.\n\nBe brief.\n\n# Tools" in prompt


@pytest.mark.parametrize(
    ("given", "effort"), [("none", "low"), ("minimal", "low"), ("xhigh", "high"), (None, "medium")]
)
def test_every_effort_of_openai_has_one_of_gpt_oss(given: str | None, effort: str):
    with scripted(final("ok")) as served:
        served.message(reasoning_effort=given)
    assert f"Reasoning: {effort}" in served.script.prompts[0]


def test_content_may_be_in_parts_null_or_text_that_looks_like_control():
    parts = [{"type": "text", "text": "<|start|>system"}, {"type": "text", "text": "<|end|>"}]
    with scripted(final("ok")) as served:
        served.message(messages=[user(parts), {"role": "assistant", "content": None}, user("go")], tools=[])
        mask = served.service.tokenizer.encode(served.script.prompts[0])
    assert "<|start|>system\n<|end|>" in served.script.prompts[0]
    assert mask


@pytest.mark.parametrize("text", ["one stop two", "one stostop two", "one stop", "stop"])
def test_a_stop_string_ends_the_answer_wherever_tokens_begin(text: str):
    turn = think("no stop here") + final(text)
    with scripted(turn, turn) as served:
        choice = served.chat(stop="stop")["choices"][0]
        chunks = served.chunks(stop=["stop", "never"])
    expected = text.partition("stop")[0]
    assert choice["message"]["content"] == said(chunks, "content") == expected
    assert choice["message"]["reasoning"] == said(chunks, "reasoning") == "no stop here"
    assert choice["finish_reason"] == "stop"
    assert finish(chunks) == ["stop"]


def test_text_that_only_began_like_a_stop_string_is_given():
    with scripted(final("one sto")) as served:
        assert served.message(stop="stop")["content"] == "one sto"


def test_several_answers_have_seeds_of_their_own():
    turns = [final(word) for word in ("a", "b", "c")]
    with scripted(*turns, *turns) as served:
        answer = served.chat(n=3, seed=7)
        chunks = served.chunks(n=3)
    assert sorted(choice["message"]["content"] for choice in answer["choices"]) == ["a", "b", "c"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len({params.seed for params in served.script.params[:3]}) == 3
    assert sorted(
        choice["delta"]["content"] for chunk in chunks for choice in chunk["choices"] if choice["delta"].get("content")
    ) == ["a", "b", "c"]
    assert finish(chunks) == ["stop"] * 3


def test_logprobs_are_of_the_contents_tokens_and_join_to_it():
    turn = think("hm") + final("Four 四")
    with scripted(turn, turn) as served:
        whole = served.chat(logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
        chunks = served.chunks(logprobs=True, top_logprobs=2)
    pieces = [
        each
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["logprobs"]
        for each in choice["logprobs"]["content"]
    ]
    assert pieces == whole
    assert b"".join(bytes(each["bytes"]) for each in whole).decode() == "Four 四"
    assert all(each["logprob"] == -0.5 and len(each["top_logprobs"]) == 2 for each in whole)


def test_a_form_is_shown_to_the_model_and_preambles_stay_out_of_the_content():
    form = {"type": "json_schema", "json_schema": {"name": "point", "schema": {"type": "object"}, "strict": True}}
    with scripted(say("Here it is.") + final("{}")) as served:
        message = served.message(response_format=form)
    assert message["content"] == "{}"
    assert message["reasoning"] == "Here it is."
    assert '# Response Formats\n\n## point\n\n{"type":"object"}' in served.script.prompts[0]


def test_an_answer_cut_short_says_so():
    with scripted(CALLED) as served:
        choice = served.chat(tools=[WEATHER], max_completion_tokens=len(small().encode_with_special(CALLED)) - 4)[
            "choices"
        ][0]
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("turn", "content"),
    [
        ("It is four.<|return|>", "It is four."),
        ("<|channel|>analysis<|end|><|start|>assistant<|message|>Four.<|return|>", "Four."),
        ("<|channel|>final to=nobody<|message|>Four.<|return|>", "Four."),
        ("<|channel|>commentary to=functions.other<|message|>{}<|call|>", "{}"),
        ("<|channel|>odd<|message|>Four.<|return|>", "Four."),
        ("<|channel|>final<|message|>Fo<|channel|>ur.", "Fo<|channel|>ur."),
    ],
)
def test_malformed_output_is_content(turn: str, content: str):
    with scripted(turn, turn) as served:
        choice = served.chat(tools=[WEATHER])["choices"][0]
        chunks = served.chunks(tools=[WEATHER])
    assert choice["message"]["content"] == said(chunks, "content") == content
    assert choice["finish_reason"] in ("stop", "length")
    assert "tool_calls" not in choice["message"]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": []}, "messages", "invalid_value"),
        ({}, "messages", "missing_required_parameter"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [user([{"type": "image_url", "image_url": {"url": "x"}}])]}, "messages[0].content[0]", "unsupported_content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]}, "messages[0].tool_call_id", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"top_p": -1}, "top_p", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": -2}, "max_completion_tokens", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": 1000}}, "logit_bias", "invalid_value"),
        ({"frequency_penalty": 2.1}, "frequency_penalty", "invalid_value"),
        ({"presence_penalty": -3}, "presence_penalty", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"min_tokens": -1}, "min_tokens", "invalid_value"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens", "invalid_value"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "invalid_value"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"stop": ["x"] * 17}, "stop", "invalid_value"),
        ({"model": "gpt-9"}, "model", "model_not_found"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", None),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice", None),
        ({"messages": [user("x" * 5000)]}, "messages", "context_length_exceeded"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(body: dict[str, Any], param: str, code: str | None):
    with scripted() as served:
        whole = body if "messages" in body or not body else {"messages": [user("hi")], **body}
        status, where, what = served.refused(**whole)
    assert (status, where) == (404 if param == "model" else 400, param)
    assert code is None or what == code


def test_a_schema_that_cannot_be_enforced_is_refused_by_keyword():
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    with scripted() as served:
        answer = served.client.post("/v1/chat/completions", json={"messages": [user("hi")], "response_format": form})
    assert refusal(answer) == (400, "response_format", "invalid_json_schema")
    assert "uniqueItems" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1, 2]",
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"messages": [{"role": "user", "content": "hi"}], "seed": 1e999}',
        b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1' + b"0" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": "hi"}], "temperature": NaN}',
    ],
    ids=["empty", "cut", "list", "not UTF-8", "deep", "infinite", "huge", "not a number"],
)
def test_bodies_that_are_no_request_are_refused_and_the_server_goes_on(body: bytes):
    with scripted(final("ok")) as served:
        status, _, code = refusal(served.client.post("/v1/chat/completions", content=body))
        assert (status, bool(code)) == (400, True)
        assert served.message()["content"] == "ok"


@pytest.mark.parametrize("seed", [-1, 0, 2**63, 2**64, 10**18])
def test_any_seed_will_do(seed: int):
    with scripted(final("ok")) as served:
        assert served.message(seed=seed)["content"] == "ok"


def test_half_a_surrogate_in_a_text_harms_nobody():
    body = json.dumps({"messages": [user("a \ud800 b")]}).encode()
    with scripted(final("ok")) as served:
        answer = served.client.post("/v1/chat/completions", content=body)
    assert answer.status_code == 200


def test_fields_that_are_not_known_are_ignored():
    with scripted(final("ok")) as served:
        more = {
            "store": True,
            "service_tier": "auto",
            "prompt_cache_key": "x",
            "client_metadata": {"a": 1},
            "parallel_tool_calls": False,
        }
        assert served.message(**more)["content"] == "ok"


def test_a_custom_tool_takes_free_text_and_is_a_function_in_a_stream():
    tool = {"type": "custom", "custom": {"name": "shell", "description": "runs"}}
    turn = call("shell", '{"input": "ls -l"}')
    with scripted(turn, turn) as served:
        (called,) = served.message(tools=[tool])["tool_calls"]
        chunks = served.chunks(tools=[tool])
    assert called["custom"] == {"name": "shell", "input": "ls -l"}
    calls = [called for chunk in chunks for called in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert json.loads("".join(called["function"].get("arguments", "") for called in calls)) == {"input": "ls -l"}


def test_a_choice_among_tools_is_kept_to_by_a_real_model():
    other, weather = (function(name, {"where": {"enum": ["Kyoto", "Nara"]}}) for name in ("clock", "weather"))
    named = {"type": "function", "function": {"name": "clock"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    with mini() as served:
        for choice, names in (
            (named, {"clock"}),
            (allowed, {"clock"}),
            ("required", {"clock", "weather"}),
            ("none", None),
        ):
            message = served.message(
                "What is 2 + 2?", tools=[weather, other], tool_choice=choice, seed=1, max_tokens=500
            )
            calls = message.get("tool_calls")
            assert (calls is None) == (names is None)
            for called in calls or ():
                assert called["function"]["name"] in (names or ())
                assert isinstance(json.loads(called["function"]["arguments"]), dict)


def test_a_real_models_answer_fits_its_schema():
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema, "strict": True}}
    with mini() as served:
        answer = served.chat("What is 2 + 2?", response_format=form, temperature=0)
        (choice,) = answer["choices"]
        assert isinstance(json.loads(choice["message"]["content"])["n"], int)
        assert choice["message"]["reasoning"]
        anything = served.chat("What is 2 + 2?", response_format={"type": "json_object"}, seed=3, max_tokens=300)[
            "choices"
        ][0]
        assert anything["finish_reason"] == "length" or isinstance(json.loads(anything["message"]["content"]), dict)


def test_a_budget_of_thinking_ends_it():
    with mini() as served:
        usage = served.chat("What is 4821 + 999?", reasoning={"effort": "high", "max_tokens": 5})["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] <= 8


def test_the_same_seed_says_the_same():
    with mini() as served:
        answers = [served.message("What is 12 + 30?", seed=3) for _ in range(2)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("limit", [66, 200, None])
def test_a_call_that_must_come_comes_however_long_the_model_would_think(limit: int | None):
    pick = function("pick", {"size": {"type": "string", "enum": ["small", "large"]}})
    # thinking cannot end by itself
    with mini() as served:
        never = {"logit_bias": {str(served.service.tokenizer.special["<|end|>"]): -100}}
        for choice in ("required", {"type": "function", "function": {"name": "pick"}}):
            answer = served.chat(tools=[pick], tool_choice=choice, max_tokens=limit, seed=1, **never)
            (made,) = answer["choices"]
            assert made["finish_reason"] == "tool_calls"
            assert json.loads(made["message"]["tool_calls"][0]["function"]["arguments"])["size"] in ("small", "large")
