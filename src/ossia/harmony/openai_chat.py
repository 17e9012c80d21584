"""Converts OpenAI chat messages to harmony messages, for the server and the trainer.

In: chat messages as msgspec types. Out: harmony messages, or an InputError that names the field.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from msgspec import Struct
from msgspec.json import encode

from ossia.harmony.client_tools import Toolbox
from ossia.harmony.errors import InputError
from ossia.harmony.history import prompt_indices
from ossia.harmony.messages import (
    Developer,
    Effort,
    JsonObject,
    Message,
    ResponseFormat,
    System,
    ToolNamespace,
    assistant,
    developer,
    system,
    user,
)
from ossia.harmony.tool_results import Call, Entry, Result, pair_results

# gpt-oss has no effort "none": the lowest is low (see docs/server.md).
EFFORTS: dict[str, Effort] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
NO_EFFORT = ("", "auto", "default")  # values that leave the effort unset
# A separate line in a system text, in the form of gpt-oss's own system message: "Reasoning: high".
EFFORT_LINE = re.compile(rf"^[^\w\n]*reasoning:[ \t]*({'|'.join(EFFORTS)})[^\w\n]*$", re.IGNORECASE | re.MULTILINE)
ANY_OBJECT: JsonObject = {"type": "object"}
JSON_TYPE = "<|constrain|>json"

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
TEXT_TYPES = ("text", "input_text", "output_text", "summary_text", "reasoning_text")


class AnyPart(Protocol):
    """A content part of any API."""

    @property
    def type(self) -> str: ...
    @property
    def text(self) -> str | None: ...
    @property
    def refusal(self) -> str | None: ...


Content: TypeAlias = str | Sequence[AnyPart | str] | None


class Part(Struct):
    """A content part. Only text can be read."""

    type: str = "text"
    text: str | None = None
    refusal: str | None = None


class FunctionCall(Struct):
    """arguments: null and "" mean none. Some clients send the object itself."""

    name: str
    arguments: str | dict[str, Any] | None = None


class CustomCall(Struct):
    name: str
    input: str | None = None


class ToolCall(Struct):
    id: str | None = None
    type: str | None = None
    function: FunctionCall | None = None
    custom: CustomCall | None = None


class ChatMessage(Struct):
    """A chat message. Clients use different names for reasoning: `reasoning`, `reasoning_content` and `thinking`.

    function_call and the role "function" are the older form of tool_calls and "tool". prefix: DeepSeek's and Mistral's
    flag on the last message for an answer to continue.
    """

    role: Role
    content: str | list[Part | str] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    thinking: str | None = None
    function_call: FunctionCall | None = None
    prefix: bool | None = None

    @property
    def thought(self) -> str:
        return self.reasoning or self.reasoning_content or self.thinking or ""

    @property
    def calls(self) -> list[ToolCall]:
        legacy = [ToolCall(function=self.function_call)] if self.function_call else []
        return self.tool_calls or legacy


def effort_of(value: str | None, param: str = "reasoning_effort") -> Effort | None:
    """The effort that a client's word means; None if unset. Raises InputError for an unknown word."""
    word = (value or "").strip().lower()
    if word in NO_EFFORT:
        return None
    if word not in EFFORTS:
        raise InputError(param, f"{param} {word[:40]!r} is none of {', '.join(EFFORTS)}")
    return EFFORTS[word]


def conversation(
    effort: Effort | None,
    messages: Sequence[Message],
    tools: Sequence[ToolNamespace] = (),
    formats: Sequence[ResponseFormat] = (),
    *,
    opening: System | None = None,
) -> tuple[Message, ...]:
    """The system message, one developer message with all leading instructions, then the other messages.

    Texts that an API calls "system" or "developer" are `developer("...")` in `messages`: gpt-oss treats both as the
    developer's. effort: None takes the last line "Reasoning: ..." of these texts, else medium. opening: the lines of
    the system message.
    """
    count = next((i for i, message in enumerate(messages) if message.role != "developer"), len(messages))
    words = [text for message in messages[:count] if (text := _instructions(message)).strip()]
    declared = Developer("\n\n".join(words) or None, tuple(tools), tuple(formats))
    first = [system(replace(opening or System(), effort=effort or _effort_from_texts(messages)))]
    if declared != Developer():
        first.append(developer(declared))
    return (*first, *messages[count:])


