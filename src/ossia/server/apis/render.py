"""/v1/render, /tokenize and /detokenize: the exact prompt of a request, and its tokens.

In: a request of any API, text, or token ids. Out: the prompt as text and ids, with the request's warnings.
The same functions prepare requests that are answered. Nothing is sampled here.
"""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, NoReturn, cast

from msgspec import Struct, field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ossia.engine.engine import Stats
from ossia.engine.request import SamplingParams, TokenMask
from ossia.harmony.openai_chat import ChatMessage
from ossia.loading import Model, Outline
from ossia.server.apis import completions
from ossia.server.apis.chat import chat_routes
from ossia.server.apis.chat.chat_wire import ChatRequest
from ossia.server.apis.completions import CompletionRequest
from ossia.server.apis.messages import messages_routes
from ossia.server.apis.messages.messages_wire import MessagesRequest
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.requests import ResponsesContext, field_names, prepare
from ossia.server.core.context import Context
from ossia.server.core.service import Service
from ossia.server.errors import bad, input_errors
from ossia.server.http.decoding.json_codec import decode
from ossia.server.http.guard import check_size
from ossia.server.http.requests import client_of, read, reply
from ossia.server.settings import Settings
from ossia.server.state.encrypted_reasoning import KEY_BYTES, ReasoningCipher

BODIES: dict[str, Any] = {
    "chat": ChatRequest,
    "responses": wire.ResponsesRequest,
    "messages": MessagesRequest,
    "completions": CompletionRequest,
}


class RenderedPrompt(Struct):
    """prompt: the text, special tokens by their names. tokens: its ids. count: of the ids."""

    prompt: str
    tokens: list[int]
    count: int


class RenderedRequest(Struct):
    """The prompts of a request: one, or one for each text of a completion. warnings: as an answer would carry them."""

    api: str
    model: str
    max_model_len: int
    prompts: list[RenderedPrompt]
    warnings: list[str]


class TokenizeRequest(ChatRequest, kw_only=True):
    """vLLM's: either `prompt`, or what a chat request takes."""

    messages: list[ChatMessage] = field(default_factory=list)
    prompt: str | None = None
    return_token_strs: bool | None = None


class Tokenized(Struct, omit_defaults=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Struct):
    tokens: list[int]
    model: str | None = None


class Detokenized(Struct):
    prompt: str


def routes(responses_context: ResponsesContext) -> list[Route]:
    async def render(request: Request) -> Response:
        api = request.query_params.get("api", "chat")
        body = await read(request, body_type(api))
        return reply(await rendered(responses_context, api, body, client_of(request)))

    async def tokenize(request: Request) -> Response:
        body = await read(request, TokenizeRequest)
        return reply(await tokenized(responses_context.server, body, client_of(request)))

    async def detokenize(request: Request) -> Response:
        return reply(await detokenized(responses_context.server, await read(request, DetokenizeRequest)))

    return [
        Route("/v1/render", render, methods=["POST"]),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
    ]


async def render_body(model: Outline, api: str, body: bytes, settings: Settings) -> RenderedRequest:
    """The answer of /v1/render to these bytes, on a server without state. Raises the same ApiErrors."""
    check_size(len(body), settings.max_body_bytes)
    # requests are only prepared here, so the model needs no weights
    service = Service(cast(Model, model), settings, make_engine=lambda: NoEngine(model.config.max_context))
    responses_context = ResponsesContext(Context(settings, service), ReasoningCipher(secrets.token_bytes(KEY_BYTES)))
    return await rendered(responses_context, api, decode(body, body_type(api)))


class NoEngine:
    """An engine that holds a whole context and runs nothing: for reading requests."""

    def __init__(self, cache_tokens: int) -> None:
        self.cache_tokens = cache_tokens

    def submit(self, prompt: Sequence[int], params: SamplingParams, mask: TokenMask | None) -> NoReturn:
        raise RuntimeError("requests are only read here")

    def step(self) -> bool:
        return False

    def release_memory(self) -> None:
        """Does nothing."""

    def stats(self) -> Stats:
        return Stats(*[0] * len(Stats._fields))


