"""The openai SDK itself against ossia-mini: what it assembles from streams is what the server kept."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from openai import AsyncOpenAI
from openai.types.responses import Response

import ossia
from ossia.server.app import app
from ossia.server.core.context import Context
from ossia.server.core.service import Service
from ossia.server.settings import Settings
from ossia.server.state.store import Store
from tests.support.server import scripted
from tests.support.turns import final, think
from tests.support.waiting import until

ADD = {
    "type": "function",
    "name": "add",
    "description": "Adds two numbers.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}


@asynccontextmanager
async def client_of(folder: Path) -> AsyncIterator[AsyncOpenAI]:
    """An SDK that calls ossia-mini's server within this process."""
    model = ossia.load("ossia-mini")
    settings = Settings(state=folder)
    service = Service(model, settings)
    store = Store(folder, service.tokenizer)
    made = app(Context(settings, service, store, store))
    async with made.router.lifespan_context(made):
        transport = httpx2.ASGITransport(made)
        async with httpx2.AsyncClient(transport=transport) as http:
            yield AsyncOpenAI(base_url="http://localhost/v1", api_key="x", http_client=http, max_retries=0)
    store.close()


def run(work: Any, folder: Path) -> None:
    async def whole() -> None:
        async with client_of(folder) as client:
            await work(client)

    asyncio.run(whole())


def test_text_streamed_and_not(tmp_path: Path):
    async def work(client: AsyncOpenAI) -> None:
        made = await client.responses.create(model="ossia-mini", temperature=0, input="What is 2 + 3?")
        assert made.output_text
        assert (await client.responses.retrieve(made.id)).output_text == made.output_text
        async with client.responses.stream(model="ossia-mini", temperature=0, input="What is 2 + 3?") as stream:
            deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            ended = await stream.get_final_response()
        assert "".join(deltas) == ended.output_text
        kept = await client.responses.retrieve(ended.id)
        assert kept.output_text == ended.output_text
        assert kept.usage is not None
        assert kept.usage.input_tokens_details.cached_tokens >= 0
        await client.responses.delete(made.id)

    run(work, tmp_path)


def test_tools_there_and_back(tmp_path: Path):
    async def work(client: AsyncOpenAI) -> None:
        # so small a model that may not answer would think on and on
        enough = {"reasoning": {"max_tokens": 60}}
        ask: dict[str, Any] = {"model": "ossia-mini", "tools": [ADD], "temperature": 0, "extra_body": enough}
        first = await client.responses.create(input="Add 2 and 3.", tool_choice="required", **ask)
        (call,) = [item for item in first.output if item.type == "function_call"]
        assert set(json.loads(call.arguments)) == {"a", "b"}
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
        second = await client.responses.create(input=[output], previous_response_id=first.id, **ask)
        assert second.status == "completed"
        assert first.usage is not None
        assert second.usage is not None
        known = second.usage.input_tokens_details.cached_tokens  # the call is given back as it was sampled
        assert known >= first.usage.input_tokens
        named = await client.responses.create(input="Hi", tool_choice={"type": "function", "name": "add"}, **ask)
        assert [item.name for item in named.output if item.type == "function_call"] == ["add"]
        assert Response.model_validate(second.to_dict()).id == second.id

    run(work, tmp_path)


def test_structured_output_comes_after_thinking(tmp_path: Path):
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer"}},
        "required": ["sum"],
        "additionalProperties": False,
    }

    async def work(client: AsyncOpenAI) -> None:
        form: Any = {"format": {"type": "json_schema", "name": "sum", "schema": schema, "strict": True}}
        made = await client.responses.create(model="ossia-mini", temperature=0, input="What is 2 + 3?", text=form)
        assert isinstance(json.loads(made.output_text)["sum"], int)

    run(work, tmp_path)


def test_sealed_reasoning_and_conversations(tmp_path: Path):
    async def work(client: AsyncOpenAI) -> None:
        made = await client.responses.create(
            model="ossia-mini",
            temperature=0,
            input="What is 2 + 3?",
            store=False,
            include=["reasoning.encrypted_content"],
        )
        items = [item.to_dict() for item in made.output]
        for item in items:
            item.pop("content", None) if item["type"] == "reasoning" else None
        again = [{"role": "user", "content": "What is 2 + 3?"}, *items, {"role": "user", "content": "And 1 + 1?"}]
        assert (await client.responses.create(model="ossia-mini", temperature=0, input=again)).status == "completed"  # type: ignore[arg-type]
        talk = await client.conversations.create(items=[{"role": "user", "content": "Hello."}])
        await client.responses.create(model="ossia-mini", temperature=0, input="What is 1 + 2?", conversation=talk.id)
        kinds = [item.type async for item in client.conversations.items.list(talk.id, order="asc")]
        assert kinds[:2] == ["message", "message"]
        assert len(kinds) > 2

    run(work, tmp_path)


def test_who_leaves_in_mid_stream_stops_the_answer(tmp_path: Path):
    """Driven as an ASGI server would: the client hangs up after some frames."""
    long = think("Hm.") + final("word " * 200)
    with scripted(long, state=tmp_path) as w:
        sent: list[bytes] = []
        left = asyncio.Event()

        async def leave() -> None:
            body = b'{"input": "x", "stream": true}'
            messages = [{"type": "http.request", "body": body, "more_body": False}]

            async def receive() -> dict[str, Any]:
                if messages:
                    return messages.pop()
                await left.wait()
                return {"type": "http.disconnect"}

            async def send(message: dict[str, Any]) -> None:
                sent.append(message.get("body", b""))
                if len(sent) > 12:
                    left.set()
                await asyncio.sleep(0)

            headers = [(b"host", b"localhost"), (b"content-length", str(len(body)).encode())]
            scope = {
                "type": "http",
                "method": "POST",
                "path": "/v1/responses",
                "raw_path": b"/v1/responses",
                "query_string": b"",
                "headers": headers,
                "client": ("127.0.0.1", 1),
                "server": ("localhost", 80),
                "scheme": "http",
                "http_version": "1.1",
                "root_path": "",
                "asgi": {"version": "3.0"},
            }
            await w.client.app(scope, receive, send)

        assert w.client.portal is not None
        w.client.portal.call(leave)
        assert b"response.completed" not in b"".join(sent)
        until(lambda: not w.script.requests, "the engine's thread has closed the request")
        own = json.loads(sent[1].split(b"data: ")[1])["response"]["id"]
        kept = w.client.get(f"/v1/responses/{own}").json()
        assert kept["status"] == "cancelled"
        assert kept["output"][0]["content"][0]["text"] == "Hm."
