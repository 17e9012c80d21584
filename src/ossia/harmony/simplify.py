"""Rewrites a tool's parameters into forms that gpt-oss was trained to read.

In: a JSON schema of any draft. Out: one in the forms that `schema.typescript` renders. References are inlined, `allOf`
is merged, `anyOf` becomes a union, constants become literals, typed `additionalProperties` an index signature. A
schema that the reference renders without loss is unchanged, so its text stays equal to the reference's.

The size is bounded: a definition that is too large to repeat, or that contains itself, is shown once under its name,
and by name elsewhere. The grammar enforces the caller's schema; this one is only for the prompt.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ossia.harmony.dialect import canonical, object_schema
from ossia.harmony.enforce.errors import SchemaError
from ossia.harmony.enforce.references import References
from ossia.harmony.merge import CHOICES, MORE_CHOICES, as_types, merged, names_in, properties_of
from ossia.harmony.messages import JsonObject
from ossia.harmony.schema import compact_json, typescript

Schema = Mapping[str, Any]
INLINED = 1_000  # the most schemas that may be shown with every reference inlined
MAX_SCHEMAS = 10_000  # the most schemas that may be shown; others are shown by their type
WORDS = 200  # the most characters of a definition that may be repeated
DEPTH = 100
FULL_DEPTH = 32  # the depth to which definitions are shown in full, each once
REMARKS = frozenset("title description default examples".split())
OBJECT = frozenset(
    "properties required additionalProperties patternProperties propertyNames unevaluatedProperties".split()
)
ARRAY = frozenset("items prefixItems additionalItems".split())
SHOWN = frozenset({"type", "enum", "const", "$ref", "allOf", *CHOICES, *OBJECT - {"required"}, *ARRAY})
TYPED = frozenset({"type", "$ref", "allOf", *CHOICES})  # keywords that give a schema a type
STRINGS = frozenset("pattern minLength maxLength".split())
NUMBER_FORMATS = frozenset("int32 int64 float double".split())
NUMBERS = frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split())
LITERAL_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", list: "array"}


def simplified(parameters: JsonObject) -> dict[str, Any]:
    """The schema of a tool's parameters as the prompt shows it."""
    try:
        root = canonical(object_schema(parameters), nullable=True)
        references = References(root, 2020)
    except SchemaError:  # nested too deep: the grammar refuses it with the reason
        return {**_remarks(parameters), "type": "object"}
    except ValueError:  # not an object
        return dict(parameters)
    once, named = False, frozenset[str]()
    while True:
        attempt = _Simplifier(references, named, once)
        try:
            found = attempt.root(root)
        except _TooLargeError:
            once = True
            continue
        if attempt.mentioned <= named:
            return found
        named |= attempt.mentioned


class _TooLargeError(Exception):
    """The schema is too large with every reference inlined."""


class _Found(NamedTuple):
    """The parts of a schema, the places of the definitions among them, and the names of omitted ones.

    within: the places on the path to the current part.
    """

    parts: list[Schema]
    entered: list[str]
    names: list[str]
    within: list[str]


