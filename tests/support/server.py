"""The whole server in this process: around a scripted engine, or around ossia-mini.

In: turns, settings. Out: a client whose answers are checked by openai's own types.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from starlette.testclient import TestClient

from ossia.loading import Model, load
from ossia.server.app import app
from ossia.server.core.context import Context, RecentCalls
from ossia.server.core.hosted import HostedSessions
from ossia.server.core.service import Service
from ossia.server.settings import Settings
from ossia.server.state.store import Store
from tests.support.engine import ScriptedEngine, scripted_model
from tests.support.responses import checked, events_of
from tests.support.vocabularies import small

URL = "http://localhost"


@dataclass
class Served:
    """A client of a running server; `script` is its engine where that is scripted."""

    client: TestClient
    service: Service
    script: ScriptedEngine
    store: Store | None = None

    def chat(self, content: str = "hi", **body: Any) -> dict[str, Any]:
        """A chat's answer, checked by openai's types."""
        answer = self.client.post("/v1/chat/completions", json={"messages": [user(content)], **body})
        assert answer.status_code == 200, answer.text
        ChatCompletion.model_validate(answer.json())
        return answer.json()

    def message(self, content: str = "hi", **body: Any) -> dict[str, Any]:
        return self.chat(content, **body)["choices"][0]["message"]

    def chunks(self, content: str = "hi", **body: Any) -> list[dict[str, Any]]:
        """A chat's answer in chunks, each checked by openai's types."""
        answer = self.client.post("/v1/chat/completions", json={"messages": [user(content)], "stream": True, **body})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        *frames, last, end = answer.text.split("\n\n")
        assert (last, end) == ("data: [DONE]", "")
        chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
        for chunk in chunks:
            ChatCompletionChunk.model_validate(chunk)
        return chunks

    def complete(self, **body: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        Completion.model_validate(answer.json())
        return answer.json()

    def respond(self, **body: Any) -> dict[str, Any]:
        """A response, checked by openai's types."""
        answer = self.client.post("/v1/responses", json=body)
        assert answer.status_code == 200, answer.text
        return checked(answer.json())

    def until_status(self, response: str, *wanted: str) -> dict[str, Any]:
        """The stored response of this id, once it has one of these statuses."""
        for _ in range(1000):
            found = checked(self.client.get(f"/v1/responses/{response}").json())
            if found["status"] in wanted:
                return found
            time.sleep(0.01)
        raise AssertionError(f"after ten seconds its status is still {found['status']}, not {' or '.join(wanted)}")

    def events(self, **body: Any) -> list[dict[str, Any]]:
        """All events of a response, checked one by one."""
        answer = self.client.post("/v1/responses", json={**body, "stream": True})
        assert answer.status_code == 200, answer.text
        return events_of(answer.text)

    def refused(self, path: str = "/v1/chat/completions", **body: Any) -> tuple[int, str | None, str | None]:
        """Status, param and code of a refusal in OpenAI's shape."""
        return refusal(self.client.post(path, json=body))


def refusal(answer: Any) -> tuple[int, str | None, str | None]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return answer.status_code, error["param"], error["code"]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def function(name: str, properties: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties or {}, "required": list(properties or {})}
    return {
        "type": "function",
        "function": {"name": name, "parameters": {**parameters, "additionalProperties": False}, **more},
    }


@contextmanager
def scripted(
    *turns: str,
    engines: Sequence[ScriptedEngine] = (),
    settings: Settings | None = None,
    state: Path | None = None,
    hosted: HostedSessions | None = None,
    **script: Any,
) -> Iterator[Served]:
    """engines: what is used one after the other, as each fails. state: a folder for what is kept. hosted: the server's tools."""
    settings = settings or Settings(state=state, names=("gpt-oss-20b",) if state else ())
    left = list(engines or [ScriptedEngine(list(turns), **script)])
    engine = left[0]
    service = Service(scripted_model(), settings, make_engine=lambda: left.pop(0) if len(left) > 1 else left[0])
    store = Store(state, small()) if state else None
    try:
        with served(service, store, hosted) as client:
            yield Served(client, service, engine, store)
    finally:
        if store:
            store.close()


@contextmanager
def mini(settings: Settings | None = None, model: Model | None = None) -> Iterator[Served]:
    service = Service(model or load(), settings)
    with served(service) as client:
        yield Served(client, service, ScriptedEngine())


@contextmanager
def served(service: Service, store: Store | None = None, hosted: HostedSessions | None = None) -> Iterator[TestClient]:
    context = Context(service.settings, service, store or RecentCalls(), store, hosted=hosted or HostedSessions())
    with TestClient(app(context), base_url=URL, raise_server_exceptions=False) as client:
        yield client
