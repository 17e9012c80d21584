"""Anthropic's messages: the same answers as blocks, whole or streamed."""

import json
import re
from typing import Any

import pytest

from ossia.server.apis.openapi import document
from ossia.server.errors import too_long
from ossia.server.settings import Settings
from tests.support.server import Served, mini, refusal, scripted, user
from tests.support.turns import call, final, say, think

TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
DOCUMENT = document()
ADAPTIVE = {"type": "adaptive"}


def ask(served: Served, **body: Any) -> Any:
    return served.client.post("/v1/messages", json={"max_tokens": 500, "messages": [user("hi")], **body})


def prompt_tokens(usage: dict[str, Any]) -> int:
    """The whole prompt: what was read from the cache, written to it, and neither."""
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(usage[name] for name in names)


def events(served: Served, **body: Any) -> list[dict[str, Any]]:
    frames = [frame.split("\n") for frame in ask(served, stream=True, **body).text.split("\n\n") if frame]
    made = [json.loads(data.removeprefix("data: ")) for _, data in frames]
    assert [name.removeprefix("event: ") for name, _ in frames] == [event["type"] for event in made]
    return made


def blocks_of(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that a stream's events make, as a client puts them together."""
    blocks: list[dict[str, Any]] = []
    for event in made:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert index == len(blocks)
                blocks.append({**block, "json": ""})
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                assert index == len(blocks) - 1
                names = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
                name = {**names, "signature_delta": "signature"}[delta["type"]]
                blocks[index]["json" if name == "partial_json" else name] += delta[name]
    for block in blocks:
        text = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(text)
    return blocks


def test_an_answer_has_blocks_of_thinking_and_text():
    turn = think("easy") + final("Four.")
    with scripted(turn, turn, cached=4) as served:
        message = ask(served, thinking=ADAPTIVE).json()
        made = events(served, thinking=ADAPTIVE)
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert (message["content"][0]["thinking"], message["content"][1]["text"]) == ("easy", "Four.")
    assert (message["type"], message["role"], message["stop_reason"]) == ("message", "assistant", "end_turn")
    assert message["usage"]["cache_read_input_tokens"] == 4
    assert blocks_of(made) == message["content"]
    assert [made[0]["type"], made[-2]["type"], made[-1]["type"]] == ["message_start", "message_delta", "message_stop"]
    starts, stops = (
        [event["index"] for event in made if event["type"] == f"content_block_{end}"] for end in ("start", "stop")
    )
    assert starts == stops == [0, 1]
    assert made[-2]["usage"] == message["usage"]


def test_thinking_is_shown_only_when_asked_for():
    with scripted(think("easy") + final("Four.")) as served:
        assert [block["type"] for block in ask(served).json()["content"]] == ["text"]


def test_a_tool_is_used_and_its_result_taken_with_the_thinking_before_it():
    turn = think("look") + say("I look.") + call("weather", '{"city": "Kyoto"}')
    with scripted(turn, turn, final("Sunny.")) as served:
        made = events(served, tools=[TOOL])
        message = ask(served, tools=[TOOL], tool_choice={"type": "any"}).json()
        result = {
            "type": "tool_result",
            "tool_use_id": message["content"][1]["id"],
            "content": [{"type": "text", "text": "sunny"}],
        }
        history = [
            user("hi"),
            {"role": "assistant", "content": message["content"]},
            user([result, {"type": "text", "text": "so?"}]),
        ]
        answer = ask(served, tools=[TOOL], messages=history).json()
    assert message["stop_reason"] == "tool_use"
    assert (
        [block["type"] for block in message["content"]]
        == [block["type"] for block in blocks_of(made)]
        == ["text", "tool_use"]
    )
    assert message["content"][1]["input"] == blocks_of(made)[1]["input"] == {"city": "Kyoto"}
    assert answer["content"] == [{"type": "text", "text": "Sunny."}]
    assert (
        f"{turn}<|start|>functions.weather to=assistant<|channel|>commentary<|message|>sunny<|end|><|start|>user<|message|>so?"
        in served.script.prompts[2]
    )


def test_system_stop_sequences_and_length():
    with scripted(final("one two"), final("a long answer")) as served:
        first = ask(served, system=[{"type": "text", "text": "Be kind."}], stop_sequences=["two"]).json()
        second = ask(served, max_tokens=8).json()
    assert "# Instructions\n\nBe kind." in served.script.prompts[0]
    assert (first["stop_reason"], first["stop_sequence"], first["content"][0]["text"]) == (
        "stop_sequence",
        "two",
        "one ",
    )
    assert second["stop_reason"] == "max_tokens"


def test_tokens_are_counted():
    with scripted(final("ok")) as served:
        counted = served.client.post("/v1/messages/count_tokens", json={"messages": [user("hi")]}).json()[
            "input_tokens"
        ]
        usage = ask(served).json()["usage"]
    assert counted == usage["input_tokens"] + usage["cache_read_input_tokens"]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("streams", [True, False])
def test_who_may_not_come_in_is_told_so_in_anthropics_shape(path: str, streams: bool):
    settings = Settings(api_keys=("long-secret",), max_body_bytes=2000, max_header_bytes=2000)
    key, body = {"x-api-key": "long-secret"}, json.dumps({"stream": streams}).encode()
    large = iter([body, b" " * 3000])
    with scripted(settings=settings) as served:
        post = served.client.post
        refused = [
            (post(path, content=body), 401, "authentication_error"),
            (post(path, content=body, headers={"origin": "https://evil.example"}), 403, "permission_error"),
            (post(path, content=body + b" " * 3000, headers=key), 413, "request_too_large"),
            (post(path, content=large, headers=key), 413, "request_too_large"),
            (post(path, content=body, headers={**key, "x": "y" * 3000}), 431, "invalid_request_error"),
            (served.client.get(path, headers=key), 405, "invalid_request_error"),
            (post(f"{path}/nothing", headers=key), 404, "not_found_error"),
        ]
        described = DOCUMENT["paths"][path]["post"]["responses"]
    for answer, status, kind in refused:
        assert answer.status_code == status
        told = answer.json()
        assert set(told["error"]) == {"type", "message"}
        assert (told["type"], told["error"]["type"]) == ("error", kind)
        assert status == 405 or "AnthropicRefusal" in str(described[str(status)])


def test_C1_a_prompt_too_long_is_refused_in_the_words_that_clients_know():
    """Claude Code compacts the conversation when it reads these words."""
    known = re.compile(r"prompt is too long[^0-9]*(\d+)\s*tokens?\s*>\s*(\d+)", re.IGNORECASE)
    with scripted() as served:
        counted = served.client.post("/v1/messages/count_tokens", json={"messages": [user("x" * 5000)]}).json()
        refused = [ask(served, messages=[user("x" * 5000)], stream=stream) for stream in (False, True)]
    for answer in refused:
        error = answer.json()["error"]
        found = known.match(error["message"])
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
        assert found, error
        assert (int(found[1]), int(found[2])) == (counted["input_tokens"], 3000)


def test_C1_a_prompt_that_was_not_counted_to_its_end_has_the_same_words():
    said = too_long(9000, 4096, "messages", at_least=True)
    assert said.body("/v1/messages")["error"]["message"] == "prompt is too long: at least 9000 tokens > 4096 maximum"
    assert "maximum context length is 4096 tokens" in said.message
    assert "resulted in at least 9000 tokens" in said.message


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}, {}])
def test_C2_threads_are_refused_so_that_the_sdk_sends_the_whole_conversation(path: str, thread: dict[str, Any]):
    """A continued thread sends a tool's result alone: ignoring `thread` would lose the conversation."""
    result = user([{"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"}])
    body = {"max_tokens": 50, "messages": [result], "thread": thread}
    with scripted() as served:
        answer = served.client.post(path, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["details"] == {"error_code": "thread_unsupported_request"}
    assert answer.headers["x-should-retry"] == "false"


def test_C2_a_thread_of_null_is_none():
    with scripted(final("ok")) as served:
        assert ask(served, thread=None).status_code == 200


def test_C4_thinking_is_signed_before_its_block_ends():
    with scripted(think("easy") + final("Four.")) as served:
        made = events(served, thinking=ADAPTIVE)
    of_block = [event for event in made if event.get("index") == 0]
    assert of_block[0]["content_block"]["signature"] == ""
    assert [event["type"] for event in of_block[-2:]] == ["content_block_delta", "content_block_stop"]
    assert of_block[-2]["delta"]["type"] == "signature_delta"
    assert of_block[-2]["delta"]["signature"]
    assert not any(
        event["delta"]["type"] == "signature_delta" for event in made if "delta" in event and event.get("index") == 1
    )


ANSWER = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
FORM = {"type": "json_schema", "schema": {**ANSWER, "additionalProperties": False}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "given",
    [
        {"output_config": {"format": FORM}},
        {"output_format": FORM},
        {"output_config": {"effort": "low"}, "output_format": FORM},
    ],
)
def test_A4_an_output_format_is_enforced_and_told(given: dict[str, Any], stream: bool):
    """The scripted engine minds no mask: that one is there shows in the model's own answers below."""
    with scripted(final('{"answer": 42}')) as served:
        made = events(served, **given) if stream else ask(served, **given).json()
        counted = served.client.post("/v1/messages/count_tokens", json={"messages": [user("hi")], **given}).json()
    text = blocks_of(made)[0]["text"] if isinstance(made, list) else made["content"][0]["text"]
    assert json.loads(text) == {"answer": 42}
    assert "# Response Formats" in served.script.prompts[0]
    assert '"answer":{"type":"integer"}' in served.script.prompts[0].replace(" ", "")
    usage = made[-2]["usage"] if isinstance(made, list) else made["usage"]
    assert counted["input_tokens"] == prompt_tokens(usage)


def test_A4_a_real_models_answer_fits_the_format():
    with mini() as served:
        answers = [
            ask(served, messages=[user(words)], temperature=1, output_config={"effort": "low", "format": FORM}).json()
            for words in ("What is 2 + 3?", "Tell me a story.", "Say hello.")
        ]
    for answer in answers:
        assert answer["stop_reason"] == "end_turn", answer
        assert isinstance(json.loads(answer["content"][-1]["text"])["answer"], int)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"type": "json_schema", "schema": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
        ({"type": "json_schema", "schema": {"type": "string", "pattern": "("}}, "pattern"),
        ({"type": "json_schema"}, "schema"),
        ({"type": "xml", "schema": {}}, "type"),
        ({"type": "json_schema", "schema": "x"}, "schema"),
    ],
)
def test_A4_a_format_that_cannot_be_is_refused_in_anthropics_shape(form: Any, words: str, stream: bool):
    with scripted() as served:
        refused = [
            ask(served, stream=stream, output_config={"format": form}),
            ask(served, stream=stream, output_format=form),
        ]
    for answer in refused:
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
        assert words in error["message"]
        assert "output_config.format" in error["message"] or "output_format" in error["message"]


