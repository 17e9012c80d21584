"""A schema by the types of its values, with `allOf`, `anyOf`, `enum` and references worked out.

In: the schema from `reader`. Out: `Shapes`. Its `root` and `named` hold `Shape`s: unions of nulls, booleans, numbers,
strings, arrays, objects and names. A function decides whether a language is empty.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from ossia.harmony.enforce.language import (
    ANY_CHARACTER,
    ANYTHING,
    Language,
    Not,
    alt,
    both,
    intersections,
    is_surely_empty,
    literal,
    matches,
    repeat,
)
from ossia.harmony.enforce.numbers import Numbers, exact

ALL_NUMBERS = Numbers()
STEPS = 100_000  # the most intersections in one schema
DEPTH = 128
PLACE = "$place"  # the key under which the reader stores a schema's place
CELLS = 200  # the most groups of names that patterns distinguish
QUESTIONS = 400  # the most tests for an empty language, each of which builds an automaton
MEETING = 16  # the most languages that one string must be in


class ShapeError(ValueError):
    """A schema that cannot be worked out: the keyword and its place."""

    def __init__(self, keyword: str, why: str, path: str | None = None) -> None:
        super().__init__(why)
        self.keyword, self.path = keyword, path


@dataclass(frozen=True)
class Null:
    """null."""


@dataclass(frozen=True)
class Booleans:
    """These of true and false."""

    values: frozenset[bool] = frozenset((True, False))


@dataclass(frozen=True)
class Number:
    """Numbers. values: only these, as they are written."""

    numbers: Numbers = ALL_NUMBERS
    values: tuple[Fraction, ...] | None = None


@dataclass(frozen=True)
class String:
    """Strings of a length and of all the languages; `values`: these alone."""

    low: int = 0
    high: int | None = None
    languages: tuple[Language, ...] = ()
    values: tuple[str, ...] | None = None

    def has(self, value: str) -> bool:
        return (
            self.low <= len(value)
            and (self.high is None or len(value) <= self.high)
            and all(matches(each, value) for each in self.languages)
        )

    @property
    def language(self) -> Language:
        if self.values is not None:
            return alt(*map(literal, self.values))
        length = repeat(ANY_CHARACTER, self.low, self.high) if self.low or self.high is not None else ANYTHING
        return both(*self.languages, length)


@dataclass(frozen=True)
class Array:
    """first: items by index. rest: all items after them."""

    first: tuple["Shape", ...]
    rest: "Shape"
    low: int = 0
    high: int | None = None

    def at(self, place: int) -> "Shape":
        return self.first[place] if place < len(self.first) else self.rest


@dataclass(frozen=True)
class Object:
    """declared: properties by name, in order. others: undeclared names by language; the languages are disjoint."""

    declared: tuple[tuple[str, "Shape"], ...] = ()
    others: tuple[tuple[Language, "Shape"], ...] = ()
    required: tuple[str, ...] = ()
    low: int = 0
    high: int | None = None

    def of(self, name: str) -> "Shape":
        for declared, shape in self.declared:
            if declared == name:
                return shape
        return next((shape for names, shape in self.others if matches(names, name)), NOTHING)


@dataclass(frozen=True)
class Named:
    """The shape of a definition."""

    name: str


@dataclass(frozen=True)
class AnyValue:
    """Any JSON value."""


@dataclass(frozen=True)
class Union:
    """Any one of these; empty: no value."""

    ways: tuple["Shape", ...]


Shape: TypeAlias = Null | Booleans | Number | String | Array | Object | Named | AnyValue | Union
ANY, NOTHING = AnyValue(), Union(())
ANY_OBJECT = Object(others=((ANYTHING, ANY),))
ANY_ARRAY = Array((), ANY)
EVERY: dict[str, Shape] = {
    "null": Null(),
    "boolean": Booleans(),
    "number": Number(),
    "string": String(),
    "array": ANY_ARRAY,
    "object": ANY_OBJECT,
}


def union(ways: Iterable[Shape]) -> Shape:
    flat: dict[Shape, None] = {}
    for way in ways:
        flat |= dict.fromkeys(way.ways if isinstance(way, Union) else (way,))
    if ANY in flat:
        return ANY
    return next(iter(flat)) if len(flat) == 1 else Union(tuple(flat))


class Shapes:
    """Works out a schema. is_empty: whether a language has no string that JSON can express."""

    def __init__(self, schema: Mapping[str, Any], is_empty: Callable[[Language], bool]) -> None:
        self._definitions: Mapping[str, Any] = schema["$defs"]
        self._decide, self._decided = is_empty, dict[Language, bool]()
        self._steps = 0
        self._begun: set[str] = set()
        self._places: list[tuple[str | None, Shape]] = []
        self.named: dict[str, Shape] = {}
        for name in self._definitions:
            self._definition(name)
        self.root = Named(schema["$ref"].removeprefix("#/$defs/"))
        self.fitting = self._fitting()

    def is_empty(self, language: Language) -> bool:
        """Whether no string of the language can be written."""
        surely = is_surely_empty(language)
        if surely is not None:
            return surely
        if language not in self._decided:
            if len(self._decided) >= QUESTIONS or intersections(language) > MEETING:
                raise ShapeError("pattern", "too many patterns have to be compared with each other")
            self._decided[language] = self._decide(language)
        return self._decided[language]

    def fits_something(self, shape: Shape) -> bool:
        """Whether a finite value fits it."""
        return _fits(shape, self.fitting, self.is_empty)

    def _fitting(self) -> frozenset[str]:
        found: frozenset[str] = frozenset()
        while True:
            more = frozenset(
                name for name, shape in self.named.items() if name in found or _fits(shape, found, self.is_empty)
            )
            if more == found:
                return found
            found = more

    def _definition(self, name: str) -> Shape:
        if name not in self.named:
            if name in self._begun:
                raise ShapeError("$ref", "it refers to itself beside other keywords")
            self._begun.add(name)
            self.named[name] = self._shape(self._definitions[name])
        return self.named[name]

    # From keywords

    def _shape(self, node: Any) -> Shape:
        if isinstance(node, bool):
            return ANY if node else NOTHING
        try:
            found: Shape = self._typed(node)
            for keyword in ("const", "enum", "$ref", "anyOf", "allOf"):
                if keyword in node:
                    for part in self._applied(keyword, node[keyword]):
                        found = self._meet(found, part)
        except ShapeError as error:
            raise ShapeError(error.keyword, str(error), error.path or node.get(PLACE)) from error
        self._places.append((node.get(PLACE), found))
        return found

    def unfit_place(self) -> str | None:
        """The place of the innermost schema that no value fits."""
        unfit = (place for place, shape in self._places if place and not self.fits_something(shape))
        return next(unfit, None)

    def _applied(self, keyword: str, value: Any) -> list[Shape]:
        match keyword:
            case "const":
                return [_constants([value])]
            case "enum":
                return [_constants(value)]
            case "$ref":
                return [Named(value.removeprefix("#/$defs/"))]
            case "anyOf":
                return [union(map(self._shape, value))]
        return list(map(self._shape, value))

    def _typed(self, node: Mapping[str, Any]) -> Shape:
        kinds = node.get("type", list(EVERY))
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if "number" in kinds:
            kinds = [kind for kind in kinds if kind != "integer"]
        shapes = [self._of_type(kind, node) for kind in kinds]
        if "type" not in node and shapes == list(EVERY.values()):
            return ANY
        return union(shapes)

    def _of_type(self, kind: str, node: Mapping[str, Any]) -> Shape:
        match kind:
            case "number" | "integer":
                return Number(numbers_of(node, kind == "integer"))
            case "string":
                return String(node.get("minLength", 0), node.get("maxLength"), tuple(node.get("pattern", ())))
            case "array":
                first = tuple(map(self._shape, node.get("prefixItems", ())))
                rest = self._shape(node.get("items", True))
                return Array(first, rest, node.get("minItems", 0), node.get("maxItems"))
            case "object":
                return self._object(node)
        return EVERY[kind]

    def _object(self, node: Mapping[str, Any]) -> Shape:
        patterns = [(names, self._shape(each)) for names, each in node.get("patternProperties", ())]
        cells = self._cells(patterns)
        rest = self._shape(node.get("additionalProperties", True))
        allowed = self._names(node["propertyNames"]) if "propertyNames" in node else ANYTHING
        declared = {}
        for name, each in node.get("properties", {}).items():
            shape = self._shape(each)
            for names, other in patterns:
                if matches(names, name):
                    shape = self._meet(shape, other)
            declared[name] = shape if matches(allowed, name) else NOTHING
        cells.append((Not(alt(*(names for names, _ in patterns))) if patterns else ANYTHING, rest))
        others = tuple((both(names, allowed), shape) for names, shape in cells)
        names = tuple(node.get("required", ()))
        return Object(tuple(declared.items()), others, names, node.get("minProperties", 0), node.get("maxProperties"))

    def _names(self, node: Any) -> Language:
        """The names that a schema allows."""
        found: list[Language] = []
        shapes = [self._meet(self._shape(node), String())]
        while shapes:
            match shapes.pop():
                case Union(ways):
                    shapes += ways
                case String() as strings:
                    found.append(strings.language)
                case _:
                    raise AssertionError("what met a string is strings")
        return alt(*found)

    def _cells(self, patterns: list[tuple[Language, Shape]]) -> list[tuple[Language, Shape]]:
        """The names that patterns match, in disjoint groups, with the schemas of their values."""
        cells: list[tuple[Language, Shape]] = []
        for number, (names, shape) in enumerate(patterns):
            found: list[tuple[Language, Shape]] = []
            for cell, before in cells:
                if self.is_empty(inside := both(cell, names)):
                    found.append((cell, before))
                    continue
                found.append((inside, self._meet(before, shape)))
                if not self.is_empty(outside := both(cell, Not(names))):
                    found.append((outside, before))
            earlier = [each for each, _ in patterns[:number] if not is_surely_empty(both(names, each))]
            if not self.is_empty(new := both(names, Not(alt(*earlier))) if earlier else names):
                found.append((new, shape))
            cells = found
            if len(cells) > CELLS:
                raise ShapeError("patternProperties", f"its patterns distinguish more than {CELLS} groups of names")
        return cells

    # Intersections

    def _meet(self, one: Shape, other: Shape, depth: int = 0) -> Shape:
        self._steps += 1
        if self._steps > STEPS or depth > DEPTH:
            raise ShapeError("allOf", "schemas that must hold together are too many or too deep to work out")
        match one, other:
            case (AnyValue(), shape) | (shape, AnyValue()):
                return shape
            case Named(), Named() if one == other:
                return one
            case Named(), Named():
                return self._meet_names(one, other, depth)
            case (Named(name), shape):
                return self._meet(self._definition(name), shape, depth + 1)
            case (shape, Named(name)):
                return self._meet(shape, self._definition(name), depth + 1)
            case Union(ways), _:
                return union(self._meet(way, other, depth + 1) for way in ways)
            case _, Union(ways):
                return union(self._meet(one, way, depth + 1) for way in ways)
            case Booleans(), Booleans():
                return Booleans(values) if (values := one.values & other.values) else NOTHING
            case Number(), Number():
                return _meet_numbers(one, other)
            case String(), String():
                return _meet_strings(one, other)
            case Array(), Array():
                return self._meet_arrays(one, other, depth)
            case Object(), Object():
                return self._meet_objects(one, other, depth)
        return one if one == other else NOTHING

    def _meet_names(self, one: Named, other: Named, depth: int) -> Shape:
        """The intersection of definitions is a definition too, so that recursive definitions terminate."""
        name = "&".join(sorted((one.name, other.name)))
        if name not in self._begun:
            self._begun.add(name)
            self.named[name] = self._meet(self._definition(one.name), self._definition(other.name), depth + 1)
        return Named(name)

    def _meet_arrays(self, one: Array, other: Array, depth: int) -> Shape:
        length = max(len(one.first), len(other.first))
        first = tuple(self._meet(one.at(place), other.at(place), depth + 1) for place in range(length))
        rest = self._meet(one.rest, other.rest, depth + 1)
        return Array(first, rest, max(one.low, other.low), _least(one.high, other.high))

    def _meet_objects(self, one: Object, other: Object, depth: int) -> Shape:
        names = dict.fromkeys([name for each in (one, other) for name, _ in each.declared])
        declared = tuple((name, self._meet(one.of(name), other.of(name), depth + 1)) for name in names)
        others: list[tuple[Language, Shape]] = []
        for ours, shape in one.others:
            for theirs, their_shape in other.others:
                both_names = both(ours, theirs)
                if ours in (ANYTHING, theirs) or theirs == ANYTHING or not self.is_empty(both_names):
                    others.append((both_names, self._meet(shape, their_shape, depth + 1)))
        if len(others) > CELLS:
            raise ShapeError("patternProperties", f"its patterns distinguish more than {CELLS} groups of names")
        required = tuple(dict.fromkeys((*one.required, *other.required)))
        return Object(declared, tuple(others), required, max(one.low, other.low), _least(one.high, other.high))


def numbers_of(node: Mapping[str, Any], whole: bool) -> Numbers:
    """The bounds and the multiple of a schema."""
    found = Numbers(whole=whole)
    for keyword in ("minimum", "exclusiveMinimum"):
        if keyword in node:
            found = found.meet(Numbers(low=exact(node[keyword]), low_open=keyword != "minimum"))
    for keyword in ("maximum", "exclusiveMaximum"):
        if keyword in node:
            found = found.meet(Numbers(high=exact(node[keyword]), high_open=keyword != "maximum"))
    return found.meet(Numbers(multiple=exact(node["multipleOf"]))) if "multipleOf" in node else found


def _constants(values: Iterable[Any]) -> Shape:
    numbers: list[Fraction] = []
    strings: list[str] = []
    ways: list[Shape] = []
    for value in values:
        match value:
            case None:
                ways.append(Null())
            case bool():
                ways.append(Booleans(frozenset((value,))))
            case int() | float():
                numbers.append(exact(value))
            case str():
                strings.append(value)
            case list():
                ways.append(Array(tuple(_constants([each]) for each in value), NOTHING, len(value), len(value)))
            case Mapping():
                declared = tuple((name, _constants([each])) for name, each in value.items())
                ways.append(Object(declared, (), tuple(value)))
    if numbers:
        ways.append(Number(values=tuple(dict.fromkeys(numbers))))
    if strings:
        ways.append(String(values=tuple(dict.fromkeys(strings))))
    return union(ways)


def _meet_numbers(one: Number, other: Number) -> Shape:
    if one.values is None and other.values is None:
        return Number(one.numbers.meet(other.numbers))
    values = one.values if one.values is not None else other.values or ()
    kept = tuple(
        value
        for value in values
        if all(each.numbers.has(value) and (each.values is None or value in each.values) for each in (one, other))
    )
    return Number(values=kept) if kept else NOTHING


def _meet_strings(one: String, other: String) -> Shape:
    if one.values is None and other.values is None:
        languages = tuple(dict.fromkeys((*one.languages, *other.languages)))
        return String(max(one.low, other.low), _least(one.high, other.high), languages)
    values = one.values if one.values is not None else other.values or ()
    kept = tuple(
        value
        for value in values
        if all(each.has(value) and (each.values is None or value in each.values) for each in (one, other))
    )
    return String(values=kept) if kept else NOTHING


def _least(one: int | None, other: int | None) -> int | None:
    return min(one, other) if one is not None and other is not None else one if other is None else other


def _fits(shape: Shape, fitting: frozenset[str], is_empty: Callable[[Language], bool]) -> bool:
    """Whether a value fits, given the definitions that are known to have one."""
    match shape:
        case AnyValue() | Null():
            return True
        case Booleans(values):
            return bool(values)
        case Named(name):
            return name in fitting
        case Union(ways):
            return any(_fits(way, fitting, is_empty) for way in ways)
        case Number(numbers, values):
            return bool(values) if values is not None else numbers.settled() is not None
        case String():
            if shape.high is not None and shape.low > shape.high:
                return False
            return shape.values is not None or not shape.languages or not is_empty(shape.language)
        case Array(first, rest, low, high):
            if high is not None and low > high:
                return False
            needed = [first[at] if at < len(first) else rest for at in range(min(low, len(first) + 1))]
            return all(_fits(each, fitting, is_empty) for each in needed)
        case Object(required=required, low=low, high=high):
            if (high is not None and max(low, len(required)) > high) or not all(
                _fits(shape.of(name), fitting, is_empty) for name in required
            ):
                return False
            return low <= len(required) or _has_more(shape, low - len(required), fitting, is_empty)


def _has_more(shape: Object, count: int, fitting: frozenset[str], is_empty: Callable[[Language], bool]) -> bool:
    """Whether this many properties beyond the required ones are possible."""
    if any(_fits(each, fitting, is_empty) for _, each in shape.others):
        return True
    optional = [each for name, each in shape.declared if name not in shape.required]
    return sum(_fits(each, fitting, is_empty) for each in optional) >= count
