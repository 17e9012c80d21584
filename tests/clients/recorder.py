"""A proxy between a client and the server that keeps what passes, and the check of all of it against OpenAI's types.

In: the server's address. Out: an ASGI app, and `complaints` about what it heard. It changes nothing that passes.
"""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WHOLE: dict[str, Any] = {
    "/v1/responses": OpenAIResponse,
    "/v1/chat/completions": ChatCompletion,
    "/v1/completions": Completion,
}
HOP = {"host", "content-length", "connection", "transfer-encoding", "accept-encoding"}
MESSAGE_ENDS = ("message_start", "message_delta", "message_stop")
PROMPT_COUNTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
ENDS = ("response.completed", "response.incomplete", "response.failed")


@dataclass
class Exchange:
    """One request and its answer."""

    method: str
    path: str
    asked: bytes
    status: int = 0
    answer: bytes = b""
    kind: str = ""
    retry: str = ""  # its header x-should-retry
    whole: bool = False  # the answer was heard to its end

    @property
    def body(self) -> Any:
        return json.loads(self.asked) if self.asked else {}

    @property
    def frames(self) -> list[str]:
        """The data of each server-sent event."""
        parts = self.answer.decode("utf-8").split("\n\n")
        return [
            "\n".join(x[5:].strip() for x in part.split("\n") if x.startswith("data:"))
            for part in parts
            if "data:" in part
        ]


@dataclass
class Recorder:
    target: str
    heard: list[Exchange] = field(default_factory=list)

    def app(self) -> Starlette:
        methods = ["GET", "POST", "DELETE"]
        return Starlette(routes=[Route("/{path:path}", self._pass, methods=methods)])

    async def _pass(self, request: Request) -> StreamingResponse:
        exchange = Exchange(request.method, request.url.path, await request.body())
        self.heard.append(exchange)
        headers = [(name, value) for name, value in request.headers.items() if name not in HOP]
        client = httpx.AsyncClient(timeout=600)
        query = f"?{request.url.query}" if request.url.query else ""
        asking = client.build_request(
            request.method, f"{self.target}{request.url.path}{query}", headers=headers, content=exchange.asked
        )
        answer = await client.send(asking, stream=True)
        exchange.status, exchange.kind = answer.status_code, answer.headers.get("content-type", "")
        exchange.retry = answer.headers.get("x-should-retry", "")

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in answer.aiter_raw():
                    exchange.answer += piece
                    yield piece
                exchange.whole = True
            finally:
                await answer.aclose()
                await client.aclose()

        kept = {name: value for name, value in answer.headers.items() if name not in HOP}
        return StreamingResponse(pieces(), answer.status_code, headers=kept)


def complaints(heard: list[Exchange]) -> list[str]:
    """What in these answers OpenAI's types, or the rules of streams, do not allow."""
    return [f"{each.method} {each.path} ({each.status}): {said}" for each in heard for said in _of(each)]


def _of(exchange: Exchange) -> Iterator[str]:
    if exchange.path.startswith("/v1/messages"):
        yield from _of_messages(exchange)
    elif exchange.status >= 500:
        yield exchange.answer.decode("utf-8", "replace")[:500]
    elif exchange.status >= 400:
        error = json.loads(exchange.answer).get("error", {})
        if set(error) != {"message", "type", "param", "code"}:
            yield f"not an error of OpenAI's form: {error}"
    elif exchange.path.startswith("/v1/models"):
        found = json.loads(exchange.answer)
        for each in found.get("data", [found]):
            yield from _fits(Model, each)
    elif exchange.method == "POST" and exchange.path in WHOLE and exchange.whole:
        if exchange.kind.startswith("text/event-stream"):
            yield from (_events if exchange.path == "/v1/responses" else _chunks)(exchange.frames)
        else:
            yield from _fits(WHOLE[exchange.path], json.loads(exchange.answer))


def _of_messages(exchange: Exchange) -> Iterator[str]:
    """The rules of Anthropic's API that need no types of its package."""
    if not exchange.whole:
        return
    if exchange.status >= 400:
        body = json.loads(exchange.answer)
        if body.get("type") != "error" or not {"type", "message"} <= set(body["error"]):
            yield f"not an error of Anthropic's form: {body}"
        if exchange.status < 500 and exchange.status != 429 and exchange.retry != "false":
            yield f"a final error that says x-should-retry: {exchange.retry}"
    elif exchange.kind.startswith("text/event-stream"):
        events = [json.loads(frame) for frame in exchange.frames]
        if [events[0]["type"], events[-2]["type"], events[-1]["type"]] != list(MESSAGE_ENDS):
            yield f"begins and ends as {[event['type'] for event in events]}"
        first, last = (_prompt_tokens(each) for each in (events[0]["message"]["usage"], events[-2]["usage"]))
        if not first == last > 0:
            yield f"the prompt has {first} tokens at first and {last} in the end"


def _prompt_tokens(usage: dict[str, int]) -> int:
    return sum(usage[name] for name in PROMPT_COUNTS)


def _fits(form: Any, value: Any) -> Iterator[str]:
    adapter = form if isinstance(form, TypeAdapter) else TypeAdapter(form)
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        yield f"{str(error)[:800]}\nin {json.dumps(value)[:800]}"


def _events(frames: list[str]) -> Iterator[str]:
    events = [json.loads(frame) for frame in frames]
    for event in events:
        yield from _fits(EVENT, event)
    if [event.get("sequence_number") for event in events] != list(range(len(events))):
        yield f"sequence numbers {[event.get('sequence_number') for event in events]}"
    if not events or events[-1]["type"] not in ENDS or [event["type"] in ENDS for event in events].count(True) != 1:
        yield f"ends in {[event['type'] for event in events][-3:]}"
    else:
        yield from _agrees(events)


def _agrees(events: list[dict[str, Any]]) -> Iterator[str]:
    """The items of the last event are those that were done one by one, and their texts what streamed."""
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    final = events[-1]["response"]["output"]
    if done != final:
        yield f"the items done are not those of the response:\n{json.dumps(done)[:800]}\n{json.dumps(final)[:800]}"
    for index, item in enumerate(final):
        streamed = "".join(
            e["delta"]
            for e in events
            if e.get("output_index") == index
            and e["type"]
            in ("response.output_text.delta", "response.function_call_arguments.delta", "response.reasoning_text.delta")
        )
        text = item.get("arguments") or "".join(part.get("text", "") for part in item.get("content") or [])
        if item["type"] in ("message", "function_call", "reasoning") and streamed != text:
            yield f"item {index} streamed {streamed[:300]!r}, and is {text[:300]!r}"


def _chunks(frames: list[str]) -> Iterator[str]:
    if frames[-1] != "[DONE]":
        yield f"ends in {frames[-1][:300]}"
    for frame in frames[:-1]:
        yield from _fits(ChatCompletionChunk, json.loads(frame))
