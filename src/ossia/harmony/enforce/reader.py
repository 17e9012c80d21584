"""What a grammar can keep of a JSON schema: the schema said anew, in the keywords that llguidance enforces exactly.

In: a schema of draft 4 to 2020-12. Out: a schema that allows nothing the given one does not, self-contained, and a
list of what was left out; SchemaError, with keyword and place, for what cannot be kept. It does not know grammars.

Keywords without an exact form of their own are said by others where that is plain (dependentRequired by anyOf and
required); annotations and unknown keywords go. A lenient reading leaves out what cannot be kept and so allows more.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import unquote, urldefrag, urljoin

from ossia.harmony.enforce.logic import TYPES, disjoint, negation
from ossia.harmony.enforce.pattern import rust_pattern
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
    without_point,
)
from ossia.harmony.messages import JsonObject

Node: TypeAlias = dict[str, Any] | bool
_Found: TypeAlias = tuple[str, str, Any]  # a schema's path, the URI its references are relative to, itself
SIZE = 10_000  # of what may be read: a oneOf or an if says its ways several times
DEPTH = 100  # of nesting; llguidance's JSON reader stops at 128
REMAINDERS = (
    100_000  # that multipleOf may tell apart: each is a state of the lexer, which no limit of llguidance's counts
)
DRAFTS = re.compile(r"https?://json-schema\.org/(?:draft-0?|draft/)?([4-7]|2019|2020)?(?:-09|-12)?/?schema#?")
SUB = ("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
       "unevaluatedItems", "unevaluatedProperties")  # fmt: skip
SUBS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
NAMED = ("$defs", "definitions", "properties", "patternProperties", "dependentSchemas", "dependencies")
IN_PLACE = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies")
# llguidance's own are looser: it knows no leap years, and leap seconds at any time of day
DATE = (
    r"(?:(?:[1-9]\d{3}|0[1-9]\d\d|00[1-9]\d|000[1-9])-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-"
    r"(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))|(?:\d\d(?:0[48]|[2468][048]|[13579][26])|"
    r"(?:0[48]|[2468][048]|[13579][26])00)-02-29)"
)
TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
FORMATS: dict[str, JsonObject] = {
    "date": {"pattern": f"^{DATE}$"},
    "time": {"pattern": f"^{TIME}$"},
    "date-time": {"pattern": f"^{DATE}[Tt]{TIME}$"},
    # no label in punycode, whose hyphens stand side by side, and none cut by the length of the whole
    "hostname": {"format": "hostname", "maxLength": 253, "pattern": "^[^-]+(?:-[^-]+)*$"},
    "email": {"format": "email", "pattern": "^[^@]{1,64}@[^@]{1,253}$"},
    **{name: {"format": name} for name in ("duration", "ipv4", "ipv6", "uuid", "uri")},
}
# Those of the standard that no grammar here knows; any other name is an annotation, as "int32" is
UNKNOWN_FORMATS = frozenset(
    "regex uri-reference uri-template iri iri-reference idn-email idn-hostname json-pointer relative-json-pointer".split()
)


class SchemaError(ValueError):
    """What of a schema cannot be kept to: a keyword, or "" for the whole, and the JSON pointer of where it stands."""

    def __init__(self, keyword: str, path: str, why: str, whose: str = "") -> None:
        super().__init__(
            ": ".join(part for part in (whose, f"{keyword} at {path or '#'}" if keyword else path, why) if part)
        )
        self.keyword, self.path, self.why, self.whose = keyword, path or "#", why, whose

    def of(self, whose: str) -> "SchemaError":
        """The same, its message begun with whose schema it is."""
        return SchemaError(self.keyword, self.path, self.why, whose)


@dataclass(frozen=True)
class Enforceable:
    """A schema that llguidance enforces exactly, where each of its definitions came from, and what was left out."""

    schema: dict[str, Any]
    places: Mapping[str, str]
    dropped: tuple[str, ...]


def enforceable(schema: JsonObject) -> Enforceable:
    """The schema as a grammar can keep it.

    "x-guidance": {"lenient": true} in it leaves out what cannot be kept, {"coerce_one_of": true} reads oneOf as anyOf.
    """
    if too_large := excess(schema):
        raise SchemaError("", "#", f"the schema is too large: {too_large}")
    return _Reader(schema).read()


def is_lenient(schema: JsonObject) -> bool:
    asked = schema.get("x-guidance")
    return isinstance(asked, Mapping) and asked.get("lenient") is True


@dataclass
class _Place:
    """A schema being read: where it stands, the URI that its references are relative to, what is said of it so far."""

    path: str
    base: str
    given: Mapping[str, Any]
    out: dict[str, Any] = field(default_factory=dict)
    more: list[Node] = field(default_factory=list)  # further schemas that must hold, too


class _Reader:
    def __init__(self, root: JsonObject) -> None:
        self.root = root
        asked = root.get("x-guidance", {})
        if not isinstance(asked, Mapping) or not asked.keys() <= {"lenient", "coerce_one_of"}:
            raise SchemaError("x-guidance", "#", 'it may hold "lenient" and "coerce_one_of", and nothing else')
        self.lenient = is_lenient(root)
        self.coerce_one_of = asked.get("coerce_one_of") is True
        declared = root.get("$schema")
        draft = DRAFTS.fullmatch(declared) if isinstance(declared, str) else None
        if declared is not None and not draft and not self.lenient:
            raise SchemaError("$schema", "#", f"{short(declared)} is no draft from 4 to 2020-12")
        self.draft = int(draft[1]) if draft and draft[1] else 2020
        self.dropped: list[str] = []
        self.names: dict[str, str] = {}  # of definitions, by where their schemas stand
        self.definitions: dict[str, Node] = {}
        self.pending: list[_Found] = []
        self.choices: list[tuple[_Place, list[Any], dict[str, Any]]] = []
        self.found: dict[str, _Found] = {}  # by path and by URI
        self.bases: dict[int, str] = {}  # by the identity of a schema, which the root keeps alive
        self.dynamic: dict[str, int] = {}  # how many dynamic anchors have a name
        self.size = 0
        self.multiples = 1
        self._index(root, "#", "", 0)

    def read(self) -> Enforceable:
        root = self._reference(self.found["#"])
        while self.pending or self.choices:
            if self.pending:
                path, base, schema = self.pending.pop()
                self.definitions[self.names[path]] = self._schema(schema, path, base)
            else:
                self._choose(*self.choices.pop())
        places = {name: path for path, name in self.names.items()}
        return Enforceable({**root, "$defs": self.definitions}, places, tuple(dict.fromkeys(self.dropped)))

    # Finding

    def _index(self, schema: Any, path: str, base: str, depth: int) -> None:
        """Note every place that a reference may lead to."""
        if depth > DEPTH:
            raise SchemaError("", path[:60], f"the schema is nested more than {DEPTH} deep")
        if not isinstance(schema, Mapping):
            self.found[path] = (path, base, schema)
            return
        own = schema.get("$id")
        if isinstance(own, str) and not own.startswith("#") and not (self.draft < 2019 and "$ref" in schema):
            base = _join(base, own).removesuffix("#")
            self.found.setdefault(base, (path, base, schema))
        self.found[path] = (path, base, schema)
        self.bases[id(schema)] = base
        for key in ("$anchor", "$dynamicAnchor", "$id"):
            name = schema.get(key)
            if isinstance(name, str) and (key != "$id" or name.startswith("#")):
                self.found.setdefault(f"{base}#{name.removeprefix('#')}", (path, base, schema))
        if isinstance(name := schema.get("$dynamicAnchor"), str):
            self.dynamic[name] = self.dynamic.get(name, 0) + 1
        for steps, each in _subschemas(schema):
            self._index(each, _below(path, *steps), base, depth + 1)

    def _resolve(self, reference: str, base: str) -> _Found | None:
        uri, fragment = urldefrag(_join(base, reference))
        start = self.found.get(uri or "#")
        if not start or not fragment:
            return start
        if fragment.startswith("/"):
            return self.found.get(start[0] + unquote(fragment))
        return self.found.get(f"{uri}#{fragment}")

    def _reference(self, to: _Found) -> dict[str, Any]:
        if to[0] not in self.names:
            self.names[to[0]] = str(len(self.names))
            self.pending.append(to)
        return {"$ref": f"#/$defs/{self.names[to[0]]}"}

    # Reading

    def _schema(self, schema: Any, path: str, base: str) -> Node:
        self.size += 1
        if self.size > SIZE:
            raise SchemaError(
                "", "#", f"the schema is too large: more than {SIZE} schemas, once its conditions are spelt out"
            )
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            self._give_up(SchemaError("", path, f"a schema is an object or a boolean, not {short(schema)}"))
            return True
        if self.draft < 2019 and "$ref" in schema:
            schema = {"$ref": schema["$ref"]}  # what stands beside it is ignored
        place = _Place(path, self.bases.get(id(schema), base), schema)
        for keyword in schema:
            if reader := READERS.get(keyword):
                try:
                    reader(self, place, keyword, schema[keyword])
                except SchemaError:
                    raise
                except ValueError as error:
                    self._give_up(SchemaError(keyword, path, str(error)))
        if place.more:
            place.out["allOf"] = place.more
        return place.out

    def _give_up(self, error: SchemaError) -> None:
        if not self.lenient:
            raise error
        self.dropped.append(str(error))

    def _within(self, place: _Place, *steps: Any) -> Node:
        schema: Any = place.given
        for step in steps:
            schema = schema[step]
        return self._schema(schema, _below(place.path, *steps), place.base)

    def _also(self, place: _Place, schema: Any) -> None:
        """What follows from keywords that are not kept themselves, said as a schema of its own."""
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
        number = as_number(value)
        limit = min(number, BOUND) if keyword.endswith("aximum") else max(number, -BOUND)
        if abs(limit) > BOUND:
            raise ValueError(f"{short(value)} is beyond 2^53, up to where a grammar can keep to a bound")
        if limit == number:
            place.out[keyword] = value
        else:
            place.more.append({"maximum" if keyword.endswith("aximum") else "minimum": limit})

    def multiple(self, place: _Place, keyword: str, value: Any) -> None:
        if not 0 < as_number(value) <= BOUND:
            raise ValueError(f"it must be above 0 and not beyond 2^53, not {short(value)}")
        together = math.lcm(
            self.multiples, without_point(value)
        )  # they may meet in one number, by allOf or a reference
        if together > REMAINDERS:
            others = " with the others of this schema" if self.multiples > 1 else ""
            why = f"a grammar would tell {together} remainders apart for {short(value)}{others}"
            raise ValueError(f"{why}; it may be {REMAINDERS} at most")
        self.multiples = together
        place.out[keyword] = value

    def count(self, place: _Place, keyword: str, value: Any) -> None:
        number = as_number(value)
        if number < 0 or number != int(number):
            raise ValueError(f"it must be 0 or a whole number above, not {short(value)}")
        if keyword == "minProperties":
            # of keys that are not declared, one may come twice, and JSON's readers take the later one
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
        place.out[keyword] = rust_pattern(as_text(value))

    def format(self, place: _Place, keyword: str, value: Any) -> None:
        name, kinds = as_text(value), place.given.get("type", "string")
        if kinds != "string" and not (isinstance(kinds, list) and "string" in kinds):
            return
        if name in UNKNOWN_FORMATS:
            raise ValueError(f"{name!r} is not known here; known are {', '.join(FORMATS)}")
        if name in FORMATS:
            place.more.append(dict(FORMATS[name]))

    def properties(self, place: _Place, keyword: str, value: Any) -> None:
        check_value(list(as_mapping(value)))
        said = {name: self._within(place, keyword, name) for name in value}
        if keyword == "patternProperties":
            said = {rust_pattern(name): each for name, each in said.items()}
        place.out[keyword] = said

    def required(self, place: _Place, keyword: str, value: Any) -> None:
        place.out[keyword] = as_names(value)

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
        """A list of schemas is how drafts before 2020-12 say prefixItems, and additionalItems how they say items."""
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
        """Settle a oneOf once its definitions are read: its ways exclude each other, or are made to."""
        ways = choice["anyOf"]
        if all(disjoint(a, b, self.definitions) for n, a in enumerate(ways) for b in ways[:n]):
            return
        opposites = [negation(way) for way in given]
        if None not in opposites:
            only = [{"allOf": [way, *opposites[:n], *opposites[n + 1 :]]} for n, way in enumerate(given)]
            choice["anyOf"] = [self._schema(way, place.path, place.base) for way in only]
        elif not self.coerce_one_of:
            why = "a grammar cannot tell whether more than one of them fits; write anyOf, or give each its own const"
            self._give_up(SchemaError("oneOf", place.path, why))

    def ref(self, place: _Place, keyword: str, value: Any) -> None:
        target = self._resolve(as_text(value), place.base)
        if target is None:
            raise ValueError(f"{short(value)} leads to no schema in this one, and none is fetched")
        if keyword == "$dynamicRef" and self.dynamic.get(value.partition("#")[2], 0) > 1:
            raise ValueError("which of several anchors it means depends on the way there")
        if "$ref" in place.out:
            place.more.append(self._reference(target))
        else:
            place.out |= self._reference(target)

    def inverse(self, place: _Place, keyword: str, value: Any) -> None:
        opposite = negation(value)
        if opposite is None:
            raise ValueError("a grammar says what may come, not what may not; say what is allowed instead")
        self._also(place, opposite)

    def condition(self, place: _Place, keyword: str, value: Any) -> None:
        if not place.given.keys() & {"then", "else"}:
            return
        opposite = negation(value)
        if opposite is None:
            raise ValueError("what does not fit its schema cannot be said in a grammar; write anyOf instead")
        fits = {"allOf": [value, place.given.get("then", True)]}
        self._also(place, {"anyOf": [fits, {"allOf": [opposite, place.given.get("else", True)]}]})

    def unique(self, place: _Place, keyword: str, value: Any) -> None:
        if value is not False and place.given.get("maxItems") not in (0, 1):
            raise ValueError("a grammar cannot compare items")

    def contains(self, place: _Place, keyword: str, value: Any) -> None:
        least = place.given.get("minContains") if self.draft >= 2019 else None
        if least != 0 or "maxContains" in place.given:
            raise ValueError("a grammar cannot count the items that fit it; say with items what each is")

    def names_of(self, place: _Place, keyword: str, value: Any) -> None:
        """Names that are listed, or that follow a pattern: any other property is closed off."""
        if value is False:
            return self._also(place, {"maxProperties": 0})
        said = {} if value is True else {key: each for key, each in as_mapping(value).items() if key in READERS}
        if said.get("type") == "string":
            del said["type"]
        match said:
            case {"enum": list(names), **rest} if not rest:
                self._also(place, {"properties": dict.fromkeys(as_names(names), True), "additionalProperties": False})
            case {"const": str(name), **rest} if not rest:
                self._also(place, {"properties": {name: True}, "additionalProperties": False})
            case {"pattern": str(pattern), **rest} if not rest:
                self._also(place, {"patternProperties": {pattern: True}, "additionalProperties": False})
            case rest if rest:
                raise ValueError("of names only enum, const and pattern can be kept to")

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
            raise ValueError("what other schemas leave over cannot be told; use additionalProperties or items")
        if keyword == "unevaluatedProperties":
            if "additionalProperties" not in place.given:
                place.out["additionalProperties"] = self._within(place, keyword)
        elif "items" not in place.given or (
            isinstance(place.given["items"], list) and "additionalItems" not in place.given
        ):
            place.out["items"] = self._within(place, keyword)

    def refused(self, place: _Place, keyword: str, value: Any) -> None:
        raise ValueError("what it means depends on the way there")


READERS: dict[str, Callable[[_Reader, _Place, str, Any], None]] = {
    "type": _Reader.type,
    **dict.fromkeys(("enum", "const"), _Reader.values),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _Reader.bound),
    "multipleOf": _Reader.multiple,
    **dict.fromkeys("minLength maxLength minItems maxItems minProperties maxProperties".split(), _Reader.count),
    "pattern": _Reader.pattern,
    "format": _Reader.format,
    **dict.fromkeys(("properties", "patternProperties"), _Reader.properties),
    "required": _Reader.required,
    "additionalProperties": _Reader.one,
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
    "propertyNames": _Reader.names_of,
    **dict.fromkeys(("dependentRequired", "dependentSchemas", "dependencies"), _Reader.dependent),
    **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems"), _Reader.unevaluated),
    "$recursiveRef": _Reader.refused,
}


def _subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[object, ...], Any]]:
    for key in SUB:
        if isinstance(each := schema.get(key), Mapping | bool):
            yield (key,), each
    for key in SUBS:
        if isinstance(found := schema.get(key), list):
            yield from (((key, number), each) for number, each in enumerate(found))
    for key in NAMED:
        if isinstance(found := schema.get(key), Mapping):
            yield from (((key, name), each) for name, each in found.items() if not isinstance(each, list))


def _below(path: str, *steps: object) -> str:
    return "/".join((path, *(str(step).replace("~", "~0").replace("/", "~1") for step in steps)))


def _join(base: str, reference: str) -> str:
    # urljoin drops the base of a URN
    return base + reference if reference.startswith("#") else urljoin(base, reference)
