"""Normalizes JSON-schema dialects: `nullable: true`, the types "dict" and "OBJECT".

In: a schema as a client wrote it. Out: the same schema in standard JSON Schema. Both the prompt and the grammar read
schemas through this module, so they agree. The prompt's renderer shows `nullable` itself; for the grammar it becomes a
type.
"""

from collections.abc import Mapping
from typing import Any

from ossia.harmony.messages import JsonObject

TYPES = frozenset("null boolean integer number string array object".split())
# Python's and OpenAPI's names, and Gemini's upper-case ones. None: any value.
OTHER_NAMES: dict[str, str | None] = {
    **dict.fromkeys("dict map record struct mapping".split(), "object"),
    **dict.fromkeys("list tuple set".split(), "array"),
    "str": "string",
    **dict.fromkeys("float double decimal".split(), "number"),
    **dict.fromkeys("int long int32 int64".split(), "integer"),
    **dict.fromkeys("none nonetype".split(), "null"),
    **dict.fromkeys("any type_unspecified".split()),
    "bool": "boolean",
}
DEPTH = 100  # of nesting: the grammar refuses more
LITERAL = frozenset({"const", "enum", "default", "example", "examples"})  # keywords that hold values, not schemas
NAMED = frozenset("$defs definitions properties patternProperties dependentSchemas dependencies".split())
WRAPPED = frozenset("$ref $dynamicRef allOf not if then else oneOf".split())
OUTSIDE = frozenset("$schema $id $anchor $defs definitions title description default examples deprecated".split())


def object_schema(parameters: JsonObject) -> dict[str, Any]:
    """A tool's parameters as an object schema. Raises ValueError if the schema is not an object's."""
    kind = _type(parameters["type"]) if parameters.get("type") else None
    if kind not in (None, "object") and not (isinstance(kind, list) and "object" in kind):
        raise ValueError(f"the type of a tool's parameters must be 'object', not {parameters['type']!r}")
    return {**parameters, "type": "object", "nullable": False}


def canonical(schema: JsonObject, nullable: bool = False) -> dict[str, Any]:
    """The schema with JSON Schema's type names. Unless `nullable` may stay, null becomes a type wherever it is true."""
    return _canonical(schema, nullable, 0)


def _canonical(schema: Any, nullable: bool, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > DEPTH:
        return schema
    out = {key: _below(key, value, nullable, depth + 1) for key, value in schema.items()}
    if "type" in out:
        kind = _type(out["type"])
        out = {**out, "type": kind} if kind is not None else {key: out[key] for key in out if key != "type"}
    if "nullable" in out and not nullable:
        return _with_null(out) if out.pop("nullable") is True else out
    return out


def _below(keyword: str, value: Any, nullable: bool, depth: int) -> Any:
    """The schemas inside a keyword's value."""
    if keyword in LITERAL:
        return value
    if keyword in NAMED and isinstance(value, Mapping):
        return {name: _canonical(each, nullable, depth) for name, each in value.items()}
    if isinstance(value, list):
        return [_canonical(each, nullable, depth) for each in value]
    return _canonical(value, nullable, depth)


def _type(kind: Any) -> Any:
    if isinstance(kind, list):
        names = [_type(each) for each in kind]
        return None if None in names else list(dict.fromkeys(names)) if all(isinstance(n, str) for n in names) else kind
    if not isinstance(kind, str) or kind in TYPES:
        return kind
    lower = kind.lower()
    return lower if lower in TYPES else OTHER_NAMES.get(lower, kind)


def _with_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, or null. Keywords keep their place where that is exact, because references may lead to them."""
    if schema.keys() & WRAPPED:
        outside = {key: value for key, value in schema.items() if key in OUTSIDE}
        rest = {key: value for key, value in schema.items() if key not in OUTSIDE}
        return {**outside, "anyOf": [rest, {"type": "null"}]}
    out = dict(schema)
    if isinstance(kind := out.get("type"), str | list):
        kinds = [kind] if isinstance(kind, str) else kind
        out["type"] = kinds if "null" in kinds else [*kinds, "null"]
    if "const" in out:
        out["enum"] = [out.pop("const")]
    if isinstance(values := out.get("enum"), list) and None not in values:
        out["enum"] = [*values, None]
    if isinstance(ways := out.get("anyOf"), list):
        out["anyOf"] = [*ways, {"type": "null"}]
    return out
