"""The whole server around an engine that says what it is told to, and around ossia-mini."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from starlette.testclient import TestClient

from ossia.loading import Model, load
from ossia.server.app import app
from ossia.server.core.context import Context, Recent
from ossia.server.core.service import Service
from ossia.server.settings import Settings
from tests.server.apis.responses.world import Script
from tests.vocabularies import small

URL = "http://localhost"


@dataclass
class Served:
    """A client of a running server; `script` is its engine where that is scripted."""

    client: TestClient
    service: Service
    script: Script

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
    *turns: str, engines: list[Any] | None = None, settings: Settings | None = None, **script: Any
) -> Iterator[Served]:
    """engines: what is used one after the other, as each fails."""
    engine = Script(list(turns), **script)
    stops = frozenset([small().special["<|return|>"], small().special["<|call|>"]])
    config = SimpleNamespace(vocab=small().size, max_context=4000)
    model = SimpleNamespace(name="script", tokenizer=small(), stop_tokens=stops, config=config)
    left = engines if engines is not None else [engine]
    service = Service(model, settings, make_engine=lambda: left.pop(0) if engines else engine)  # type: ignore[arg-type]
    with served(service) as client:
        yield Served(client, service, engine)


@contextmanager
def mini(settings: Settings | None = None, model: Model | None = None) -> Iterator[Served]:
    service = Service(model or load(), settings)
    with served(service) as client:
        yield Served(client, service, Script([]))


@contextmanager
def served(service: Service) -> Iterator[TestClient]:
    context = Context(service.settings, service, Recent())
    with TestClient(app(context), base_url=URL, raise_server_exceptions=False) as client:
        yield client
