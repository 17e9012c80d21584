"""Where calls of tools stand: recipients, channels, content types, and the schemas of arguments.

In: the tools that a conversation declares. Out: each recipient with its placement and its schema.

gpt-oss was trained on two placements. Tools of the system message are called on the analysis channel with the content
type "code". Functions of the developer message are called on the commentary channel with JSON.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ossia.harmony.dialect import object_schema
from ossia.harmony.errors import InputError
from ossia.harmony.messages import Developer, JsonObject, Message, System, ToolNamespace, ToolSpec

NO_ARGUMENTS: JsonObject = {"type": "object", "properties": {}, "additionalProperties": False}
JSON_TYPES = (" <|constrain|>json", "<|constrain|>json", " json", "")
NAME = re.compile(r"[\w./:-]*\w")
DOTTED = re.compile(r"[A-Za-z_][\w-]*(?:\.[\w-]+)+")  # what looks like a tool's name, declared or not
# Keywords that allow names outside `properties`.
OPEN_NAMES = frozenset(
    "additionalProperties unevaluatedProperties patternProperties $ref $dynamicRef allOf anyOf oneOf if".split()
)


class DeclaredTools(NamedTuple):
    """The tools of a conversation, by the message that declares them."""

    system: tuple[ToolNamespace, ...] = ()
    developer: tuple[ToolNamespace, ...] = ()

    @property
    def channels(self) -> dict[str, str]:
        """Each recipient with the channel of its calls."""
        return {
            **dict.fromkeys(recipients(self.developer), "commentary"),
            **dict.fromkeys(recipients(self.system, in_system=True), "analysis"),
        }


def declared_tools(messages: Sequence[Message]) -> DeclaredTools:
    """The tools that system and developer messages declare."""
    contents = [part for message in messages for part in message.content]
    return DeclaredTools(
        tuple(space for part in contents if isinstance(part, System) for space in part.tools),
        tuple(space for part in contents if isinstance(part, Developer) for space in part.tools),
    )


def recipients(spaces: Iterable[ToolNamespace], in_system: bool = False) -> dict[str, JsonObject | None]:
    """Each recipient with the schema of its arguments. A namespace without tools is called itself, with free text.

    The last of two declarations of a name is used. in_system: declared in the system message.
    """
    found: dict[str, JsonObject | None] = {}
    for space in spaces:
        if not space.tools and space.name != "functions":
            found[space.name] = None
        for tool in space.tools:
            found[f"{space.name}.{tool.name}"] = _system_arguments(tool) if in_system else _arguments(tool)
    for name in found:
        if not NAME.fullmatch(name):
            message = f"tool name {name!r} cannot stand in a header: use letters, digits and any of _ - . / :"
            raise InputError("tools", message)
    return found


def _arguments(tool: ToolSpec) -> JsonObject:
    if tool.parameters is None:
        return NO_ARGUMENTS
    if tool.strict:
        return object_schema(tool.parameters)
    return {**tool.parameters, "type": "object", "nullable": False, "x-guidance": {"lenient": True}}


def _system_arguments(tool: ToolSpec) -> JsonObject:
    """Arguments in any order, as the model was trained to write them. Undeclared names are refused."""
    schema = _arguments(tool)
    options = schema.get("x-guidance", {})
    ordered = {**(options if isinstance(options, Mapping) else {}), "any_order": True}
    closed = {} if not schema.get("properties") or schema.keys() & OPEN_NAMES else {"additionalProperties": False}
    return {**schema, **closed, "x-guidance": ordered}


def call_headers(recipient: str, has_schema: bool, in_system: bool) -> list[str]:
    """All headers that a call may have after the role, the usual one first."""
    channel = f"<|channel|>{'analysis' if in_system else 'commentary'}"
    types = JSON_TYPES if has_schema and not in_system else (" code", "")
    places = (f"{channel} to={recipient}", f" to={recipient}{channel}")
    return [f"{place}{kind}<|message|>" for place in places for kind in types]


def corrected(recipient: str, channels: Mapping[str, str]) -> str | None:
    """The declared tool that a slip of the model means; None if there is none.

    Known slips: `functions.browser.search`, `functions.python`, `browser_search`, and a client's own name for a tool
    that was declared as `client_python`.
    """
    bare = recipient.removeprefix("functions.")
    mangled = (name for name in channels if name.replace(".", "_") == bare and not name.startswith("functions."))
    for name in (f"functions.client_{bare.replace('.', '_')}", f"functions.{bare}", bare, *mangled):
        if name in channels:
            return name
    return None
