"""Converts a request of the Responses API to a request for the service, and to the response object before the first token.

In: a body of the wire type, and stored items that it continues. Out: a `PreparedRequest`, or an `ApiError` that names the
field.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import msgspec

from ossia.chat import TurnOptions
from ossia.engine.request import SamplingParams
from ossia.harmony.client_tools import Toolbox, toolbox
from ossia.harmony.messages import Message, developer
from ossia.server.apis.chat.chat_request import MAX_CALLS, opening_of
from ossia.server.apis.fields.answer_form import form_of
from ossia.server.apis.fields.client_run_tools import ClientKind, client_run_tools
from ossia.server.apis.fields.extensions import not_honoured
from ossia.server.apis.fields.hosted_tools import LeasedTools, leased_tools
from ossia.server.apis.fields.sampling import limit, sampling_params, stop_strings
from ossia.server.apis.fields.thinking import Thinking, template_warnings, thinking_of
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.approvals import Answered, answer_approvals, known_listings
from ossia.server.apis.responses.client_calls import as_function_calls
from ossia.server.apis.responses.items import HOSTED_CALLS, ConversationEntry, messages_of, read_input, truncate
from ossia.server.apis.responses.output.builder import MAX_WARNING, WARNINGS, OutputOptions
from ossia.server.apis.responses.output.hosted_writers import HostedItemOptions
from ossia.server.apis.responses.output.item_writers import ReasoningForm, Summary
from ossia.server.apis.responses.output.mcp_writers import McpOutput, mcp_targets
from ossia.server.apis.responses.output.shown import new_response, shown_choice, shown_text, shown_tool
from ossia.server.core.context import Context
from ossia.server.core.request import AnswerRequest, conversation
from ossia.server.core.warnings import unenforced
from ossia.server.errors import ApiError, bad, input_errors
from ossia.server.http.decoding.json_codec import encode
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

    input_items: of this request, as they are stored. store: whether the response is stored. hosted: the server's own tools,
    which the caller releases.
    """

    answer: AnswerRequest
    output: OutputOptions
    response: wire.Response
    input_items: tuple[Item, ...]
    conversation: str | None
    store: bool
    hosted: LeasedTools
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


async def prepare(
    context: ResponsesContext, request: wire.ResponsesRequest, client: str, only_counts: bool = False
) -> PreparedRequest:
    """Load the earlier items that the request continues, and prepare the request.

    only_counts: the prompt is counted or shown; calls that the user approved do not run.
    """
    check(context, request)
    request.max_output_tokens = limit(request.max_output_tokens)
    warnings: list[str] = []
    # in threads: a long input would block the event loop
    input_items = await _resolved(context, await asyncio.to_thread(read_input, request.input, warnings))
    earlier = await _earlier(context, request)
    before = await asyncio.to_thread(lambda: [entry_of(item, "input") for item in earlier])
    listings = known_listings([*before, *input_items])
    hosted = await leased_tools(context.server, request.tools, request.tool_choice, _session_keys(request), listings)
    warnings += hosted.fields.warnings
    async with hosted.released_on_error():
        with input_errors():
            tokenizer = context.server.service.tokenizer
            answered = await answer_approvals(before, input_items, hosted, None if only_counts else tokenizer, warnings)
            own = _Own(input_items, answered, hosted)
            return await asyncio.to_thread(_prepared, context, request, client, own, warnings)


def _session_keys(request: wire.ResponsesRequest) -> list[str]:
    """Under which ids the tools of an earlier answer may be kept."""
    containers = [each.get("container") for each in request.tools or ()]
    found = [request.previous_response_id, conversation_of(request), *containers]
    return [key for key in found if isinstance(key, str)]


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
    named = Counter(entry.item["id"] for entry in entries if entry.item["type"] in (REFERENCE, *HOSTED_CALLS))
    first = next((entry for entry in entries if entry.item["type"] == REFERENCE), None)
    if not named or (first is None and (context.store is None or context.store.fault)):
        return entries
    store = context.require_store(_no_item(first) if first else None)
    sizes = await store_result(store.item_sizes(list(named)))
    if sum(sizes.get(item, 0) * count for item, count in named.items()) > max_stored_bytes(context):
        raise _too_large(context, "input")
    found = {item: await store_result(store.item(item)) for item in sizes}
    items = await asyncio.to_thread(lambda: {name: entry_of(item, "") for name, item in found.items() if item})
    resolved: list[ConversationEntry] = []
    for entry in entries:
        own = entry.item["id"]
        if own in items and entry.item["type"] in (REFERENCE, *HOSTED_CALLS):
            resolved.append(items[own]._replace(at=entry.at))
        elif entry.item["type"] != REFERENCE:
            resolved.append(entry)
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
    return ConversationEntry(msgspec.json.decode(item.body), item.message, at, item.result)


