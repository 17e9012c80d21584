"""/v1/chat/completions: an answer as chunks while it is made, or as a whole.

In: requests. Out: OpenAI's JSON, or server-sent events that end in [DONE].
It does not know how requests are read (`chat_input`), nor how answers are made (`service`).
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ossia.chat import Done
from ossia.chat import Usage as Counts
from ossia.engine.request import Sampled
from ossia.harmony.client_tools import Toolbox
from ossia.server.apis.chat.chat_request import ChatAsk, chat_ask
from ossia.server.apis.chat.chat_wire import (
    AssistantMessage,
    Cached,
    CallDelta,
    CallMade,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatRequest,
    ChatUsage,
    ChunkChoice,
    CustomMade,
    FinishReason,
    FunctionDelta,
    FunctionMade,
    ReasoningOptions,
    TokenLogprob,
    TopLogprob,
)
from ossia.server.core.context import Context, remembered
from ossia.server.core.events import EventTranslator, JoinedPiece, TextDelta, TextJoiner, ToolCallDelta, ToolCallStart
from ossia.server.core.request import Opening
from ossia.server.core.warnings import header, unenforced
from ossia.server.errors import input_errors
from ossia.server.http.decoding.json_codec import LEAST_LOGPROB, encode
from ossia.server.http.requests import EventStream, client_of, read, reply_with, sse, while_there
from ossia.tokenizer.tokenizer import Tokenizer

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
UNREAD_PIECES = 64  # of all choices of one answer


def routes(context: Context) -> list[Route]:
    async def complete(request: Request) -> Response:
        return await _complete(context, request)

    return [Route("/v1/chat/completions", complete, methods=["POST"])]


async def _complete(context: Context, request: Request) -> Response:
    given = await read(request, ChatRequest)
    asked = await while_there(request, prepared(context, given, client_of(request)))
    warnings = await while_there(request, advised(context, asked))
    answer, headers = _Answer(context, asked, context.check_model(given.model)), header(warnings)
    if given.stream:
        wants_usage = bool(given.stream_options and given.stream_options.include_usage)
        return EventStream(answer.frames(wants_usage), headers=headers)
    return await reply_with("choices", await while_there(request, answer.whole()), headers)


async def prepared(context: Context, given: ChatRequest, client: str) -> ChatAsk:
    """A request as what is asked of the service. Raises ApiError for what it cannot be."""
    context.check_model(given.model)
    asked = await chat_ask(given, context.service, context.recall, client)
    context.service.check_choices(asked.choices)
    return asked


async def advised(context: Context, asked: ChatAsk) -> list[str]:
    """Warnings about fields that were left out or are not enforced."""
    ask, box = asked.ask, asked.box
    if not box.called and ask.how.response_format is None:
        return [*box.warnings, *asked.warnings]
    with input_errors(asked.field_names):
        return [
            *box.warnings,
            *asked.warnings,
            *await asyncio.to_thread(unenforced, context.service, ask.messages, ask.how, box, asked.form_param),
        ]


async def prompt_of(context: Context, asked: ChatAsk) -> list[int]:
    """The prompt of a request. Raises ApiError as its answer would."""
    with input_errors(asked.field_names):
        return await context.service.prompt(asked.ask)


@dataclass(slots=True)
class _Answer:
    """All choices of one request."""

    context: Context
    asked: ChatAsk
    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self) -> ChatCompletion:
        told = await together(
            [self._choice(index) for index in range(self.asked.choices)], self.context.service.at_once
        )
        return ChatCompletion(
            self.id,
            self.created,
            self.model,
            [choice for choice, _ in told],
            usage_of([done.usage for _, done in told]),
        )

    async def _choice(self, index: int) -> tuple[ChatChoice, Done]:
        fold = _Fold(self.context.service.tokenizer)
        async with aclosing(pieces_of(self.context, self.asked, index)) as pieces:
            async for piece in pieces:
                fold.add(piece)
        assert fold.done is not None, "an exchange ends in Done"
        message = fold.message(self.asked.legacy)
        return ChatChoice(index, message, finish_of(fold.done, self.asked.legacy), fold.logprobs()), fold.done

    async def frames(self, wants_usage: bool) -> AsyncGenerator[bytes, None]:
        dones: list[Done] = []
        tokenizer = self.context.service.tokenizer
        asked = self.asked._replace(box=plain(self.asked.box))
        choices = [pieces_of(self.context, asked, index) for index in range(asked.choices)]
        async with aclosing(merged(choices, self.context.service.at_once)) as pieces:
            begun: set[int] = set()
            async for index, piece in pieces:
                if index not in begun:
                    begun.add(index)
                    yield self._chunk(ChunkChoice(index, ChatDelta(role="assistant", content="")))
                if isinstance(piece, Opening):
                    continue
                if isinstance(piece, Done):
                    dones.append(piece)
                    yield self._chunk(ChunkChoice(index, ChatDelta(), finish_reason=finish_of(piece, asked.legacy)))
                else:
                    delta = _delta(piece, asked.legacy)
                    yield self._chunk(ChunkChoice(index, delta, _logprobs(tokenizer, piece)))
        if wants_usage:
            usage = usage_of([done.usage for done in dones])
            yield sse(ChatChunk(self.id, self.created, self.model, [], usage=usage))
        yield DONE

    def _chunk(self, choice: ChunkChoice) -> bytes:
        return sse(ChatChunk(self.id, self.created, self.model, [choice]))


def plain(box: Toolbox) -> Toolbox:
    """The same tools, all of them functions: a streamed call is always one, by OpenAI's types."""
    return replace(box, called={to: replace(tool, custom=False) for to, tool in box.called.items()})