def _effort_from_texts(messages: Sequence[Message]) -> Effort:
    found = [
        word
        for message in messages
        if message.role == "developer"
        for word in EFFORT_LINE.findall(_instructions(message))
    ]
    return EFFORTS[found[-1].lower()] if found else "medium"


def _instructions(message: Message) -> str:
    parts = [part.instructions or "" if isinstance(part, Developer) else part for part in message.content]
    return "".join(part for part in parts if isinstance(part, str))


class History(NamedTuple):
    """A chat's messages as harmony messages.

    sources: for each message, the index of its chat message. unanswered: places of calls without a result. repeated:
    places of further results of a call. warnings: what was left out.
    """

    messages: list[Message]
    sources: list[int]
    unanswered: list[str]
    repeated: list[str]
    warnings: list[str]


def read_history(
    given: Sequence[ChatMessage],
    box: Toolbox,
    earlier: Mapping[str, Sequence[Message]] | None = None,
    *,
    old_thinking: bool = False,
    refuses_all: bool = False,
    places: Sequence[str] | None = None,
) -> History:
    """The messages of a chat, each tool result after its call. Raises InputError that names the field.

    - earlier: by call id, the messages that led to it as the model sampled them, the call last.
    - old_thinking: keep analysis before the last answer, which the format drops from a prompt.
    - refuses_all: refuse parts that are not text everywhere except in tool results; otherwise in the newest turn only.
    - places: where each message is in the request, if not at messages[i].
    """
    reader = _Reader(given, box, earlier or {}, refuses_all, places)
    entries: list[Entry] = []
    sources: list[int] = []
    for number in range(len(given)):
        entries += reader.read(number)
        sources += [number] * (len(entries) - len(sources))
    paired = pair_results(entries)
    at = [getattr(entry, "at", "") for entry in entries]
    messages = [message for _, message in paired.messages]
    shown = range(len(messages)) if old_thinking else prompt_indices(messages)
    return History(
        [messages[i] for i in shown],
        [sources[paired.messages[i][0]] for i in shown],
        [at[number] for number in paired.unanswered],
        [at[number] for number in paired.repeated],
        reader.warnings,
    )


class _Reader:
    """Converts chat messages to entries: harmony messages, calls, results."""

    def __init__(
        self,
        given: Sequence[ChatMessage],
        box: Toolbox,
        earlier: Mapping[str, Sequence[Message]],
        refuses_all: bool,
        places: Sequence[str] | None,
    ) -> None:
        self._given, self._box, self._earlier = given, box, earlier
        self._refuses_all, self._places = refuses_all, places
        self._newest = newest_from([message.role == "assistant" for message in given])
        self.warnings: list[str] = []

    def read(self, number: int) -> list[Entry]:
        message = self._given[number]
        at = self._places[number] if self._places else f"messages[{number}]"
        newest = number >= self._newest and message.role != "assistant"
        refuses = (newest or self._refuses_all) and message.role not in ("tool", "function")
        text = text_of(message.content, f"{at}.content", self.warnings, refuses=refuses)
        match message.role:
            case "system" | "developer":
                return [developer(text)]
            case "user":
                return [user(text)]
            case "assistant":
                return self._assistant(message, text or message.refusal or "", at)
            case "tool" | "function":
                return [self._result(message, text, at)]

    def _assistant(self, message: ChatMessage, text: str, at: str) -> list[Entry]:
        entries: list[Entry] = []
        for place, call in enumerate(message.calls):
            where = f"{at}.tool_calls[{place}]" if message.tool_calls else f"{at}.function_call"
            made = self._call(call, where)
            sampled = self._restored(call.id, made, message.thought) or [made]
            entries += [*sampled[:-1], Call(sampled[-1], call.id, where)]
        own = [each for each in entries if isinstance(each, Message)]
        if message.calls and text.strip() and not any(each.channel == "commentary" for each in own):
            first = next(i for i, each in enumerate(entries) if isinstance(each, Call))
            entries.insert(first, assistant(text, "commentary"))
        elif not message.calls:
            entries.append(assistant(text))
        if message.thought and not any(each.channel == "analysis" and not each.recipient for each in own):
            entries.insert(0, assistant(message.thought, "analysis"))
        return entries

    def _restored(self, call: str | None, made: Message, thought: str) -> list[Message]:
        """The messages up to this call as the model sampled them, unless the client changed the reasoning."""
        earlier = self._earlier.get(call or "", ())
        if not earlier or (thought and thought != thinking(earlier)):
            return []
        same = earlier[-1].recipient == made.recipient and same_json(earlier[-1].text, made.text)
        return [*earlier[:-1], earlier[-1] if same else made]

    def _call(self, call: ToolCall, at: str) -> Message:
        if call.custom:
            name, text = call.custom.name, json.dumps({"input": call.custom.input or ""}, ensure_ascii=False)
        elif call.function:
            name, text = call.function.name, arguments_text(call.function.arguments)
        else:
            raise InputError(f"{at}.function", f"{at} has no function", "missing_required_parameter")
        return assistant(text, "commentary", self._box.recipient(name), JSON_TYPE)

    def _result(self, message: ChatMessage, text: str, at: str) -> Result:
        earlier = self._earlier.get(message.tool_call_id or "")
        return Result(
            text,
            message.tool_call_id,
            at,
            recipient=self._box.recipient(message.name) if message.name else None,
            remembered=str(earlier[-1].recipient) if earlier else None,
        )


