"""Merges JSON schemas that apply together (`allOf`, keywords beside `$ref`) into one schema for the prompt.

In: schemas without `$ref` and `allOf` of their own. Out: one schema, for the prompt only and not for enforcement. If
two schemas contradict each other, the first is used. Properties that a condition adds become optional.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]
CHOICES = ("oneOf", "anyOf")
MORE_CHOICES = "allOf"  # where a merged schema keeps further choices


def merged(parts: Sequence[Schema]) -> dict[str, Any]:
    """One schema for all of them. Choices beyond the first stay in `allOf`."""
    out: dict[str, Any] = {}
    choices: list[Schema] = []
    for part in parts:
        for key in CHOICES:
            if isinstance(part.get(key), list):
                choices.append({key: part[key]})
        for key, value in part.items():
            if key not in CHOICES:
                out[key] = _both(key, out[key], value) if key in out else value
    fields = properties_of(out)
    if more := {name: each for part in parts for name, each in _conditional(part) if name not in fields}:
        out["properties"] = {**fields, **more}
    if choices:
        out |= choices[0]
    if choices[1:]:
        out[MORE_CHOICES] = choices[1:]
    return out


def properties_of(schema: Schema) -> Schema:
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


def names_in(schema: Schema, keyword: str = "required") -> list[str]:
    found = schema.get(keyword)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _conditional(part: Schema) -> Iterator[tuple[str, Any]]:
    """Properties that a condition adds."""
    dependent = part.get("dependentSchemas")
    for each in (part.get("then"), part.get("else"), *(dependent.values() if isinstance(dependent, Mapping) else ())):
        if isinstance(each, Mapping):
            yield from properties_of(each).items()


def _both(keyword: str, one: Any, other: Any) -> Any:
    """The value of a keyword that two schemas have."""
    match keyword, one, other:
        case "properties" | "patternProperties", Mapping(), Mapping():
            return _with_properties(one, other)
        case "required", list(), list():
            return [*one, *(each for each in other if each not in one)]
        case "type", _, _:
            ours, theirs = as_types(one), as_types(other)
            both = [each for each in ours if each in theirs or (each == "integer" and "number" in theirs)]
            both += [each for each in theirs if each == "integer" and "number" in ours and each not in both]
            return one if not both else both[0] if len(both) == 1 else both
        case "enum", list(), list():
            return [each for each in one if each in other] or one
        case "items", Mapping(), Mapping() if one != other:
            return {"allOf": [one, other]}
        case "additionalProperties" | "unevaluatedProperties", bool(), Mapping():
            return other
    return one


def _with_properties(one: Schema, other: Schema) -> dict[str, Any]:
    out = dict(one)
    for name, each in other.items():
        out[name] = each if name not in out or out[name] == each else {"allOf": [out[name], each]}
    return out


def as_types(kind: Any) -> list[str]:
    """The names in a `type` keyword."""
    names = kind if isinstance(kind, list) else [kind]
    return [each for each in names if isinstance(each, str)]
