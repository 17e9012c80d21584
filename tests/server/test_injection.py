"""No text of a request becomes a control token, whichever field it stands in and whichever API it comes by."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.server import Served, scripted
from tests.support.turns import final
from tests.support.vocabularies import small

Body = dict[str, Any]
PIECES = [*small().special, "<|", "|>", "start", " to=", "functions.f", "\n", "x", "'", '"', "\\", "// ", "}"]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map(lambda pieces: "x" + "".join(pieces))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with tempfile.TemporaryDirectory() as folder, scripted(state=Path(folder), cache_tokens=4000) as w:
        w.script.turns = lambda _: final("ok")
        yield w


def schema(text: str) -> Body:
    own = {"type": "string", "title": text, "description": text, "enum": [text], "default": text}
    return {
        "type": "object",
        "title": text,
        "description": text,
        "properties": {text: own},
        "required": [text],
        text: text,
    }


def chat(text: str) -> Body:
    call = {"id": text, "type": "function", "function": {"name": text, "arguments": text}}
    custom = {"id": text + "2", "type": "custom", "custom": {"name": text, "input": text}}
    return {
        "messages": [
            {"role": "system", "content": text, "name": text},
            {"role": "developer", "content": [{"type": "text", "text": text}], text: text},
            {"role": "user", "content": text, "name": text},
            {"role": "assistant", "content": text, "reasoning": text},
            {"role": "system", "content": text},
            {"role": "user", "content": [{"type": "input_text", "text": text}, {"type": "text", "text": text}]},
            {"role": "assistant", "content": text, "reasoning_content": text, "tool_calls": [call, custom]},
            {"role": "tool", "tool_call_id": text, "content": text, "name": text},
            {"role": "tool", "tool_call_id": text + "2", "content": [{"type": "text", "text": text}]},
        ],
        "tools": [
            {"type": "function", "function": {"name": text, "description": text, "parameters": schema(text)}},
            {"type": "custom", "custom": {"name": text + "c", "description": text}},
            {"type": text, text: text},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": text, "description": text, "schema": schema(text)},
        },
        "stop": [text],
        "user": text,
        "metadata": {text: text},
    }


def items(text: str) -> list[Body]:
    return [
        {"role": "system", "content": text},
        {"role": "user", "content": [{"type": "input_text", "text": text}], "id": text},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}], "phase": text},
        {"role": "developer", "content": text},
        {
            "type": "reasoning",
            "content": [{"type": "reasoning_text", "text": text}],
            "summary": [],
            "encrypted_content": text,
        },
        {"type": "function_call", "call_id": text, "name": text, "namespace": text, "arguments": text},
        {"type": "function_call_output", "call_id": text, "output": text},
        {"type": "custom_tool_call", "call_id": text + "2", "name": text, "input": text},
        {"type": "custom_tool_call_output", "call_id": text + "2", "output": [{"type": "input_text", "text": text}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]},
        {"type": "message", "role": "assistant", "content": text, "phase": "commentary"},
    ]


def response(text: str) -> Body:
    function = {"type": "function", "name": text, "description": text, "parameters": schema(text)}
    return {
        "instructions": text,
        "input": [*items(text), {"type": text, "text": text}],
        "tools": [
            function,
            {"type": "namespace", "name": text, "description": text, "tools": [function]},
            {"type": "custom", "name": text + "c", "description": text},
            {
                "type": "custom",
                "name": text + "d",
                "format": {"type": "grammar", "syntax": "lark", "definition": text},
            },
            {"type": "mcp", "server_label": text},
        ],
        "text": {"format": {"type": "json_schema", "name": text, "description": text, "schema": schema(text)}},
        "user": text,
        "prompt_cache_key": text,
    }


def message(text: str) -> Body:
    return {
        "max_tokens": 50,
        "system": [{"type": "text", "text": text}],
        "messages": [
            {"role": "user", "content": text},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": text, "signature": text},
                    {"type": "text", "text": text},
                    {"type": "tool_use", "id": text, "name": text, "input": {text: [text]}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": text, "content": text, "is_error": True}],
            },
        ],
        "tools": [{"name": text, "description": text, "input_schema": schema(text)}],
        "stop_sequences": [text],
    }


def controls(served: Served, path: str, body: Body) -> list[int]:
    """The control tokens of the prompt that a request becomes."""
    before = len(served.script.prompt_tokens)
    answer = served.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    (prompt,) = served.script.prompt_tokens[before:]
    return [token for token in prompt if small().is_special(token)]


def in_conversation(served: Served, text: str) -> list[int]:
    made = served.client.post("/v1/conversations", json={"items": items(text), "metadata": {"k": text}})
    assert made.status_code == 200, made.text
    return controls(served, "/v1/responses", {"input": text, "conversation": made.json()["id"]})


@settings(max_examples=40, deadline=None)
@given(text=TEXTS)
def test_control_tokens_are_the_same_whatever_the_texts_are(served: Served, text: str):
    for path, body in (("/v1/chat/completions", chat), ("/v1/responses", response), ("/v1/messages", message)):
        assert controls(served, path, body(text)) == controls(served, path, body("x"))
    assert in_conversation(served, text) == in_conversation(served, "x")
    assert controls(served, "/v1/completions", {"prompt": text}) == []


def test_the_check_sees_what_it_looks_for(served: Served):
    assert controls(served, "/v1/completions", {"prompt": [small().special["<|start|>"]]})
