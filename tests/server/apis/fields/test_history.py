"""A conversation that a client gives back is the same prompt in all three APIs, and nothing of it is lost in silence."""

from typing import Any

import pytest

from tests.support.server import scripted, user
from tests.support.turns import final

PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: dict[str, Any] = {
    "chat": [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}],
    "responses": [{"type": "function", "name": "weather", "parameters": PARAMETERS}],
    "messages": [{"name": "weather", "input_schema": PARAMETERS}],
}
CITIES = {"a": "Kyoto", "b": "Oslo"}
IMAGES: dict[str, Any] = {
    "chat": {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    "responses": {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
    "messages": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
}
PLACEHOLDER = "[image: not readable by this model]"


def calls(api: str, ids: dict[str, str | None]) -> list[dict[str, Any]]:
    """The assistant's calls, one for each id with its city."""
    match api:
        case "chat":
            made = [
                {"id": i, "type": "function", "function": {"name": "weather", "arguments": f'{{"city":"{c}"}}'}}
                for c, i in ids.items()
            ]
            return [{"role": "assistant", "content": None, "tool_calls": made}]
        case "responses":
            return [
                {"type": "function_call", "call_id": i, "name": "weather", "arguments": f'{{"city":"{c}"}}'}
                for c, i in ids.items()
            ]
    return [
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": i, "name": "weather", "input": {"city": c}} for c, i in ids.items()],
        }
    ]


def results(api: str, given: list[tuple[str | None, Any]]) -> list[dict[str, Any]]:
    match api:
        case "chat":
            return [{"role": "tool", "tool_call_id": i, "content": content} for i, content in given]
        case "responses":
            return [{"type": "function_call_output", "call_id": i, "output": content} for i, content in given]
    return [
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": i, "content": content} for i, content in given],
        }
    ]


def body(api: str, conversation: list[dict[str, Any]]) -> dict[str, Any]:
    field = "input" if api == "responses" else "messages"
    return {field: conversation, "tools": TOOLS[api], **({"max_tokens": 50} if api == "messages" else {})}


def sent(api: str, conversation: list[dict[str, Any]]) -> tuple[str, str]:
    """The prompt after the tools, and the warnings."""
    with scripted(final("ok")) as served:
        answer = served.client.post(PATHS[api], json=body(api, conversation))
        assert answer.status_code == 200, answer.text
        prompt = served.script.prompts[0]
    return prompt[prompt.index("<|start|>user") :], answer.headers.get("x-ossia-warnings", "")


def called(city: str) -> str:
    return f'<|start|>assistant to=functions.weather<|channel|>commentary <|constrain|>json<|message|>{{"city":"{city}"}}<|call|>'


def answered(text: str) -> str:
    return f"<|start|>functions.weather to=assistant<|channel|>commentary<|message|>{text}<|end|>"


BOTH = f"<|start|>user<|message|>Where is it cold?<|end|>{called('Kyoto')}{answered('20 C')}{called('Oslo')}{answered('-5 C')}<|start|>assistant"


@pytest.mark.parametrize("api", PATHS)
def test_A9_results_in_another_order_stand_each_after_its_call(api: str):
    ids: dict[str, str | None] = {"Kyoto": "a", "Oslo": "b"}
    prompt, warnings = sent(
        api, [user("Where is it cold?"), *calls(api, ids), *results(api, [("b", "-5 C"), ("a", "20 C")])]
    )
    assert prompt == BOTH
    assert not warnings


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize(("on_calls", "on_results"), [(None, None), ("x", None), (None, "x")])
def test_A16_ids_that_are_null_are_matched_in_order(api: str, on_calls: str | None, on_results: str | None):
    ids = {city: on_calls and f"{on_calls}{i}" for i, city in enumerate(CITIES.values())}
    given = [(on_results and f"{on_results}{i}", text) for i, text in enumerate(("20 C", "-5 C"))]
    assert sent(api, [user("Where is it cold?"), *calls(api, ids), *results(api, given)])[0] == BOTH


@pytest.mark.parametrize("api", PATHS)
def test_M2_an_id_used_again_in_a_later_turn_gets_the_later_result(api: str):
    prompt, _ = sent(
        api,
        [user("Kyoto?"), *calls(api, {"Kyoto": "call_0"}), *results(api, [("call_0", "20 C")]),
         user("Oslo?"), *calls(api, {"Oslo": "call_0"}), *results(api, [("call_0", "-5 C")])],
    )  # fmt: skip
    assert called("Kyoto") + answered("20 C") in prompt
    assert called("Oslo") + answered("-5 C") in prompt


