"""A server of the Responses API around an engine that says what it is told to, and the checks of openai's own types."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from ossia.engine.engine import Stats
from ossia.engine.request import Sampled, SamplingParams, TokenMask
from ossia.server.app import app
from ossia.server.core.context import Context
from ossia.server.core.service import Service
from ossia.server.settings import Settings
from ossia.server.state.store import Store
from tests.vocabularies import small

THINK = "<|channel|>analysis<|message|>{0}<|end|><|start|>assistant"
SAY = "<|channel|>commentary<|message|>{0}<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>{0}<|return|>"
CALL = "<|channel|>commentary to=functions.{0} <|constrain|>json<|message|>{1}<|call|>"

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@dataclass
class Script:
    """An engine: each submitted prompt gets the next turn, a token a step. It minds no mask, as hostile models would.

    prompts: what it was given, as text. cached, written: what it says it had, and keeps, in its cache. held: no step while set.
    """

    turns: list[str]
    prompts: list[str] = field(default_factory=list)
    params: list[SamplingParams] = field(default_factory=list)
    masks: list[TokenMask | None] = field(default_factory=list)
    live: list["Spoken"] = field(default_factory=list)
    cached: int = 0
    written: int = 0
    closed: int = 0
    held: bool = False
    fail: Exception | None = None
    cache_tokens: int = 3000

    def submit(self, prompt: Sequence[int], params: SamplingParams, mask: TokenMask | None) -> "Spoken":
        self.prompts.append(small().decode(prompt))
        self.params.append(params)
        self.masks.append(mask)
        tokens = small().encode_with_special(self.turns.pop(0))
        spoken = Spoken(self, tokens[: params.max_tokens], len(tokens) <= (params.max_tokens or 10**9), mask)
        self.live.append(spoken)
        return spoken

    def step(self) -> bool:
        if self.held:
            return False
        if self.fail:
            raise self.fail
        return sum(spoken.step() for spoken in self.live) > 0

    def stats(self) -> Stats:
        return Stats(*[0] * 13)


@dataclass
class Spoken:
    script: Script
    tokens: list[int]
    whole: bool
    mask: Any
    at: int = 0
    read: int = 0

    @property
    def cached_tokens(self) -> int:
        return self.script.cached

    @property
    def written_tokens(self) -> int:
        return self.script.written

    @property
    def ended(self) -> bool:
        return self.at == len(self.tokens)

    def release_memory(self) -> None:
        pass

    def step(self) -> bool:
        if self.ended:
            return False
        if self.mask:
            self.mask.accept(self.tokens[self.at])
        self.at += 1
        return True

    def ready(self) -> list[Sampled]:
        stops = {small().special["<|return|>"], small().special["<|call|>"]}
        taken = []
        for place in range(self.read, self.at):
            token, last = self.tokens[place], place == len(self.tokens) - 1
            finish = ("stop" if self.whole and token in stops else "length") if last else None
            taken.append(Sampled(token, -0.5, ((token, -0.5), (65, -1.5)), finish))
        self.read = self.at
        return taken

    def close(self) -> None:
        self.script.closed += 1
        if self in self.script.live:
            self.script.live.remove(self)


@dataclass
class World:
    client: TestClient
    script: Script
    store: Store | None

    def post(self, **body: Any) -> dict[str, Any]:
        """A response that was made, checked."""
        answer = self.client.post("/v1/responses", json=body)
        assert answer.status_code == 200, answer.text
        return checked(answer.json())

    def refused(self, **body: Any) -> tuple[int, str | None, str | None]:
        """Status, param and code of a refusal in OpenAI's shape."""
        answer = self.client.post("/v1/responses", json=body)
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return answer.status_code, error["param"], error["code"]

    def stream(self, **body: Any) -> list[dict[str, Any]]:
        """All events of a stream, checked one by one."""
        answer = self.client.post("/v1/responses", json={**body, "stream": True})
        assert answer.status_code == 200, answer.text
        return events_of(answer.text)


def checked(response: dict[str, Any]) -> dict[str, Any]:
    Response.model_validate(response)
    return response


def events_of(text: str) -> list[dict[str, Any]]:
    frames = [frame.split("\n") for frame in text.split("\n\n") if frame and not frame.startswith(":")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in frames]
    assert [name.removeprefix("event: ") for name, _ in frames] == [event["type"] for event in events]
    for event in events:
        assert EVENT.validate_python(event).type == event["type"]
        assert EVENT.validate_python(event).to_dict(exclude_unset=False)["type"] == event["type"]
    first = events[0]["sequence_number"]
    assert [event["sequence_number"] for event in events] == list(range(first, first + len(events)))
    return events


@contextmanager
def world(*turns: str, state: Path | None = None, **script: Any) -> Iterator[World]:
    engine = Script(list(turns), **script)
    config = SimpleNamespace(vocab=small().size, max_context=4000)
    stop = frozenset([small().special["<|return|>"], small().special["<|call|>"]])
    model = SimpleNamespace(name="script", tokenizer=small(), stop_tokens=stop, config=config)
    settings = Settings(state=state, names=("gpt-oss-20b",))
    store = Store(state, small()) if state else None
    service = Service(model, settings, make_engine=lambda: engine)  # type: ignore[arg-type]
    context = Context(settings, service, **({"memory": store} if store else {}), store=store)
    try:
        with TestClient(app(context), base_url="http://localhost") as client:
            yield World(client, engine, store)
    finally:
        if store:
            store.close()
