"""Chat messages in OpenAI's fine-tuning format, with tools and reasoning, as harmony conversations.

In: one line of JSON. Out: a `Conversation`, or a ValueError that says what is wrong with it.
It does not know files, tokens or training. What it makes of a line is what the server makes of a request.

Besides the format's own keys a line may have reasoning_effort, response_format and current_date, and an assistant's
message reasoning (or reasoning_content, or thinking).
"""

import random
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, Literal

import msgspec

from ossia.harmony.messages import (
    Developer,
    Effort,
    Message,
    ResponseFormat,
    System,
    ToolNamespace,
    ToolSpec,
    assistant,
    developer,
    system,
    tool,
    user,
)  # fmt: skip
from ossia.train.sequences import Conversation


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Unknown keys are an error: what is not read would not be learnt."""


class _Function(_Wire, frozen=True):
    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(_Wire, frozen=True):
    function: _Function
    type: Literal["function"] = "function"


class _Called(_Wire, frozen=True):
    name: str
    arguments: str


class _Call(_Wire, frozen=True):
    function: _Called
    id: str | None = None
    type: Literal["function"] = "function"


class _Part(_Wire, frozen=True):
    text: str
    type: Literal["text", "input_text", "output_text"] = "text"


class _Message(_Wire, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    thinking: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] = []
    tool_call_id: str | None = None
    name: str | None = None
    weight: Literal[0, 1] | None = None

    @property
    def text(self) -> str:
        parts = self.content if isinstance(self.content, list) else [_Part(self.content or self.refusal or "")]
        return "".join(part.text for part in parts)


class _Form(_Wire, frozen=True):
    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class _Format(_Wire, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Form | None = None


class _Line(_Wire, frozen=True):
    messages: list[_Message]
    tools: list[_Tool] = []
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort = "medium"
    response_format: _Format | None = None
    current_date: str | None = None


def read_line(line: str | bytes, number: int) -> Conversation:
    """Raises ValueError. `number` draws the date of a line that has none: with one date for all, it would be learnt."""
    given = msgspec.json.decode(line, type=_Line)
    said = list(_History(given.messages).said())
    count = next((i for i, (_, message) in enumerate(said) if message.role != "developer"), len(said))
    if not any(learnt and message.role == "assistant" for learnt, message in said):
        raise ValueError("no assistant message to learn from")
    opening = _opening(given, [message for _, message in said[:count]], number)
    unlearnt = [len(opening) + i for i, (learnt, _) in enumerate(said[count:]) if not learnt]
    return Conversation([*opening, *(message for _, message in said[count:])], frozenset(unlearnt))


def _opening(given: _Line, words: list[Message], number: int) -> list[Message]:
    """The system message, and one developer message with all developer words that stand first, the tools and the form."""
    parts = (part for message in words for part in message.content)
    told = "\n\n".join(part.instructions or "" for part in parts if isinstance(part, Developer))
    specs = [each.function for each in given.tools]
    tools = tuple(ToolSpec(each.name, each.description, each.parameters, bool(each.strict)) for each in specs)
    spaces = (ToolNamespace("functions", None, tools),) if tools else ()
    content = Developer(told or None, spaces, _forms(given.response_format))
    drawn = date(2024, 7, 1) + timedelta(random.Random(f"date/{number}").randrange(1000))
    opening = [system(System(effort=given.reasoning_effort, current_date=given.current_date or drawn.isoformat()))]
    return opening if content == Developer() else [*opening, developer(content)]


def _forms(given: _Format | None) -> tuple[ResponseFormat, ...]:
    match given:
        case _Format(type="json_object"):
            return (ResponseFormat("json_object", {"type": "object"}),)
        case _Format(type="json_schema", json_schema=_Form() as form):
            return (ResponseFormat(form.name, form.schema, form.description),)
        case _Format(type="json_schema"):
            raise ValueError("response_format has no json_schema")
    return ()


class _History:
    """The messages one after the other. The model makes one call at a time, so each call is followed by its answer."""

    def __init__(self, messages: list[_Message]) -> None:
        self._messages = messages
        self._answers = dict[str, str]()
        for message in messages:
            if message.role == "tool" and message.tool_call_id:
                self._answers[message.tool_call_id] = message.text
        self._recipients = {
            call.id: call.function.name for message in messages for call in message.tool_calls if call.id
        }

    def said(self) -> Iterator[tuple[bool, Message]]:
        """Each message, and whether it is to be learnt if it is the assistant's."""
        for number, message in enumerate(self._messages):
            match message.role:
                case "system" | "developer":
                    yield True, developer(message.text)
                case "user":
                    yield True, user(message.text)
                case "assistant":
                    last = number == len(self._messages) - 1
                    yield from ((message.weight != 0, each) for each in self._assistant(message, number, last))
                case "tool" if message.tool_call_id not in self._recipients:
                    raise ValueError(f"messages[{number}] answers {message.tool_call_id!r}, which no message calls")

    def _assistant(self, message: _Message, number: int, last: bool) -> Iterator[Message]:
        if reasoning := message.reasoning or message.reasoning_content or message.thinking:
            yield assistant(reasoning, "analysis")
        if not message.tool_calls:
            yield assistant(message.text)
        elif message.text.strip():
            yield assistant(message.text, "commentary")
        for place, call in enumerate(message.tool_calls):
            name = f"functions.{call.function.name}"
            yield assistant(call.function.arguments, "commentary", name, "<|constrain|>json")
            if call.id in self._answers:
                yield tool(name, self._answers[str(call.id)])
            elif not (last and place == len(message.tool_calls) - 1):
                raise ValueError(f"messages[{number}].tool_calls[{place}] has no answer among the tool messages")
