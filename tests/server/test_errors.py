"""Refusals as clients read them: the words they look for, and whether they should try again."""

import re
from typing import Any

import pytest

from ossia.server.errors import ApiError, too_long
from ossia.server.http.connections import error_bytes
from ossia.server.settings import Settings
from tests.support.server import scripted, user
from tests.support.turns import final

LONG = "x" * 5000
# litellm, LangChain, pydantic-ai and others look for these words; some read the numbers
OPENAI_WORDS = re.compile(r"This model's maximum context length is (\d+) tokens")
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
COMPLETIONS, MESSAGES = "/v1/completions", "/v1/messages"
TOO_LONG: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"messages": [user(LONG)]}, "messages"),
    (CHAT, {"messages": [{"role": "system", "content": LONG}, user("hi")], "max_tokens": 5}, "messages"),
    (RESPONSES, {"input": LONG}, "input"),
    (RESPONSES, {"input": "hi", "instructions": LONG, "store": False}, "input"),
    (COMPLETIONS, {"prompt": LONG}, "prompt"),
    (COMPLETIONS, {"prompt": [LONG, "hi"], "max_tokens": 3}, "prompt"),
    (COMPLETIONS, {"prompt": LONG, "echo": True, "logprobs": 1, "max_tokens": 0}, "prompt"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body", "param"), TOO_LONG)
def test_C1_a_prompt_too_long_is_refused_in_openais_words(path: str, body: dict[str, Any], param: str, stream: bool):
    with scripted(final("ok"), final("ok")) as served:
        answer = served.client.post(path, json={**body, "stream": stream})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)
    found = OPENAI_WORDS.match(error["message"])
    assert found, error
    assert int(found[1]) == 3000
    counted = re.search(r"(?:resulted in|requested) (\d+) tokens", error["message"])
    assert counted, error
    assert int(counted[1]) > 3000
    assert "educe" in error["message"]  # what to do
    assert answer.headers["x-should-retry"] == "false"


def test_C1_both_apis_count_the_same():
    with scripted() as served:
        chat = served.client.post(CHAT, json={"messages": [user(LONG)]}).json()["error"]["message"]
        claude = served.client.post(MESSAGES, json={"messages": [user(LONG)], "max_tokens": 9}).json()["error"][
            "message"
        ]
    assert re.findall(r"\d+", chat) == re.findall(r"\d+", claude)[::-1]


@pytest.mark.parametrize("param", ["messages", "input", "prompt"])
def test_C1_a_prompt_that_was_not_counted_to_its_end_has_the_same_words(param: str):
    message = too_long(9000, 4096, param, at_least=True).message
    assert OPENAI_WORDS.match(message)
    assert "at least 9000 tokens" in message


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422, 431, 501])
def test_C3_final_errors_say_that_a_retry_is_of_no_use(status: int):
    assert ApiError(status, "no").headers["x-should-retry"] == "false"
    assert b"x-should-retry: false" in error_bytes(status, "no", "code")


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_C3_errors_that_may_pass_say_so(status: int):
    assert ApiError(status, "not now").headers["x-should-retry"] == "true"


@pytest.mark.parametrize("path", [CHAT, RESPONSES, COMPLETIONS, MESSAGES, "/v1/messages/count_tokens", "/v1/models"])
def test_C3_every_api_says_which_errors_are_final(path: str):
    settings = Settings(api_keys=("long-secret",), max_body_bytes=2000, max_header_bytes=2000)
    key = {"x-api-key": "long-secret"}
    with scripted(settings=settings) as served:
        post = served.client.post
        refused = [
            (post(path, content=b"{}"), 401),
            (post(path, content=b"{}", headers={"authorization": "Bearer wrong"}), 401),
            (post(path, content=b"{}", headers={**key, "origin": "https://evil.example"}), 403),
            (post(path, content=b" " * 3000, headers=key), 413),
            (post(f"{path}/nothing/here", content=b"{}", headers=key), None),
            (served.client.put(path, content=b"{}", headers=key), 405),
        ]
        if path != "/v1/models":
            refused.append((post(path, content=b'{"input": 3}', headers=key), 400))
            unknown = {"model": "gpt-4", "messages": [user("hi")], "max_tokens": 9}
            unknown |= {"prompt": "x"} if path == COMPLETIONS else {}
            refused.append((post(path, json=unknown, headers=key), 404))
    for answer, status in refused:
        assert status is None or answer.status_code == status, answer.text
        assert 400 <= answer.status_code < 500
        assert answer.headers["x-should-retry"] == "false"


def test_C3_a_full_queue_says_when_to_come_back():
    settings = Settings(max_num_seqs=1, max_queued=0)
    with scripted(final("ok"), settings=settings) as served:
        served.service.refuse_when_full()
        served.service.queue.running = 1  # one that does not end
        answers = [
            served.client.post(CHAT, json={"messages": [user("hi")]}),
            served.client.post(MESSAGES, json={"messages": [user("hi")], "max_tokens": 9}),
            served.client.post(MESSAGES, json={"messages": [user("hi")], "max_tokens": 9, "stream": True}),
        ]
        served.service.queue.running = 0
    for answer in answers:
        assert answer.status_code == 429
        assert answer.headers["x-should-retry"] == "true"
        assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("body", [
    {"messages": [{"role": "r" * 10**6, "content": "a"}]},
    {"model": "m" * 10**6, "messages": [{"role": "user", "content": "a"}]},
    {"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "t" * 10**6}},
    {"messages": [{"role": "user", "content": "a"}], "reasoning_effort": "z" * 10**6},
])  # fmt: skip
def test_K4_a_refusal_does_not_send_back_megabytes_of_what_is_wrong(body: dict[str, Any]):
    with scripted() as served:
        answer = served.client.post("/v1/chat/completions", json=body)
    assert answer.status_code in (400, 404)
    assert len(answer.content) < 10_000
