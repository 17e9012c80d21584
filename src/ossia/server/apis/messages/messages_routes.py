"""/v1/messages: Anthropic's Messages API.

In: its requests, converted to chat requests. Out: its JSON, or its server-sent events.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ossia.chat import Done
from ossia.chat import Usage as Counts
from ossia.harmony.openai_chat import ChatMessage, FunctionCall, ToolCall, newest_from, unreadable
from ossia.server.apis.chat.chat_request import PreparedChat, prepare_chat
from ossia.server.apis.chat.chat_routes import answer_pieces, warnings_of
from ossia.server.apis.chat.chat_wire import ChatRequest, ThinkingOptions
from ossia.server.apis.messages.messages_wire import (
    ContentBlock,
    CountRequest,
    MessagesOutputDetails,
    MessagesRequest,
    MessagesResponse,
    MessagesTurn,
    MessagesUsage,
    OutputBlock,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from ossia.server.apis.messages.server_tools import (
    ServerToolCounts,
    ServerToolUseBlock,
    citation,
    input_of,
    offered,
    result_block,
    use_block,
)
from ossia.server.core.context import Context
from ossia.server.core.events import (
    Citation,
    HostedCallEnd,
    HostedCallStart,
    JoinedPiece,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
)
from ossia.server.core.request import AnswerStart
from ossia.server.core.warnings import header
from ossia.server.errors import ANTHROPIC, ApiError, bad, input_errors
from ossia.server.http.decoding.json_codec import convert, encode, loads
from ossia.server.http.requests import EventStream, client_of, read, reply, sse, until_disconnect

SIGNATURE = "ossia"  # clients require a signature of thinking; it has no meaning here


def routes(context: Context) -> list[Route]:
    async def create(request: Request) -> Response:
        return await _create(context, request)

    async def count(request: Request) -> Response:
        body = await read(request, CountRequest)
        return reply({"input_tokens": await until_disconnect(request, _count(context, body))})

    return [
        Route("/v1/messages", create, methods=["POST"]),
        Route("/v1/messages/count_tokens", count, methods=["POST"]),
    ]


async def _count(context: Context, body: CountRequest) -> int:
    context.check_model(body.model)
    chat = await asyncio.to_thread(_chat, body)
    prepared = await prepare_chat(chat.request, context, "", chat.places)
    try:
        answer = prepared.answer
        return await asyncio.to_thread(context.service.count, answer.messages, answer.options.prefill)
    finally:
        await prepared.hosted.release()


async def _create(context: Context, request: Request) -> Response:
    body = await read(request, MessagesRequest)
    model = context.check_model(body.model)
    prepared = await until_disconnect(request, prepare(context, body, client_of(request)))
    shows = body.thinking is not None and body.thinking.type != "disabled"
    answer = _Answer(context, prepared, model, shows)
    async with prepared.hosted.released_on_error():
        headers = header(await until_disconnect(request, warnings_of(context, prepared)))
    if body.stream:
        return EventStream(answer.frames(), lambda error: sse(error.body(ANTHROPIC), "error"), headers)
    return reply(await until_disconnect(request, answer.whole()), headers=headers)


async def prepare(context: Context, body: MessagesRequest, client: str) -> PreparedChat:
    """Check a request and convert it for the service. Raises ApiError."""
    context.check_model(body.model)
    if body.max_tokens is None:
        raise bad("max_tokens", "max_tokens is missing", "missing_required_parameter")
    chat = await asyncio.to_thread(_chat, body)
    sampled = _with_sampling(body, chat.request)
    prepared = await prepare_chat(sampled, context, client, chat.places)
    return prepared._replace(warnings=(*chat.warnings, *prepared.warnings))


class _Chat(NamedTuple):
    """A request as a chat request. places: the path of each message in the request. warnings: about ignored parts."""

    request: ChatRequest
    places: list[str]
    warnings: list[str]


def _chat(body: CountRequest) -> _Chat:
    """The request as a chat request, without its sampling fields."""
    _check(body)
    warnings: list[str] = []
    with input_errors():
        messages_at = [("system", ChatMessage("system", system))] if (system := _system(body)) else []
        newest = newest_from([turn.role == "assistant" for turn in body.messages])
        for number, turn in enumerate(body.messages):
            messages_at += _turn(turn, f"messages[{number}]", number >= newest, warnings)
    if len(messages_at) > 1 and _is_empty(
        messages_at[-1][1]
    ):  # Anthropic allows a last message of the assistant to be empty
        messages_at.pop()
    at, last = messages_at[-1] if messages_at else ("", ChatMessage("user", ""))
    continues = last.role == "assistant" and not last.calls  # a message that ends in a call is not an answer
    if continues and str(last.content or "")[-1:].isspace():
        raise bad(f"{at}.content", f"{at}: final assistant content cannot end with trailing whitespace: strip it")
    tools, choice = offered(body.tools or [], body.tool_choice, warnings)
    thinking = body.thinking
    effort = body.output_config.effort if body.output_config else None
    request = ChatRequest(
        messages=[message for _, message in messages_at],
        tools=tools,
        tool_choice=choice,
        response_format=_form(body),
        reasoning=ThinkingOptions(effort, thinking.budget_tokens if thinking else None),
        thinking={"type": "disabled"} if thinking and thinking.type == "disabled" else None,
        continue_final_message=continues,
        # only if requested: the model was trained to call one tool in a turn
        parallel_tool_calls=(body.tool_choice or {}).get("disable_parallel_tool_use") is False,
        ossia=body.ossia,
    )
    return _Chat(request, [at for at, _ in messages_at], warnings)


def _is_empty(message: ChatMessage) -> bool:
    return message.role == "assistant" and not (message.content or message.thought or message.calls)


def _system(body: CountRequest) -> str:
    if body.system is None or isinstance(body.system, str):
        return body.system or ""
    return "\n".join(_text(block, f"system[{number}]", True, []) for number, block in enumerate(body.system))


def _check(body: CountRequest) -> None:
    """Raises ApiError for fields that cannot be ignored without changing the conversation."""
    if body.thread is not None:
        message = "thread: this server keeps no threads; send the whole conversation in messages, without thread"
        # the SDK knows this code, and sends the whole conversation by itself
        raise ApiError(400, message, param="thread", details={"error_code": "thread_unsupported_request"})
    if body.output_format and body.output_config and body.output_config.format:
        raise bad("output_format", "output_format and output_config.format are both given: leave output_format out")


def _form(body: CountRequest) -> dict[str, Any] | None:
    form = body.output_config.format if body.output_config else None
    form = form or body.output_format
    if form is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form.schema, "strict": True}}


def _with_sampling(body: MessagesRequest, chat: ChatRequest) -> ChatRequest:
    chat.max_tokens, chat.temperature, chat.top_p = body.max_tokens, body.temperature, body.top_p
    chat.top_k, chat.stop, chat.store = body.top_k, body.stop_sequences, body.store
    return chat


def _turn(turn: MessagesTurn, at: str, newest: bool, warnings: list[str]) -> list[tuple[str, ChatMessage]]:
    """A turn's blocks as messages, each with its path. Tool results come before the user's text."""
    if isinstance(turn.content, str):
        return [(at, ChatMessage(turn.role, turn.content))]
    blocks = [(f"{at}.content[{number}]", block) for number, block in enumerate(turn.content)]
    if turn.role != "assistant":
        results = [(where, _result(block, where, warnings)) for where, block in blocks if block.type == "tool_result"]
        others = [(where, block) for where, block in blocks if block.type != "tool_result"]
        text = "\n".join(_text(block, where, newest, warnings) for where, block in others)
        return [*results, *([(at, ChatMessage(turn.role, text))] if others else [])]
    calls = [_call(block, where) for where, block in blocks if block.type == "tool_use"]
    thinking_text = "\n".join(block.thinking for block in turn.content if block.thinking)
    known = ("tool_use", "server_tool_use", "thinking", "redacted_thinking")
    text = "\n".join(_text(block, where, False, warnings) for where, block in blocks if block.type not in known)
    return [(at, ChatMessage("assistant", text, reasoning=thinking_text or None, tool_calls=calls or None))]


def _result(block: ContentBlock, at: str, warnings: list[str]) -> ChatMessage:
    content = _texts(block.content, f"{at}.content", False, warnings)
    return ChatMessage("tool", f"error: {content}" if block.is_error else content, tool_call_id=block.tool_use_id)


def _text(block: ContentBlock, at: str, newest: bool, warnings: list[str]) -> str:
    """The text of a text block, text document or search result. Other blocks are not readable."""
    match block:
        case ContentBlock(type="text", text=str(text)):
            return text
        case ContentBlock(type="text"):
            raise bad(f"{at}.text", f"{at} has no text", "missing_required_parameter")
        case ContentBlock(type="document", source={"type": "text", "data": str(text)}):
            return _headed(text, block.title, block.context)
        case ContentBlock(type="document", source={"type": "content", "content": str() | list() as inner}):
            inner = convert({"type": "", "content": inner}, ContentBlock, f"{at}.source").content
            return _headed(_texts(inner, f"{at}.source.content", newest, warnings), block.title, block.context)
        case ContentBlock(type="search_result", content=str() | list() as inner, source=str() | None as source):
            return _headed(_texts(inner, f"{at}.content", newest, warnings), block.title, source)
    return unreadable(block.type, at, warnings, refuses=newest)


def _texts(
    content: str | list[ContentBlock] | dict[str, Any] | None, at: str, newest: bool, warnings: list[str]
) -> str:
    """The texts of a block's own content."""
    if isinstance(content, dict):
        raise bad(at, f"{at} must be a string or a list of blocks", "invalid_type")
    if isinstance(content, str):
        return content
    return "\n".join(_text(each, f"{at}[{number}]", newest, warnings) for number, each in enumerate(content or []))


