"""Each error names the field at fault as the client wrote it, with a code, in every API."""

from typing import Any

import pytest

from ossia.harmony.errors import InputError
from ossia.harmony.grammar import GrammarCache, TurnGrammar
from ossia.harmony.messages import TextGrammar, ToolNamespace, ToolSpec
from ossia.server.errors import ApiError, input_errors
from tests.support.server import scripted, user
from tests.support.vocabularies import small

CHAT, RESPONSES, MESSAGES, COMPLETIONS = "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/completions"
UNIQUE = {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}, "required": ["x"]}
ASKED = {CHAT: {"messages": [user("hi")]}, RESPONSES: {"input": "hi"}, COMPLETIONS: {"prompt": "hi"}}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": UNIQUE, "strict": True}}
FLAT_SCHEMA = {"type": "json_schema", "name": "n", "schema": UNIQUE, "strict": True}
TOOL = {"name": "f", "parameters": UNIQUE, "strict": True}


@pytest.mark.parametrize(("path", "extra", "param", "code"), [
    (CHAT, {"response_format": JSON_SCHEMA}, "response_format", "invalid_json_schema"),
    (CHAT, {"guided_json": UNIQUE}, "guided_json", "invalid_json_schema"),
    (CHAT, {"guided_regex": "(a"}, "guided_regex", "invalid_grammar"),
    (CHAT, {"tools": [{"type": "function", "function": TOOL}]}, "tools", "invalid_json_schema"),
    (RESPONSES, {"text": {"format": FLAT_SCHEMA}}, "text.format.schema", "invalid_json_schema"),
    (RESPONSES, {"guided_regex": "(a"}, "guided_regex", "invalid_grammar"),
    (RESPONSES, {"tools": [{"type": "function", **TOOL}]}, "tools", "invalid_json_schema"),
    (COMPLETIONS, {"response_format": JSON_SCHEMA}, "response_format", "invalid_json_schema"),
    (COMPLETIONS, {"guided_regex": "(a"}, "guided_regex", "invalid_grammar"),
])  # fmt: skip
def test_the_field_is_named_as_the_request_has_it(path: str, extra: dict[str, Any], param: str, code: str):
    with scripted() as served:
        answer = served.client.post(path, json={**ASKED[path], **extra})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


def test_messages_name_the_schema_of_the_output_in_words():
    body = {"messages": [user("hi")], "max_tokens": 9, "output_config": {"format": {"type": "json_schema", "schema": UNIQUE}}}  # fmt: skip
    with scripted() as served:
        answer = served.client.post(MESSAGES, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("output_config.format.schema: the JSON schema of final")


@pytest.mark.parametrize(("rules", "param", "code"), [
    ({"tool_choice": "g"}, "tool_choice", "invalid_value"),
    ({"tools": [ToolNamespace("functions", None, (ToolSpec("a b", ""),))]}, "tools", "invalid_value"),
    ({"tools": [ToolNamespace("functions", None, (ToolSpec("f", "", UNIQUE, True),))]}, "tools", "invalid_json_schema"),
    ({"response_format": UNIQUE}, "response_format", "invalid_json_schema"),
    ({"response_format": TextGrammar("regex", ("(",))}, "response_format", "invalid_grammar"),
    ({"analysis_budget": -1}, "thinking_budget", "invalid_value"),
])  # fmt: skip
def test_the_errors_of_a_turns_grammar_carry_field_and_code(rules: dict[str, Any], param: str, code: str):
    with pytest.raises(InputError) as caught:
        TurnGrammar(GrammarCache(small()), **rules)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_an_api_puts_its_own_name_in_place_of_the_field():
    with pytest.raises(ApiError) as caught, input_errors({"messages": "input"}):
        raise InputError("messages", "no", "some_code")
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "input", "some_code")
    with pytest.raises(ApiError) as caught, input_errors({"messages": "input"}):
        raise ApiError(400, "no", param="tools")
    assert caught.value.param == "tools"
