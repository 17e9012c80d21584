"""The Responses API's JSON as types: the request, items that come in, items that go out, every event of a stream.

In and out: nothing but these types. Fields that are not known are ignored. It does not know what any of them means.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ossia.server.apis.fields.extensions import OssiaFields, ThinkingExtensions
from ossia.server.apis.responses.wire.base import Event, ItemEvent
from ossia.server.apis.responses.wire.client import ClientCallItem
from ossia.server.apis.responses.wire.hosted import HostedEvent, HostedItem, ItemStatus
from ossia.server.apis.responses.wire.mcp import McpEvent, McpItem
from ossia.server.http.decoding.json_codec import JsonDict

Status = Literal["completed", "failed", "in_progress", "cancelled", "queued", "incomplete"]
Phase = Literal["commentary", "final_answer"]


# the request


class Reasoning(Struct):
    """max_tokens: of analysis, an extension of ours; then the answer begins; -1: no limit. exclude: leave reasoning items out."""

    effort: str | None = None
    max_tokens: Annotated[int, Meta(ge=-1)] | None = None
    summary: Literal["auto", "concise", "detailed", "none"] | None = None
    generate_summary: Literal["auto", "concise", "detailed", "none"] | None = None  # its older name
    exclude: bool | None = None
    enabled: bool | None = None


class Text(Struct):
    """format: text, json_object or json_schema, or one of the forms that a chat's response_format takes."""

    format: JsonDict | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ConversationId(Struct):
    id: str


class ResponsesRequest(ThinkingExtensions, kw_only=True):
    """The body of POST /responses; /input_tokens takes the same.

    max_tool_calls: of the tools that this server runs. What else sampling takes in the Chat API is taken here too.
    """

    model: str | None = None
    input: str | list[JsonDict] | None = None
    instructions: str | None = None
    background: bool | None = None
    conversation: str | ConversationId | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] | None = None
    ossia: OssiaFields | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    prompt: JsonDict | None = None
    prompt_cache_key: str | None = None
    reasoning: Reasoning | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    stream: bool | None = None
    text: Text | None = None
    tool_choice: str | JsonDict | None = None
    tools: list[JsonDict] | None = None
    top_logprobs: int | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: str | None = None


# items as they come in, once their type is known


class ContentPart(Struct):
    """A part of a content; only some types have a text."""

    type: str
    text: str | None = None
    refusal: str | None = None


class GivenMessage(Struct):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[ContentPart] | None = None
    phase: str | None = None
    id: str | None = None


class GivenReasoning(Struct):
    content: list[ContentPart] | None = None
    summary: list[ContentPart] | None = None
    encrypted_content: str | None = None
    id: str | None = None


class GivenCall(Struct):
    """Null arguments mean none. A call without a call_id gets the earliest output without one."""

    name: str
    call_id: str | None = None
    arguments: str | JsonDict | None = None
    namespace: str | None = None
    id: str | None = None


class GivenCustomCall(Struct):
    name: str
    call_id: str | None = None
    input: str | None = None
    namespace: str | None = None
    id: str | None = None


class GivenOutput(Struct):
    """What a tool answered: of a function or a custom tool."""

    call_id: str | None = None
    output: str | list[ContentPart] | None = None
    id: str | None = None


class Reference(Struct):
    id: str


# items as they go out


class ResponseTopLogprob(Struct):
    token: str
    bytes: list[int]
    logprob: float


class Logprob(Struct):
    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[ResponseTopLogprob]


class OutputText(Struct, tag_field="type", tag="output_text"):
    text: str
    annotations: list[JsonDict] = []
    logprobs: list[Logprob] = []


class ReasoningText(Struct, tag_field="type", tag="reasoning_text"):
    text: str


class SummaryText(Struct, tag_field="type", tag="summary_text"):
    text: str


class OutputMessage(Struct, tag_field="type", tag="message"):
    id: str
    status: ItemStatus
    content: list[OutputText]
    role: Literal["assistant"] = "assistant"
    phase: Phase | UnsetType = UNSET


class ReasoningItem(Struct, tag_field="type", tag="reasoning"):
    id: str
    status: ItemStatus
    summary: list[SummaryText]
    content: list[ReasoningText]
    encrypted_content: str | UnsetType = UNSET


