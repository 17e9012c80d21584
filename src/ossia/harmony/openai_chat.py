"""OpenAI chat messages as harmony messages, for the server and the trainer alike.

In: wire types of a chat (msgspec reads them). Out: harmony messages, or an InputError that names the field.
HTTP, files and sampling are elsewhere.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from ossia.harmony.errors import InputError
from ossia.harmony.messages import (
    Developer,
    Effort,
    JsonObject,
    Message,
    ResponseFormat,
    System,
    ToolNamespace,
    developer,
    system,
)

# gpt-oss has not learned an effort of none: the least is low. docs/server.md says so.
EFFORTS: dict[str, Effort] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
# A line of its own in a system text, in the form of gpt-oss's own system message: "Reasoning: high".
TOLD_EFFORT = re.compile(rf"^[^\w\n]*reasoning:[ \t]*({'|'.join(EFFORTS)})[^\w\n]*$", re.IGNORECASE | re.MULTILINE)
ANY_OBJECT: JsonObject = {"type": "object"}

Role = Literal["system", "developer", "user", "assistant", "tool"]


class Part(Struct):
    """A piece of a message. Only text can be read; other kinds are refused by name."""

    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(Struct):
    name: str
    arguments: str | dict[str, Any] = ""


class CustomCall(Struct):
    name: str
    input: str = ""


class ToolCall(Struct):
    id: str
    type: str = "function"
    function: FunctionCall | None = None
    custom: CustomCall | None = None


class ChatMessage(Struct):
    """`reasoning` and `reasoning_content` are the same under two names: clients differ."""

    role: Role
    content: str | list[Part] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class JsonSchema(Struct):
    name: str = "answer"
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class Form(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


def response_format(given: Form | None) -> ResponseFormat | None:
    """The form of the answer; None for plain text."""
    match given:
        case Form(type="json_object"):
            return ResponseFormat("json_object", ANY_OBJECT)
        case Form(type="json_schema", json_schema=None):
            message = "response_format has no json_schema"
            raise InputError("response_format.json_schema", message, "missing_required_parameter")
        case Form(type="json_schema", json_schema=form) if form:
            return ResponseFormat(form.name, ANY_OBJECT if form.schema is None else form.schema, form.description)
    return None


def effort_of(value: str | None, param: str = "reasoning_effort") -> Effort | None:
    """The effort that a client's word means; None where it gives none. Raises InputError for an unknown word."""
    if value is None:
        return None
    if value not in EFFORTS:
        raise InputError(param, f"{param} {value!r} is none of {', '.join(EFFORTS)}")
    return EFFORTS[value]


def conversation(
    effort: Effort | None,
    said: Sequence[Message],
    tools: Sequence[ToolNamespace] = (),
    formats: Sequence[ResponseFormat] = (),
    *,
    current_date: str | None = None,
) -> tuple[Message, ...]:
    """The system message, one developer message for all leading instructions, then the other messages.

    Texts that an API calls "system" or "developer" are `developer("...")` in `said`: to gpt-oss both are the developer's.
    effort: None takes the last line "Reasoning: ..." of these texts, else medium.
    """
    count = next((i for i, message in enumerate(said) if message.role != "developer"), len(said))
    words = [text for message in said[:count] if (text := _instructions(message)).strip()]
    declared = Developer("\n\n".join(words) or None, tuple(tools), tuple(formats))
    opening = [system(System(effort=effort or _told_effort(said), current_date=current_date))]
    if declared != Developer():
        opening.append(developer(declared))
    return (*opening, *said[count:])


def _told_effort(said: Sequence[Message]) -> Effort:
    told = [
        word for message in said if message.role == "developer" for word in TOLD_EFFORT.findall(_instructions(message))
    ]
    return EFFORTS[told[-1].lower()] if told else "medium"


def _instructions(message: Message) -> str:
    parts = [part.instructions or "" if isinstance(part, Developer) else part for part in message.content]
    return "".join(part for part in parts if isinstance(part, str))
