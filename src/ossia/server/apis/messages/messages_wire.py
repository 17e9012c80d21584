"""The wire types of /v1/messages: Anthropic's requests and answers.

msgspec reads and writes them. Unknown fields are ignored.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

from ossia.server.apis.fields.extensions import OssiaFields
from ossia.server.apis.messages.server_tools import (
    ServerToolCounts,
    ServerToolUseBlock,
    ToolResultBlock,
    WebSearchCitation,
)

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class ContentBlock(Struct):
    """A block of any type. The type decides which fields it has."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[ContentBlock] | dict[str, Any] | None" = None
    is_error: bool | None = None
    source: str | dict[str, Any] | None = None
    title: str | None = None
    context: str | None = None


class MessagesTurn(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[ContentBlock]


class MessagesThinking(Struct):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class OutputFormat(Struct):
    """The schema that the answer's text must fit."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct):
    effort: str | None = None
    format: OutputFormat | None = None


class CountRequest(Struct):
    """output_format is the older name of output_config.format. thread is rejected: conversations are not stored.
    ossia is not Anthropic's: the first lines of the system message.
    """

    messages: list[MessagesTurn]
    model: str | None = None
    system: str | list[ContentBlock] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: MessagesThinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    thread: dict[str, Any] | None = None
    ossia: OssiaFields | None = None


class MessagesRequest(CountRequest):
    """store is not Anthropic's: false as in OpenAI's APIs."""

    max_tokens: int | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    store: bool | None = None


class MessagesOutputDetails(Struct):
    thinking_tokens: int = 0


class MessagesUsage(Struct):
    """The prompt has input_tokens, cache_read_input_tokens and cache_creation_input_tokens together."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    output_tokens_details: MessagesOutputDetails = field(default_factory=MessagesOutputDetails)
    server_tool_use: ServerToolCounts | UnsetType = UNSET


class TextBlock(Struct, tag="text"):
    """citations: the pages that the text names, if any."""

    text: str = ""
    citations: list[WebSearchCitation] | UnsetType = UNSET


class ThinkingBlock(Struct, tag="thinking"):
    """signature: clients require one; it has no meaning here."""

    thinking: str = ""
    signature: str = ""


class ToolUseBlock(Struct, tag="tool_use"):
    id: str
    name: str
    input: Any


OutputBlock = TextBlock | ThinkingBlock | ToolUseBlock | ServerToolUseBlock | ToolResultBlock


class MessagesResponse(Struct, tag="message"):
    id: str
    model: str
    content: list[OutputBlock]
    usage: MessagesUsage
    role: Literal["assistant"] = "assistant"
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