def thinking(messages: Sequence[Message]) -> str:
    """The reasoning in these messages, as clients receive it."""
    return "\n".join(each.text for each in messages if _is_thought(each))


def _is_thought(message: Message) -> bool:
    return message.channel == "analysis" and not message.recipient


def arguments_text(given: str | dict[str, Any] | None) -> str:
    """A call's arguments as JSON text."""
    if isinstance(given, dict):
        return encode(given).decode()
    return given if given and given.strip() else "{}"


def same_json(one: str, other: str) -> bool:
    """Whether two texts have equal JSON values. Texts that are not JSON must be equal."""
    try:
        return one == other or json.loads(one) == json.loads(other)
    except (ValueError, RecursionError):
        return False


def newest_from(is_assistant: Sequence[bool]) -> int:
    """Where the newest turn begins: after the last assistant message that is not at the end."""
    count = len(is_assistant)
    while count and is_assistant[count - 1]:  # a prefill of the answer
        count -= 1
    return max((i + 1 for i in range(count) if is_assistant[i]), default=0)


def text_of(content: Content, at: str, warnings: list[str], *, refuses: bool) -> str:
    """The text of a content, with parts joined by newlines."""
    return "\n".join(texts_of(content, at, warnings, refuses=refuses))


def texts_of(content: Content, at: str, warnings: list[str], *, refuses: bool) -> list[str]:
    """The texts of a content's parts.

    A part that is not text becomes a placeholder with a warning. With `refuses`, it raises an InputError.
    """
    if content is None or isinstance(content, str):
        return [] if content is None else [content]
    texts: list[str] = []
    for number, part in enumerate(content):
        where = f"{at}[{number}]"
        if isinstance(part, str):
            texts.append(part)
        elif part.type == "refusal":
            texts.append(part.refusal or part.text or "")
        elif part.type not in TEXT_TYPES:
            texts.append(unreadable(part.type, where, warnings, refuses=refuses))
        elif part.text is None:
            raise InputError(f"{where}.text", f"{where} has no text", "missing_required_parameter")
        else:
            texts.append(part.text)
    return texts


def unreadable(kind: str, at: str, warnings: list[str], *, refuses: bool) -> str:
    """The placeholder of a part that is not text, such as an image. With `refuses`, raises an InputError."""
    kind = kind[:40]
    if refuses:
        raise InputError(at, f"{at} is of type {kind!r}: this model reads text only", "unsupported_content")
    name = kind.removeprefix("input_").removesuffix("_url")
    warnings.append(f"{at}: {kind!r} is not readable by this model, which reads text only; a placeholder stands for it")
    return f"[{name}: not readable by this model]"
