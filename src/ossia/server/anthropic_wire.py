"""The wire of /v1/messages: Anthropic's requests and answers.

In and out: types that msgspec reads and writes; fields that are not here are ignored. It does not know harmony.
"""

from typing import Any, Literal

from msgspec import Struct

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class Block(Struct):
    """A piece of a message, of any type; which fields it has depends on that."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None
    is_error: bool | None = None


class Turn(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Thinking(Struct):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class OutputConfig(Struct):
    effort: str | None = None


class CountRequest(Struct):
    messages: list[Turn]
    model: str | None = None
    system: str | list[Block] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountRequest):
    """store is not Anthropic's: false as in OpenAI's APIs."""

    max_tokens: int | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    store: bool | None = None


class Usage(Struct):
    """input_tokens: of the prompt, without those read from the cache."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class TextMade(Struct, tag="text"):
    text: str = ""


class ThinkingMade(Struct, tag="thinking"):
    """signature: clients want one back with the thinking; here it stands for nothing."""

    thinking: str = ""
    signature: str = ""


class ToolUseMade(Struct, tag="tool_use"):
    id: str
    name: str
    input: Any


Made = TextMade | ThinkingMade | ToolUseMade


class MessageMade(Struct, tag="message"):
    id: str
    model: str
    content: list[Made]
    usage: Usage
    role: Literal["assistant"] = "assistant"
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