class _Simplifier:
    """One pass. named: places of definitions that are shown by name, so their names must be shown too.

    once: show each definition in full only once, unless it is short.
    """

    def __init__(self, references: References, named: frozenset[str], once: bool) -> None:
        self._references, self._named, self._once = references, named, once
        self.mentioned: set[str] = set()
        self._open: list[str] = ["#"]
        self._told: dict[str, dict[str, Any] | None] = {}  # by place: the definition, if it is short
        self._with_null: dict[int, tuple[Schema, bool]] = {}  # by id(schema); holds the schema, so the id stays valid
        self._size = self._depth = 0

    def root(self, root: Schema) -> dict[str, Any]:
        whole = self._whole(root, entered := [])
        self._open += entered
        whole.pop("nullable", None)
        while isinstance(ways := whole.get("anyOf"), list) and (one := self._one_object(whole, ways)):
            whole = one
        found = self._simple(whole)
        if "#" in self._named:
            found = _with_name(found, self._name("#"))
        return found if "oneOf" in found or found.get("type") == "object" else {**found, "type": "object"}

    def simple(self, schema: Any) -> dict[str, Any]:
        """A schema in the renderer's forms; {} for any value."""
        if not isinstance(schema, Mapping):
            return {}
        self._size += 1
        if self._size > MAX_SCHEMAS or self._depth > DEPTH:
            return _shallow(schema)
        whole = self._whole(schema, entered := [])
        self._size += _weight(whole)
        if self._size > INLINED and not self._once:
            raise _TooLargeError
        self._open += entered
        self._depth += 1
        if whole.get("nullable") is True:
            del whole["nullable"]
            found = self._or_null(self._simple(whole))
        else:
            found = self._simple(whole)
        self._depth -= 1
        del self._open[len(self._open) - len(entered) :]
        if self._once:
            self._told |= {place: self._short(place, found) for place in entered}
        return found

    def _short(self, place: str, found: Schema) -> dict[str, Any] | None:
        """A short definition, with its own remarks; None for a longer one."""
        words = _words(found)
        if words is None or sum(map(len, words)) > WORDS:
            return None
        own = self._references.found[place][2]
        return {**(_remarks(own) if isinstance(own, Mapping) else {}), "type": words}

    # References and allOf

    def _whole(self, schema: Schema, entered: list[str]) -> dict[str, Any]:
        """The schema with references followed and allOf merged. entered: the places that it came from."""
        if "$ref" not in schema and "$dynamicRef" not in schema and "allOf" not in schema:
            return merged([schema]) if schema.keys() & {"if", "dependentSchemas"} else dict(schema)
        parts: list[Schema] = []
        names: list[str] = []
        self._collect(schema, _Found(parts, entered, names, []), set())
        whole = merged(parts)
        if names and not any(part.keys() & (SHOWN - {"type"}) for part in parts):
            whole = {**_remarks(whole), "type": names}
        for place in entered:
            if place in self._named:
                whole = _with_name(whole, self._name(place))
        return whole

    def _collect(self, schema: Any, found: "_Found", seen: set[int]) -> None:
        if not isinstance(schema, Mapping) or id(schema) in seen:
            return
        seen.add(id(schema))
        own = {key: value for key, value in schema.items() if key not in ("$ref", "$dynamicRef", "allOf", "$defs")}
        base = self._references.bases.get(id(schema), "")
        if own:
            found.parts.append(own)
        for key in ("$ref", "$dynamicRef"):
            if isinstance(reference := schema.get(key), str) and (target := self._references.resolve(reference, base)):
                self._follow(target[0], target[2], found, seen)
        if isinstance(every := schema.get("allOf"), list):
            for each in every:
                self._collect(each, found, seen)

    def _follow(self, place: str, target: Any, found: "_Found", seen: set[int]) -> None:
        """Add a definition, or its name if it is being shown already."""
        known = self._told.get(place, {}) if self._once else {}
        if known:
            found.parts.append(known)
        elif place in self._open or place in found.within or known is None or self._is_deep(found):
            self.mentioned.add(place)
            found.names.append(self._name(place))
        elif place not in found.entered:
            found.entered.append(place)
            found.within.append(place)
            self._collect(target, found, seen)
            found.within.pop()

    def _is_deep(self, found: "_Found") -> bool:
        return len(found.within) > DEPTH or (self._once and self._depth > FULL_DEPTH)

    def _name(self, place: str) -> str:
        above, _, last = place.rpartition("/")
        found = self._references.found[place][2]
        title = found.get("title") if isinstance(found, Mapping) else None
        if place == "#" or not above.endswith(("defs", "definitions", "schemas")):
            last = title if isinstance(title, str) and title else "Parameters" if place == "#" else last
        return re.sub(r"\W+", "_", last.replace("~1", "/").replace("~0", "~")) or "Value"

    # Forms

    def _simple(self, schema: dict[str, Any]) -> dict[str, Any]:
        for keyword in CHOICES:
            ways = schema.get(keyword)
            if not isinstance(ways, list):
                schema = {key: value for key, value in schema.items() if key != keyword}
            else:
                rest = {key: value for key, value in schema.items() if key != keyword}
                if not any(_tells(way) for way in ways) and (keyword == "anyOf" or _tells(rest) or not ways):
                    return self._simple(rest)
                return self._choice(keyword, ways, rest)
        schema.pop(MORE_CHOICES, None)
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        kind = schema.get("type")
        if isinstance(values, list) and values:
            return self._literals(schema, values)
        if isinstance(kind, list):
            return self._several_types(schema, kind)
        match kind or _implied_type(schema):
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case "null":
                return {**schema, "type": ["null"]}
            case None:
                return schema
            case name:
                return {**schema, "type": name}

    def _choice(self, keyword: str, ways: Sequence[Any], rest: dict[str, Any]) -> dict[str, Any]:
        """One of several schemas. The surrounding schema applies to each."""
        more = rest.pop(MORE_CHOICES, [])
        more += [{key: rest.pop(key)} for key in CHOICES if isinstance(rest.get(key), list)]
        shape = {key: value for key, value in rest.items() if key not in REMARKS}
        outer = {key: value for key, value in rest.items() if key in REMARKS}
        shared = bool(shape.keys() & (SHOWN - {"type", "additionalProperties"})) or bool(more)
        if shared or ("type" in shape and not all(isinstance(way, Mapping) and way.keys() & TYPED for way in ways)):
            found = [self.simple({"allOf": [way, shape, *more]}) for way in ways]
        else:
            found = [self.simple(way) for way in ways]
            if keyword == "oneOf" and found == list(ways):
                return {**rest, "oneOf": found}
        return self._union(found, outer)

    def _union(self, found: Sequence[dict[str, Any]], outer: Schema) -> dict[str, Any]:
        """One of these: on one line if each is short, otherwise on separate lines."""
        ways: list[dict[str, Any]] = []
        for each in found:
            nested = each["oneOf"] if "oneOf" in each and not each.keys() & REMARKS else [each]
            ways += [way for way in nested if _words(way) is None or way not in ways]
        others = [way for way in ways if _words(way) != ["null"]]
        single = others[0] if len(others) == 1 else None
        if not others:
            return {**outer, "type": ["null"]}
        if any(_words(way) == ["any"] for way in others) and len(others) == 1:
            return {**others[0], **outer}
        if single is not None and len(ways) == 1:
            return {**single, **outer}
        words = [_words(way) for way in ways]
        remarks = any(way.keys() & {"description", "default"} for way in others)
        if all(each is not None for each in words) and (single or not remarks):
            kept = {key: value for key, value in (single or {}).items() if key in REMARKS or key == "enum"}
            return {**kept, **outer, "type": list(dict.fromkeys(word for each in words for word in each or ()))}
        if single is not None and "oneOf" not in single and not self._says_null(single):
            return {**single, **outer, "nullable": True}
        return {**outer, "oneOf": ways}

    def _or_null(self, found: dict[str, Any]) -> dict[str, Any]:
        """The schema, or null: with `nullable` if the renderer shows it."""
        words = _words(found)
        if words is not None:
            if "null" in words:
                return found
            if "null" in typescript(found):
                return {**found, "type": [*words, "null"]}
        elif "oneOf" in found or self._says_null(found):
            ways = found.get("oneOf", [found])
            return {**_remarks(found), "oneOf": [*ways, {"type": ["null"]}]}
        return {**found, "nullable": True}

    def _says_null(self, schema: Schema) -> bool:
        """Whether its text contains "null". Then the renderer does not add another one."""
        known = self._with_null.get(id(schema))
        if known is None:
            own = {
                key: value
                for key, value in schema.items()
                if key in REMARKS
                or key
                in (
                    "type",
                    "enum",
                )
            }
            inner = [*properties_of(schema).values(), schema.get("items"), *(schema.get("oneOf") or ())]
            said = "null" in f"{own} {list(properties_of(schema))}" or any(
                self._says_null(each) for each in inner if isinstance(each, Mapping)
            )
            known = self._with_null[id(schema)] = schema, said
        return known[1]

    def _literals(self, schema: dict[str, Any], values: list[Any]) -> dict[str, Any]:
        kinds = as_types(schema.get("type"))
        if kinds == ["string"] and "const" not in schema:
            return schema
        fitting = [each for each in values if not kinds or _fits(each, kinds)]
        if not fitting or (kinds == ["boolean"] and len(fitting) == 2):
            rest = {key: value for key, value in schema.items() if key not in ("const", "enum")}
            return self._simple(rest)
        if all(isinstance(each, str) for each in fitting):
            return {**schema, "type": "string", "enum": fitting}
        words = [f'"{each}"' if isinstance(each, str) else compact_json(each) for each in fitting]
        return {**schema, "type": list(dict.fromkeys(words)), "enum": fitting}

    def _several_types(self, schema: dict[str, Any], kinds: list[Any]) -> dict[str, Any]:
        about = {"object": OBJECT & schema.keys(), "array": ARRAY & schema.keys()}
        if not any(about.get(kind) for kind in kinds if isinstance(kind, str)):
            return schema
        inner = {key: value for key, value in schema.items() if key not in REMARKS}
        outer = {key: value for key, value in schema.items() if key in REMARKS}
        return self._union([self.simple({**inner, "type": kind}) for kind in kinds if isinstance(kind, str)], outer)

    def _object(self, schema: dict[str, Any]) -> dict[str, Any]:
        fields = {name: self.simple(each) for name, each in properties_of(schema).items() if each is not False}
        required = schema.get("required")
        if signature := self._signature(schema):
            fields |= signature
            required = [*names_in(schema), *signature]
        out = {**schema, "type": "object"}
        if fields or "properties" in schema:
            out["properties"] = fields
        return out if required is None else {**out, "required": required}

    def _signature(self, schema: Schema) -> dict[str, Any]:
        """The type of other properties: `[key: string]: number`."""
        patterns = schema.get("patternProperties")
        given = [*patterns.values()] if isinstance(patterns, Mapping) else []
        given += [schema[key] for key in ("additionalProperties", "unevaluatedProperties") if key in schema]
        found = [self.simple(each) for each in given if isinstance(each, Mapping)]
        found = [each for each in found if _words(each) != ["any"] or each.keys() & REMARKS]
        if not found:
            return {}
        names = schema.get("propertyNames")
        words = _words(self.simple(names)) if isinstance(names, Mapping) else None
        label = f"[key in {' | '.join(words)}]" if words and words[0].startswith('"') else "[key: string]"
        return {label: self._union(found, {})}

    def _array(self, schema: dict[str, Any]) -> dict[str, Any]:
        items, prefix = schema.get("items"), schema.get("prefixItems")
        schema = {**schema, "type": "array"}
        if isinstance(items, list):
            items, prefix = schema.get("additionalItems"), items
        if isinstance(prefix, list) and prefix:
            return self._tuple(schema, [self.simple(each) for each in prefix], items)
        if not isinstance(items, Mapping):
            return schema
        found = self.simple(items)
        words = _words(found)
        if words is None and found.get("nullable"):  # the renderer does not show it for items
            return {**schema, "items": {"oneOf": [{**found, "nullable": False}, {"type": ["null"]}]}}
        as_given = found == items or found.get("type") == "string"
        if words is None or len(words) == 1 or (as_given and not found.get("nullable")):
            return {**schema, "items": found}
        return {**_remarks(schema), "type": [f"({' | '.join(words)})[]"]}

    def _tuple(self, schema: Schema, parts: list[dict[str, Any]], rest: Any) -> dict[str, Any]:
        more = [self.simple(rest)] if isinstance(rest, Mapping) and rest else []
        words = [_words(each) for each in (*parts, *more)]
        if any(each is None for each in words):
            return {**_remarks(schema), "type": "array", "items": self._union([*parts, *more], {})}
        said = [" | ".join(each or ()) for each in words]
        if more:
            said[-1] = f"...{_array_of(words[-1] or [])}"
        return {**_remarks(schema), "type": [f"[{', '.join(said)}]"]}

    def _one_object(self, whole: dict[str, Any], ways: Sequence[Any]) -> dict[str, Any] | None:
        """Parameters that are one of several objects without a distinguishing property: as one object, in which only
        the common properties are required. None if they stay a choice.
        """
        found = [self._whole(way, []) for way in ways if isinstance(way, Mapping)]
        objects = [each for each in found if each.get("type", "object") == "object" and not each.keys() & {*CHOICES}]
        if len(objects) < len(ways) or not ways or _tell_apart(objects):
            return None
        said: dict[str, list[Any]] = {}
        for name, schema in (pair for each in objects for pair in properties_of(each).items()):
            said.setdefault(name, []).append(schema)
        fields = {
            name: each[0] if all(one == each[0] for one in each) else {"anyOf": each} for name, each in said.items()
        }
        needed = [name for name in names_in(objects[0]) if all(name in names_in(each) for each in objects)]
        rest = {key: value for key, value in whole.items() if key != "anyOf"}
        extra = [
            each["additionalProperties"] for each in objects if isinstance(each.get("additionalProperties"), Mapping)
        ]
        also = {"additionalProperties": {"anyOf": extra}} if extra else {}
        return self._whole({"allOf": [rest, {"properties": fields, "required": needed, **also}]}, [])