class FunctionCallItem(Struct, tag_field="type", tag="function_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str
    namespace: str | UnsetType = UNSET


class CustomCallItem(Struct, tag_field="type", tag="custom_tool_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    input: str
    namespace: str | UnsetType = UNSET


OutputItem: TypeAlias = (
    OutputMessage | ReasoningItem | FunctionCallItem | CustomCallItem | ClientCallItem | HostedItem | McpItem
)


# the response


class InputDetails(Struct):
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputDetails(Struct):
    reasoning_tokens: int = 0


class ResponseUsage(Struct):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Failure(Struct):
    code: str
    message: str


class Incomplete(Struct):
    reason: Literal["max_output_tokens", "content_filter"]


class ReasoningShown(Struct):
    effort: str | None = None
    summary: str | None = None


class Response(Struct, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    model: str
    output: list[OutputItem] = []
    background: bool = False
    completed_at: int | None = None
    conversation: ConversationId | None = None
    error: Failure | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] = {}
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    reasoning: ReasoningShown = msgspec.field(default_factory=ReasoningShown)
    safety_identifier: str | None = None
    service_tier: str = "default"
    store: bool = True
    temperature: float = 1.0
    text: JsonDict = {}
    tool_choice: str | JsonDict = "auto"
    tools: list[JsonDict] = []
    top_logprobs: int = 0
    top_p: float = 1.0
    truncation: Literal["auto", "disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None = None


# the events of a stream


class Created(Event, tag="response.created"):
    response: Response


class Queued(Event, tag="response.queued"):
    response: Response


class InProgress(Event, tag="response.in_progress"):
    response: Response


class Completed(Event, tag="response.completed"):
    response: Response


class Ended(Event, tag="response.incomplete"):
    response: Response


class Failed(Event, tag="response.failed"):
    response: Response


class ItemAdded(Event, tag="response.output_item.added"):
    output_index: int
    item: OutputItem


class ItemDone(Event, tag="response.output_item.done"):
    output_index: int
    item: OutputItem


class PartAdded(ItemEvent, tag="response.content_part.added"):
    content_index: int
    part: OutputText | ReasoningText


class PartDone(ItemEvent, tag="response.content_part.done"):
    content_index: int
    part: OutputText | ReasoningText


class OutputTextDelta(ItemEvent, tag="response.output_text.delta"):
    content_index: int
    delta: str
    logprobs: list[Logprob] = msgspec.field(default_factory=list)


class OutputTextDone(ItemEvent, tag="response.output_text.done"):
    content_index: int
    text: str
    logprobs: list[Logprob] = msgspec.field(default_factory=list)


class ReasoningDelta(ItemEvent, tag="response.reasoning_text.delta"):
    content_index: int
    delta: str


class ReasoningDone(ItemEvent, tag="response.reasoning_text.done"):
    content_index: int
    text: str


class SummaryPartAdded(ItemEvent, tag="response.reasoning_summary_part.added"):
    summary_index: int
    part: SummaryText


class SummaryPartDone(ItemEvent, tag="response.reasoning_summary_part.done"):
    summary_index: int
    part: SummaryText


class SummaryDelta(ItemEvent, tag="response.reasoning_summary_text.delta"):
    summary_index: int
    delta: str


class SummaryDone(ItemEvent, tag="response.reasoning_summary_text.done"):
    summary_index: int
    text: str


class ArgumentsDelta(ItemEvent, tag="response.function_call_arguments.delta"):
    delta: str


class ArgumentsDone(ItemEvent, tag="response.function_call_arguments.done"):
    name: str
    arguments: str


class CustomDelta(ItemEvent, tag="response.custom_tool_call_input.delta"):
    delta: str


class CustomDone(ItemEvent, tag="response.custom_tool_call_input.done"):
    input: str


class AnnotationAdded(ItemEvent, tag="response.output_text.annotation.added"):
    content_index: int
    annotation_index: int
    annotation: JsonDict


StreamEvent: TypeAlias = (
    AnnotationAdded
    | HostedEvent
    | McpEvent
    | Created
    | Queued
    | InProgress
    | Completed
    | Ended
    | Failed
    | ItemAdded
    | ItemDone
    | PartAdded
    | PartDone
    | OutputTextDelta
    | OutputTextDone
    | ReasoningDelta
    | ReasoningDone
    | SummaryPartAdded
    | SummaryPartDone
    | SummaryDelta
    | SummaryDone
    | ArgumentsDelta
    | ArgumentsDone
    | CustomDelta
    | CustomDone
)


# conversations


class NewConversation(Struct):
    items: list[JsonDict] | None = None
    metadata: dict[str, str] | None = None


class NewItems(Struct):
    items: list[JsonDict]


class ConversationObject(Struct):
    id: str
    created_at: int
    metadata: dict[str, str]
    object: Literal["conversation"] = "conversation"
