"""Converts a request of the Responses API to a request for the service, and to the response object before the first token.

In: a body of the wire type, and stored items that it continues. Out: a `PreparedRequest`, or an `ApiError` that names the
field.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from ossia.chat import TurnOptions
from ossia.engine.request import SamplingParams
from ossia.harmony.client_tools import Toolbox, toolbox
from ossia.harmony.messages import Message, developer
from ossia.harmony.openai_chat import ANY_OBJECT, effort_of
from ossia.server.apis.chat.chat_request import MAX_CALLS, opening_of
from ossia.server.apis.fields.answer_form import RequestedForm, form_of
from ossia.server.apis.fields.extensions import not_honoured
from ossia.server.apis.fields.sampling import limit, sampling_params, stop_strings
from ossia.server.apis.fields.thinking import Thinking, template_warnings, thinking_of
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.events import MAX_WARNING, WARNINGS, OutputOptions
from ossia.server.apis.responses.items import ConversationEntry, messages_of, new_id, read_input, truncate
from ossia.server.apis.responses.output_items import ReasoningForm, Summary
from ossia.server.core.context import Context
from ossia.server.core.request import AnswerRequest, conversation
from ossia.server.core.warnings import unenforced
from ossia.server.errors import ApiError, bad, input_errors
from ossia.server.http.decoding.json_codec import JsonDict, encode
from ossia.server.state.encrypted_reasoning import ReasoningCipher
from ossia.server.state.sql import MissingError, TooLargeError
from ossia.server.state.store import Item, Store, StoreError

SUMMARIES: dict[str | None, Summary] = {"auto": "copied", "detailed": "copied", "concise": "condensed"}
FORM = "text.format.schema"
LOGPROBS, ENCRYPTED_REASONING = "message.output_text.logprobs", "reasoning.encrypted_content"
T = TypeVar("T")
REFERENCE = "item_reference"
MAX_ITEMS = 10_000  # of one request
LOGPROB_BYTES = 32 << 20  # of log-probabilities in stored items
ANSWER_SHARE = 8  # with truncation, an eighth of the context stays free for the answer


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """What to generate, and how to write it.

    input_items: of this request, as they are stored. store: whether the response is stored.
    """

    answer: AnswerRequest
    output: OutputOptions
    response: wire.Response
    input_items: tuple[Item, ...]
    conversation: str | None
    store: bool
    warnings: tuple[str, ...] = ()
    form_param: str = FORM


@dataclass(frozen=True, slots=True)
class ResponsesContext:
    """The server, and the key for reasoning that clients keep."""

    server: Context
    cipher: ReasoningCipher

    @property
    def store(self) -> Store | None:
        return self.server.store

    def require_store(self, absent: ApiError | None = None) -> Store:
        """The store. absent: the error to raise if the server has no store, for lookups.

        Raises ApiError (503) without a store, or with a broken one. A retry does not help.
        """
        if self.store is None and absent:
            raise absent
        if self.store is None or self.store.fault:
            reason = self.store.fault if self.store else "this server keeps nothing: start it with --state FOLDER"
            raise ApiError(503, f"the store cannot be used: {reason}", code="store_unavailable", retry=False)
        return self.store


async def prepare(context: ResponsesContext, request: wire.ResponsesRequest, client: str) -> PreparedRequest:
    """Load the earlier items that the request continues, and prepare the request."""
    check(context, request)
    request.max_output_tokens = limit(request.max_output_tokens)
    warnings: list[str] = []
    # in threads: a long input would block the event loop
    input_items = await _resolved(context, await asyncio.to_thread(read_input, request.input, warnings))
    earlier = await _earlier(context, request)
    with input_errors():
        return await asyncio.to_thread(_prepared, context, request, client, earlier, input_items, warnings)


def check(context: ResponsesContext, request: wire.ResponsesRequest) -> None:
    """Check the fields that do not depend on the conversation. Raises ApiError."""
    context.server.check_model(request.model)
    if request.prompt is not None:
        raise bad("prompt", "prompt templates are kept by OpenAI: send the text itself", "unsupported_parameter")
    if request.previous_response_id and request.conversation:
        raise bad("conversation", "give either previous_response_id or conversation, not both")
    if request.background and request.store is False:
        raise bad("background", "a response in the background has to be kept: leave out store=false")
    if request.max_tool_calls is not None and request.max_tool_calls < 1:
        raise bad("max_tool_calls", "max_tool_calls must be at least 1")
    check_metadata(request.metadata or {})
    context.server.service.limits.check_text(len(request.instructions or ""), "instructions")
    if isinstance(request.input, list) and len(request.input) > MAX_ITEMS:
        raise bad("input", f"input has {len(request.input)} items: want {MAX_ITEMS} at most")


def check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > 16 or any(len(key) > 64 or len(value) > 512 for key, value in metadata.items()):
        raise bad("metadata", "metadata takes 16 pairs, keys of 64 characters and values of 512 at most")


async def _resolved(context: ResponsesContext, entries: list[ConversationEntry]) -> list[ConversationEntry]:
    """Replace references by the stored items. Each is read once, and only if their total size is allowed."""
    named = Counter(entry.item["id"] for entry in entries if entry.item["type"] == REFERENCE)
    if not named:
        return entries
    first = next(entry for entry in entries if entry.item["type"] == REFERENCE)
    store = context.require_store(_no_item(first))
    sizes = await store_result(store.item_sizes(list(named)))
    if sum(sizes.get(item, 0) * count for item, count in named.items()) > max_stored_bytes(context):
        raise _too_large(context, "input")
    found = {item: await store_result(store.item(item)) for item in sizes}
    items = await asyncio.to_thread(lambda: {name: entry_of(item, "") for name, item in found.items() if item})
    resolved: list[ConversationEntry] = []
    for entry in entries:
        own = entry.item["id"]
        if entry.item["type"] != REFERENCE:
            resolved.append(entry)
        elif own in items:
            resolved.append(items[own]._replace(at=entry.at))
        else:
            raise _no_item(entry)
    return resolved


def _no_item(entry: ConversationEntry) -> ApiError:
    message = f"there is no item {entry.item['id']!r}: it was not kept, or has expired; send the item itself"
    return ApiError(404, message, param=f"{entry.at}.id", code="item_not_found")


def max_stored_bytes(context: ResponsesContext) -> int:
    """Maximum bytes of stored items for one request: texts that could fill the context, and log-probabilities."""
    service = context.server.service
    return LOGPROB_BYTES + 8 * service.context * service.limits.longest_token


def _too_large(context: ResponsesContext, param: str) -> ApiError:
    limit = context.server.service.context
    size = f"the kept items are larger than {max_stored_bytes(context)} bytes"
    message = f"This model's maximum context length is {limit} tokens. However, {size}. Please begin anew, with fewer."
    return bad(param, message, "context_length_exceeded")


async def _earlier(context: ResponsesContext, request: wire.ResponsesRequest) -> list[Item]:
    if previous := request.previous_response_id:
        context.require_store(_no_previous(previous))
        if await _is_in_progress(context, previous):
            message = f"the response {previous!r} is not finished yet: wait for it, or cancel it"
            raise bad("previous_response_id", message, "previous_response_in_progress")
        try:
            return await store_result(context.require_store().history(previous, max_stored_bytes(context)))
        except TooLargeError:
            raise _too_large(context, "previous_response_id") from None
        except MissingError as error:
            gone = str(error)
            raise _no_previous(
                previous, "" if gone == previous else f" (it continues {gone!r}, which is gone)"
            ) from error
    if own := conversation_of(request):
        absent = no_conversation(own, "conversation")
        if await store_result(context.require_store(absent).conversation(own)) is None:
            raise absent
        try:
            return await store_result(context.require_store().conversation_items(own, max_stored_bytes(context)))
        except TooLargeError:
            raise _too_large(context, "conversation") from None
    return []


def _no_previous(previous: str, also: str = "") -> ApiError:
    message = f"there is no response {previous!r}{also}: it was not kept, was deleted, or has expired; send all items"
    return ApiError(404, message, param="previous_response_id", code="previous_response_not_found")


def no_conversation(conversation: str, param: str | None = None) -> ApiError:
    message = f"there is no conversation {conversation!r}: it was not kept, was deleted, or has expired"
    return ApiError(404, message, param=param, code="conversation_not_found")


async def _is_in_progress(context: ResponsesContext, response: str) -> bool:
    body = await store_result(context.require_store().response(response))
    return body is not None and msgspec.json.decode(body, type=_State).status in ("queued", "in_progress")


class _State(msgspec.Struct):
    status: wire.Status


def conversation_of(request: wire.ResponsesRequest) -> str | None:
    given = request.conversation
    return given.id if isinstance(given, wire.ConversationId) else given or None


def entry_of(item: Item, at: str) -> ConversationEntry:
    return ConversationEntry(msgspec.json.decode(item.body), item.message, at)


async def store_result(work: Awaitable[T]) -> T:
    """The result of a store operation. Raises ApiError (503) if it fails."""
    try:
        return await work
    except StoreError as error:
        raise ApiError(503, str(error), code="store_unavailable") from error


def _prepared(
    context: ResponsesContext,
    request: wire.ResponsesRequest,
    client: str,
    earlier: Sequence[Item],
    input_items: Sequence[ConversationEntry],
    warnings: list[str],
) -> PreparedRequest:
    service = context.server.service
    box = toolbox(request.tools, request.tool_choice)
    warnings += box.warnings
    before = [entry_of(item, "input") for item in earlier]
    turns = messages_of(
        [*before, *input_items],
        box,
        lambda encrypted: context.cipher.decrypt(encrypted, service.name),
        context.server.recall,
        warnings,
    )
    if request.instructions:
        turns.insert(0, developer(request.instructions))
    if request.truncation == "auto":  # first by text lengths: counting the tokens of long texts is slow
        turns = truncate(turns, lambda some: service.limits.least_tokens(some) <= service.context)
    service.limits.check_messages(turns, "input")
    text = request.text or wire.Text()
    form = form_of(text.format, request, warnings, param="text.format", shows_object=False)
    form_param = FORM if form.param == "text.format" else form.param
    thinking = _thinking(request, warnings)
    opening = opening_of(service.settings.opening, request)
    messages = conversation(thinking.effort, turns, box.spaces, form.shown, opening)
    if request.truncation == "auto":
        messages = _fitting(context.server, messages, request.max_output_tokens)
    options = TurnOptions(
        params=_params(context.server, request, warnings),
        tool_choice=box.choice,
        allowed=box.allowed,
        response_format=form.enforced,
        thinking_budget=thinking.budget,
        max_calls=MAX_CALLS if request.parallel_tool_calls is True else 1,
    )
    warnings += [*not_honoured(request), *template_warnings(request)]
    with input_errors(field_names(form_param)):  # now: a background response cannot report it later
        warnings += unenforced(service, messages, options, box, form.param)
    response = _response(request, service.name, box, _is_stored(context, request, warnings), _shown_text(text, form))
    if warnings:
        response.metadata = {**response.metadata, WARNINGS: "; ".join(warnings)[:MAX_WARNING]}
    return PreparedRequest(
        AnswerRequest(tuple(messages), options, stop_strings(request.stop), client),
        _output(context, request, box, thinking.hidden),
        response,
        tuple(Item(entry.item["id"], encode(entry.item), entry.message) for entry in input_items),
        conversation_of(request),
        response.store,
        tuple(warnings),
        form_param,
    )


def field_names(form_param: str) -> dict[str, str]:
    """The names of this API for fields that an error of the service may name."""
    return {"messages": "input", "response_format": form_param}


def _is_stored(context: ResponsesContext, request: wire.ResponsesRequest, warnings: list[str]) -> bool:
    """Whether the response is stored. Adds a warning if it cannot be."""
    if request.store is False:
        return False
    fault = context.store.fault if context.store else "this server keeps nothing" if request.store else None
    if fault:
        warnings.append(f"not kept: {fault}")
    return context.store is not None and not context.store.fault


def _fitting(server: Context, messages: Sequence[Message], most: int | None) -> Sequence[Message]:
    count, whole = server.service.count, server.service.context
    if count(messages) < whole:
        return messages
    room = min(most or whole, whole // ANSWER_SHARE)
    return truncate(messages, lambda some: count(some) + room <= whole)


def _thinking(request: wire.ResponsesRequest, warnings: list[str]) -> Thinking:
    own = request.reasoning or wire.Reasoning()
    return thinking_of(
        request,
        warnings,
        efforts={"reasoning.effort": own.effort},
        budgets={"reasoning.max_tokens": limit(own.max_tokens)},
        enabled=own.enabled,
        exclude=own.exclude,
    )


def _params(server: Context, request: wire.ResponsesRequest, warnings: list[str]) -> SamplingParams:
    scored = LOGPROBS in (request.include or ()) or request.top_logprobs
    return sampling_params(
        request,
        server.service.model.stop_tokens,
        warnings,
        max_tokens=request.max_output_tokens,
        max_tokens_param="max_output_tokens",
        logprobs=request.top_logprobs or 0 if scored else None,
    )


def _output(
    context: ResponsesContext, request: wire.ResponsesRequest, box: Toolbox, hides_reasoning: bool
) -> OutputOptions:
    service, include, reasoning = context.server.service, request.include or (), request.reasoning or wire.Reasoning()
    encrypt = (lambda text: context.cipher.encrypt(text, service.name)) if ENCRYPTED_REASONING in include else None
    summary = SUMMARIES.get(reasoning.summary or reasoning.generate_summary)
    scored = LOGPROBS in include or request.top_logprobs
    return OutputOptions(box, ReasoningForm(encrypt, summary, hides_reasoning), service.tokenizer if scored else None)


def _response(request: wire.ResponsesRequest, model: str, box: Toolbox, store: bool, text: JsonDict) -> wire.Response:
    reasoning = request.reasoning or wire.Reasoning()
    own, summary = conversation_of(request), reasoning.summary or reasoning.generate_summary
    return wire.Response(
        id=new_id("resp"),
        created_at=int(time.time()),
        status="queued" if request.background else "in_progress",
        model=request.model or model,
        background=bool(request.background),
        conversation=wire.ConversationId(own) if own else None,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        metadata=dict(request.metadata or {}),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning=wire.ReasoningShown(_shown_effort(reasoning.effort), summary if summary != "none" else None),
        safety_identifier=request.safety_identifier,
        store=store,
        temperature=1.0 if request.temperature is None else request.temperature,
        text=text,
        tool_choice=_shown_choice(box),
        tools=[shown for tool in request.tools or () if (shown := _shown_tool(tool))],
        top_logprobs=request.top_logprobs or 0,
        top_p=1.0 if request.top_p is None else request.top_p,
        truncation=request.truncation or "disabled",
        user=request.user,
    )


def _shown_effort(given: str | None) -> str | None:
    """The effort in the API's spelling; None if unset."""
    return (given or "").strip().lower() if effort_of(given) else None