def _tell_apart(objects: Sequence[Schema]) -> bool:
    """Whether a property has a different constant in each object."""
    for name in properties_of(objects[0]):
        each = [properties_of(one).get(name) for one in objects]
        values = [_constant(one) for one in each]
        if None not in values and len(set(values)) == len(values) > 1:
            return True
    return False


def _tells(schema: Any) -> bool:
    """Whether a schema adds more than a condition on another one."""
    return isinstance(schema, Mapping) and bool(schema.keys() & SHOWN)


def _constant(schema: Any) -> str | None:
    if not isinstance(schema, Mapping):
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return compact_json(values[0]) if isinstance(values, list) and len(values) == 1 else None


def _with_name(schema: dict[str, Any], name: str) -> dict[str, Any]:
    described = schema.get("description")
    out = {**schema, "description": f"{name}: {described}" if isinstance(described, str) else name}
    return {key: value for key, value in out.items() if key != "title"} if schema.get("title") == name else out


def _remarks(schema: Schema) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key in REMARKS}


def _shallow(schema: Schema) -> dict[str, Any]:
    """A schema's type and remarks only."""
    kind = schema.get("type")
    plain = {"type": kind} if isinstance(kind, str) else {}
    return {**_remarks(schema), **plain}


def _weight(schema: Schema) -> int:
    """The size of a schema's own text, in schemas of typical length."""
    remarks = sum(len(str(schema[key])) for key in REMARKS & schema.keys())
    values = schema.get("enum")
    return remarks // 500 + (len(values) // 10 if isinstance(values, list) else 0)


