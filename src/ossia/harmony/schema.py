"""JSON schema as the TypeScript types that gpt-oss was trained to read.

In: a tool's parameter schema. Out: the text of its type. Token for token what the reference renderer writes, oddities
included, because the model has seen nothing else. Invalid schemas are not detected.
"""

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from ossia.harmony.messages import JsonObject, ToolNamespace

Schema = Mapping[str, Any]


def tools_section(
    namespaces: tuple[ToolNamespace, ...], shown: Callable[[JsonObject], JsonObject] = lambda given: given
) -> str:
    """The "# Tools" section: each namespace with its functions as TypeScript types, in the order of their keys.

    shown: maps a tool's parameters to the schema that is shown.
    """
    parts = ["# Tools"]
    for space in sorted(namespaces, key=lambda each: each.filed_under):
        lines = [f"## {space.name}\n"]
        mark = "// " if space.tools else ""
        lines += [mark + line for line in split_lines(space.description or "")]
        if space.tools:
            lines.append(f"namespace {space.name} {{\n")
            for tool in space.tools:
                lines += [f"// {line}" for line in split_lines(tool.description)]
                argument = "" if tool.parameters is None else f"_: {typescript(shown(tool.parameters))}"
                lines.append(f"type {tool.name} = ({argument}) => any;\n")
            lines.append(f"}} // namespace {space.name}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def typescript(schema: Any, indent: str = "") -> str:
    """The type that a schema describes. A schema without a rendering is `any`."""
    if not isinstance(schema, Mapping):
        return "any"
    if isinstance(variants := schema.get("oneOf"), list):
        return "".join(f"\n{indent} | {_variant(each, indent, _remarks(each))}" for each in variants)
    kind = schema.get("type")
    if isinstance(kind, list) and (names := [each for each in kind if isinstance(each, str)]):
        return " | ".join("number" if each == "integer" else each for each in names)
    match kind:
        case "object":
            return _object(schema, indent)
        case "string":
            values = schema.get("enum")
            words = [f'"{each}"' for each in values if isinstance(each, str)] if isinstance(values, list) else []
            return " | ".join(words) or "string"
        case "number" | "integer":
            return "number"
        case "boolean":
            return "boolean"
        case "array":
            return f"{typescript(schema['items'], indent)}[]" if "items" in schema else "Array<any>"
    return "any"


def _object(schema: Schema, indent: str) -> str:
    description = schema.get("description")
    out = f"{indent}// {description}\n" if isinstance(description, str) else ""
    required = schema.get("required")
    needed = {each for each in required if isinstance(each, str)} if isinstance(required, list) else set()
    properties = schema.get("properties")
    fields = properties.items() if isinstance(properties, Mapping) else ()
    body = "".join(_property(name, value, name in needed, indent) for name, value in fields)
    return f"{out}{{\n{body}{indent}}}"


def _property(name: str, value: Any, required: bool, indent: str) -> str:
    schema = value if isinstance(value, Mapping) else {}
    label = name if required else f"{name}?"
    comments = [f"{schema['title']}\n{indent}//"] if isinstance(schema.get("title"), str) else []
    if "oneOf" not in schema:
        comments += [schema["description"]] if isinstance(schema.get("description"), str) else []
    comments += _examples(schema, indent)
    if isinstance(schema.get("oneOf"), list):
        return _comments(comments, indent) + _one_of_property(label, schema, indent)
    kind = _nullable(schema, typescript(value, f"{indent}    "))
    default = f" // default: {_default(schema)}" if "default" in schema and "oneOf" not in schema else ""
    return f"{_comments(comments, indent)}{indent}{label}: {kind},{default}\n"


def _one_of_property(label: str, schema: Schema, indent: str) -> str:
    """Variants on separate lines. A description is written once: above, unless the first variant has the same."""
    variants = schema["oneOf"]
    described = schema.get("description") if isinstance(schema.get("description"), str) else None
    first = variants[0].get("description") if variants and isinstance(variants[0], Mapping) else None
    above = described is not None and described != first
    comments = [described] if above and described is not None else []
    comments += [f"default: {_default(schema)}"] if "default" in schema else []
    out = f"{_comments(comments, indent)}{indent}{label}:\n"
    for number, variant in enumerate(variants):
        remarks = _remarks(variant, bare_enum=True, hide=described, hide_any=above and number == 0)
        out += f"{indent} | {_variant(variant, indent, remarks)}\n"
    return f"{out}{indent},\n"


def _variant(variant: Any, indent: str, remarks: list[str]) -> str:
    schema = variant if isinstance(variant, Mapping) else {}
    trailing = f" // {' '.join(remarks)}" if remarks else ""
    return _nullable(schema, typescript(variant, f"{indent}   ")) + trailing


def _remarks(variant: Any, bare_enum: bool = False, hide: str | None = None, hide_any: bool = False) -> list[str]:
    """The comment after a variant: its description unless hidden, and its default."""
    schema = variant if isinstance(variant, Mapping) else {}
    description = schema.get("description")
    remarks = [description] if isinstance(description, str) and not hide_any and description != hide else []
    if "default" in schema:
        remarks.append(f"default: {_default(schema) if bare_enum else _quoted_default(schema)}")
    return remarks


def _nullable(schema: Schema, kind: str) -> str:
    return f"{kind} | null" if schema.get("nullable") is True and "null" not in kind else kind


def _default(schema: Schema) -> str:
    """A default as a comment shows it: a string in quotes, but without quotes if the schema is an enum."""
    value = schema["default"]
    return value if isinstance(value, str) and _is_enum(schema) else _quoted_default(schema)


def _quoted_default(schema: Schema) -> str:
    value = schema["default"]
    return f'"{value}"' if isinstance(value, str) and not _is_enum(schema) else compact_json(value)


def _is_enum(schema: Schema) -> bool:
    return isinstance(schema.get("enum"), list) and bool(schema["enum"])


def _examples(schema: Schema, indent: str) -> list[str]:
    examples = schema.get("examples")
    if not isinstance(examples, list) or not examples:
        return []
    return ["Examples:", *(f'- "{each}"' for each in examples if isinstance(each, str))]


def _comments(lines: list[str], indent: str) -> str:
    return "".join(f"{indent}// {line}\n" for line in lines)


def compact_json(value: Any) -> str:
    """JSON without spaces, with numbers written like serde_json."""
    match value:
        case Mapping():
            return "{" + ",".join(f"{compact_json(str(key))}:{compact_json(each)}" for key, each in value.items()) + "}"
        case list():
            return "[" + ",".join(map(compact_json, value)) + "]"
        case float():
            return _float(value)
        case int() if not -(2**63) <= value < 2**64:
            return _float(float(value))
    return json.dumps(value, ensure_ascii=False)


def _float(value: float) -> str:
    """The shortest digits. An exponent only below 1e-5 and from 1e16 on, without sign or zeros."""
    digits, _, exponent = repr(value).partition("e")
    if not exponent:
        return digits
    if 1e-5 <= abs(value) < 1e-4:
        return format(Decimal(repr(value)), "f")
    return f"{digits}e{int(exponent)}"


def split_lines(text: str) -> list[str]:
    r"""Lines ended by \n or \r\n only. An empty last line does not count."""
    *ended, last = text.split("\n")
    return [line.removesuffix("\r") for line in ended] + ([last] if last else [])
