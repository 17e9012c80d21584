"""Values by which clients mean that they want no choice of their own: -1, "", null, "auto" and the like."""

import json
from typing import Any

import pytest

from tests.support.server import Served, function, refusal, scripted, user
from tests.support.turns import final

CHAT, RESPONSES, COMPLETIONS, MESSAGES = (
    f"/v1/{api}" for api in ("chat/completions", "responses", "completions", "messages")
)
BASE: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [user("hi")]},
    RESPONSES: {"input": "hi"},
    COMPLETIONS: {"prompt": "hi"},
    MESSAGES: {"messages": [user("hi")], "max_tokens": 500},
}
BLANK: list[tuple[str, dict[str, Any]]] = [
    *((path, {name: value}) for path in (CHAT, RESPONSES, COMPLETIONS) for value in (None, "") for name in ("temperature", "top_p", "seed", "stream")),
    *((path, {"model": value}) for path in BASE for value in (None, "")),
    *((CHAT, {name: value}) for name in ("max_tokens", "max_completion_tokens") for value in (-1, "", None)),
    *((RESPONSES, {"max_output_tokens": value}) for value in (-1, "", None)),
    *((MESSAGES, {"max_tokens": value}) for value in (-1,)),
    *((CHAT, {"reasoning_effort": value}) for value in ("", "auto", "High", "HIGH", "default", " low ", None)),
    *((CHAT, {"reasoning": {"effort": value, "max_tokens": -1}}) for value in ("", "Auto", "Medium", None)),
    *((RESPONSES, {"reasoning": {"effort": value}}) for value in ("", "auto", "High", "DEFAULT", None)),
    (RESPONSES, {"reasoning": {"summary": "", "max_tokens": -1}}),
    (RESPONSES, {"reasoning": None, "text": {"format": None, "verbosity": ""}, "truncation": "", "tools": None}),
    *((MESSAGES, {"output_config": {"effort": value}}) for value in ("", "auto", "High", None)),
    (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": ""}, "temperature": "", "top_k": "", "tools": []}),
    (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": -1}, "stop_sequences": "", "tool_choice": None}),
    *((CHAT, {"stop": value}) for value in (None, "", [], [""])),
    *((COMPLETIONS, {"stop": value}) for value in (None, "", [])),
    *((path, {"seed": -1}) for path in (CHAT, RESPONSES, COMPLETIONS)),
    *((path, {"n": value}) for path in (CHAT, COMPLETIONS) for value in (None, "")),
    *((CHAT, {"tools": value, "tool_choice": choice}) for value in (None, [], "") for choice in (None, "", "auto", "none")),
    *((RESPONSES, {"tools": value, "tool_choice": choice}) for value in (None, []) for choice in (None, "", "auto")),
    *((CHAT, {"response_format": value, "stream_options": value, "logit_bias": value}) for value in (None, "")),
    (CHAT, {"top_k": -1, "min_p": None, "frequency_penalty": "", "presence_penalty": None, "logprobs": "", "user": ""}),
    (COMPLETIONS, {"max_tokens": "", "best_of": None, "suffix": "", "echo": "", "logprobs": None}),
    (COMPLETIONS, {"max_tokens": -1, "min_p": ""}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields"), BLANK, ids=str)
def test_A16_a_field_left_open_is_read_as_absent(path: str, fields: dict[str, Any]):
    with scripted(final("ok")) as served:
        answer = served.client.post(path, json={**BASE[path], **fields})
        assert answer.status_code == 200, answer.text
        params = served.script.params[0]
    assert params.max_tokens in (None, 500) or (path == COMPLETIONS and params.max_tokens == 16)
    assert params.seed is None
    assert params.temperature == params.top_p == 1


@pytest.mark.parametrize("word", ["High", "HIGH", " high ", "XHigh"])
def test_A16_words_for_the_effort_may_be_in_capitals(word: str):
    with scripted(*[final("ok")] * 3) as served:
        served.chat(reasoning_effort=word)
        served.client.post(RESPONSES, json={"input": "hi", "reasoning": {"effort": word}})
        served.client.post(MESSAGES, json={**BASE[MESSAGES], "output_config": {"effort": word}})
    assert ["Reasoning: high" in prompt for prompt in served.script.prompts] == [True] * 3


@pytest.mark.parametrize(
    ("given", "shown"), [("", None), ("auto", None), ("High", "high"), (None, None), ("none", "none")]
)
def test_A16_a_response_shows_the_effort_as_the_api_spells_it(given: str | None, shown: str | None):
    with scripted(final("ok")) as w:
        response = w.respond(input="x", reasoning={"effort": given}, max_output_tokens=-1)
    assert (response["reasoning"]["effort"], response["max_output_tokens"]) == (shown, None)


def test_A16_minus_one_is_absent_so_the_other_limit_holds():
    with scripted(final("ok")) as served:
        served.chat(max_completion_tokens=-1, max_tokens=77)
    assert served.script.params[0].max_tokens == 77


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"max_tokens": -2}, "max_tokens"),
        (RESPONSES, {"max_output_tokens": 0}, "max_output_tokens"),
        (CHAT, {"reasoning_effort": "extreme"}, "reasoning_effort"),
        (CHAT, {"temperature": "0.7"}, "temperature"),
        (CHAT, {"max_tokens": "100"}, "max_tokens"),
        (CHAT, {"n": 0}, "n"),
        (CHAT, {"messages": ""}, "messages"),
        (CHAT, {"messages": [{"role": "", "content": "x"}]}, "messages[0].role"),
        (CHAT, {"temperature": "", "messages": [{"role": 3}]}, "messages[0].role"),
        (CHAT, {"response_format": {"type": ""}}, "response_format.type"),
        (COMPLETIONS, {"max_tokens": 0}, "max_tokens"),
    ],
    ids=str,
)
def test_A16_what_means_nothing_is_still_refused_by_name(path: str, fields: dict[str, Any], param: str):
    """Numbers as strings too: nothing says whether "100" is a number or a mistake."""
    with scripted() as served:
        assert refused(served, path, fields)[:2] == (400, param)


def test_A16_messages_needs_max_tokens_however_it_is_left_out():
    with scripted() as served:
        for value in (None, ""):
            answer = served.client.post(MESSAGES, json={**BASE[MESSAGES], "max_tokens": value})
            assert answer.status_code == 400
            assert "max_tokens is missing" in answer.json()["error"]["message"]


def test_A16_an_empty_text_that_can_be_one_stays():
    """Only where no text can be is "" read as null."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"at": ""})}}
    history = [user(""), {"role": "assistant", "content": "", "tool_calls": [call]}]
    history.append({"role": "tool", "tool_call_id": "c", "content": ""})
    with scripted(final("ok")) as served:
        body = {"messages": history, "tools": [function("f", {"at": {"type": "string", "enum": ["", "a"]}})], "n": ""}
        assert served.client.post(CHAT, json=body).status_code == 200
    assert '{"at": ""}' in served.script.prompts[0]
    assert '""' in served.script.prompts[0].split("namespace functions")[1]


def refused(served: Served, path: str, fields: dict[str, Any]) -> tuple[int, str | None, str | None]:
    return refusal(served.client.post(path, json={**BASE[path], **fields}))
