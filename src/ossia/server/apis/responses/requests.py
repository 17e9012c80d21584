"""Turn a request of the Responses API into a request for the service and the response object before the first token.

In: a checked body, and the earlier items that it continues. Out: a `PreparedRequest`.
Raises ApiError (400, 404) that names the field.
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
from ossia.server.apis.chat.chat_request import MOST_CALLS, opening_of
from ossia.server.apis.fields.answer_form import Formed, form_of
from ossia.server.apis.fields.extensions import not_honoured
from ossia.server.apis.fields.sampling import limit, sampling_params, stop_strings
from ossia.server.apis.fields.thinking import Thinks, template_warnings, thinking_of
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.events import LONGEST_WARNING, WARNINGS, OutputOptions
from ossia.server.apis.responses.items import ConversationEntry, messages_of, new_id, read_input, shorten
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
LOGPROBS, SEALED = "message.output_text.logprobs", "reasoning.encrypted_content"
T = TypeVar("T")
REFERENCE = "item_reference"
MOST_ITEMS = 10_000  # of one request
LOGPROB_BYTES = 32 << 20  # of kept items, beside what they say
ANSWER_SHARE = 8  # of the context, kept free for the answer where items are dropped to fit it


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """What to generate and how to write it. given: the request's own items, as they are stored. keep: store the response."""

    answer: AnswerRequest
    output: OutputOptions
    response: wire.Response
    given: tuple[Item, ...]
    conversation: str | None
    keep: bool
    warnings: tuple[str, ...] = ()
    form_param: str = FORM


@dataclass(frozen=True, slots=True)
class ResponsesContext:
    """What reading a request needs."""

    context: Context
    seal: ReasoningCipher

    @property
    def store(self) -> Store | None:
        return self.context.store

    def kept(self, absent: ApiError | None = None) -> Store:
        """The store. absent: the error of a lookup that finds nothing, raised where the server keeps nothing at all.

        Raises ApiError (503) where there is no store to write to, or a broken one. A retry does not help.
        """
        if self.store is None and absent:
            raise absent
        if self.store is None or self.store.fault:
            reason = self.store.fault if self.store else "this server keeps nothing: start it with --state FOLDER"
            raise ApiError(503, f"the store cannot be used: {reason}", code="store_unavailable", retry=False)
        return self.store


async def compose(desk: ResponsesContext, request: wire.ResponsesRequest, client: str) -> PreparedRequest:
    """Load the earlier items that the request continues, and prepare the request."""
    check(desk, request)
    request.max_output_tokens = limit(request.max_output_tokens)
    warnings: list[str] = []
    # a long input must not hold up the loop, nor what is done with it below
    given = await _resolved(desk, await asyncio.to_thread(read_input, request.input, warnings))
    earlier = await _earlier(desk, request)
    with input_errors():
        return await asyncio.to_thread(_composed, desk, request, client, earlier, given, warnings)


def check(desk: ResponsesContext, request: wire.ResponsesRequest) -> None:
    """Check what does not need the conversation. Raises ApiError."""
    desk.context.check_model(request.model)
    if request.prompt is not None:
        raise bad("prompt", "prompt templates are kept by OpenAI: send the text itself", "unsupported_parameter")
    if request.previous_response_id and request.conversation:
        raise bad("conversation", "give either previous_response_id or conversation, not both")
    if request.background and request.store is False:
        raise bad("background", "a response in the background has to be kept: leave out store=false")
    if request.max_tool_calls is not None and request.max_tool_calls < 1:
        raise bad("max_tool_calls", "max_tool_calls must be at least 1")
    check_metadata(request.metadata or {})
    desk.context.service.limits.check_text(len(request.instructions or ""), "instructions")
    if isinstance(request.input, list) and len(request.input) > MOST_ITEMS:
        raise bad("input", f"input has {len(request.input)} items: want {MOST_ITEMS} at most")


def check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > 16 or any(len(key) > 64 or len(value) > 512 for key, value in metadata.items()):
        raise bad("metadata", "metadata takes 16 pairs, keys of 64 characters and values of 512 at most")


async def _resolved(desk: ResponsesContext, entries: list[ConversationEntry]) -> list[ConversationEntry]:
    """The items themselves, where a request only names them. Each is read once, and only if all together are small."""
    named = Counter(entry.item["id"] for entry in entries if entry.item["type"] == REFERENCE)
    if not named:
        return entries
    first = next(entry for entry in entries if entry.item["type"] == REFERENCE)
    store = desk.kept(_no_item(first))
    sizes = await guarded(store.item_sizes(list(named)))
    if sum(sizes.get(item, 0) * count for item, count in named.items()) > most_bytes(desk):
        raise _too_large(desk, "input")
    found = {item: await guarded(store.item(item)) for item in sizes}
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