def test_another_path_has_openais_shape():
    with scripted() as served:
        assert refusal(served.client.post("/v1/messages2"))[0] == 404


def test_a_refused_stream_is_in_anthropics_shape_as_well():
    with scripted() as served:
        answer = ask(served, stream=True, messages=[user("x" * 5000)])
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": None},
        {"messages": []},
        {"messages": [user([{"type": "image", "source": {}}])]},
        {"messages": [user([{"type": "tool_result", "tool_use_id": "unknown", "content": "x"}])]},
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]},
        {"temperature": 9},
        {"thinking": {"type": "sometimes"}},
    ],
)
def test_what_cannot_be_is_refused_in_anthropics_shape(body: dict[str, Any]):
    with scripted() as served:
        answer = ask(served, **body)
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "invalid_request_error"


FOUND = {
    "type": "search_result",
    "source": "https://example.org/kiln",
    "title": "Kilns",
    "content": [{"type": "text", "text": "Fire at 1000 C."}, {"type": "text", "text": "Cool slowly."}],
    "citations": {"enabled": True},
}
PAGES = {
    "type": "document",
    "source": {"type": "content", "content": [{"type": "text", "text": "Page."}]},
    "title": "T",
}


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        (FOUND, "Kilns\nhttps://example.org/kiln\nFire at 1000 C.\nCool slowly."),
        ({**FOUND, "title": None, "citations": None}, "https://example.org/kiln\nFire at 1000 C.\nCool slowly."),
        (PAGES, "T\nPage."),
        ({**PAGES, "source": {"type": "content", "content": "Page."}, "context": "C"}, "T\nC\nPage."),
        ({**PAGES, "source": {"type": "text", "media_type": "text/plain", "data": "Page."}}, "T\nPage."),
    ],
)
def test_A7_blocks_that_hold_text_are_read(block: dict[str, Any], shown: str):
    used = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    turns = [
        {"role": "user", "content": [block]},
        {"role": "assistant", "content": [used]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [block]}]},
    ]
    with scripted(final("ok")) as it:
        answer = it.client.post("/v1/messages", json={"max_tokens": 9, "messages": turns})
        assert answer.status_code == 200
        assert "x-ossia-warnings" not in answer.headers
        assert f"<|start|>user<|message|>{shown}<|end|>" in it.script.prompts[0]
        assert (
            f"<|start|>functions.f to=assistant<|channel|>commentary<|message|>{shown}<|end|>" in it.script.prompts[0]
        )


@pytest.mark.parametrize("content", [5, [{"text": "no type"}], [5]])
def test_A7_a_search_result_of_another_form_is_refused(content: Any):
    with scripted() as it:
        turns = [{"role": "user", "content": [{**FOUND, "content": content}]}]
        answer = it.client.post("/v1/messages", json={"max_tokens": 9, "messages": turns})
        assert answer.status_code == 400
        assert answer.json()["type"] == "error"


def test_A7_other_results_in_a_history_are_placeholders():
    failed = {"type": "web_search_tool_result", "tool_use_id": "s", "content": {"type": "web_search_tool_result_error"}}
    turns = [user("x"), {"role": "assistant", "content": [failed, {"type": "text", "text": "Sorry."}]}, user("y")]
    with scripted(final("ok")) as it:
        answer = it.client.post("/v1/messages", json={"max_tokens": 9, "messages": turns})
        assert "web_search_tool_result" in answer.headers["x-ossia-warnings"]
        assert "[web_search_tool_result: not readable by this model]\nSorry.<|end|>" in it.script.prompts[0]