def _headed(text: str, *lines: str | None) -> str:
    return "\n".join(line for line in (*lines, text) if line)


def _call(block: ContentBlock, at: str) -> ToolCall:
    if not block.name:
        raise bad(f"{at}.name", f"{at}: a tool_use needs a name", "missing_required_parameter")
    return ToolCall(block.id, function=FunctionCall(block.name, block.input or {}))


@dataclass(slots=True)
class _Answer:
    context: Context
    prepared: PreparedChat
    model: str
    shows_thinking: bool
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")

    async def whole(self) -> MessagesResponse:
        blocks: list[OutputBlock] = []
        message = self._message(blocks, MessagesUsage())
        arguments: dict[str, list[str]] = {}
        counts = ServerToolCounts()
        async for piece in self._pieces():
            block = blocks[-1] if blocks else None
            if isinstance(piece, HostedCallEnd):
                if isinstance(block, ServerToolUseBlock):
                    counts.add(block.name)
                    block.input = input_of(block, piece)
                    blocks.append(result_block(block, piece))
                continue
            if started := _started_block(piece, block):
                blocks.append(started)
            match piece, blocks[-1] if blocks else None:
                case TextDelta(text=text), TextBlock() as block:
                    block.text += text
                case TextDelta(text=text), ThinkingBlock() as block:
                    block.thinking += text
                case Citation() as cited, TextBlock() as block:
                    block.citations = [*(block.citations or ()), citation(cited)]
                case ToolCallDelta(text=text), ToolUseBlock() as block:
                    arguments.setdefault(block.id, []).append(text)
                case Done() as done, _:
                    message.stop_reason, message.stop_sequence = _reason(done), done.stop
                    message.usage = _usage(done.usage, counts)
        for block in blocks:
            if isinstance(block, ToolUseBlock):
                block.input = _object("".join(arguments.get(block.id, ())))
        return message

    async def frames(self) -> AsyncGenerator[bytes, None]:
        counts, open_blocks = ServerToolCounts(), _BlockFrames()
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if isinstance(piece, AnswerStart):
                    yield _event("message_start", message=self._message([], _usage(piece.usage)))
                    continue
                if isinstance(piece, HostedCallEnd) and isinstance(open_blocks.block, ServerToolUseBlock):
                    counts.add(open_blocks.block.name)
                for frame in open_blocks.frames(piece):
                    yield frame
                if isinstance(piece, Done):
                    ended = {"stop_reason": _reason(piece), "stop_sequence": piece.stop}
                    yield _event("message_delta", delta=ended, usage=_usage(piece.usage, counts))
        yield _event("message_stop")

    async def _pieces(self) -> AsyncGenerator[JoinedPiece, None]:
        async with aclosing(answer_pieces(self.context, self.prepared)) as pieces:
            async for piece in pieces:
                if self.shows_thinking or not (isinstance(piece, TextDelta) and piece.kind == "reasoning"):
                    yield piece

    def _message(self, blocks: list[OutputBlock], usage: MessagesUsage) -> MessagesResponse:
        return MessagesResponse(self.id, self.model, blocks, usage)


