"""An endpoint: what is retried, what is left out, and what becomes an error."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ossia.evals.core.benchmark import Ask, Reply
from ossia.evals.core.solver import SamplingSettings, TryKey
from ossia.evals.report.text import as_text
from ossia.evals.run import EvalPlan, run_benchmark
from ossia.evals.solvers.endpoint import RETRIES, Endpoint, EndpointSettings
from tests.evals.test_run import SUMS

ASK = Ask([{"role": "user", "content": "hi"}])
KEY = TryKey("b", "s", 0, "high")
ANSWER = {
    "choices": [{"message": {"role": "assistant", "content": "hello", "reasoning": "greet"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "completion_tokens_details": {"reasoning_tokens": 1},
    },
}


def asked(handler: Callable[[httpx.Request], httpx.Response], **settings: Any) -> Reply:
    given = EndpointSettings("http://host", "m", backoff=0.0, **settings)

    async def run() -> Reply:
        endpoint = Endpoint(given, httpx.MockTransport(handler))
        try:
            return await endpoint.model(KEY, 1, SamplingSettings())(ASK)
        finally:
            await endpoint.close()

    return asyncio.run(run())


def test_a_chat_carries_effort_seed_and_key():
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=ANSWER)

    reply = asked(handler, api_key="secret-key")
    assert (reply.text, reply.reasoning, reply.finish) == ("hello", "greet", "stop")
    assert reply.usage == (reply.usage.__class__(5, 3, 1))
    assert reply.message["reasoning_content"] == "greet"
    body = json.loads(seen[0].content)
    assert seen[0].url == "http://host/v1/chat/completions"
    assert seen[0].headers["authorization"] == "Bearer secret-key"
    assert body["reasoning_effort"] == "high"
    assert body["max_completion_tokens"] == 131_072
    assert isinstance(body["seed"], int)


def test_the_key_is_in_no_text():
    settings = EndpointSettings("http://host", "m", api_key="secret-key")
    assert "secret-key" not in repr(settings)
    assert "secret-key" not in json.dumps(Endpoint(settings).facts())


def test_temporary_errors_are_retried_and_then_an_error_row():
    tried: list[int] = []

    def busy(request: httpx.Request) -> httpx.Response:
        tried.append(1)
        return httpx.Response(503, text="busy")

    reply = asked(busy)
    assert len(tried) == RETRIES + 1
    assert reply.text is None
    assert reply.finish == "error"
    assert reply.error == "no answer after 5 retries: HTTP 503: busy"


def test_a_broken_connection_is_retried():
    tried: list[int] = []

    def broken_once(request: httpx.Request) -> httpx.Response:
        tried.append(1)
        if len(tried) == 1:
            raise httpx.ReadError("reset")
        return httpx.Response(200, json=ANSWER)

    assert asked(broken_once).text == "hello"


def test_a_wrong_request_is_not_retried():
    tried: list[int] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        tried.append(1)
        return httpx.Response(401, text="wrong key")

    assert asked(refuse).error == "HTTP 401: wrong key"
    assert len(tried) == 1


def test_a_field_that_the_server_does_not_know_is_left_out_and_named(tmp_path: Path):
    def strict(request: httpx.Request) -> httpx.Response:
        if "seed" in json.loads(request.content):
            return httpx.Response(400, json={"error": {"param": "seed", "message": "unknown"}})
        return httpx.Response(200, json=ANSWER)

    async def run() -> str:
        endpoint = Endpoint(EndpointSettings("http://host", "m", backoff=0.0), httpx.MockTransport(strict))
        try:
            return as_text(await run_benchmark(SUMS, endpoint, EvalPlan(limit=2), tmp_path, tmp_path))
        finally:
            await endpoint.close()

    assert asked(strict).text == "hello"
    assert "left out: seed" in asyncio.run(run())
    assert "left out: seed" in asyncio.run(run())  # the same run: what was left out is not its configuration


@pytest.mark.parametrize("body", ["[]", "nonsense", "{}", '{"choices": []}', '{"choices": [{"message": 3}]}'])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_an_answer_of_another_form_is_an_error_row(body: str, api: str):
    reply = asked(lambda _: httpx.Response(200, text=body), api=api)
    assert reply.finish == "error"
    assert "form" in reply.error or "JSON" in reply.error