def body_type(api: str) -> Any:
    """The wire type of an API's requests. Raises ApiError (400) for an unknown name."""
    if api not in BODIES:
        raise bad("api", f"api is {api[:40]!r}: want one of {', '.join(BODIES)}")
    return BODIES[api]


async def rendered(responses_context: ResponsesContext, api: str, body: Any, client: str = "") -> RenderedRequest:
    """The prompts of a request, which is of the API's `body_type`. Raises ApiError as the API itself would."""
    context = responses_context.server
    warnings: Sequence[str] = ()
    match body:
        case CompletionRequest():
            answer = await completions.prepare(context, body, client)
            for ids in answer.prompts:
                context.service.limits.check_length(ids, "prompt")
            prompts, warnings = answer.prompts, answer.warnings
        case wire.ResponsesRequest():
            prepared = await prepare(responses_context, body, client, only_counts=True)
            try:
                with input_errors(field_names(prepared.form_param)):
                    prompts, warnings = [await context.service.prompt(prepared.answer)], prepared.warnings
            finally:
                await prepared.hosted.release()
        case _:
            if isinstance(body, MessagesRequest):
                prepared_chat = await messages_routes.prepare(context, body, client)
            else:
                prepared_chat = await chat_routes.prepare(context, body, client)
            warnings = await chat_routes.warnings_of(context, prepared_chat)
            prompts = [await chat_routes.prompt_of(context, prepared_chat)]
    shown = await asyncio.to_thread(lambda: [_shown(context, ids) for ids in prompts])
    return RenderedRequest(api, context.service.name, context.service.context, shown, list(warnings))


async def tokenized(context: Context, body: TokenizeRequest, client: str = "") -> Tokenized:
    """The tokens of a text, or of a chat's prompt."""
    service = context.service
    if body.prompt is not None and body.messages:
        raise bad("prompt", "give either prompt or messages, not both")
    if body.prompt is None:
        tokens = await chat_routes.prompt_of(context, await chat_routes.prepare(context, body, client))
        if body.add_generation_prompt is False:
            tokens = tokens[: -1 - len(service.tokenizer.encode("assistant"))]
    else:
        context.check_model(body.model)
        service.limits.check_text(len(body.prompt), "prompt")
        tokens = await asyncio.to_thread(_encoded, service, body.prompt)
        service.limits.check_length(tokens, "prompt")
    names = await asyncio.to_thread(_names, context, tokens) if body.return_token_strs else None
    return Tokenized(len(tokens), service.context, tokens, names)


async def detokenized(context: Context, body: DetokenizeRequest) -> Detokenized:
    """The text of ids; special tokens by their names."""
    context.check_model(body.model)
    context.service.limits.check_length(body.tokens, "tokens")
    return Detokenized(await asyncio.to_thread(_text, context, body.tokens))


def _encoded(service: Service, text: str) -> list[int]:
    service.limits.check_bytes([text], "prompt")
    return service.tokenizer.encode(text)


def _text(context: Context, ids: Sequence[int]) -> str:
    tokenizer = context.service.tokenizer
    for number, token in enumerate(ids):
        if not 0 <= token < tokenizer.size:
            raise bad(f"tokens[{number}]", f"tokens[{number}] is {token}: want ids from 0 to {tokenizer.size - 1}")
    return tokenizer.decode(ids)


def _shown(context: Context, ids: list[int]) -> RenderedPrompt:
    return RenderedPrompt(context.service.tokenizer.decode(ids), ids, len(ids))


def _names(context: Context, ids: Sequence[int]) -> list[str]:
    return [context.service.tokenizer.token_bytes(each).decode("utf-8", "replace") for each in ids]
