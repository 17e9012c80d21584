"""The OpenAPI document: all routes with their request and response types, from the wire types.

Out: the document as JSON values, and the route that serves it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ossia.server.apis import completions, render
from ossia.server.apis.chat import chat_wire as chat
from ossia.server.apis.messages import messages_wire as claude
from ossia.server.apis.responses import wire
from ossia.server.http.decoding.json_codec import JsonDict
from ossia.server.http.requests import reply

PLACE = re.compile(r"\{(\w+)(?::path)?\}")
ALWAYS = (401, 403, 431, 500)  # of any route
WITH_BODY = (400, 408, 413)
WITH_MODEL = (404, 429, 503)


class Refused(Struct):
    """An error. param: the path of the invalid field. code: for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class Refusal(Struct):
    error: Refused


class AnthropicRefused(Struct):
    type: str
    message: str


class AnthropicRefusal(Struct):
    error: AnthropicRefused
    type: str = "error"


class ModelCard(Struct):
    id: str
    object: str
    created: int
    owned_by: str
    type: str
    display_name: str
    created_at: str
    name: str
    root: str
    hosted_tools: list[str]
    max_model_len: int
    context_length: int
    context_window: int
    max_context_length: int
    max_input_tokens: int


class ModelList(Struct):
    object: str
    data: list[ModelCard]
    first_id: str
    last_id: str
    has_more: bool


class Health(Struct):
    status: str
    model: str


class Deleted(Struct):
    id: str
    object: str
    deleted: bool


class Count(Struct):
    input_tokens: int
    object: str = "response.input_tokens"


class ItemPage(Struct):
    """A page of items. has_more: whether items follow last_id."""

    data: list[JsonDict]
    first_id: str
    last_id: str
    has_more: bool
    object: str = "list"


class OllamaVersion(Struct):
    version: str


class OllamaTags(Struct):
    models: list[JsonDict]


@dataclass(frozen=True)
class Operation:
    """One method of one path. stream: the type of each event of a stream. statuses: of errors."""

    method: str
    path: str
    summary: str
    request: Any = None
    response: Any = None
    stream: Any = None
    statuses: tuple[int, ...] = ()
    query: tuple[str, ...] = ()
    refusal: Any = Refusal


ENDED_BY_DONE = ("/v1/chat/completions", "/v1/completions")
RESUMING = ("stream", "starting_after")
PAGING = ("limit", "order", "after", "before")
QUERY: dict[str, JsonDict] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
    "order": {"enum": ["asc", "desc"], "default": "desc"},
    "after": {"type": "string", "description": "the id of the item before the page"},
    "before": {"type": "string", "description": "the id of the item after the page"},
    "stream": {"enum": ["true", "false"], "default": "false"},
    "api": {"enum": ["chat", "responses", "messages", "completions"], "default": "chat"},
    "starting_after": {"type": "integer", "minimum": 0, "description": "the sequence number of the last event seen"},
}
RESPONSE, CONVERSATION = "/v1/responses/{response}", "/v1/conversations/{conversation}"
STORED = (404, 503)  # the item does not exist, or there is no store
SAMPLED = (*WITH_BODY, *WITH_MODEL)
SAVING = (*WITH_BODY, *STORED)
Anthropic = AnthropicRefusal
RawRequest, RawResponse = completions.CompletionRequest, completions.CompletionResponse
OPERATIONS = (
    Operation("post", "/v1/responses", "Create a response", wire.ResponsesRequest, wire.Response, wire.StreamEvent, SAMPLED),
    Operation("post", "/v1/responses/input_tokens", "Count a prompt's tokens", wire.ResponsesRequest, Count, statuses=SAMPLED),
    Operation("post", "/v1/responses/compact", "Not implemented", wire.ResponsesRequest, statuses=(*WITH_BODY, 501)),
    Operation("get", RESPONSE, "Look up a response", None, wire.Response, wire.StreamEvent, (400, *STORED), RESUMING),
    Operation("delete", RESPONSE, "Delete a response", None, Deleted, statuses=STORED),
    Operation("post", f"{RESPONSE}/cancel", "Stop a response in the background", None, wire.Response, statuses=(400, *STORED)),
    Operation("get", f"{RESPONSE}/input_items", "The input of a response", None, ItemPage, None, (400, *STORED), PAGING),
    Operation("post", "/v1/conversations", "Create a conversation",
              wire.NewConversation, wire.ConversationObject, statuses=SAVING),
    Operation("get", CONVERSATION, "Look up a conversation", None, wire.ConversationObject, statuses=STORED),
    Operation("post", CONVERSATION, "Change its metadata", wire.NewConversation, wire.ConversationObject, statuses=SAVING),
    Operation("delete", CONVERSATION, "Delete a conversation", None, Deleted, statuses=STORED),
    Operation("get", f"{CONVERSATION}/items", "Its items", None, ItemPage, None, (400, *STORED), PAGING),
    Operation("post", f"{CONVERSATION}/items", "Add items", wire.NewItems, ItemPage, statuses=SAVING),
    Operation("get", f"{CONVERSATION}/items/{{item}}", "One item", None, JsonDict, statuses=STORED),
    Operation("delete", f"{CONVERSATION}/items/{{item}}", "Delete an item", None, wire.ConversationObject, statuses=STORED),
    Operation("post", "/v1/chat/completions", "Answer a chat", chat.ChatRequest, chat.ChatCompletion, chat.ChatChunk, SAMPLED),
    Operation("post", "/v1/completions", "Continue", RawRequest, RawResponse, RawResponse, SAMPLED),
    Operation("post", "/v1/messages", "Answer a chat",
              claude.MessagesRequest, claude.MessagesResponse, JsonDict, SAMPLED, (), Anthropic),
    Operation("post", "/v1/messages/count_tokens", "Count tokens", claude.CountRequest, Count, None, SAMPLED, (), Anthropic),
    Operation("post", "/v1/render", "The prompt of a request", JsonDict, render.RenderedRequest, None, SAMPLED, ("api",)),
    Operation("post", "/tokenize", "The tokens of a text or a chat", render.TokenizeRequest, render.Tokenized, None, SAMPLED),
    Operation("post", "/detokenize", "The text of tokens", render.DetokenizeRequest, render.Detokenized, None, SAMPLED),
    Operation("get", "/v1/models", "The model, by its names", None, ModelList),
    Operation("get", "/v1/models/{name}", "One name", None, ModelCard, statuses=(404,)),
    Operation("get", "/health", "Whether the server can answer", None, Health),
    Operation("get", "/metrics", "Figures for Prometheus", None, str),
    Operation("get", "/api/version", "Ollama's version", None, OllamaVersion),
    Operation("get", "/api/tags", "Ollama's list of models", None, OllamaTags),
    Operation("get", "/openapi.json", "This document", None, JsonDict),
)  # fmt: skip