def _implied_type(schema: Schema) -> str | None:
    """The type that the keywords of an untyped schema imply."""
    if isinstance(form := schema.get("format"), str):
        return "number" if form in NUMBER_FORMATS else "string"
    for kind, keywords in (("object", OBJECT), ("array", ARRAY), ("string", STRINGS), ("number", NUMBERS)):
        if schema.keys() & keywords:
            return kind
    return None


def _fits(value: Any, kinds: Sequence[str]) -> bool:
    kind = LITERAL_TYPES.get(type(value), "object")
    whole = isinstance(value, float) and value.is_integer()
    return kind in kinds or (kind == "integer" and "number" in kinds) or (whole and "integer" in kinds)


def _words(schema: Schema) -> list[str] | None:
    """A schema on one line, one string per alternative; None if it needs several lines."""
    if schema.get("nullable") is True:
        words = _words({**schema, "nullable": False})
        return words if words is None or "null" in words else [*words, "null"]
    if "oneOf" in schema:
        return None
    match schema.get("type"):
        case list() as kinds:
            return ["number" if kind == "integer" else kind for kind in kinds if isinstance(kind, str)]
        case "object":
            return None
        case "array":
            if "items" not in schema:
                return ["Array<any>"]
            items = schema["items"]
            words = _words(items) if isinstance(items, Mapping) else ["any"]
            return None if words is None else [_array_of(words)]
        case "string" if isinstance(schema.get("enum"), list):
            return typescript(schema).split(" | ")
        case _:
            return [typescript(schema)]


def _array_of(words: Sequence[str]) -> str:
    return f"{words[0]}[]" if len(words) == 1 else f"({' | '.join(words)})[]"
