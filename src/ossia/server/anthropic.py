"""/v1/messages: the same answers for clients that speak Anthropic's API.

In: its requests, read as a chat's. Out: its JSON, or its server-sent events.
It does not know how answers are made, nor anything that a chat request does not.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ossia.chat import Done
from ossia.chat import Usage as Counts
from ossia.harmony.openai_chat import ChatMessage, Form, FunctionCall, JsonSchema, Part, ToolCall
from ossia.server.advice import header
from ossia.server.anthropic_wire import (
    Block,
    CountRequest,
    Made,
    MessageMade,
    MessagesRequest,
    OutputDetails,
    StopReason,
    TextMade,
    ThinkingMade,
    ToolUseMade,
    Turn,
    Usage,
)
from ossia.server.ask import Began
from ossia.server.chat import advised, pieces_of
from ossia.server.chat_input import ChatAsk, chat_ask
from ossia.server.chat_wire import ChatRequest, Thinking
from ossia.server.context import Context
from ossia.server.errors import ANTHROPIC, ApiError, bad
from ossia.server.http import EventStream, client_of, read, reply, sse, while_there
from ossia.server.speech import Argued, Called, Piece, Said

SIGNATURE = "ossia"  # of thinking: clients want one back with it; here it stands for nothing


def routes(context: Context) -> list[Route]:
    async def create(request: Request) -> Response:
        return await _create(context, request)

    async def count(request: Request) -> Response:
        given = await read(request, CountRequest)
        context.check_model(given.model)
        asked = await chat_ask(_chat(given), frozenset(), context.recall, "")
        return reply({"input_tokens": await asyncio.to_thread(context.service.count, asked.ask.messages)})

    return [
        Route("/v1/messages", create, methods=["POST"]),
        Route("/v1/messages/count_tokens", count, methods=["POST"]),
    ]


async def _create(context: Context, request: Request) -> Response:
    given = await read(request, MessagesRequest)
    model = context.check_model(given.model)
    asked = await prepared(context, given, client_of(request))
    shows = given.thinking is not None and given.thinking.type != "disabled"
    answer = _Answer(context, asked, model, shows)
    headers = header(await advised(context, asked))
    if given.stream:
        return EventStream(answer.frames(), lambda error: sse(error.body(ANTHROPIC), "error"), headers)
    return reply(await while_there(request, answer.whole()), headers=headers)


async def prepared(context: Context, given: MessagesRequest, client: str) -> ChatAsk:
    """A request as what is asked of the service. Raises ApiError for what it cannot be."""
    context.check_model(given.model)
    if given.max_tokens is None:
        raise bad("max_tokens", "max_tokens is missing", "missing_required_parameter")
    return await chat_ask(_sampled(given), context.service.model.stop_tokens, context.recall, client)


def _chat(given: CountRequest) -> ChatRequest:
    """The conversation as a chat's, with its tools and how much to think."""
    _check(given)
    system = given.system if isinstance(given.system, str) else _text(given.system or [], "system")
    messages = [ChatMessage("system", system)] if system else []
    for number, turn in enumerate(given.messages):
        messages += _turn(turn, f"messages[{number}]")
    thinking = given.thinking
    effort = given.output_config.effort if given.output_config else None
    if thinking and thinking.type == "disabled":
        effort = effort or "low"
    return ChatRequest(
        messages=messages,
        tools=given.tools or None,
        tool_choice=given.tool_choice,
        response_format=_form(given),
        reasoning=Thinking(effort, thinking.budget_tokens if thinking else None),
    )


def _check(given: CountRequest) -> None:
    """Raises ApiError for what would change the conversation if it were ignored."""
    if given.thread is not None:
        message = "thread: this server keeps no threads; send the whole conversation in messages, without thread"
        # the SDK knows this code, and sends the whole conversation by itself
        raise ApiError(400, message, param="thread", details={"error_code": "thread_unsupported_request"})
    if given.output_format and given.output_config and given.output_config.format:
        raise bad("output_format", "output_format and output_config.format are both given: leave output_format out")


def _form(given: CountRequest) -> Form | None:
    form = given.output_config.format if given.output_config else None
    form = form or given.output_format
    return Form("json_schema", JsonSchema(schema=form.schema, strict=True)) if form else None


def _sampled(given: MessagesRequest) -> ChatRequest:
    chat = _chat(given)
    chat.max_tokens, chat.temperature, chat.top_p = given.max_tokens, given.temperature, given.top_p
    chat.top_k, chat.stop, chat.store = given.top_k, given.stop_sequences, given.store
    return chat


def _turn(turn: Turn, at: str) -> list[ChatMessage]:
    """A turn's blocks: results of tools are messages of their own, before what else the user says."""
    if isinstance(turn.content, str):
        return [ChatMessage(turn.role, turn.content)]
    if turn.role != "assistant":
        results = [_result(block, at) for block in turn.content if block.type == "tool_result"]
        parts = [Part(block.type, block.text) for block in turn.content if block.type != "tool_result"]
        return [*results, *([ChatMessage(turn.role, parts)] if parts else [])]
    calls = [_call(block, at) for block in turn.content if block.type == "tool_use"]
    thought = "\n".join(block.thinking for block in turn.content if block.thinking)
    known = ("tool_use", "thinking", "redacted_thinking")
    parts = [Part(block.type, block.text) for block in turn.content if block.type not in known]
    return [ChatMessage("assistant", parts, reasoning=thought or None, tool_calls=calls or None)]


