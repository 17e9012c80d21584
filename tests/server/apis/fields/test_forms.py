"""Forms of the answer by the fields of any server (A3): enforced, or named in a warning."""

import json
import re
from typing import Any

import pytest

from tests.support.server import mini, scripted, user
from tests.support.turns import final

N = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
GBNF = 'root ::= "n=" [0-9]+'
JSON: list[dict[str, Any]] = [
    {"guided_json": N}, {"guided_json": json.dumps(N)}, {"structured_outputs": {"json": N}}, {"structured_outputs": {"json": json.dumps(N)}},
    {"response_format": {"type": "json_object", "schema": N}}, {"response_format": {"type": "json_schema", "schema": N}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": N}}}, {"json_schema": N}, {"json_schema": json.dumps(N)},
    {"format": N}, {"grammar": {"type": "json", "value": N}}, {"grammar": {"type": "json_schema", "value": N}},
    {"response_format": {"type": "json", "value": N}}, {"response_format": {"type": "json_object"}, "guided_json": N},
]  # fmt: skip
TEXTS: list[tuple[dict[str, Any], str]] = [
    ({"guided_regex": r"\d{2}"}, r"\d{2}"), ({"regex": r"^\d{2}$"}, r"\d{2}"), ({"structured_outputs": {"regex": "[ab]"}}, "[ab]"),
    ({"grammar": {"type": "regex", "value": "[0-9]+"}}, "[0-9]+"), ({"response_format": {"type": "regex", "pattern": "x+"}}, "x+"),
    ({"guided_choice": ["41", "forty two"]}, "41|forty two"), ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
    ({"guided_grammar": GBNF}, r"n=\d+"), ({"guided_grammar": 'start: "n=" /[0-9]+/'}, r"n=\d+"), ({"ebnf": GBNF}, r"n=\d+"),
    ({"grammar": GBNF}, r"n=\d+"), ({"structured_outputs": {"grammar": GBNF}}, r"n=\d+"),
    ({"response_format": {"type": "grammar", "grammar": GBNF}}, r"n=\d+"),
    ({"response_format": {"type": "grammar", "syntax": "regex", "definition": "[xy]"}}, "[xy]"),
]  # fmt: skip


@pytest.mark.parametrize("form", JSON, ids=lambda form: " ".join(form))
def test_A3_a_schema_in_any_field_is_enforced_and_shown(form: dict[str, Any]):
    with mini() as it:
        body = {"messages": [user("What is 17 + 25?")], "temperature": 0, "max_tokens": 300, **form}
        answer = it.client.post("/v1/chat/completions", json=body)
        prompt = it.client.post("/v1/render", json=body).json()["prompts"][0]["prompt"]
    assert json.loads(answer.json()["choices"][0]["message"]["content"]).keys() == {"n"}
    assert "x-ossia-warnings" not in answer.headers
    assert '{"type":"object","properties":{"n":{"type":"integer"}}' in prompt


@pytest.mark.parametrize(
    ("form", "pattern"), TEXTS, ids=lambda form: " ".join(form) if isinstance(form, dict) else None
)
def test_A3_a_regex_choice_or_grammar_in_any_field_holds_the_answer(form: dict[str, Any], pattern: str):
    with mini() as it:
        told = it.message("What is 17 + 25?", temperature=0, max_tokens=300, **form)
        text = it.complete(prompt="What?", temperature=0, max_tokens=60, **form)["choices"][0]
    assert re.fullmatch(pattern, told["content"])
    assert told["reasoning"], "thinking stays free"
    assert re.fullmatch(pattern, text["text"]) or text["finish_reason"] == "length"


@pytest.mark.parametrize("form", ["json", {"type": "object"}])
def test_A3_ollamas_format_is_an_object(form: Any):
    with mini() as it:
        text = it.message("What is 1 + 1?", temperature=0, max_tokens=400, format=form)["content"]
    assert text.startswith("{")


def test_A3_a_completion_is_held_to_its_schema():
    with mini() as it:
        for form in JSON:
            text = it.complete(prompt="x", temperature=0, max_tokens=60, **form)["choices"][0]["text"]
            assert re.match(r'\s*\{\s*("n"\s*:\s*-?\d*\s*\}?)?', text), text


RESPONSES: list[tuple[dict[str, Any], str]] = [
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": N}}}, "{.*}"),
    ({"text": {"format": {"type": "json_schema", "json_schema": {"name": "x", "schema": N}}}}, "{.*}"),
    ({"text": {"format": {"type": "json_object", "schema": N}}}, "{.*}"), ({"guided_json": N}, "{.*}"),
    ({"text": {"format": {"type": "regex", "pattern": r"\d\d"}}}, r"\d\d"), ({"structured_outputs": {"choice": ["a", "b"]}}, "a|b"),
    ({"text": {"format": {"type": "grammar", "syntax": "lark", "definition": 'start: "x"+'}}}, "x+"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "pattern"), RESPONSES)
def test_A3_a_response_keeps_every_form(form: dict[str, Any], pattern: str):
    with mini() as it:
        response = it.client.post("/v1/responses", json={"input": "What is 17 + 25?", "temperature": 0, **form}).json()
    assert re.fullmatch(pattern, response["output"][-1]["content"][0]["text"])


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"guided_regex": "(a"}, "guided_regex", "invalid_grammar"),
        ({"guided_regex": "(?=a)b"}, "guided_regex", "invalid_grammar"),
        ({"guided_choice": [""]}, "guided_choice", "invalid_grammar"),
        ({"guided_grammar": "root ::= ("}, "guided_grammar", "invalid_grammar"),
        ({"guided_json": "{"}, "guided_json", "invalid_value"),
        ({"guided_json": 3}, "guided_json", "invalid_type"),
        ({"guided_json": {"uniqueItems": True}}, "guided_json", "invalid_json_schema"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "invalid_value"),
        ({"structured_outputs": {"regex": "a", "json": N}}, "structured_outputs.json", "invalid_value"),
        ({"response_format": {"type": "regex"}}, "response_format.regex", "missing_required_parameter"),
        ({"grammar": {"type": "xml"}}, "grammar.type", "invalid_value"),
        ({"format": "xml"}, "format", "invalid_value"),
        ({"guided_json": " " * (1 << 21)}, "guided_json", "invalid_value"),
        ({"guided_regex": "a" * 70_000}, "guided_regex", "invalid_grammar"),
    ],
)
def test_A3_a_form_that_cannot_be_is_refused_by_its_field(body: dict[str, Any], param: str, code: str):
    with scripted(final("a")) as it:
        assert it.refused(messages=[user("x")], **body) == (400, param, code)
        assert it.refused("/v1/completions", prompt="x", **body) == (400, param, code)
    with scripted() as it:
        named = param if "response_format" not in body else None
        if named:
            assert it.refused("/v1/responses", input="x", **body) == (400, param, code)


