"""Rewrites a JSON schema in the few keywords that `shapes` understands.

In: a schema of draft 4 to 2020-12. Out: a self-contained schema that allows nothing the given one forbids, and a list
of what was left out; SchemaError, with keyword and place, for a part that cannot be enforced.

In the result `pattern` is a list of languages, `patternProperties` a list of languages with their schemas, and each
schema has its place. Other keywords are expressed by these if that is exact (dependentRequired by anyOf and required).
Annotations and unknown keywords are dropped. A lenient reading leaves out what cannot be enforced.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from ossia.harmony.enforce.errors import SchemaError
from ossia.harmony.enforce.formats import FORMATS, UNKNOWN_FORMATS
from ossia.harmony.enforce.language import Language
from ossia.harmony.enforce.logic import TYPES, disjoint, negation
from ossia.harmony.enforce.numbers import check_bound, spellings
from ossia.harmony.enforce.pattern import pattern_language
from ossia.harmony.enforce.references import Found, References, below
from ossia.harmony.enforce.shapes import PLACE, numbers_of
from ossia.harmony.enforce.size import excess
from ossia.harmony.enforce.values import (
    BOUND,
    as_list,
    as_mapping,
    as_names,
    as_number,
    as_text,
    check_value,
    short,
)
from ossia.harmony.messages import JsonObject

Node: TypeAlias = dict[str, Any] | bool
SIZE = 10_000  # the most schemas that are read: a oneOf or an if is expanded several times
DRAFTS = re.compile(r"https?://json-schema\.org/(?:draft-0?|draft/)?([4-7]|2019|2020)?(?:-09|-12)?/?schema#?")
IN_PLACE = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies")
OPTIONS = frozenset(("lenient", "coerce_one_of", "any_order"))  # of "x-guidance"
PAIRS = (
    ("string", "minLength", "maxLength", "length"),
    ("array", "minItems", "maxItems", "number of items"),
    ("object", "minProperties", "maxProperties", "number of properties"),
)


@dataclass(frozen=True)
class EnforceableSchema:
    """A schema that a grammar can enforce exactly, and what was left out."""

    schema: dict[str, Any]
    dropped: tuple[str, ...]


def enforceable_schema(schema: JsonObject) -> EnforceableSchema:
    """The schema as a grammar can enforce it.

    "x-guidance" in it may hold {"lenient": true}, which leaves out what cannot be enforced; {"coerce_one_of": true},
    which reads oneOf as anyOf; {"any_order": true}, see `is_any_order`.
    """
    if too_large := excess(schema):
        raise SchemaError("", "#", f"the schema is too large: {too_large}")
    return _Reader(schema).read()


def leniently(schema: JsonObject) -> JsonObject:
    """The schema, marked so that parts that cannot be enforced are left out instead of refused."""
    options = schema.get("x-guidance", {})
    return {**schema, "x-guidance": {**options, "lenient": True}} if isinstance(options, Mapping) else schema


def is_any_order(schema: JsonObject) -> bool:
    """Whether properties may come in any order, instead of their declared order."""
    options = schema.get("x-guidance")
    return isinstance(options, Mapping) and options.get("any_order") is True


def is_lenient(schema: JsonObject) -> bool:
    options = schema.get("x-guidance")
    return isinstance(options, Mapping) and options.get("lenient") is True


@dataclass
class _Place:
    """A schema being read: its place, the URI that its references are relative to, and the result so far."""

    path: str
    base: str
    given: Mapping[str, Any]
    out: dict[str, Any] = field(default_factory=dict)
    more: list[Node] = field(default_factory=list)  # further schemas that must hold


class _Reader:
    def __init__(self, root: JsonObject) -> None:
        self.root = root
        options = root.get("x-guidance", {})
        if not isinstance(options, Mapping) or not options.keys() <= OPTIONS:
            raise SchemaError("x-guidance", "#", 'it may hold "lenient", "coerce_one_of" and "any_order" only')
        self.lenient = is_lenient(root)
        self.coerce_one_of = options.get("coerce_one_of") is True
        declared = root.get("$schema")
        draft = DRAFTS.fullmatch(declared) if isinstance(declared, str) else None
        if declared is not None and not draft and not self.lenient:
            raise SchemaError("$schema", "#", f"{short(declared)} is no draft from 4 to 2020-12")
        self.draft = int(draft[1]) if draft and draft[1] else 2020
        self.declared = draft is not None
        self.dropped: list[str] = []
        self.names: dict[str, str] = {}  # names of definitions, by the place of their schemas
        self.definitions: dict[str, Node] = {}
        self.pending: list[Found] = []
        self.choices: list[tuple[_Place, list[Any], dict[str, Any]]] = []
        self.size = 0
        self.references = References(root, self.draft)

    def read(self) -> EnforceableSchema:
        root = self._reference(self.references.found["#"])
        while self.pending or self.choices:
            if self.pending:
                path, base, schema = self.pending.pop()
                self.definitions[self.names[path]] = self._schema(schema, path, base)
            else:
                self._choose(*self.choices.pop())
        return EnforceableSchema({**root, "$defs": self.definitions}, tuple(dict.fromkeys(self.dropped)))

    def _reference(self, to: Found) -> dict[str, Any]:
        if to[0] not in self.names:
            self.names[to[0]] = str(len(self.names))
            self.pending.append(to)
        return {"$ref": f"#/$defs/{self.names[to[0]]}"}

    # Reading

    def _schema(self, schema: Any, path: str, base: str) -> Node:
        self.size += 1
        if self.size > SIZE:
            raise SchemaError(
                "", "#", f"the schema is too large: more than {SIZE} schemas, once its conditions are expanded"
            )
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            self._give_up(SchemaError("", path, f"a schema is an object or a boolean, not {short(schema)}"))
            return True
        if self.draft < 2019 and "$ref" in schema:
            schema = {"$ref": schema["$ref"]}  # keywords beside it are ignored
        place = _Place(path, self.references.bases.get(id(schema), base), schema)
        for keyword in schema:
            if reader := READERS.get(keyword):
                try:
                    reader(self, place, keyword, schema[keyword])
                except SchemaError:
                    raise
                except ValueError as error:
                    self._give_up(SchemaError(keyword, path, str(error)))
        self._check_counts(place)
        if place.more:
            place.out["allOf"] = place.more
        place.out[PLACE] = path
        return place.out

    def _check_counts(self, place: _Place) -> None:
        """Refuse, or leave out, limits that no value of the schema's only type can satisfy."""
        kind, out = place.given.get("type"), place.out
        for of, low, high, what in PAIRS:
            if kind == of and low in out and high in out and out[low] > out[high]:
                why = f"no {what} is {out[low]} or more and {out[high]} or less"
                self._give_up(SchemaError(low, place.path, why))
                del out[low], out[high]
        bounds = [key for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if key in out]
        if kind in ("number", "integer") and bounds and numbers_of(out, kind == "integer").settled() is None:
            said = ", ".join(f"{key} {short(out[key])}" for key in (*bounds, "multipleOf") if key in out)
            self._give_up(SchemaError(bounds[0], place.path, f"no {kind} is within the bounds ({said})"))
            for key in bounds:
                del out[key]
        if "multipleOf" in out and (settled := numbers_of(out, kind == "integer").settled()):
            try:
                spellings(settled)
            except ValueError as error:
                self._give_up(SchemaError("multipleOf", place.path, str(error)))
                del out["multipleOf"]

    def _give_up(self, error: SchemaError) -> None:
        if not self.lenient:
            raise error
        self.dropped.append(str(error))

    def _within(self, place: _Place, *steps: Any) -> Node:
        schema: Any = place.given
        for step in steps:
            schema = schema[step]
        return self._schema(schema, below(place.path, *steps), place.base)

    def _also(self, place: _Place, schema: Any) -> None:
        """The consequences of keywords that are not kept themselves, as a separate schema."""
        place.more.append(self._schema(schema, place.path, place.base))

    def type(self, place: _Place, keyword: str, value: Any) -> None:
        kinds = [value] if isinstance(value, str) else value
        if not isinstance(kinds, list) or not kinds or not all(kind in TYPES for kind in kinds):
            raise ValueError(f"{short(value)} names no type: the types are {', '.join(TYPES)}")
        place.out[keyword] = value if isinstance(value, str) else list(dict.fromkeys(kinds))

    def values(self, place: _Place, keyword: str, value: Any) -> None:
        if keyword == "enum" and not isinstance(value, list):
            raise ValueError(f"it must be a list, not {short(value)}")
        check_value(value)
        place.out[keyword] = value

    def bound(self, place: _Place, keyword: str, value: Any) -> None:
        exclusive = {"minimum": "exclusiveMinimum", "maximum": "exclusiveMaximum"}.get(keyword)
        if exclusive is None and isinstance(value, bool) and (self.draft == 4 or not self.declared):
            closed = "minimum" if keyword == "exclusiveMinimum" else "maximum"
            if value and closed not in place.given:
                raise ValueError(f"true means something only beside {closed}, in draft 4; write the number here")
            return  # in draft 4 it makes the other bound exclusive
        number = as_number(value)
        check_bound(number)
        is_open = exclusive and place.given.get(exclusive) is True and (self.draft == 4 or not self.declared)
        place.out[exclusive if exclusive and is_open else keyword] = number

    def multiple(self, place: _Place, keyword: str, value: Any) -> None:
        if not 0 < as_number(value) <= BOUND:
            raise ValueError(f"it must be above 0 and at most 2^53, not {short(value)}")
        place.out[keyword] = value

    def count(self, place: _Place, keyword: str, value: Any) -> None:
        number = as_number(value)
        if number < 0 or number != int(number):
            raise ValueError(f"it must be an integer of at least 0, not {short(value)}")
        if keyword == "minProperties":
            # an undeclared key may occur twice, and JSON readers use the last one
            required = place.given.get("required")
            free = number - (len(set(map(str, required))) if isinstance(required, list) else 0)
            if free <= 0:
                return
            if free > 1:
                raise ValueError(
                    "a grammar cannot tell whether keys differ; declare them as properties and require them"
                )
        place.out[keyword] = int(number)

    def pattern(self, place: _Place, keyword: str, value: Any) -> None:
        place.out.setdefault("pattern", []).append(_language(as_text(value)))

    def format(self, place: _Place, keyword: str, value: Any) -> None:
        name, kinds = as_text(value), place.given.get("type", "string")
        if kinds != "string" and not (isinstance(kinds, list) and "string" in kinds):
            return
        if name in UNKNOWN_FORMATS:
            raise ValueError(f"{name!r} is not known here; known are {', '.join(FORMATS)}")
        if name in FORMATS:
            place.out.setdefault("pattern", []).append(_language(FORMATS[name]))

    def properties(self, place: _Place, keyword: str, value: Any) -> None:
        check_value(list(as_mapping(value)))
        place.out[keyword] = {name: self._within(place, keyword, name) for name in value}

    def patterned(self, place: _Place, keyword: str, value: Any) -> None:
        said = {name: self._within(place, keyword, name) for name in as_mapping(value)}
        place.out[keyword] = [(_language(name), each) for name, each in said.items()]

    def required(self, place: _Place, keyword: str, value: Any) -> None:
        names = as_names(value)
        given = place.given
        if given.get("additionalProperties") is False and given.get("type") == "object":
            declared = given.get("properties")
            declared = declared if isinstance(declared, Mapping) else {}
            missing = [] if given.get("patternProperties") else [name for name in names if name not in declared]
            if missing:
                why = "is not declared in properties, and additionalProperties is false"
                shown = ", ".join(map(repr, missing))
                self._give_up(SchemaError(keyword, place.path, f"{short(shown)} {why}"))
                names = [name for name in names if name in declared]
        place.out[keyword] = names

    def one(self, place: _Place, keyword: str, value: Any) -> None:
        place.out[keyword] = self._within(place, keyword)

    def several(self, place: _Place, keyword: str, value: Any) -> None:
        place.out[keyword] = [self._within(place, keyword, number) for number in range(len(as_list(value)))]

    def all_of(self, place: _Place, keyword: str, value: Any) -> None:
        place.more += [self._within(place, keyword, number) for number in range(len(as_list(value)))]

    def prefix(self, place: _Place, keyword: str, value: Any) -> None:
        if self.draft == 2020:
            self.several(place, keyword, value)

    def items(self, place: _Place, keyword: str, value: Any) -> None:
        """Before 2020-12 a list of schemas means prefixItems, and additionalItems means items."""
        if not isinstance(value, list):
            return self.one(place, keyword, value)
        place.out["prefixItems"] = [self._within(place, keyword, number) for number in range(len(value))]
        if "additionalItems" in place.given:
            place.out["items"] = self._within(place, "additionalItems")

    def one_of(self, place: _Place, keyword: str, value: Any) -> None:
        ways = [self._within(place, keyword, number) for number in range(len(as_list(value)))]
        choice: dict[str, Any] = {"anyOf": ways}
        place.more.append(choice)
        self.choices.append((place, value, choice))

    def _choose(self, place: _Place, given: list[Any], choice: dict[str, Any]) -> None:
        """Process a oneOf once its definitions are read: its alternatives exclude each other, or are made to."""
        ways = choice["anyOf"]
        if all(disjoint(a, b, self.definitions) for n, a in enumerate(ways) for b in ways[:n]):
            return
        opposites = [negation(way, self.references.followed) for way in given]
        if None not in opposites:
            only = [{"allOf": [way, *opposites[:n], *opposites[n + 1 :]]} for n, way in enumerate(given)]
            choice["anyOf"] = [self._schema(way, place.path, place.base) for way in only]
        elif not self.coerce_one_of:
            why = "a grammar cannot tell whether more than one of them fits; write anyOf, or give each its own const"
            self._give_up(SchemaError("oneOf", place.path, why))

    def ref(self, place: _Place, keyword: str, value: Any) -> None:
        target = self.references.resolve(as_text(value), place.base)
        if target is None:
            raise ValueError(f"{short(value)} leads to no schema in this one, and none is fetched")
        if keyword == "$dynamicRef" and self.references.dynamic.get(value.partition("#")[2], 0) > 1:
            raise ValueError("it matches several anchors, and a grammar cannot choose between them")
        if "$ref" in place.out:
            place.more.append(self._reference(target))
        else:
            place.out |= self._reference(target)

    def inverse(self, place: _Place, keyword: str, value: Any) -> None:
        opposite = negation(value, self.references.followed)
        if opposite is None:
            raise ValueError("a grammar cannot forbid values in general; state what is allowed instead")
        self._also(place, opposite)

    def condition(self, place: _Place, keyword: str, value: Any) -> None:
        if not place.given.keys() & {"then", "else"}:
            return
        opposite = negation(value, self.references.followed)
        if opposite is None:
            raise ValueError("a grammar cannot express the values that do not fit its schema; write anyOf instead")
        fits = {"allOf": [value, place.given.get("then", True)]}
        self._also(place, {"anyOf": [fits, {"allOf": [opposite, place.given.get("else", True)]}]})

    def unique(self, place: _Place, keyword: str, value: Any) -> None:
        if value is not False and place.given.get("maxItems") not in (0, 1):
            raise ValueError("a grammar cannot compare items")

    def contains(self, place: _Place, keyword: str, value: Any) -> None:
        least = place.given.get("minContains") if self.draft >= 2019 else None
        if least != 0 or "maxContains" in place.given:
            raise ValueError("a grammar cannot count the items that fit it; say with items what each is")

    def dependent(self, place: _Place, keyword: str, value: Any) -> None:
        for name, follows in as_mapping(value).items():
            needed = {"required": follows} if isinstance(follows, list) else follows
            self._also(
                place,
                {
                    "anyOf": [
                        {"properties": {name: False}},
                        {"properties": {name: True}, "required": [name], "allOf": [needed]},
                    ]
                },
            )

    def unevaluated(self, place: _Place, keyword: str, value: Any) -> None:
        if value is True or value == {}:
            return
        if place.given.keys() & {*IN_PLACE, "contains"}:
            raise ValueError(
                "it depends on what other schemas match, which a grammar cannot tell; use additionalProperties or items"
            )
        if keyword == "unevaluatedProperties":
            if "additionalProperties" not in place.given:
                place.out["additionalProperties"] = self._within(place, keyword)
        elif "items" not in place.given or (
            isinstance(place.given["items"], list) and "additionalItems" not in place.given
        ):
            place.out["items"] = self._within(place, keyword)

    def refused(self, place: _Place, keyword: str, value: Any) -> None:
        raise ValueError("its target depends on the schemas that lead to it, which a grammar cannot follow")


