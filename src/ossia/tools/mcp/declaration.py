"""The tools of an MCP server as the model sees them: clean names, short descriptions, small schemas.

In: a listing. Out: a `ToolNamespace`, and the server's own tool of each declared name. Texts of servers are untrusted:
they are cut, lose invisible characters, and are encoded as plain text like all texts.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ossia.harmony.messages import ToolNamespace, ToolSpec
from ossia.tools.mcp.approval import ToolFilter
from ossia.tools.mcp.results import McpTool

MAX_TOOLS = 128
MAX_NAME = 64  # characters
MAX_DESCRIPTION = 1_024
MAX_INSTRUCTIONS = 4_096
MAX_SCHEMA = 32_000  # bytes of one tool's schema as JSON
MAX_DECLARED = 256_000  # bytes of all schemas
MAX_DEPTH = 32
RESERVED = frozenset("functions multi_tool_use assistant user system developer tool".split())
_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # keys are names
_DATA = ("const", "enum", "default", "examples", "required")  # values are not schemas
_DROPPED = ("title", "$schema", "$id", "$comment")


class ListingError(Exception):
    """A listing that cannot be declared. The message says what to do."""


class DeclaredMcpTools(NamedTuple):
    """A server's declaration. tools: the server's own tool of each declared name, also of those not in the prompt."""

    namespace: ToolNamespace
    tools: Mapping[str, McpTool]


def declare(
    name: str, description: str | None, listed: Sequence[McpTool], allowed: ToolFilter | None = None
) -> DeclaredMcpTools:
    """Declare the allowed tools of a server. Raises ListingError if there are too many, or their schemas too large."""
    chosen = [tool for tool in listed if allowed is None or allowed.matches(tool)]
    if len(chosen) > MAX_TOOLS:
        raise ListingError(f"{len(chosen)} tools, of at most {MAX_TOOLS}; name those you need in allowed_tools")
    named = dict(zip(clean_names([tool.name for tool in chosen]), chosen, strict=True))
    shown = {key: tool for key, tool in named.items() if tool.in_prompt}
    specs = tuple(
        ToolSpec(key, clean_text(tool.description, MAX_DESCRIPTION), _parameters(tool), strict=False)
        for key, tool in shown.items()
    )
    if sum(len(msgspec.json.encode(spec.parameters)) for spec in specs) > MAX_DECLARED:
        raise ListingError(f"schemas of more than {MAX_DECLARED} bytes; name the tools you need in allowed_tools")
    text = clean_text(description or "", MAX_INSTRUCTIONS) or None
    return DeclaredMcpTools(ToolNamespace(name, text, specs), named)


def clean_names(names: Sequence[str]) -> list[str]:
    """Names of letters, digits, _ and -, at most 64 long and all different. Valid names stay unless they are repeated."""
    taken = {name for name in names if name == clean_name(name)}
    used: set[str] = set()
    found: list[str] = []
    for name in names:
        clean = clean_name(name)
        if clean in used or (clean != name and clean in taken):
            clean = next(
                each
                for number in range(2, len(names) + 3)
                if (each := f"{clean[: MAX_NAME - len(str(number)) - 1]}_{number}") not in used | taken
            )
        used.add(clean)
        found.append(clean)
    return found


def clean_name(name: str, default: str = "tool") -> str:
    """The name with runs of other characters as _, at most 64 characters, ending in a letter, digit or _."""
    return _NAME.sub("_", name)[:MAX_NAME].rstrip("-") or default


def clean_namespace(name: str, default: str) -> str:
    """A namespace's name. Names with a meaning of their own in the chat format are changed."""
    clean = clean_name(name, default)
    return f"mcp_{clean}" if clean in RESERVED else clean


def clean_text(text: str, limit: int) -> str:
    """Text without control and invisible characters, cut to `limit` characters. Line breaks stay."""
    kept = "".join(
        each for each in text[: 4 * limit] if each in "\n\t" or not unicodedata.category(each).startswith("C")
    ).strip()
    return kept if len(kept) <= limit else kept[: limit - 3].rstrip() + "..."


def _parameters(tool: McpTool) -> dict[str, Any] | None:
    schema = tidy(tool.input_schema)
    if len(msgspec.json.encode(schema)) > MAX_SCHEMA:
        raise ListingError(
            f"tool {tool.name[:MAX_NAME]!r} has a schema of more than {MAX_SCHEMA} bytes; leave it out of allowed_tools"
        )
    if not schema.get("properties") and schema.keys() <= {"type", "properties", "additionalProperties", "description"}:
        return None
    return {**schema, "type": "object"}


def tidy(schema: object, depth: int = 0) -> Any:
    """A schema without titles and null defaults; a type or null is a list of types; descriptions are short."""
    if depth > MAX_DEPTH:
        raise ListingError(f"a schema nested deeper than {MAX_DEPTH} levels")
    if isinstance(schema, list):
        return [tidy(each, depth + 1) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if (key in _DROPPED and isinstance(value, str)) or (key == "default" and value is None):
            continue
        if key in _SCHEMA_MAPS and isinstance(value, dict):
            kept[key] = {name: tidy(each, depth + 2) for name, each in value.items()}
        elif key in _DATA:
            kept[key] = value
        elif key == "description" and isinstance(value, str):
            kept[key] = clean_text(value, MAX_DESCRIPTION)
        else:
            kept[key] = tidy(value, depth + 1)
    return _with_null(kept)


def _with_null(schema: dict[str, Any]) -> dict[str, Any]:
    """`{"anyOf": [{"type": T, ...}, {"type": "null"}]}` as `{"type": [T, "null"], ...}`."""
    options = schema.get("anyOf")
    if not isinstance(options, list) or len(options) != 2 or {"type": "null"} not in options:
        return schema
    other = next((each for each in options if each != {"type": "null"}), None)
    if not isinstance(other, dict) or not isinstance(other.get("type"), str) or "enum" in other or "const" in other:
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    if other.keys() - {"type"} & rest.keys():
        return schema
    return {**other, "type": [other["type"], "null"], **rest}