def most_bytes(desk: ResponsesContext) -> int:
    """Most bytes of stored items that one request may continue: texts that could fill the context, and log-probabilities."""
    service = desk.context.service
    return LOGPROB_BYTES + 8 * service.context * service.limits.longest_token


def _too_large(desk: ResponsesContext, param: str) -> ApiError:
    context = desk.context.service.context
    size = f"the kept items are larger than {most_bytes(desk)} bytes"
    message = (
        f"This model's maximum context length is {context} tokens. However, {size}. Please begin anew, with fewer."
    )
    return bad(param, message, "context_length_exceeded")


async def _earlier(desk: ResponsesContext, request: wire.ResponsesRequest) -> list[Item]:
    if previous := request.previous_response_id:
        desk.kept(_no_previous(previous))
        if await _under_way(desk, previous):
            message = f"the response {previous!r} is not finished yet: wait for it, or cancel it"
            raise bad("previous_response_id", message, "previous_response_in_progress")
        try:
            return await guarded(desk.kept().history(previous, most_bytes(desk)))
        except TooLargeError:
            raise _too_large(desk, "previous_response_id") from None
        except MissingError as error:
            gone = str(error)
            raise _no_previous(
                previous, "" if gone == previous else f" (it continues {gone!r}, which is gone)"
            ) from error
    if own := conversation_of(request):
        absent = no_conversation(own, "conversation")
        if await guarded(desk.kept(absent).conversation(own)) is None:
            raise absent
        try:
            return await guarded(desk.kept().conversation_items(own, most_bytes(desk)))
        except TooLargeError:
            raise _too_large(desk, "conversation") from None
    return []


def _no_previous(previous: str, also: str = "") -> ApiError:
    message = f"there is no response {previous!r}{also}: it was not kept, was deleted, or has expired; send all items"
    return ApiError(404, message, param="previous_response_id", code="previous_response_not_found")


def no_conversation(conversation: str, param: str | None = None) -> ApiError:
    message = f"there is no conversation {conversation!r}: it was not kept, was deleted, or has expired"
    return ApiError(404, message, param=param, code="conversation_not_found")


async def _under_way(desk: ResponsesContext, response: str) -> bool:
    body = await guarded(desk.kept().response(response))
    return body is not None and msgspec.json.decode(body, type=_State).status in ("queued", "in_progress")


class _State(msgspec.Struct):
    status: wire.Status


def conversation_of(request: wire.ResponsesRequest) -> str | None:
    given = request.conversation
    return given.id if isinstance(given, wire.ConversationId) else given or None


def entry_of(item: Item, at: str) -> ConversationEntry:
    return ConversationEntry(msgspec.json.decode(item.body), item.said, at)


async def guarded(work: Awaitable[T]) -> T:
    """What the store gives; that it cannot is 503, not a crash."""
    try:
        return await work
    except StoreError as error:
        raise ApiError(503, str(error), code="store_unavailable") from error


def _composed(
    desk: ResponsesContext,
    request: wire.ResponsesRequest,
    client: str,
    earlier: Sequence[Item],
    given: Sequence[ConversationEntry],
    warnings: list[str],
) -> PreparedRequest:
    service = desk.context.service
    box = toolbox(request.tools, request.tool_choice)
    warnings += box.warnings
    before = [entry_of(item, "input") for item in earlier]
    said = messages_of(
        [*before, *given],
        box,
        lambda sealed: desk.seal.open(sealed, service.name),
        desk.context.recall,
        warnings,
    )
    if request.instructions:
        said.insert(0, developer(request.instructions))
    if request.truncation == "auto":  # by their lengths at first: the tokens of long ones take long to count
        said = shorten(said, lambda some: service.limits.least_tokens(some) <= service.context)
    service.limits.check_messages(said, "input")
    text = request.text or wire.Text()
    form = form_of(text.format, request, warnings, param="text.format", shows_object=False)
    form_param = FORM if form.param == "text.format" else form.param
    thinks = _thinks(request, warnings)
    opening = opening_of(service.settings.opening, request)
    messages = conversation(thinks.effort, said, box.spaces, form.shown, opening)
    if request.truncation == "auto":
        messages = _fitting(desk.context, messages, request.max_output_tokens)
    how = TurnOptions(
        params=_params(desk.context, request, warnings),
        tool_choice=box.choice,
        allowed=box.allowed,
        response_format=form.enforced,
        thinking_budget=thinks.budget,
        max_calls=MOST_CALLS if request.parallel_tool_calls is True else 1,
    )
    warnings += [*not_honoured(request), *template_warnings(request)]
    with input_errors(field_names(form_param)):  # checked now: a background response could not report it later
        warnings += unenforced(service, messages, how, box, form.param)
    response = _response(request, service.name, box, _keeps(desk, request, warnings), _shown_text(text, form))
    if warnings:
        response.metadata = {**response.metadata, WARNINGS: "; ".join(warnings)[:LONGEST_WARNING]}
    return PreparedRequest(
        AnswerRequest(tuple(messages), how, stop_strings(request.stop), client),
        _output(desk, request, box, thinks.hidden),
        response,
        tuple(Item(entry.item["id"], encode(entry.item), entry.said) for entry in given),
        conversation_of(request),
        response.store,
        tuple(warnings),
        form_param,
    )