@pytest.mark.parametrize("api", PATHS)
def test_A9_calls_without_a_result_and_further_results_are_warned_of(api: str):
    ids: dict[str, str | None] = {"Kyoto": "a", "Oslo": "b"}
    prompt, warnings = sent(api, [user("hm"), *calls(api, ids), *results(api, [("b", "-5 C"), ("b", "-6 C")])])
    assert called("Kyoto") + called("Oslo") + answered("-5 C") + answered("-6 C") in prompt
    assert "this call has no result" in warnings
    assert "this call already has a result; both are shown" in warnings


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize("before", [False, True])
def test_A9_a_result_of_no_call_before_it_is_refused_as_by_openai(api: str, before: bool):
    turn = [*results(api, [("a" if before else "nobody", "20 C")]), *calls(api, {"Kyoto": "a"})]
    turn = turn if before else turn[::-1]
    with scripted() as served:
        answer = served.client.post(PATHS[api], json=body(api, [user("hm"), *turn]))
    assert answer.status_code == 400
    assert "which no message before it calls" in answer.json()["error"]["message"]


def test_A9_outputs_of_custom_tools_are_put_in_order_too():
    items = [
        user("hm"),
        {"type": "custom_tool_call", "call_id": "a", "name": "sql", "input": "one"},
        {"type": "custom_tool_call", "call_id": "b", "name": "sql", "input": "two"},
        {"type": "custom_tool_call_output", "call_id": "b", "output": "2"},
        {"type": "custom_tool_call_output", "call_id": "a", "output": "1"},
    ]
    with scripted(final("ok")) as served:
        assert (
            served.client.post(
                "/v1/responses", json={"input": items, "tools": [{"type": "custom", "name": "sql"}]}
            ).status_code
            == 200
        )
        prompt = served.script.prompts[0]
    assert [prompt.index(text) for text in ("one", ">1<", "two", ">2<")] == sorted(
        prompt.index(text) for text in ("one", ">1<", "two", ">2<")
    )


@pytest.mark.parametrize("api", PATHS)
def test_A7_an_image_in_a_tool_result_is_a_placeholder_with_a_warning(api: str):
    text = {"type": "input_text" if api == "responses" else "text", "text": "A screenshot:"}
    prompt, warnings = sent(
        api, [user("Look"), *calls(api, {"Kyoto": "a"}), *results(api, [("a", [text, IMAGES[api]])])]
    )
    assert answered(f"A screenshot:\n{PLACEHOLDER}") in prompt
    assert "content[1]" in warnings or "output[1]" in warnings


@pytest.mark.parametrize("api", PATHS)
def test_A7_an_image_in_history_is_a_placeholder_with_a_warning(api: str):
    prompt, warnings = sent(
        api, [user([IMAGES[api]]), {"role": "assistant", "content": "I can't."}, user("Then go on.")]
    )
    assert f"<|start|>user<|message|>{PLACEHOLDER}<|end|>" in prompt
    assert "[0].content[0]" in warnings


@pytest.mark.parametrize("api", PATHS)
def test_A7_an_image_in_the_newest_user_message_is_refused_by_its_place(api: str):
    text = {"type": "input_text" if api == "responses" else "text", "text": "What is this?"}
    turns = [user("hi"), {"role": "assistant", "content": "yes?"}, user("now"), user([text, IMAGES[api]])]
    with scripted() as served:
        answer = served.client.post(PATHS[api], json={**body(api, turns), "system": "Be kind."})
    assert answer.status_code == 400
    at = f"{'input' if api == 'responses' else 'messages'}[3].content[1]"
    assert f"{at} is of type" in answer.json()["error"]["message"]
    assert api == "messages" or answer.json()["error"]["param"] == at


def test_A7_a_document_of_plain_text_is_read():
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "The fox."}}
    prompt, warnings = sent("messages", [user([{"type": "text", "text": "Summarise:"}, document])])
    assert "Summarise:\nThe fox.<|end|>" in prompt
    assert not warnings


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_A14_parts_are_joined_by_a_newline(api: str, role: str):
    kind = ("output_text" if role == "assistant" else "input_text") if api == "responses" else "text"
    parts = [{"type": kind, "text": text} for text in ("Summarise:", "The fox")]
    prompt, _ = sent(api, [user("x"), {"role": role, "content": parts}, user("y")])
    assert "<|message|>Summarise:\nThe fox<|end|>" in prompt