async def pieces_of(context: Context, asked: ChatAsk, index: int = 0) -> AsyncGenerator[JoinedPiece, None]:
    """One answer in pieces, the texts of each kind joined. The reasoning before its calls is stored before its end is sent:
    a client may reply at once.
    """
    ask = asked.nth(index)
    # a preamble would break the form of the content
    reasoning = ("analysis",) if ask.how.response_format is None else ("analysis", "commentary")
    translator, joiner = EventTranslator(asked.box, reasoning), TextJoiner()
    with input_errors(asked.field_names):
        async with aclosing(context.service.answer(ask)) as events:
            async for event in events:
                if isinstance(event, Done) and translator.calls:
                    await remembered(context.memory if asked.stores else context.passing, translator.calls)
                for piece in map(joiner.join, translator.translate(event)):
                    hidden = asked.hides_reasoning and isinstance(piece, TextDelta) and piece.kind == "reasoning"
                    if piece is not None and not hidden:
                        yield piece


async def together(works: list[Coroutine[Any, Any, T]], at_once: int) -> list[T]:
    """The results of all, at most `at_once` running at a time. When one fails, the others are stopped."""
    gate = asyncio.Semaphore(at_once)

    async def gated(work: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await work

    tasks = [asyncio.ensure_future(gated(work)) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for work in works:
            work.close()  # one that never began


async def merged(sources: list[AsyncGenerator[T, None]], at_once: int) -> AsyncGenerator[tuple[int, T], None]:
    """Merge several sources: each item as it comes, with its source's number. At most `at_once` sources run at a time.

    A slow reader slows the sources down.
    """
    if len(sources) == 1:
        async with aclosing(sources[0]) as pieces:
            async for piece in pieces:
                yield 0, piece
        return
    queue: asyncio.Queue[tuple[int, T | Exception | None]] = asyncio.Queue(UNREAD_PIECES)
    gate = asyncio.Semaphore(at_once)

    async def pour(index: int, source: AsyncGenerator[T, None]) -> None:
        try:
            async with gate, aclosing(source) as pieces:
                async for piece in pieces:
                    await queue.put((index, piece))
            await queue.put((index, None))
        except Exception as error:
            await queue.put((index, error))

    tasks = [asyncio.ensure_future(pour(index, source)) for index, source in enumerate(sources)]
    try:
        left = len(sources)
        while left:
            index, piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield index, piece
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Fold:
    """The pieces of one choice as one message."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[str, list[str]] = {"content": [], "reasoning": []}
        self._calls: list[tuple[ToolCallStart, list[str]]] = []
        self._scores: list[TokenLogprob] | None = None
        self.done: Done | None = None

    def add(self, piece: JoinedPiece) -> None:
        match piece:
            case TextDelta(kind, text):
                self._texts[kind].append(text)
                if scored := _logprobs(self._tokenizer, piece):  # encoded as they come: a long answer's are many
                    self._scores = self._scores or []
                    self._scores += [cast(TokenLogprob, Raw(encode(each))) for each in scored.content]
            case ToolCallStart():
                self._calls.append((piece, []))
            case ToolCallDelta(text=text):
                self._calls[-1][1].append(text)
            case Done():
                self.done = piece

    def message(self, legacy: bool) -> AssistantMessage:
        content, reasoning = ("".join(self._texts[kind]) for kind in ("content", "reasoning"))
        message = AssistantMessage(None if self._calls and not content else content)
        if reasoning:
            message.reasoning = message.reasoning_content = reasoning
        if self._calls and legacy:
            called, parts = self._calls[0]
            message.function_call = FunctionMade(called.tool.name, "".join(parts))
        elif self._calls:
            message.tool_calls = [_made(called, "".join(parts)) for called, parts in self._calls]
        return message

    def logprobs(self) -> ChatLogprobs | None:
        return None if self._scores is None else ChatLogprobs(self._scores)


def _made(called: ToolCallStart, text: str) -> CallMade:
    if called.tool.custom:
        return CallMade(called.id, "custom", custom=CustomMade(called.tool.name, text))
    return CallMade(called.id, "function", FunctionMade(called.tool.name, text))


def _delta(piece: TextDelta | ToolCallStart | ToolCallDelta, legacy: bool) -> ChatDelta:
    match piece:
        case ToolCallStart(tool=tool) if legacy:
            return ChatDelta(function_call=FunctionDelta(tool.name, ""))
        case ToolCallDelta(text=text) if legacy:
            return ChatDelta(function_call=FunctionDelta(arguments=text))
        case TextDelta("reasoning", text):
            return ChatDelta(reasoning=text, reasoning_content=text)
        case TextDelta(_, text):
            return ChatDelta(content=text)
        case ToolCallStart(index, call, tool):
            return ChatDelta(tool_calls=[CallDelta(index, call, "function", FunctionDelta(tool.name, ""))])
        case ToolCallDelta(index, text):
            return ChatDelta(tool_calls=[CallDelta(index, function=FunctionDelta(arguments=text))])


def _logprobs(tokenizer: Tokenizer, piece: JoinedPiece) -> ChatLogprobs | None:
    """OpenAI gives those of the content only."""
    if not isinstance(piece, TextDelta) or piece.kind != "content" or not piece.scores:
        return None
    return ChatLogprobs([scored(tokenizer, each) for each in piece.scores])


def scored(tokenizer: Tokenizer, sampled: Sampled) -> TokenLogprob:
    top = [TopLogprob(*_token(tokenizer, token, value)) for token, value in sampled.top]
    return TokenLogprob(*_token(tokenizer, sampled.token, sampled.logprob), top)


def _token(tokenizer: Tokenizer, token: int, value: float) -> tuple[str, float, list[int]]:
    data = tokenizer.token_bytes(token)
    return data.decode("utf-8", "replace"), max(value, LEAST_LOGPROB), list(data)


def finish_of(done: Done, legacy: bool = False) -> FinishReason:
    if done.finish == "tool_calls" and legacy:
        return "function_call"
    return "length" if done.finish == "steps" else done.finish


def usage_of(counts: list[Counts]) -> ChatUsage:
    """Of several choices together; they share one prompt, which is computed and written to the cache at most once."""
    prompt = max((each.prompt_tokens for each in counts), default=0)
    made = sum(each.output_tokens for each in counts)
    cached = min((each.cached_tokens for each in counts), default=0)
    written = max((each.written_tokens for each in counts), default=0)
    thought = sum(each.reasoning_tokens for each in counts)
    return ChatUsage(prompt, made, prompt + made, Cached(cached, written), ReasoningOptions(thought))
