"""Conversations as JSON, in the form of OpenAI's harmony library.

In: the parsed JSON of a conversation or a message. Out: `Message` values; and back.
It does not know tokens.
"""

from collections.abc import Mapping
from typing import Any, get_args

from ossia.harmony.messages import Content, Developer, Effort, Message, Role, System, ToolNamespace, ToolSpec

Json = Mapping[str, Any]


def conversation_from_json(raw: Json) -> list[Message]:
    return [message_from_json(each) for each in raw["messages"]]


def message_from_json(raw: Json) -> Message:
    """Raises ValueError for an unknown role, content type or effort."""
    content = raw["content"]
    parts = [content] if isinstance(content, str) else [_content(each) for each in content]
    name, channel, recipient, content_type = map(raw.get, ("name", "channel", "recipient", "content_type"))
    return Message(get_role(raw["role"]), tuple(parts), name, channel, recipient, content_type)


def get_role(name: str) -> Role:
    """The role of that name. Raises ValueError for an unknown one."""
    if name not in get_args(Role):
        raise ValueError(f"unknown role: {name}")
    return name  # type: ignore[return-value]


def message_to_json(message: Message) -> dict[str, Any]:
    """The form of a parsed message: plain text as a string, empty fields left out."""
    fields = {
        "role": message.role,
        "name": message.name,
        "recipient": message.recipient,
        "content": message.text,
        "channel": message.channel,
        "content_type": message.content_type,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _content(raw: Json) -> Content:
    match raw.get("type"):
        case "text":
            return raw["text"]
        case "system_content":
            return _system(raw)
        case "developer_content":
            return Developer(raw.get("instructions"), _namespaces(raw.get("tools")))
    raise ValueError(f"unknown content type: {raw.get('type')}")


def _system(raw: Json) -> System:
    effort = raw.get("reasoning_effort")
    known = {each.capitalize(): each for each in get_args(Effort)}
    if effort is not None and effort not in known:
        raise ValueError(f"unknown reasoning effort: {effort}")
    channels = raw.get("channel_config") or {}
    return System(
        identity=raw.get("model_identity"),
        effort=None if effort is None else known[effort],
        knowledge_cutoff=raw.get("knowledge_cutoff"),
        current_date=raw.get("conversation_start_date"),
        channels=tuple(channels.get("valid_channels", ())),
        channel_required=bool(channels.get("channel_required")),
        tools=_namespaces(raw.get("tools")),
    )


def _namespaces(raw: Mapping[str, Json] | None) -> tuple[ToolNamespace, ...]:
    """In the order of their keys, which is how the reference keeps them."""
    return tuple(
        ToolNamespace(space["name"], space.get("description"), tuple(_tool(tool) for tool in space["tools"]))
        for _, space in sorted((raw or {}).items())
    )


def _tool(raw: Json) -> ToolSpec:
    return ToolSpec(raw["name"], raw["description"], raw.get("parameters"))
