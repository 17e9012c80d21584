"""/v1/chat/completions: an answer as a stream of chunks, or as a whole.

In: requests. Out: OpenAI's JSON, or server-sent events that end in [DONE].
Requests are read in `chat_request`.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import cast

from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ossia.chat import Done
from ossia.chat import Usage as Counts
from ossia.engine.request import Sampled
from ossia.harmony.client_tools import Toolbox
from ossia.server.apis.chat.chat_request import PreparedChat, prepare_chat
from ossia.server.apis.chat.chat_wire import (
    Annotation,
    AssistantMessage,
    CallDelta,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatRequest,
    ChatUsage,
    ChunkChoice,
    CompletionTokensDetails,
    ExecutedTool,
    FinishReason,
    FunctionDelta,
    OutputCustom,
    OutputFunction,
    OutputToolCall,
    PromptTokensDetails,
    TokenLogprob,
    TopLogprob,
    UrlCitationFields,
)
from ossia.server.apis.fields.choices import DONE, gather_limited, merge_limited, send_choices
from ossia.server.core.context import Context, remember_calls
from ossia.server.core.events import (
    Citation,
    EventTranslator,
    HostedCallDelta,
    HostedCallEnd,
    HostedCallProgress,
    HostedCallStart,
    JoinedPiece,
    TextDelta,
    TextJoiner,
    ToolCallDelta,
    ToolCallStart,
)
from ossia.server.core.request import AnswerStart
from ossia.server.core.warnings import header, unenforced
from ossia.server.errors import input_errors
from ossia.server.http.decoding.json_codec import MIN_LOGPROB, encode
from ossia.server.http.requests import client_of, read, sse, until_disconnect
from ossia.tokenizer.tokenizer import Tokenizer

_NOT_SHOWN = (AnswerStart, HostedCallStart, HostedCallDelta, HostedCallProgress)  # in chunks


def routes(context: Context) -> list[Route]:
    async def complete(request: Request) -> Response:
        return await _complete(context, request)

    return [Route("/v1/chat/completions", complete, methods=["POST"])]


async def _complete(context: Context, request: Request) -> Response:
    body = await read(request, ChatRequest)
    prepared = await until_disconnect(request, prepare(context, body, client_of(request)))
    async with prepared.hosted.released_on_error():
        warnings = await until_disconnect(request, warnings_of(context, prepared))
    answer = _Answer(context, prepared, context.check_model(body.model))
    return await send_choices(request, body, answer, header(warnings))


async def prepare(context: Context, body: ChatRequest, client: str) -> PreparedChat:
    """Check a request and convert it for the service. Raises ApiError."""
    context.check_model(body.model)
    prepared = await prepare_chat(body, context, client)
    async with prepared.hosted.released_on_error():
        context.service.check_choices(prepared.choices)
    return prepared


async def warnings_of(context: Context, prepared: PreparedChat) -> list[str]:
    """Warnings about fields that are ignored or not enforced."""
    answer, toolbox = prepared.answer, prepared.toolbox
    if not toolbox.called and answer.options.response_format is None:
        return [*toolbox.warnings, *prepared.warnings]
    with input_errors(prepared.field_names):
        return [
            *toolbox.warnings,
            *prepared.warnings,
            *await asyncio.to_thread(
                unenforced, context.service, answer.messages, answer.options, toolbox, prepared.form_param
            ),
        ]


async def prompt_of(context: Context, prepared: PreparedChat) -> list[int]:
    """The prompt of a request, whose tools are released. Raises ApiError as its answer would."""
    try:
        with input_errors(prepared.field_names):
            return await context.service.prompt(prepared.answer)
    finally:
        await prepared.hosted.release()


@dataclass(slots=True)
class _Answer:
    """All choices of one request."""

    context: Context
    prepared: PreparedChat
    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self) -> ChatCompletion:
        results = await gather_limited(
            [self._complete_choice(index) for index in range(self.prepared.choices)],
            self.context.service.parallel_choices,
        )
        return ChatCompletion(
            self.id,
            self.created,
            self.model,
            [choice for choice, _ in results],
            usage_of([done.usage for _, done in results]),
        )

    async def _complete_choice(self, index: int) -> tuple[ChatChoice, Done]:
        builder = _MessageBuilder(self.context.service.tokenizer)
        async with aclosing(answer_pieces(self.context, self.prepared, index)) as pieces:
            async for piece in pieces:
                builder.add(piece)
        assert builder.done is not None, "an exchange ends in Done"
        message = builder.message(self.prepared.legacy)
        return ChatChoice(
            index, message, finish_of(builder.done, self.prepared.legacy), builder.logprobs()
        ), builder.done

    async def frames(self, wants_usage: bool) -> AsyncGenerator[bytes, None]:
        ended: list[Done] = []
        tokenizer = self.context.service.tokenizer
        prepared = self.prepared._replace(toolbox=functions_only(self.prepared.toolbox))
        choices = [answer_pieces(self.context, prepared, index) for index in range(prepared.choices)]
        async with aclosing(merge_limited(choices, self.context.service.parallel_choices)) as pieces:
            begun: set[int] = set()
            executed: Counter[int] = Counter()
            async for index, piece in pieces:
                if index not in begun:
                    begun.add(index)
                    yield self._chunk(ChunkChoice(index, ChatDelta(role="assistant", content="")))
                if isinstance(piece, TextDelta):  # first, because most pieces are these
                    yield self._chunk(ChunkChoice(index, _delta(piece, prepared.legacy), _logprobs(tokenizer, piece)))
                elif isinstance(piece, _NOT_SHOWN):
                    continue
                elif isinstance(piece, Done):
                    ended.append(piece)
                    yield self._chunk(ChunkChoice(index, ChatDelta(), finish_reason=finish_of(piece, prepared.legacy)))
                elif isinstance(piece, HostedCallEnd):
                    done = executed_tool(executed[index], piece)
                    executed[index] += 1
                    yield self._chunk(ChunkChoice(index, ChatDelta(executed_tools=[done])))
                elif isinstance(piece, Citation):
                    yield self._chunk(ChunkChoice(index, ChatDelta(annotations=[annotation(piece)])))
                else:
                    yield self._chunk(ChunkChoice(index, _delta(piece, prepared.legacy)))
        if wants_usage:
            usage = usage_of([done.usage for done in ended])
            yield sse(ChatChunk(self.id, self.created, self.model, [], usage=usage))
        yield DONE

    def _chunk(self, choice: ChunkChoice) -> bytes:
        return sse(ChatChunk(self.id, self.created, self.model, [choice]))


def functions_only(toolbox: Toolbox) -> Toolbox:
    """The same tools as functions: in OpenAI's types, a streamed call is always a function call."""
    return replace(toolbox, called={to: replace(tool, custom=False) for to, tool in toolbox.called.items()})