async def store_result(work: Awaitable[T]) -> T:
    """The result of a store operation. Raises ApiError (503) if it fails."""
    try:
        return await work
    except StoreError as error:
        raise ApiError(503, str(error), code="store_unavailable") from error


class _Own(NamedTuple):
    """What a request brings beside its fields: its items, the conversation with them, and its open tools."""

    input_items: Sequence[ConversationEntry]
    answered: Answered
    hosted: LeasedTools


def _prepared(
    context: ResponsesContext, request: wire.ResponsesRequest, client: str, own: _Own, warnings: list[str]
) -> PreparedRequest:
    service, hosted = context.server.service, own.hosted
    client_run = client_run_tools(hosted.fields.tools, hosted.fields.tool_choice)
    box = toolbox(client_run.tools, client_run.tool_choice)
    warnings += box.warnings
    turns = _turns(context, as_function_calls(own.answered.entries, client_run.name_of), box, warnings)
    if request.instructions:
        turns.insert(0, developer(request.instructions))
    if request.truncation == "auto":  # first by text lengths: counting the tokens of long texts is slow
        turns = truncate(turns, lambda some: service.limits.least_tokens(some) <= service.context)
    service.limits.check_messages(turns, "input")
    text = request.text or wire.Text()
    form = form_of(text.format, request, warnings, param="text.format", shows_object=False)
    form_param = FORM if form.param == "text.format" else form.param
    thinking = _thinking(request, warnings)
    opening = hosted.declared(opening_of(service.settings.opening, request))
    spaces = (*box.spaces, *hosted.developer_namespaces)
    messages = conversation(thinking.effort, turns, spaces, form.shown, opening)
    if request.truncation == "auto":
        messages = _fitting(context.server, messages, request.max_output_tokens)
    options = TurnOptions(
        params=_params(context.server, request, warnings),
        tool_choice=hosted.choice or box.choice,
        allowed=hosted.allowed(box.allowed),
        toolset=hosted.toolset,
        needs_approval=hosted.needs_approval,
        max_tool_calls=request.max_tool_calls,
        response_format=form.enforced,
        thinking_budget=thinking.budget,
        max_calls=MAX_CALLS if request.parallel_tool_calls is True else 1,
    )
    warnings += [*not_honoured(request), *template_warnings(request)]
    with input_errors(field_names(form_param)):  # now: a background response cannot report it later
        warnings += unenforced(service, messages, options, box, form.param)
    stored = _is_stored(context, request, warnings)
    response = new_response(request, service.name, conversation_of(request), stored)
    response.text, response.tool_choice = shown_text(text, form), shown_choice(box, hosted, client_run.kinds)
    response.tools = [shown for tool in request.tools or () if (shown := shown_tool(tool, hosted))]
    if warnings:
        response.metadata = {**response.metadata, WARNINGS: "; ".join(warnings)[:MAX_WARNING]}
    return PreparedRequest(
        AnswerRequest(tuple(messages), options, stop_strings(request.stop), client),
        _output(context, request, box, thinking.hidden, own, client_run.kinds),
        response,
        tuple(Item(entry.item["id"], encode(entry.item), entry.message) for entry in own.input_items),
        conversation_of(request),
        response.store,
        hosted,
        tuple(warnings),
        form_param,
    )


def _turns(
    context: ResponsesContext, entries: Sequence[ConversationEntry], box: Toolbox, warnings: list[str]
) -> list[Message]:
    """The conversation so far."""
    name = context.server.service.name
    return messages_of(
        entries, box, lambda encrypted: context.cipher.decrypt(encrypted, name), context.server.recall, warnings
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
    context: ResponsesContext,
    request: wire.ResponsesRequest,
    box: Toolbox,
    hides_reasoning: bool,
    own: _Own,
    client_kinds: Mapping[str, ClientKind],
) -> OutputOptions:
    hosted = own.hosted
    service, include, reasoning = context.server.service, request.include or (), request.reasoning or wire.Reasoning()
    encrypt = (lambda text: context.cipher.encrypt(text, service.name)) if ENCRYPTED_REASONING in include else None
    summary = SUMMARIES.get(reasoning.summary or reasoning.generate_summary)
    scored = LOGPROBS in include or request.top_logprobs
    return OutputOptions(
        box,
        ReasoningForm(encrypt, summary, hides_reasoning),
        service.tokenizer if scored else None,
        hosted.recipients,
        hosted.resolve,
        HostedItemOptions(hosted.container_id, include, hosted.image_url),
        McpOutput(mcp_targets(hosted.toolset), hosted.listings, tuple(own.answered.approved)),
        client_kinds,
    )