def _result(block: Block, at: str) -> ChatMessage:
    content = block.content if isinstance(block.content, str) else _text(block.content or [], at)
    return ChatMessage("tool", f"error: {content}" if block.is_error else content, tool_call_id=block.tool_use_id)


def _call(block: Block, at: str) -> ToolCall:
    if not block.id or not block.name:
        raise bad(at, f"{at}: a tool_use needs id and name", "missing_required_parameter")
    return ToolCall(block.id, function=FunctionCall(block.name, block.input or {}))


def _text(blocks: list[Block], at: str) -> str:
    for block in blocks:
        if block.type != "text":
            raise bad(
                at, f"{at}: {block.type[:40]!r} is not text, and this model reads text only", "unsupported_content"
            )
    return "\n".join(block.text or "" for block in blocks)


@dataclass(slots=True)
class _Answer:
    context: Context
    asked: ChatAsk
    model: str
    shows_thinking: bool
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")

    async def whole(self) -> MessageMade:
        blocks: list[Made] = []
        message = self._message(blocks, Usage())
        arguments: dict[str, list[str]] = {}
        async for piece in self._pieces():
            if opened := _opened(piece, blocks[-1] if blocks else None):
                blocks.append(opened)
            match piece, blocks[-1] if blocks else None:
                case Said(text=text), TextMade() as block:
                    block.text += text
                case Said(text=text), ThinkingMade() as block:
                    block.thinking += text
                case Argued(text=text), ToolUseMade() as block:
                    arguments.setdefault(block.id, []).append(text)
                case Done() as done, _:
                    message.stop_reason, message.stop_sequence = _reason(done), done.stop
                    message.usage = _usage(done.usage)
        for block in blocks:
            if isinstance(block, ToolUseMade):
                block.input = _object("".join(arguments.get(block.id, ())))
        return message

    async def frames(self) -> AsyncGenerator[bytes, None]:
        index, block = 0, None
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if isinstance(piece, Began):
                    yield _event("message_start", message=self._message([], _usage(piece.usage)))
                    continue
                opened = _opened(piece, block)
                if block and (opened or isinstance(piece, Done)):
                    if isinstance(block, ThinkingMade):  # a client keeps the block only if it is signed
                        signed = {"type": "signature_delta", "signature": SIGNATURE}
                        yield _event("content_block_delta", index=index, delta=signed)
                    yield _event("content_block_stop", index=index)
                    index += 1
                if opened:
                    block = opened
                    shown = ThinkingMade() if isinstance(block, ThinkingMade) else block
                    yield _event("content_block_start", index=index, content_block=shown)
                for delta in _deltas(piece):
                    yield _event("content_block_delta", index=index, delta=delta)
                if isinstance(piece, Done):
                    ended = {"stop_reason": _reason(piece), "stop_sequence": piece.stop}
                    yield _event("message_delta", delta=ended, usage=_usage(piece.usage))
        yield _event("message_stop")

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        async with aclosing(pieces_of(self.context, self.asked)) as pieces:
            async for piece in pieces:
                if self.shows_thinking or not (isinstance(piece, Said) and piece.kind == "reasoning"):
                    yield piece

    def _message(self, blocks: list[Made], usage: Usage) -> MessageMade:
        return MessageMade(self.id, self.model, blocks, usage)


def _opened(piece: Piece, block: Made | None) -> Made | None:
    """The block that a piece begins; None where it goes on with the one there is."""
    match piece:
        case Said("reasoning"):
            return None if isinstance(block, ThinkingMade) else ThinkingMade(signature=SIGNATURE)
        case Said("content"):
            return None if isinstance(block, TextMade) else TextMade()
        case Called(id=call, tool=tool):
            return ToolUseMade(call, tool.name, {})
    return None


def _deltas(piece: Piece) -> Iterator[dict[str, str]]:
    match piece:
        case Said("reasoning", text):
            yield {"type": "thinking_delta", "thinking": text}
        case Said(_, text):
            yield {"type": "text_delta", "text": text}
        case Argued(text=text):
            yield {"type": "input_json_delta", "partial_json": text}


def _object(text: str) -> object:
    """A call's arguments, which Anthropic gives as a value; what is none stays as it is under a name of its own."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"text": text}


def _event(kind: str, **fields: object) -> bytes:
    return sse({"type": kind, **fields}, kind)


def _reason(done: Done) -> StopReason:
    match done.finish:
        case "tool_calls":
            return "tool_use"
        case "length" | "steps":
            return "max_tokens"
    return "stop_sequence" if done.stop else "end_turn"


def _usage(used: Counts) -> Usage:
    cached, written = used.cached_tokens, used.written_tokens
    thought = OutputDetails(used.reasoning_tokens)
    return Usage(used.prompt_tokens - cached - written, used.output_tokens, cached, written, thought)