class _BlockFrames:
    """The events of the blocks of a stream. block: the one that is open."""

    def __init__(self) -> None:
        self.block: OutputBlock | None = None
        self._index = 0

    def frames(self, piece: JoinedPiece) -> Iterator[bytes]:
        started = _started_block(piece, self.block)
        if started or isinstance(piece, Done):
            yield from self._stop()
        if started:
            yield from self._start(started)
        for delta in _deltas(piece):
            yield self._delta(delta)
        if isinstance(piece, HostedCallEnd) and isinstance(self.block, ServerToolUseBlock):
            call = self.block
            yield self._delta({"type": "input_json_delta", "partial_json": encode(input_of(call, piece)).decode()})
            yield from self._stop()
            yield from self._start(result_block(call, piece))
            yield from self._stop()

    def _start(self, block: OutputBlock) -> Iterator[bytes]:
        self.block = block
        shown = ThinkingBlock() if isinstance(block, ThinkingBlock) else block
        yield _event("content_block_start", index=self._index, content_block=shown)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _stop(self) -> Iterator[bytes]:
        if self.block is None:
            return
        if isinstance(self.block, ThinkingBlock):  # a client keeps the block only if it is signed
            yield self._delta({"type": "signature_delta", "signature": SIGNATURE})
        yield _event("content_block_stop", index=self._index)
        self.block, self._index = None, self._index + 1