READERS: dict[str, Callable[[_Reader, _Place, str, Any], None]] = {
    "type": _Reader.type,
    **dict.fromkeys(("enum", "const"), _Reader.values),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _Reader.bound),
    "multipleOf": _Reader.multiple,
    **dict.fromkeys("minLength maxLength minItems maxItems minProperties maxProperties".split(), _Reader.count),
    "pattern": _Reader.pattern,
    "format": _Reader.format,
    "properties": _Reader.properties,
    "patternProperties": _Reader.patterned,
    "required": _Reader.required,
    **dict.fromkeys(("additionalProperties", "propertyNames"), _Reader.one),
    "items": _Reader.items,
    "prefixItems": _Reader.prefix,
    "anyOf": _Reader.several,
    "allOf": _Reader.all_of,
    "oneOf": _Reader.one_of,
    **dict.fromkeys(("$ref", "$dynamicRef"), _Reader.ref),
    "not": _Reader.inverse,
    "if": _Reader.condition,
    "uniqueItems": _Reader.unique,
    "contains": _Reader.contains,
    **dict.fromkeys(("dependentRequired", "dependentSchemas", "dependencies"), _Reader.dependent),
    **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems"), _Reader.unevaluated),
    "$recursiveRef": _Reader.refused,
}


@lru_cache(maxsize=1024)
def _language(pattern: str) -> Language:
    return pattern_language(pattern)