IGNORED: list[dict[str, Any]] = [
    {"use_beam_search": True}, {"bad_words": ["x"]}, {"prompt_logprobs": 2}, {"length_penalty": 1.2}, {"guided_decoding_backend": "outlines"},
    {"mirostat": 2}, {"dry_multiplier": 0.8}, {"typical_p": 0.5}, {"truncate_prompt_tokens": 100}, {"options": {"num_ctx": 9}}, {"transforms": ["x"]},
    {"structured_outputs": {"structural_tag": "{}"}}, {"response_format": {"type": "structural_tag"}}, {"repeat_penalty": 1.1},
    {"chat_template_kwargs": {"builtin_tools": ["python"]}}, {"chat_template_kwargs": {"unheard_of": 1}}, {"best_of": 3}, {"echo": True}, {"n_predict": 9}, {"keep_alive": "5m"}, {"priority": 1},
]  # fmt: skip


@pytest.mark.parametrize("body", IGNORED, ids=str)
def test_A3_what_is_not_honoured_is_named_in_a_warning(body: dict[str, Any]):
    (field,) = body
    with scripted(final("ok"), final("ok")) as it:
        told = it.client.post("/v1/chat/completions", json={"messages": [user("x")], **body})
        assert field in told.headers["x-ossia-warnings"]
    if field not in ("response_format", "best_of", "echo"):
        with scripted(final("ok")) as it:
            assert field in it.client.post("/v1/responses", json={"input": "x", **body}).headers["x-ossia-warnings"]
    if field not in ("chat_template_kwargs", "best_of", "echo"):
        with scripted("ok") as it:
            told = it.client.post("/v1/completions", json={"prompt": "x", **body})
            assert field in told.headers["x-ossia-warnings"]


def test_A3_what_asks_for_nothing_gets_no_warning():
    usual = {
        "use_beam_search": False, "length_penalty": 1.0, "best_of": 1, "skip_special_tokens": True, "bad_words": [], "mirostat": 0,
        "typical_p": 1.0, "format": "", "grammar": "", "guided_choice": [], "structured_outputs": {}, "chat_template_kwargs": {"enable_thinking": True},
        "n_predict": -1, "cache_prompt": True, "priority": 0, "user": "u", "metadata": {"a": "b"}, "something_unheard_of": 1, "response_format": {"type": "text"}, "think": True, "include_reasoning": True,
    }  # fmt: skip
    with scripted(final("ok")) as it:
        told = it.client.post("/v1/chat/completions", json={"messages": [user("x")], **usual})
    assert told.status_code == 200, told.text
    assert "x-ossia-warnings" not in told.headers