def _started_block(piece: JoinedPiece, block: OutputBlock | None) -> OutputBlock | None:
    """The block that a piece begins; None if it continues the current block."""
    match piece:
        case TextDelta("reasoning"):
            return None if isinstance(block, ThinkingBlock) else ThinkingBlock(signature=SIGNATURE)
        case TextDelta("content"):
            return None if isinstance(block, TextBlock) else TextBlock()
        case ToolCallStart(id=call, tool=tool):
            return ToolUseBlock(call, tool.name, {})
        case HostedCallStart(recipient):
            return use_block(recipient)
    return None


def _deltas(piece: JoinedPiece) -> Iterator[dict[str, Any]]:
    match piece:
        case TextDelta("reasoning", text):
            yield {"type": "thinking_delta", "thinking": text}
        case TextDelta(_, text):
            yield {"type": "text_delta", "text": text}
        case ToolCallDelta(text=text):
            yield {"type": "input_json_delta", "partial_json": text}
        case Citation():
            yield {"type": "citations_delta", "citation": citation(piece)}


def _object(text: str) -> object:
    """A call's arguments as an object. Arguments that are not a JSON object become {"text": ...}."""
    try:
        value = loads(text)
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


def _usage(used: Counts, tools: ServerToolCounts | None = None) -> MessagesUsage:
    cached, written = used.cached_tokens, used.written_tokens
    thinking_text = MessagesOutputDetails(used.reasoning_tokens)
    made = MessagesUsage(used.prompt_tokens - cached - written, used.output_tokens, cached, written, thinking_text)
    if tools and (tools.web_search_requests or tools.web_fetch_requests):
        made.server_tool_use = tools
    return made
