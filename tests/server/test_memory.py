"""What led to a call is remembered for clients that drop it: on disk, or, where nothing may be written, in memory alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ossia.harmony.messages import assistant
from ossia.server.app import app
from ossia.server.core.context import Context, RecentCalls
from ossia.server.core.service import Service
from ossia.server.settings import Settings
from ossia.server.state.store import Store
from tests.support.engine import ScriptedEngine, scripted_model
from tests.support.server import function, user
from tests.support.turns import call, final, think
from tests.support.vocabularies import small

THOUGHT = "a thought of nobody else's"
TURNS = (think(THOUGHT) + call("weather", '{"city": "Kyoto"}'), final("Sunny."))
CHAT = {"messages": [user("Weather?")], "tools": [function("weather", {"city": {"type": "string"}})]}
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
MESSAGES = {"messages": [user("Weather?")], "tools": [TOOL], "max_tokens": 500}


@pytest.fixture
def script() -> ScriptedEngine:
    return ScriptedEngine(list(TURNS))


@pytest.fixture
def client(script: ScriptedEngine, tmp_path: Path) -> Iterator[TestClient]:
    store = Store(tmp_path, small())
    service = Service(scripted_model(), Settings(state=tmp_path), make_engine=lambda: script)  # type: ignore[arg-type]
    with TestClient(app(Context(service.settings, service, store, store)), base_url="http://localhost") as client:
        yield client
    store.close()


def written(folder: Path) -> bool:
    return any(THOUGHT.encode() in path.read_bytes() for path in folder.glob("state.sqlite*"))


def chat(client: TestClient, **more: Any) -> None:
    message = client.post("/v1/chat/completions", json={**CHAT, **more}).json()["choices"][0]["message"]
    called = message["tool_calls"][0]
    history = [user("Weather?"), {"role": "assistant", "content": None, "tool_calls": [called]}]
    result = {"role": "tool", "tool_call_id": called["id"], "content": "sunny"}
    client.post("/v1/chat/completions", json={**CHAT, **more, "messages": [*history, result]})


def message(client: TestClient, **more: Any) -> None:
    used = client.post("/v1/messages", json={**MESSAGES, **more}).json()["content"][-1]
    result = {"type": "tool_result", "tool_use_id": used["id"], "content": "sunny"}
    history = [user("Weather?"), {"role": "assistant", "content": [used]}, user([result])]
    client.post("/v1/messages", json={**MESSAGES, **more, "messages": history})


@pytest.mark.parametrize("ask", [chat, message])
@pytest.mark.parametrize(
    ("more", "kept"), [({}, True), ({"store": True}, True), ({"store": None}, True), ({"store": False}, False)]
)
def test_the_thought_comes_back_and_is_written_only_where_it_may_be(
    ask: Any, more: dict[str, Any], kept: bool, client: TestClient, script: ScriptedEngine, tmp_path: Path
):
    ask(client, **more)
    assert THOUGHT in script.prompts[1]
    assert written(tmp_path) is kept


def test_the_calls_used_last_stay_within_the_bytes():
    memory = RecentCalls(max_bytes=10_000)
    messages = [assistant("x" * 3000)]
    for called in ("a", "b"):
        memory.remember(called, messages)
    assert memory.recall("a")
    memory.remember("a", messages)  # again: counted once
    memory.remember("c", messages)
    assert [bool(memory.recall(called)) for called in "abc"] == [True, False, True]
    memory.remember("large", [assistant("y" * 20_000)])
    assert not memory.recall("large")