def field_names(form_param: str) -> dict[str, str]:
    """What this API calls the fields that an error of the service may name."""
    return {"messages": "input", "response_format": form_param}


def _keeps(desk: ResponsesContext, request: wire.ResponsesRequest, warnings: list[str]) -> bool:
    """Whether the response is stored. A warning is added if it should be and cannot."""
    if request.store is False:
        return False
    fault = desk.store.fault if desk.store else "this server keeps nothing" if request.store else None
    if fault:
        warnings.append(f"not kept: {fault}")
    return desk.store is not None and not desk.store.fault


def _fitting(context: Context, messages: Sequence[Message], most: int | None) -> Sequence[Message]:
    count, whole = context.service.count, context.service.context
    if count(messages) < whole:
        return messages
    room = min(most or whole, whole // ANSWER_SHARE)
    return shorten(messages, lambda some: count(some) + room <= whole)


def _thinks(request: wire.ResponsesRequest, warnings: list[str]) -> Thinks:
    own = request.reasoning or wire.Reasoning()
    return thinking_of(
        request,
        warnings,
        efforts={"reasoning.effort": own.effort},
        budgets={"reasoning.max_tokens": limit(own.max_tokens)},
        enabled=own.enabled,
        exclude=own.exclude,
    )


def _params(context: Context, request: wire.ResponsesRequest, warnings: list[str]) -> SamplingParams:
    scored = LOGPROBS in (request.include or ()) or request.top_logprobs
    return sampling_params(
        request,
        context.service.model.stop_tokens,
        warnings,
        max_tokens=request.max_output_tokens,
        max_tokens_param="max_output_tokens",
        logprobs=request.top_logprobs or 0 if scored else None,
    )


def _output(
    desk: ResponsesContext, request: wire.ResponsesRequest, box: Toolbox, hides_reasoning: bool
) -> OutputOptions:
    service, include, reasoning = desk.context.service, request.include or (), request.reasoning or wire.Reasoning()
    encrypt = (lambda text: desk.seal.seal(text, service.name)) if SEALED in include else None
    summary = SUMMARIES.get(reasoning.summary or reasoning.generate_summary)
    scored = LOGPROBS in include or request.top_logprobs
    return OutputOptions(box, ReasoningForm(encrypt, summary, hides_reasoning), service.tokenizer if scored else None)


def _response(request: wire.ResponsesRequest, model: str, box: Toolbox, keep: bool, text: JsonDict) -> wire.Response:
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
        store=keep,
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
    """The word for the effort in the API's own spelling; None where the client left it open."""
    return (given or "").strip().lower() if effort_of(given) else None


def _shown_text(text: wire.Text, form: Formed) -> JsonDict:
    """A form that OpenAI's types do not have is shown as text."""
    given, shown = text.format or {}, form.shown[0] if form.shown else None
    told: JsonDict = {"type": "text"}
    if isinstance(form.enforced, Mapping) and (shown is None or form.enforced == ANY_OBJECT != given.get("schema")):
        told = {"type": "json_object"}
    elif isinstance(form.enforced, Mapping) and shown:
        told = {
            "type": "json_schema",
            "name": shown.name,
            "schema": form.enforced,
            "strict": given.get("strict") is True,
        }
        told |= {"description": shown.description} if shown.description else {}
    return {"format": told, "verbosity": text.verbosity or "medium"}


def _shown_tool(tool: JsonDict) -> JsonDict | None:
    """A tool as it was offered to the model, in the API's form; None for one that was left out."""
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
