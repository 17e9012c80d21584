"""What schemas promise over the APIs: strict or not, and where a grammar gives up in the middle of an answer."""

import json
from typing import Any

import pytest

from ossia.harmony.enforce import SchemaError
from ossia.harmony.grammar import Constraint, GrammarCache, has
from ossia.harmony.text_mask import TextMask
from ossia.server.core.warnings import HEADER
from tests.support.server import Served, scripted, user
from tests.support.turns import call, final
from tests.support.vocabularies import small

UNKEPT = [
    ({"type": "array", "uniqueItems": True}, "uniqueItems at #/properties/x", "[1, 1]", '""'),
    ({"type": "string", "pattern": "(?<=a)b"}, "pattern at #/properties/x", '"anything"', "1"),
    ({"type": "string", "pattern": r"\bword\b"}, "pattern at #/properties/x", '"anything"', "1"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf at #/properties/x", "1", '"a"'),
    ({"type": "string", "format": "uri-reference"}, "format at #/properties/x", '"a b"', "1"),
    ({"type": "number", "exclusiveMinimum": True}, "exclusiveMinimum at #/properties/x", "-1", '"a"'),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum at #/properties/x", "9", '"a"'),
    ({"type": "array", "contains": {"const": 1}}, "contains at #/properties/x", "[2]", "2"),
]
MISSING = {"type": "object", "properties": {"x": {}}, "required": ["x", "y"], "additionalProperties": False}


def holder(x: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": x}, "required": ["x"], "additionalProperties": False}


def strays(served: Served) -> list[bool]:
    """For each answer, whether the engine said what the mask did not allow."""
    return [isinstance(mask, Constraint) and mask.strayed for mask in served.script.masks]


def chat_form(schema: dict[str, Any], strict: bool | None) -> dict[str, Any]:
    form = {"name": "n", "schema": schema} | ({} if strict is None else {"strict": strict})
    return {"messages": [user("hi")], "response_format": {"type": "json_schema", "json_schema": form}}


def responses_form(schema: dict[str, Any], strict: bool | None) -> dict[str, Any]:
    form = {"type": "json_schema", "name": "n", "schema": schema} | ({} if strict is None else {"strict": strict})
    return {"input": "hi", "text": {"format": form}}


@pytest.mark.parametrize("strict", [False, None])
@pytest.mark.parametrize(("x", "words", "good", "bad"), UNKEPT)
def test_A6b_what_cannot_be_enforced_is_left_out_with_a_warning(
    x: dict[str, Any], words: str, good: str, bad: str, strict: bool | None
):
    text = f'{{"x": {good}}}'
    with scripted(final(text), final(text), final(f'{{"x": {bad}}}')) as served:
        chat = served.client.post("/v1/chat/completions", json=chat_form(holder(x), strict))
        response = served.client.post("/v1/responses", json=responses_form(holder(x), strict))
        served.client.post("/v1/chat/completions", json=chat_form(holder(x), strict))
    assert chat.json()["choices"][0]["message"]["content"] == text
    assert f"response_format: not enforced: {words}" in chat.headers[HEADER]
    assert f"text.format: not enforced: {words}" in response.json()["metadata"]["ossia.warnings"]
    assert strays(served) == [False, False, True]  # the rest of the schema is enforced


@pytest.mark.parametrize(("x", "words", "good", "bad"), UNKEPT)
def test_A6b_a_strict_schema_is_refused_by_keyword_and_place(x: dict[str, Any], words: str, good: str, bad: str):
    with scripted() as served:
        chat = served.client.post("/v1/chat/completions", json=chat_form(holder(x), True))
        response = served.client.post("/v1/responses", json=responses_form(holder(x), True))
    for answer in (chat, response):
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_json_schema"
        assert words in answer.json()["error"]["message"]


def test_A6b_a_required_name_that_is_not_declared_is_enforced_where_it_may_come():
    schema = {"type": "object", "properties": {"x": {}}, "required": ["y"]}
    with scripted(final('{"x": 1, "y": [2]}'), final('{"x": 1}')) as served:
        for _ in range(2):
            answer = served.client.post("/v1/chat/completions", json=chat_form(schema, False))
            assert HEADER not in answer.headers
    assert strays(served) == [False, True]


def test_A6b_a_required_name_that_may_not_come_is_left_out_or_refused():
    with scripted(final('{"x": 1}')) as served:
        answer = served.client.post("/v1/chat/completions", json=chat_form(MISSING, False))
        refused = served.client.post("/v1/chat/completions", json=chat_form(MISSING, True))
    assert "response_format: not enforced: required at #: \"'y'\" is not declared" in answer.headers[HEADER]
    assert refused.status_code == 400
    assert "required at #" in refused.json()["error"]["message"]


# A complement of so many that llguidance gives up after a few characters.
PAIRS = [(one, other) for one in "abcdefg" for other in "klmno"]
COSTLY = "".join(f"(?!.*{one}.{{{number}}}{other})" for number, (one, other) in enumerate(PAIRS))
SCHEMA = holder({"type": "string", "pattern": f"^{COSTLY}.*$"})
TEXT = json.dumps({"x": "csbeagfdcsbeagfd" * 4})
TOOL = {"name": "f", "parameters": SCHEMA, "strict": True}
FUNCTION = {"type": "function", "function": TOOL}


@pytest.mark.parametrize(("extra", "script"), [
    (chat_form(SCHEMA, True), final(TEXT)), ({"messages": [user("hi")], "tools": [FUNCTION]}, call("f", TEXT))
])  # fmt: skip
def test_K10_chat_ends_in_an_error_where_the_grammar_gives_up(extra: dict[str, Any], script: str):
    with scripted(script, script) as served:
        whole = served.client.post("/v1/chat/completions", json=extra)
        streamed = served.client.post("/v1/chat/completions", json={**extra, "stream": True})
    assert whole.status_code == 400
    assert "too complex to be enforced" in whole.json()["error"]["message"]
    assert "too complex to be enforced" in streamed.text
    assert '"finish_reason":"' not in streamed.text


@pytest.mark.parametrize(("extra", "script"), [
    (responses_form(SCHEMA, True), final(TEXT)), ({"input": "hi", "tools": [{"type": "function", **TOOL}]}, call("f", TEXT))
])  # fmt: skip
def test_K10_a_response_fails_where_the_grammar_gives_up(extra: dict[str, Any], script: str):
    with scripted(script) as served:
        streamed = served.client.post("/v1/responses", json={**extra, "stream": True})
    last = json.loads(streamed.text.strip().split("\n\n")[-1].partition("data: ")[2])
    assert last["type"] == "response.failed"
    assert "too complex to be enforced" in last["response"]["error"]["message"]
    assert {item["status"] for item in last["response"]["output"]} == {"incomplete"}


@pytest.mark.parametrize("stream", [False, True])
def test_K10_messages_end_in_an_error_where_the_grammar_gives_up(stream: bool):
    tool = {"name": "f", "input_schema": SCHEMA, "strict": True}
    body = {"messages": [user("hi")], "max_tokens": 500, "tools": [tool], "stream": stream}
    with scripted(call("f", TEXT)) as served:
        answer = served.client.post("/v1/messages", json=body)
    assert "too complex to be enforced" in answer.text
    assert '"stop_reason":"' not in answer.text
    assert "message_stop" not in answer.text


def said(mask: TextMask, text: str) -> None:
    """Say a text under a mask that allows it."""
    for token in small().encode(text):
        allowed = mask.mask()
        assert allowed is not None
        assert has(allowed, token)
        mask.accept(token)


def test_K10_the_mask_of_a_completion_fails_where_the_grammar_gives_up():
    mask = TextMask(GrammarCache(small()), SCHEMA, ())
    with pytest.raises(SchemaError, match="too complex to be enforced further"):
        said(mask, TEXT)


@pytest.mark.parametrize("pattern", ["^a{100000}$", "^(?:ab){50000}$"])
@pytest.mark.parametrize("strict", [True, False])
def test_K10_a_pattern_that_no_answer_can_match_is_refused_or_left_out(pattern: str, strict: bool):
    schema = holder({"type": "string", "pattern": pattern})
    with scripted(final('{"x": "a"}')) as served:
        answer = served.client.post("/v1/chat/completions", json=chat_form(schema, strict))
    assert answer.status_code == (400 if strict else 200)
    said = answer.json()["error"]["message"] if strict else answer.headers[HEADER]
    assert "pattern at #/properties/x: its shortest match has 100000 characters" in said


def test_A6_names_of_properties_follow_a_reference():
    schema = {
        "type": "object",
        "propertyNames": {"$ref": "#/$defs/Color"},
        "additionalProperties": {"type": "integer"},
        "$defs": {"Color": {"type": "string", "enum": ["red", "green"]}},
    }
    with scripted(final('{"red": 1}'), final('{"blue": 1}')) as served:
        for _ in range(2):
            assert served.client.post("/v1/chat/completions", json=chat_form(schema, True)).status_code == 200
    assert strays(served) == [False, True]
