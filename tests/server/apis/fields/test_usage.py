"""Counts of tokens mean the same on every API: read from the cache, written to it, and the rest, which add up."""

import json
from typing import Any, NamedTuple

import pytest

from ossia.server.settings import Settings
from tests.support.server import Served, mini, scripted, user
from tests.support.turns import final, think

BLOCK = 16
APIS = ("chat", "responses", "messages")


class Prompt(NamedTuple):
    """Tokens of a prompt."""

    whole: int
    cached: int
    written: int


def ask(served: Served, api: str, words: str, stream: bool = False, **body: Any) -> Prompt:
    match api:
        case "chat":
            more = {"stream_options": {"include_usage": True}} if stream else {}
            body = {"messages": [user(words)], "max_tokens": 4, **more, **body}
            usage = _last(served, "/v1/chat/completions", body, stream)["usage"]
            details = usage["prompt_tokens_details"]
            return Prompt(usage["prompt_tokens"], details["cached_tokens"], details["cache_write_tokens"])
        case "responses":
            body = {"input": words, "max_output_tokens": 16, "store": False, **body}
            found = _last(served, "/v1/responses", body, stream)
            usage = found["response"]["usage"] if stream else found["usage"]
            details = usage["input_tokens_details"]
            assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
            return Prompt(usage["input_tokens"], details["cached_tokens"], details["cache_write_tokens"])
        case "messages":
            body = {"messages": [user(words)], "max_tokens": 4, **body}
            return _messages(_last(served, "/v1/messages", body, stream, "message_delta")["usage"])
    raise AssertionError(api)


def _messages(usage: dict[str, Any]) -> Prompt:
    cached, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
    return Prompt(usage["input_tokens"] + cached + written, cached, written)


def _last(served: Served, path: str, body: dict[str, Any], stream: bool, kind: str = "") -> dict[str, Any]:
    """The answer, or of a stream the last event, or the last of a type."""
    answer = served.client.post(path, json={**body, "stream": stream})
    assert answer.status_code == 200, answer.text
    if not stream:
        return answer.json()
    return [event for event in _events(answer.text) if event.get("type", "") == kind or not kind][-1]


def _events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("second", APIS)
@pytest.mark.parametrize("first", APIS)
def test_C5_what_one_api_writes_the_next_reads(first: str, second: str, stream: bool):
    words = f"{first} {second} {stream}: which of the seven hills of Rome is the highest, and why do you think so?"
    with mini() as served:
        wrote = ask(served, first, words, stream)
        read = ask(served, second, words, stream)
    assert wrote.whole == read.whole
    assert wrote.cached + wrote.written == read.cached == (wrote.whole - 1) // BLOCK * BLOCK
    assert (wrote.cached, read.written) == (0, 0)
    assert wrote.whole - wrote.written in range(1, BLOCK + 1), "the rest is less than a block, or the last one"


@pytest.mark.parametrize("api", APIS)
def test_C5_a_longer_prompt_reads_the_beginning_and_writes_the_rest(api: str):
    with mini() as served:
        first = ask(served, api, "The rain in Spain stays mainly in the plain. " * 4)
        longer = ask(served, api, "The rain in Spain stays mainly in the plain. " * 4 + "And the wind? " * 20)
        again = ask(served, api, "The rain in Spain stays mainly in the plain. " * 4 + "And the wind? " * 20)
    assert longer.cached <= first.whole
    assert longer.written > 0
    assert again.cached == longer.cached + longer.written
    assert again.written == 0


@pytest.mark.parametrize("api", APIS)
def test_C5_a_server_that_keeps_nothing_writes_nothing(api: str):
    with mini(Settings(prefix_cache_bytes=0)) as served:
        counts = [ask(served, api, "What is 2 + 2? " * 10) for _ in range(2)]
    assert [(each.cached, each.written) for each in counts] == [(0, 0), (0, 0)]


def test_C5_choices_share_one_prompt():
    """It is computed and written once, however many answers there are."""
    with mini() as served:
        several = ask(served, "chat", "Name a colour of the rainbow, any of them. " * 3, n=3)
        body = {"prompt": ["The quick brown fox jumps over the lazy dog. " * 3] * 2, "n": 3, "max_tokens": 3}
        usage = served.complete(**body)["usage"]
    assert (several.cached, several.written) == (0, (several.whole - 1) // BLOCK * BLOCK)
    details = usage["prompt_tokens_details"]
    assert details["cached_tokens"] + details["cache_write_tokens"] <= usage["prompt_tokens"]


@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("tools", [[], [{"name": "f", "input_schema": {"type": "object"}}]])
def test_A5_message_start_counts_the_prompt(thinks: bool, tools: list[Any]):
    """Claude Code reads the size of the conversation there."""
    body: dict[str, Any] = {
        "messages": [user("What is 2 + 2?")],
        "max_tokens": 60,
        "tools": tools,
        "system": "Be brief.",
    }
    body |= {"thinking": {"type": "enabled", "budget_tokens": 20}} if thinks else {}
    with mini() as served:
        counted = served.client.post("/v1/messages/count_tokens", json=body).json()["input_tokens"]
        runs = [_events(served.client.post("/v1/messages", json={**body, "stream": True}).text) for _ in range(2)]
    for number, events in enumerate(runs):
        start, end = events[0], events[-2]
        assert (start["type"], end["type"]) == ("message_start", "message_delta")
        first, last = start["message"]["usage"], end["usage"]
        assert _messages(first) == _messages(last)
        assert _messages(first).whole == counted
        assert first["output_tokens"] <= last["output_tokens"]
        assert bool(first["cache_read_input_tokens"]) is bool(number)


def test_A5_message_start_comes_with_the_first_token_even_where_thinking_is_hidden():
    with scripted(think("a long thought") + final("Four."), cached=32, written=16) as served:
        body = {"messages": [user("2 + 2?")], "max_tokens": 90, "stream": True}
        events = _events(served.client.post("/v1/messages", json=body).text)
    usage = events[0]["message"]["usage"]
    assert (usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (32, 16)
    assert [event["type"] for event in events[1:3]] == ["content_block_start", "content_block_delta"]
    assert events[-2]["usage"]["output_tokens_details"]["thinking_tokens"] > 0
