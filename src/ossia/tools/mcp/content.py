"""Text of an MCP server's answer, and arguments of the model's call.

In: the content blocks of a result, as plain objects. Out: text of at most a number of bytes. Images, sounds and resources
are named and not included, because the model reads text only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

MAX_ARGUMENTS = 262_144  # bytes


def decode_arguments(text: str) -> dict[str, Any]:
    """The arguments of a call. Raises ValueError if they are not one JSON object, or too large."""
    if len(text) > MAX_ARGUMENTS:
        raise ValueError(f"they are longer than {MAX_ARGUMENTS} characters")
    try:
        return msgspec.json.decode(text.strip() or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def result_text(blocks: Sequence[Mapping[str, Any]], structured: object, max_bytes: int) -> str:
    """All blocks, one after another. A structured result is shown as JSON if there is no block."""
    texts = [_block(each) for each in blocks]
    if not texts and structured is not None:
        texts = [msgspec.json.encode(structured).decode()]
    return cut("\n".join(texts), max_bytes)


def cut(text: str, max_bytes: int) -> str:
    """The text within a number of bytes of UTF-8, with a note at the end if something is missing."""
    data = text.encode("utf-8", "replace")
    if len(data) <= max_bytes:
        return data.decode()
    return f"{data[:max_bytes].decode('utf-8', 'ignore')}\n[... {len(data) - max_bytes} bytes left out ...]"


def _block(block: Mapping[str, Any]) -> str:
    match block.get("type"):
        case "text":
            return str(block.get("text", ""))
        case "image" | "audio" as kind:
            size = len(str(block.get("data", ""))) * 3 // 4
            return f"[{kind}: {_short(block.get('mimeType'))}, {size} bytes, not shown]"
        case "resource_link":
            return f"[resource: {_short(block.get('name'))} {_short(block.get('uri'))}]"
        case "resource":
            resource = block.get("resource")
            found: Mapping[str, Any] = resource if isinstance(resource, Mapping) else {}
            return f"[resource: {_short(found.get('uri'))} {_short(found.get('mimeType'))}, not shown]"
        case kind:
            return f"[content of type {_short(kind)}, not shown]"


def _short(value: object) -> str:
    return str(value or "unknown")[:200]
