"""Whatever a model says, the client is answered in the API's form, and no text of it is lost."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from ossia.server.core.service import Service
from tests.support.engine import scripted_model
from tests.support.hostile import HostileEngine
from tests.support.responses import events_of
from tests.support.server import Served, served, user

TOOLS = [
    {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}},
    }
]
FLAT = [{"type": "function", **TOOLS[0]["function"]}]  # type: ignore[dict-item]
TURNS = [
    pytest.param(range(150), id="150"),
    pytest.param(range(1000, 3500), id="2500", marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    engine = HostileEngine()
    service = Service(scripted_model(), None, make_engine=lambda: engine)  # type: ignore[arg-type]
    with served(service) as client:
        yield Served(client, service, engine)


def heard(server: Served, seed: int, told: list[str]) -> None:
    """No word of the turn is missing in what was told."""
    engine: Any = server.script
    text = "\n".join(told)
    assert not [word for word in engine.words if word not in text], (seed, engine.said, told)


def told_by(message: dict[str, Any]) -> list[str]:
    calls = [call["function"]["arguments"] for call in message.get("tool_calls") or ()]
    return [message["content"] or "", message.get("reasoning") or "", *calls]


def prompt(server: Served, seed: int) -> None:
    engine: Any = server.script
    engine.seed = seed


@pytest.mark.parametrize("seeds", TURNS)
def test_chat(server: Served, seeds: range):
    for seed in seeds:
        prompt(server, seed)
        answer = server.client.post("/v1/chat/completions", json={"messages": [user("hi")], "tools": TOOLS})
        assert answer.status_code == 200, (seed, answer.text)
        ChatCompletion.model_validate(answer.json())
        choice = answer.json()["choices"][0]
        assert (choice["finish_reason"] == "tool_calls") <= bool(choice["message"].get("tool_calls"))
        heard(server, seed, told_by(choice["message"]))


@pytest.mark.parametrize("seeds", TURNS)
def test_chat_in_chunks(server: Served, seeds: range):
    for seed in seeds:
        prompt(server, seed)
        chunks = server.chunks("hi", tools=TOOLS, stream_options={"include_usage": True})
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        calls: dict[int, str] = {}
        for delta in deltas:
            for call in delta.get("tool_calls") or ():
                calls[call["index"]] = calls.get(call["index"], "") + (call["function"].get("arguments") or "")
        said = ["".join(delta.get(kind) or "" for delta in deltas) for kind in ("content", "reasoning")]
        finishes = [
            choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]
        ]
        assert len(finishes) == 1
        heard(server, seed, [*said, *calls.values()])


def told_in(output: list[dict[str, Any]]) -> list[str]:
    parts = [part["text"] for item in output for part in item.get("content") or ()]
    return parts + [item[key] for item in output for key in ("arguments", "input") if key in item]


@pytest.mark.parametrize("seeds", TURNS)
def test_responses(server: Served, seeds: range):
    for seed in seeds:
        prompt(server, seed)
        answer = server.client.post("/v1/responses", json={"input": "hi", "tools": FLAT, "store": False})
        assert answer.status_code == 200, (seed, answer.text)
        Response.model_validate(answer.json())
        assert answer.json()["status"] in ("completed", "incomplete")
        heard(server, seed, told_in(answer.json()["output"]))


@pytest.mark.parametrize("seeds", TURNS)
def test_responses_in_events(server: Served, seeds: range):
    for seed in seeds:
        prompt(server, seed)
        answer = server.client.post(
            "/v1/responses", json={"input": "hi", "tools": FLAT, "store": False, "stream": True}
        )
        assert answer.status_code == 200, (seed, answer.text)
        events = events_of(answer.text)
        last = events[-1]["response"]
        assert events[-1]["type"] in ("response.completed", "response.incomplete"), (seed, json.dumps(last))
        heard(server, seed, told_in(last["output"]))
        deltas = "".join(event["delta"] for event in events if event["type"].endswith(".delta"))
        heard(server, seed, [deltas])
