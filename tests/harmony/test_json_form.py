"""Conversations in the JSON of OpenAI's library: what is read, and that nothing else is."""

from typing import Any

import pytest

from ossia.harmony.json_form import conversation_from_json, message_from_json, message_to_json, role_from_json
from ossia.harmony.messages import Developer, Message, System, ToolNamespace, ToolSpec, assistant, tool

TOOL = {"name": "f", "description": "d", "parameters": {"type": "object"}}


def test_a_conversation():
    spaces = {"functions": {"name": "functions", "tools": [TOOL]}, "k": {"name": "n", "description": "N", "tools": []}}
    contents = [
        {
            "type": "system_content",
            "model_identity": "M",
            "reasoning_effort": "Low",
            "knowledge_cutoff": "2024-06",
            "conversation_start_date": "2025-01-01",
            "channel_config": {"valid_channels": ["final"], "channel_required": False},
        },
        {"type": "developer_content", "instructions": "I", "tools": spaces},
    ]
    raw = {"messages": [
        {"role": "system", "content": contents[:1]},
        {"role": "developer", "content": contents[1:]},
        {"role": "user", "name": "ann", "content": "hi", "unknown": 1},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "channel": "final"},
    ]}  # fmt: skip
    functions = ToolNamespace("functions", None, (ToolSpec("f", "d", {"type": "object"}),))
    assert conversation_from_json(raw) == [
        Message("system", (System("M", "low", "2024-06", "2025-01-01", ("final",), False),)),
        Message("developer", (Developer("I", (functions, ToolNamespace("n", "N", (), "k"))),)),
        Message("user", ("hi",), name="ann"),
        Message("assistant", ("a", "b"), channel="final"),
    ]


def test_a_bare_system_message_has_no_defaults():
    raw = {"role": "system", "content": [{"type": "system_content"}]}
    assert message_from_json(raw) == Message("system", (System(None, None, None, None, (), False),))


@pytest.mark.parametrize("message", [assistant("x", "commentary", "functions.f", "<|constrain|>json"), tool("f", "r")])
def test_a_parsed_message_comes_back(message: Message):
    assert message_from_json(message_to_json(message)) == message


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        ({}, "missing required field `role`"),
        ({"role": "poet", "content": "x"}, "'poet'"),
        ({"role": "user", "content": 1}, r"\$\.content"),
        ({"role": "user", "content": [{"type": "image"}]}, r"'image' - at `\$\.content\[0\]\.type`"),
        ({"role": "user", "content": "x", "name": 1}, r"\$\.name"),
        ({"role": "system", "content": [{"type": "system_content", "reasoning_effort": "minimal"}]}, "'minimal'"),
    ],
)
def test_another_form_is_refused_with_its_place(raw: Any, place: str):
    with pytest.raises(ValueError, match=place):
        message_from_json(raw)


def test_an_unknown_role_is_refused():
    with pytest.raises(ValueError, match="unknown role 'poet'; the roles are system, developer, user, assistant, tool"):
        role_from_json("poet")
