"""The wire types of /v1/chat/completions: requests and answers.

msgspec reads and writes them. Null and absent mean the same. Unknown fields are ignored.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from ossia.harmony.openai_chat import ChatMessage
from ossia.server.apis.fields.choices import StreamOptions
from ossia.server.apis.fields.extensions import OssiaFields, ThinkingExtensions

FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class ThinkingOptions(Struct):
    """max_tokens: of reasoning, after which the answer begins. exclude: leave the reasoning out of the answer."""

    effort: str | None = None
    max_tokens: int | None = None
    exclude: bool | None = None
    enabled: bool | None = None


class ChatRequest(ThinkingExtensions):
    """OpenAI's fields, `reasoning` of OpenRouter, and the fields of the base classes."""

    messages: list[ChatMessage]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    reasoning: ThinkingOptions | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    best_of: Any = None
    echo: Any = None
    ossia: OssiaFields | None = None
    web_search_options: dict[str, Any] | None = None


class PromptTokensDetails(Struct):
    """Of the prompt: read from the cache, and computed and kept there for later requests."""

    cached_tokens: int
    cache_write_tokens: int = 0


class CompletionTokensDetails(Struct):
    reasoning_tokens: int


class ChatUsage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TopLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    content: list[TokenLogprob]
    refusal: None = None


class FunctionDelta(Struct, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class CallDelta(Struct, omit_defaults=True):
    """A piece of a call: the first of it has id, type and name, the others more of the arguments."""

    index: int
    id: str | None = None
    type: str | None = None
    function: FunctionDelta | None = None


class UrlCitationFields(Struct):
    start_index: int
    end_index: int
    title: str
    url: str


class Annotation(Struct):
    url_citation: UrlCitationFields
    type: Literal["url_citation"] = "url_citation"


class ExecutedTool(Struct, omit_defaults=True):
    """A call of the server's own tool that was run. index: its number in the answer. search_results: of a web search."""

    index: int
    type: str
    arguments: str
    output: str
    search_results: list[str] | None = None


class ChatDelta(Struct, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallDelta] | None = None
    function_call: FunctionDelta | None = None
    annotations: list[Annotation] | None = None
    executed_tools: list[ExecutedTool] | None = None


class ChunkChoice(Struct):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(Struct):
    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    usage: ChatUsage | UnsetType = UNSET


class OutputFunction(Struct):
    name: str
    arguments: str


class OutputCustom(Struct):
    name: str
    input: str


class OutputToolCall(Struct, omit_defaults=True):
    id: str
    type: Literal["function", "custom"]
    function: OutputFunction | None = None
    custom: OutputCustom | None = None


class AssistantMessage(Struct):
    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[OutputToolCall] | UnsetType = UNSET
    function_call: OutputFunction | UnsetType = UNSET
    annotations: list[Annotation] | UnsetType = UNSET
    executed_tools: list[ExecutedTool] | UnsetType = UNSET


class ChatChoice(Struct):
    index: int
    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None = None


class ChatCompletion(Struct):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    object: Literal["chat.completion"] = "chat.completion"