def document() -> JsonDict:
    """The document, in OpenAPI 3.1."""
    types = {
        id(each): each for one in OPERATIONS for each in (one.request, one.response, one.stream, one.refusal) if each
    }
    refs, components = msgspec.json.schema_components(types.values(), ref_template="#/components/schemas/{name}")
    schemas = dict(zip(types, refs, strict=True))
    paths: dict[str, JsonDict] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method] = _operation(one, schemas)
    info = {
        "title": "Ossia",
        "version": version("ossia"),
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    }
    secured = {
        "type": "http",
        "scheme": "bearer",
        "description": "a key of --api-key, if the server has keys",
    }
    parts = {"schemas": components, "securitySchemes": {"key": secured}}
    return _shortened(
        {"openapi": "3.1.0", "info": info, "security": [{}, {"key": []}], "paths": paths, "components": parts}
    )


def routes(context: object) -> list[Route]:
    whole = document()

    async def show(_: Request) -> Response:
        return reply(whole)

    return [Route("/openapi.json", show)]


def _operation(one: Operation, schemas: dict[int, JsonDict]) -> JsonDict:
    def as_json(type: Any) -> JsonDict:
        return {"application/json": {"schema": schemas[id(type)]}}

    response: dict[str, JsonDict] = {}
    if one.response:
        content = {"text/plain": {"schema": {"type": "string"}}} if one.response is str else as_json(one.response)
        if one.stream:
            content["text/event-stream"] = {"schema": _event(schemas[id(one.stream)], one.path in ENDED_BY_DONE)}
        response["200"] = {"description": "the answer", "content": content}
    if one.response is Health:
        response["503"] = {"description": "the engine has failed or has not started", "content": as_json(Health)}
    for status in sorted({*ALWAYS, *one.statuses}):
        response[str(status)] = {"description": _reason(status), "content": as_json(one.refusal)}
    operation: JsonDict = {"summary": one.summary, "operationId": _name(one), "responses": response}
    if parameters := _parameters(one):
        operation["parameters"] = parameters
    if one.request:
        operation["requestBody"] = {"required": True, "content": as_json(one.request)}
    return operation


def _event(schema: JsonDict, ended_by_done: bool) -> JsonDict:
    """One of the events of a stream."""
    data: JsonDict = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    if ended_by_done:
        data = {"anyOf": [{"const": "[DONE]", "description": "the last event"}, data]}
    return {"type": "object", "properties": {"event": {"type": "string"}, "data": data}, "required": ["data"]}


def _parameters(one: Operation) -> list[JsonDict]:
    text = {"type": "string", "minLength": 1}
    places = [{"name": name, "in": "path", "required": True, "schema": text} for name in PLACE.findall(one.path)]
    return places + [{"name": name, "in": "query", "schema": QUERY[name]} for name in one.query]


def _name(one: Operation) -> str:
    words: Sequence[str] = [each for each in re.split(r"\W+", one.path) if each not in ("", "v1")]
    return "_".join([one.method, *words])


def _reason(status: int) -> str:
    return {
        400: "a field is invalid",
        401: "no API key, or a wrong one",
        403: "this host or origin is not allowed",
        404: "not found",
        408: "the body did not arrive in time",
        413: "the body is too large",
        429: "too many requests wait: try again later",
        431: "the headers are too large",
        500: "the server failed",
        501: "not implemented",
        503: "the server has no store, or is stopping",
    }[status]


def _shortened(value: Any) -> Any:
    """Types of one name in several modules are prefixed with their module: `chat.Usage`."""
    match value:
        case dict():
            return {_short(key): _shortened(each) for key, each in value.items()}
        case list():
            return [_shortened(each) for each in value]
        case str():
            return _short(value)
    return value


def _short(text: str) -> str:
    return re.sub(r"ossia\.server\.(\w+?)(?:_wire|\.wire)?\.(?=[A-Z])", r"\1.", text)