def _shown_text(text: wire.Text, form: RequestedForm) -> JsonDict:
    """The format as the response shows it. One that OpenAI's types lack is shown as text."""
    given, shown = text.format or {}, form.shown[0] if form.shown else None
    shown_format: JsonDict = {"type": "text"}
    if isinstance(form.enforced, Mapping) and (shown is None or form.enforced == ANY_OBJECT != given.get("schema")):
        shown_format = {"type": "json_object"}
    elif isinstance(form.enforced, Mapping) and shown:
        shown_format = {
            "type": "json_schema",
            "name": shown.name,
            "schema": form.enforced,
            "strict": given.get("strict") is True,
        }
        shown_format |= {"description": shown.description} if shown.description else {}
    return {"format": shown_format, "verbosity": text.verbosity or "medium"}


def _shown_tool(tool: JsonDict) -> JsonDict | None:
    """A tool in the API's form; None for an ignored one."""
    kind = tool.get("type")
    nested = tool.get(str(kind))
    inner: JsonDict = nested if isinstance(nested, dict) else tool
    head = {"type": kind, "name": inner.get("name"), "description": inner.get("description")}
    match kind:
        case "function":
            strict = inner.get("strict")
            own = {"parameters": inner.get("parameters"), "strict": strict if isinstance(strict, bool) else None}
            return {**head, **own}
        case "custom":
            return head
        case "namespace":
            members = [shown for each in tool["tools"] if (shown := _shown_tool(each))]
            return {**head, "description": head["description"] or "", "tools": members}
    return None


def _shown_choice(box: Toolbox) -> str | JsonDict:
    if box.allowed is not None:
        tools = [{"type": "function", "name": box.called[each].name} for each in sorted(box.allowed)]
        return {"type": "allowed_tools", "mode": box.choice, "tools": tools}
    if called := box.called.get(box.choice):
        return {"type": "custom" if called.custom else "function", "name": called.name}
    return box.choice
