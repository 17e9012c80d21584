"""Negations of JSON schemas, and whether two schemas exclude each other, for `not`, `if` and `oneOf`.

In: schemas. Out: the negation as a schema without `not`, or None if none is known; and a proof that no value fits two
schemas, or none.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

Follow: TypeAlias = Callable[[Mapping[str, Any]], Any]
REFERENCES = 20  # the longest chain of references in a negated schema

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
SAYS_NOTHING = frozenset(
    "$schema $comment $id $anchor $defs definitions title description default examples deprecated readOnly writeOnly".split()
)
LETTERS = 200  # the longest word whose complement is written as a pattern, which nests per letter
# the type that a bound applies to, and the opposite bound with its offset
BOUNDS = {
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
    "minimum": ("number", "exclusiveMaximum", 0),
    "maximum": ("number", "exclusiveMinimum", 0),
    "exclusiveMinimum": ("number", "maximum", 0),
    "exclusiveMaximum": ("number", "minimum", 0),
}


def negation(schema: Any, follow: Follow = lambda _: None, depth: int = REFERENCES) -> Any:
    """A schema for exactly the values that this one forbids; None if that needs `not`.

    follow: resolves a schema with a reference; None if it leads nowhere.
    """
    if isinstance(schema, bool):
        return not schema
    if not isinstance(schema, Mapping):
        return None
    if "$ref" in schema:
        meant = follow(schema) if depth else None
        return None if meant is None else negation(meant, follow, depth - 1)
    opposites = [_opposite(key, value, follow, depth) for key, value in schema.items() if key not in SAYS_NOTHING]
    if any(each is None for each in opposites):
        return None
    return _any(opposites)


def _any(schemas: Sequence[Any]) -> Any:
    return {"anyOf": list(schemas)} if len(schemas) > 1 else schemas[0] if schemas else False


def _opposite(keyword: str, value: Any, follow: Follow, depth: int) -> Any:
    match keyword, value:
        case "not", _:
            return value
        case "type", str() | list():
            kinds = [value] if isinstance(value, str) else value
            if not all(kind in TYPES for kind in kinds) or ("integer" in kinds and "number" not in kinds):
                return None
            left = [kind for kind in TYPES if kind not in kinds and not (kind == "integer" and "number" in kinds)]
            return {"type": [kind for kind in left if kind != "integer"]} if left else False
        case "required", list() if all(isinstance(name, str) for name in value):
            return {"type": "object", **_any([{"properties": {name: False}} for name in value])} if value else False
        case "properties", Mapping():
            opposites = {name: negation(each, follow, depth) for name, each in value.items()}
            if None in opposites.values():
                return None
            ways = [{"required": [name], "properties": {name: each}} for name, each in opposites.items()]
            return {"type": "object", **_any(ways)} if ways else False
        case "anyOf" | "allOf", list():
            opposites = [negation(each, follow, depth) for each in value]
            if None in opposites:
                return None
            return {"allOf": opposites} if keyword == "anyOf" else _any(opposites)
        case "const", _:
            return _none_of([value])
        case "enum", list():
            return _none_of(value)
        case _, int() | float() if keyword in BOUNDS and not isinstance(value, bool):
            kind, opposite, more = BOUNDS[keyword]
            return {"type": kind, opposite: value + more} if value + more >= 0 or kind == "number" else False
    return None


def _none_of(values: Sequence[Any]) -> Any:
    """Any value except these strings, booleans and null."""
    words = [each for each in values if isinstance(each, str)]
    if not all(isinstance(each, str | bool) or each is None for each in values) or any(
        len(word) > LETTERS for word in words
    ):
        return None
    left = [each for each in (True, False) if not any(each is value for value in values)]
    kinds = [kind for kind in TYPES if kind not in ("string", "boolean", "integer", "null")]
    ways: list[Any] = [{"type": kinds if None in values else ["null", *kinds]}]
    ways.append({"type": "string", "pattern": f"^(?:{_other_than(words)})$"} if words else {"type": "string"})
    return {"anyOf": [*ways, {"enum": left}] if left else ways}


def _other_than(words: Sequence[str]) -> str:
    """A regular expression, without look-around, for every string except these.

    After a common prefix of some words, another letter follows, or the string ends where no word does.
    """
    anything = r"[\s\S]*"
    following = sorted({word[0] for word in words if word})
    ways = [] if "" in words else [""]
    for letter in following:
        rest = _other_than([word[1:] for word in words if word[:1] == letter])
        ways.append(f"{_literal(letter)}(?:{rest})")
    first = "".join(map(_literal, following))
    ways.append(f"[^{first}]{anything}" if following else rf"[\s\S]{anything}")
    return "|".join(ways)


def _literal(letter: str) -> str:
    return letter if letter.isalnum() or not letter.isascii() else rf"\x{ord(letter):02x}"


def disjoint(one: Any, other: Any, named: Mapping[str, Any], depth: int = 12) -> bool:
    """Whether it is provable that no value fits both. named: the definitions that references lead to."""
    if one is False or other is False:
        return True
    if depth == 0 or one is True or other is True:
        return False
    for this, that in ((one, other), (other, one)):
        parts = [*this.get("allOf", ())]
        if "$ref" in this:
            parts.append(named.get(this["$ref"].removeprefix("#/$defs/"), True))
        if any(disjoint(part, that, named, depth - 1) for part in parts):
            return True
        for ways in (this.get("anyOf"), this.get("oneOf")):
            if ways and all(disjoint(way, that, named, depth - 1) for way in ways):
                return True
    shared = _kinds(one) & _kinds(other)
    if not shared or _values_differ(one, other):
        return True
    return shared == {"object"} and any(
        disjoint(_of_key(one, key), _of_key(other, key), named, depth - 1)
        for key in {*one.get("required", ()), *other.get("required", ())}
    )


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    kinds = schema.get("type", TYPES)
    found = {kinds} if isinstance(kinds, str) else set(kinds)
    values = _listed(schema)
    if values is not None:
        found &= {kind for value in values for kind in _kinds_of(value)}
    return found | ({"integer"} if "number" in found else set())


def _kinds_of(value: Any) -> tuple[str, ...]:
    match value:
        case None:
            return ("null",)
        case bool():
            return ("boolean",)
        case int() | float():
            return ("number", "integer")
        case str():
            return ("string",)
        case list():
            return ("array",)
    return ("object",)


def _listed(schema: Mapping[str, Any]) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _values_differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    ours, theirs = _listed(one), _listed(other)
    # True == 1 in Python: that errs on the safe side
    return ours is not None and theirs is not None and not any(a == b for a in ours for b in theirs)


def _of_key(schema: Mapping[str, Any], key: str) -> Any:
    if key in schema.get("properties", {}):
        return schema["properties"][key]
    return True if schema.get("patternProperties") else schema.get("additionalProperties", True)