async def answer_pieces(context: Context, prepared: PreparedChat, index: int = 0) -> AsyncGenerator[JoinedPiece, None]:
    """One answer in pieces, the texts of each kind joined. The reasoning before its calls is stored before its end is sent:
    a client may reply at once.
    """
    hosted = await prepared.tools_of_choice(index)
    kept: Sequence[str] = ()
    try:
        answer = prepared.choice(index)
        if index:
            answer = replace(answer, options=replace(answer.options, toolset=hosted.toolset))
        # a preamble would break the form of the content
        reasoning = ("analysis",) if answer.options.response_format is None else ("analysis", "commentary")
        translator = EventTranslator(prepared.toolbox, reasoning, hosted.recipients, hosted.resolve)
        joiner = TextJoiner()
        with input_errors(prepared.field_names):
            async with aclosing(context.service.answer(answer)) as events:
                async for event in events:
                    if isinstance(event, Done) and translator.calls:
                        kept = tuple(translator.calls)
                        memory = context.memory if prepared.store else context.transient_memory
                        await remember_calls(memory, translator.calls)
                    for piece in map(joiner.join, translator.translate(event)):
                        hidden = prepared.hides_reasoning and isinstance(piece, TextDelta) and piece.kind == "reasoning"
                        if piece is not None and not hidden:
                            yield piece
    finally:
        await hosted.release(kept)


def executed_tool(index: int, piece: HostedCallEnd) -> ExecutedTool:
    """A call that was run, in the form that Groq's API gave such calls."""
    recipient = piece.call.recipient or ""
    sources = getattr(piece.details, "sources", None) if recipient == "browser.search" else None
    return ExecutedTool(index, recipient, piece.call.text, piece.result.text, sources)


