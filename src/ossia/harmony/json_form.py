"""Converts conversations to and from JSON in the form of OpenAI's harmony library.

In: the parsed JSON of a conversation or a message. Out: `Message` values; and back.
"""

from typing import Any, Literal, TypeVar, get_args

import msgspec

from ossia.harmony.messages import ROLES, Content, Developer, Effort, Message, Role, System, ToolNamespace, ToolSpec

Form = TypeVar("Form")
EFFORTS: dict[str, Effort] = {each.capitalize(): each for each in get_args(Effort)}


class _Tool(msgspec.Struct):
    name: str
    description: str
    parameters: Any = None


class _Namespace(msgspec.Struct):
    name: str
    tools: list[_Tool]
    description: str | None = None


class _Channels(msgspec.Struct):
    valid_channels: list[str]
    channel_required: bool


class _Text(msgspec.Struct, tag="text"):
    text: str


class _System(msgspec.Struct, tag="system_content"):
    model_identity: str | None = None
    reasoning_effort: Literal["Low", "Medium", "High"] | None = None
    knowledge_cutoff: str | None = None
    conversation_start_date: str | None = None
    channel_config: _Channels | None = None
    tools: dict[str, _Namespace] | None = None


class _Developer(msgspec.Struct, tag="developer_content"):
    instructions: str | None = None
    tools: dict[str, _Namespace] | None = None


class _Message(msgspec.Struct):
    role: Role
    content: str | list[_Text | _System | _Developer]
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None


class _Conversation(msgspec.Struct):
    messages: list[_Message]


def conversation_from_json(raw: Any) -> list[Message]:
    """Raises ValueError, naming the place, for an invalid form."""
    return [_message(each) for each in _read(raw, _Conversation).messages]


def message_from_json(raw: Any) -> Message:
    """Raises ValueError, naming the place, for an invalid form."""
    return _message(_read(raw, _Message))


def role_from_json(name: str) -> Role:
    """The role with this name. Raises ValueError for an unknown one."""
    if name not in ROLES:
        raise ValueError(f"unknown role {name!r}; the roles are {', '.join(ROLES)}")
    return ROLES[name]


def message_to_json(message: Message) -> dict[str, str]:
    """The JSON form of a message: plain text as a string, empty fields omitted."""
    fields = {
        "role": message.role,
        "name": message.name,
        "recipient": message.recipient,
        "content": message.text,
        "channel": message.channel,
        "content_type": message.content_type,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _read(raw: Any, form: type[Form]) -> Form:
    try:
        return msgspec.convert(raw, form)
    except msgspec.ValidationError as error:
        raise ValueError(f"not in the form of harmony's JSON: {error}") from error


def _message(raw: _Message) -> Message:
    parts = (raw.content,) if isinstance(raw.content, str) else tuple(map(_content, raw.content))
    return Message(raw.role, parts, raw.name, raw.channel, raw.recipient, raw.content_type)


def _content(raw: _Text | _System | _Developer) -> Content:
    match raw:
        case _Text():
            return raw.text
        case _System():
            return _system(raw)
        case _Developer():
            return Developer(raw.instructions, _namespaces(raw.tools))


def _system(raw: _System) -> System:
    channels = raw.channel_config or _Channels([], False)
    return System(
        identity=raw.model_identity,
        effort=None if raw.reasoning_effort is None else EFFORTS[raw.reasoning_effort],
        knowledge_cutoff=raw.knowledge_cutoff,
        current_date=raw.conversation_start_date,
        channels=tuple(channels.valid_channels),
        channel_required=channels.channel_required,
        tools=_namespaces(raw.tools),
    )


def _namespaces(raw: dict[str, _Namespace] | None) -> tuple[ToolNamespace, ...]:
    return tuple(
        ToolNamespace(
            space.name,
            space.description,
            tuple(ToolSpec(tool.name, tool.description, tool.parameters) for tool in space.tools),
            None if key == space.name else key,
        )
        for key, space in (raw or {}).items()
    )