def annotation(piece: Citation) -> Annotation:
    return Annotation(UrlCitationFields(*piece.source))


class _MessageBuilder:
    """The pieces of one choice as one message."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[str, list[str]] = {"content": [], "reasoning": []}
        self._calls: list[tuple[ToolCallStart, list[str]]] = []
        self._scores: list[TokenLogprob] | None = None
        self._annotations: list[Annotation] = []
        self._executed: list[ExecutedTool] = []
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
            case Citation():
                self._annotations.append(annotation(piece))
            case HostedCallEnd():
                self._executed.append(executed_tool(len(self._executed), piece))
            case Done():
                self.done = piece
            case _:
                pass

    def message(self, legacy: bool) -> AssistantMessage:
        content, reasoning = ("".join(self._texts[kind]) for kind in ("content", "reasoning"))
        message = AssistantMessage(None if self._calls and not content else content)
        if self._annotations:
            message.annotations = self._annotations
        if self._executed:
            message.executed_tools = self._executed
        if reasoning:
            message.reasoning = message.reasoning_content = reasoning
        if self._calls and legacy:
            call, parts = self._calls[0]
            message.function_call = OutputFunction(call.tool.name, "".join(parts))
        elif self._calls:
            message.tool_calls = [_output_call(call, "".join(parts)) for call, parts in self._calls]
        return message

    def logprobs(self) -> ChatLogprobs | None:
        return None if self._scores is None else ChatLogprobs(self._scores)


def _output_call(call: ToolCallStart, text: str) -> OutputToolCall:
    if call.tool.custom:
        return OutputToolCall(call.id, "custom", custom=OutputCustom(call.tool.name, text))
    return OutputToolCall(call.id, "function", OutputFunction(call.tool.name, text))


def _delta(piece: TextDelta | ToolCallStart | ToolCallDelta, legacy: bool) -> ChatDelta:
    match piece:
        case TextDelta("reasoning", text):
            return ChatDelta(reasoning=text, reasoning_content=text)
        case TextDelta(_, text):
            return ChatDelta(content=text)
        case ToolCallStart(tool=tool) if legacy:
            return ChatDelta(function_call=FunctionDelta(tool.name, ""))
        case ToolCallDelta(text=text) if legacy:
            return ChatDelta(function_call=FunctionDelta(arguments=text))
        case ToolCallStart(index, call, tool):
            return ChatDelta(tool_calls=[CallDelta(index, call, "function", FunctionDelta(tool.name, ""))])
        case ToolCallDelta(index, text):
            return ChatDelta(tool_calls=[CallDelta(index, function=FunctionDelta(arguments=text))])


def _logprobs(tokenizer: Tokenizer, piece: JoinedPiece) -> ChatLogprobs | None:
    """Log-probabilities of content. OpenAI gives none of reasoning and calls."""
    if not isinstance(piece, TextDelta) or piece.kind != "content" or not piece.scores:
        return None
    return ChatLogprobs([scored(tokenizer, each) for each in piece.scores])


def scored(tokenizer: Tokenizer, sampled: Sampled) -> TokenLogprob:
    top = [TopLogprob(*_token(tokenizer, token, value)) for token, value in sampled.top]
    return TokenLogprob(*_token(tokenizer, sampled.token, sampled.logprob), top)


def _token(tokenizer: Tokenizer, token: int, value: float) -> tuple[str, float, list[int]]:
    data = tokenizer.token_bytes(token)
    return data.decode("utf-8", "replace"), max(value, MIN_LOGPROB), list(data)


def finish_of(done: Done, legacy: bool = False) -> FinishReason:
    if done.finish == "tool_calls" and legacy:
        return "function_call"
    return "length" if done.finish == "steps" else done.finish


def usage_of(counts: list[Counts]) -> ChatUsage:
    """The usage of all choices. They share one prompt, which is computed and cached at most once."""
    prompt = max((each.prompt_tokens for each in counts), default=0)
    output = sum(each.output_tokens for each in counts)
    cached = min((each.cached_tokens for each in counts), default=0)
    written = max((each.written_tokens for each in counts), default=0)
    thought = sum(each.reasoning_tokens for each in counts)
    return ChatUsage(
        prompt, output, prompt + output, PromptTokensDetails(cached, written), CompletionTokensDetails(thought)
    )
