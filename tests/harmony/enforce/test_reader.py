"""Schemas said anew: what is enforced exactly, what is refused by keyword and place, what a lenient reading leaves out."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.enforce import SchemaError, enforceable_schema
from ossia.harmony.grammar import GrammarCache
from tests.support.vocabularies import small

GRAMMARS = GrammarCache(small())
UNION = {
    "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
    "discriminator": {"propertyName": "kind"},
    "$defs": {
        "Cat": {
            "type": "object",
            "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
            "required": ["kind", "lives"],
        },
        "Dog": {
            "type": "object",
            "properties": {"kind": {"const": "dog"}, "good": {"type": "boolean"}},
            "required": ["kind", "good"],
        },
    },
}
TYPED = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b"]}, "x": {"type": "integer"}},
    "required": ["kind"],
    "if": {"properties": {"kind": {"const": "a"}}},
    "then": {"required": ["x"]},
    "else": {"properties": {"x": False}},
}


def allows(schema: dict[str, Any], text: str) -> bool:
    matcher, tokens = GRAMMARS.matcher(schema), small().encode(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        # what llguidance alone would let by
        ({"properties": {"foo": {"type": "integer"}}}, '{"foo": 1}', r'{"\u0066oo": ""}'),
        ({"type": "integer", "maximum": 2**53 + 1}, str(2**53), str(2**53 + 2)),
        ({"type": "string", "format": "date"}, '"2024-02-29"', '"2023-02-29"'),
        ({"type": "string", "format": "date-time"}, '"2024-02-29T12:00:00Z"', '"2024-02-29T12:00:60Z"'),
        ({"type": "string", "pattern": "^[a&&b]$"}, '"&"', '"c"'),
        ({"type": "string", "pattern": "^.$"}, '"a"', '"\u2028"'),
        # what is said by other keywords
        (UNION, '{"kind": "dog", "good": true}', '{"kind": "dog", "lives": 9}'),
        (TYPED, '{"kind": "a", "x": 1}', '{"kind": "a"}'),
        (TYPED, '{"kind": "b"}', '{"kind": "b", "x": 1}'),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object"}, '{"a": 1}', '{"a": 1, "b": 2}'),
        ({"not": {"type": ["object", "array"]}}, "3", "[]"),
        ({"type": "string", "not": {"enum": ["no", "nay", ""]}}, '"nays"', '"nay"'),
        ({"type": "string", "not": {"const": ""}}, '"n"', '""'),
        ({"type": "object", "not": {"required": ["a"]}}, '{"b": 1}', '{"a": 1}'),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, '{"b": 1}', '{"a": 1}'),
        ({"type": "object", "dependencies": {"a": {"properties": {"b": {"type": "null"}}}}}, '{"a": 1, "b": null}', '{"a": 1, "b": 2}'),
        ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, '{"b": 1}', '{"c": 1}'),
        ({"type": "object", "propertyNames": {"pattern": "^a"}, "additionalProperties": {"type": "null"}}, '{"ab": null}', '{"b": null}'),
        ({"type": "object", "propertyNames": {"type": "string"}}, '{"b": 1}', "3"),
        ({"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False}, '{"a": 1}', '{"b": 1}'),
        ({"type": "array", "items": [{"type": "null"}], "additionalItems": {"type": "integer"}}, "[null, 1]", "[null, null]"),
        ({"type": "object", "minProperties": 2, "required": ["a"], "properties": {"a": {}}}, '{"a": 1, "b": 1}', '{"a": 1}'),
        ({"type": "object", "patternProperties": {"^a": {"type": "integer"}, "b$": {"minimum": 3}}, "additionalProperties": False},
         '{"ab": 3, "a": 1, "b": ""}', '{"ab": 1}'),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, '{"abc": 1}', '{"abcd": 1}'),
        ({"type": "object", "propertyNames": {"$ref": "#/$defs/c"}, "$defs": {"c": {"enum": ["red"]}}}, '{"red": 1}', '{"reds": 1}'),  # A6
        # references of every kind lead where they should
        ({"not": {"$ref": "#/$defs/s"}, "$defs": {"s": {"type": "string"}}}, "1", '""'),
        ({"if": {"$ref": "#/$defs/s"}, "then": {"$ref": "#/$defs/e"}, "else": {"$ref": "#/$defs/n"},
          "$defs": {"s": {"type": "string"}, "e": {"maxLength": 0}, "n": {"type": "null"}}}, '""', '"a"'),
        ({"type": "object", "dependentSchemas": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"required": ["b"]}}}, '{"b": 1}', '{"a": 1}'),
        ({"items": {"$ref": "#/$defs/s"}, "$defs": {"s": {"type": "null"}}, "type": "array"}, "[null]", "[1]"),
        ({"type": "object", "additionalProperties": {"$ref": "#/definitions/s"}, "definitions": {"s": {"type": "null"}}}, '{"a": null}', '{"a": 1}'),
        ({"type": "object", "patternProperties": {"^a": {"$ref": "#/$defs/s"}}, "$defs": {"s": {"type": "null"}}}, '{"a": null}', '{"a": 1}'),
        ({"type": "array", "prefixItems": [{"$ref": "#/$defs/s"}], "$defs": {"s": {"type": "null"}}}, "[null, 1]", "[1]"),
        ({"$ref": "#/$defs/s", "maxLength": 1, "$defs": {"s": {"type": "string"}}}, '"a"', '"ab"'),
        ({"$ref": "#/components/schemas/a%7E1b", "components": {"schemas": {"a/b": {"type": "null"}}}}, "null", "1"),
        ({"anyOf": [{"$ref": "#/anyOf/1"}, {"type": "null"}]}, "null", "1"),
        ({"$ref": "#tree", "$defs": {"x": {"$anchor": "tree", "type": "array", "items": {"$ref": "#tree"}}}}, "[[], [[]]]", "[1]"),
        ({"$id": "http://a.b/c", "$ref": "d", "$defs": {"x": {"$id": "http://a.b/d", "type": "null"}}}, "null", "1"),
        ({"properties": {"a": {"type": "null"}, "b": {"$ref": "#/properties/a"}}}, '{"b": null}', '{"b": 1}'),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/n", "type": "string", "definitions": {"n": {"type": "null"}}},
         "null", '""'),
    ],
)  # fmt: skip
def test_schemas_are_kept_to(schema: dict[str, Any], good: str, bad: str):
    assert allows(schema, good)
    assert not allows(schema, bad)


@pytest.mark.parametrize(
    "schema",
    [
        {
            "type": "integer",
            "title": "T",
            "description": "D",
            "x-order": 3,
            "nullable": True,
            "deprecated": True,
            "examples": [1],
        },
        {"type": "integer", "format": "int32"},
        {"format": "double", "type": "number"},
        {"type": "array", "uniqueItems": False},
        {"type": "array", "uniqueItems": True, "maxItems": 1},
        {"type": "array", "contains": {"type": "null"}, "minContains": 0},
        {"then": {"type": "null"}, "additionalItems": False, "minContains": 3},
        {"$defs": {"unused": {"uniqueItems": True}}},
        {"enum": [1], "not": False, "propertyNames": True, "unevaluatedProperties": {}},
    ],
)
def test_what_says_nothing_is_no_obstacle(schema: dict[str, Any]):
    assert enforceable_schema(schema).dropped == ()
    assert GRAMMARS.matcher(schema)


@pytest.mark.parametrize(
    ("schema", "keyword", "path"),
    [
        ({"properties": {"tags": {"uniqueItems": True}}}, "uniqueItems", "#/properties/tags"),
        ({"items": {"contains": {"type": "null"}}}, "contains", "#/items"),
        ({"allOf": [{}, {"not": {"pattern": "a"}}]}, "not", "#/allOf/1"),
        (
            {"$defs": {"a/b": {"oneOf": [{"minimum": 1}, {"multipleOf": 2}]}}, "$ref": "#/$defs/a~1b"},
            "oneOf",
            "#/$defs/a~1b",
        ),
        ({"if": {"pattern": "a"}, "then": False}, "if", "#"),
        ({"type": "object", "minProperties": 2}, "minProperties", "#"),
        ({"additionalProperties": {"format": "uri-reference"}}, "format", "#/additionalProperties"),
        ({"prefixItems": [{"pattern": "(?i)a"}]}, "pattern", "#/prefixItems/0"),
        ({"properties": {"a": {"pattern": r"a\b"}}}, "pattern", "#/properties/a"),
        ({"patternProperties": {"(?<=a)b": {}}}, "patternProperties", "#"),
        ({"propertyNames": {"format": "iri"}}, "format", "#/propertyNames"),
        ({"anyOf": [{"unevaluatedProperties": False, "allOf": [True]}]}, "unevaluatedProperties", "#/anyOf/0"),
        ({"$ref": "http://localhost:1/schema"}, "$ref", "#"),
        ({"$ref": "file:///etc/passwd"}, "$ref", "#"),
        ({"$ref": "#/x-unread", "x-unread": {"uniqueItems": True}}, "uniqueItems", "#/x-unread"),
        ({"const": 2**53 + 1}, "const", "#"),
        ({"enum": ["\ud800"]}, "enum", "#"),
        ({"properties": {"\ud800": {}}}, "properties", "#"),
        ({"minimum": 10**500}, "minimum", "#"),
        ({"type": "number", "minimum": 2, "maximum": 1}, "minimum", "#"),
        ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}, "exclusiveMinimum", "#"),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1}, "exclusiveMinimum", "#"),
        ({"type": "string", "minLength": 2, "maxLength": 1}, "minLength", "#"),
        ({"maximum": float("inf")}, "maximum", "#"),
        ({"minimum": "3"}, "minimum", "#"),
        ({"maxItems": 1.5}, "maxItems", "#"),
        ({"type": "text"}, "type", "#"),
        ({"type": ["null", 3]}, "type", "#"),
        ({"required": "a"}, "required", "#"),
        ({"properties": []}, "properties", "#"),
        ({"anyOf": []}, "anyOf", "#"),
        ({"items": 3}, "", "#/items"),
        ({"$schema": "http://example.org/mine"}, "$schema", "#"),
        ({"x-guidance": {"item_separator": ";"}}, "x-guidance", "#"),
    ],
)
def test_what_cannot_be_kept_is_named_with_its_place(schema: dict[str, Any], keyword: str, path: str):
    with pytest.raises(SchemaError) as caught:
        GRAMMARS.matcher(schema)
    assert (caught.value.keyword, caught.value.path) == (keyword, path)
    assert str(caught.value).startswith(f"{keyword} at {path}: " if keyword else f"{path}: ")
    assert caught.value.why
    lenient = {**schema, "x-guidance": {"lenient": True}}
    if keyword != "x-guidance":
        assert GRAMMARS.matcher(lenient)
        assert bool(GRAMMARS.dropped(lenient)) == (keyword != "$schema")


def test_what_a_lenient_reading_leaves_out_is_all_it_leaves_out():
    schema = {
        "type": "array",
        "items": {"type": "integer"},
        "uniqueItems": True,
        "maxItems": 2,
        "x-guidance": {"lenient": True},
    }
    assert allows(schema, "[1, 1]")
    assert not allows(schema, '["a"]')
    assert not allows(schema, "[1, 1, 1]")


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize("depth", [101, 500, 5_000])
def test_a_schema_that_is_nested_too_deep_is_refused(depth: int):
    with pytest.raises(SchemaError, match="nested"):
        GRAMMARS.matcher(nested(depth))


def test_a_schema_that_grows_too_large_is_refused():
    schema: dict[str, Any] = {"const": "x"}
    for _ in range(12):
        schema = {
            "properties": {"c": schema},
            "oneOf": [{"required": ["a"], "properties": {"a": schema}}, {"required": ["b"]}],
        }
    with pytest.raises(SchemaError, match="too large"):
        GRAMMARS.matcher(schema)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.text(st.characters(), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "$ref", "type", "not", "enum"]), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYWORDS = st.sampled_from(
    "type enum const minimum maximum exclusiveMinimum multipleOf minLength maxLength minItems maxItems minProperties maxProperties pattern format "
    "properties patternProperties required additionalProperties items prefixItems additionalItems anyOf allOf oneOf $ref $dynamicRef not if then "
    "else uniqueItems contains minContains propertyNames dependentRequired dependentSchemas dependencies unevaluatedProperties unevaluatedItems "
    "$recursiveRef $id $anchor $dynamicAnchor $defs definitions $schema x-guidance".split()
)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"multipleOf": 2_078_720}, "#"),
        ({"multipleOf": 2_078_720.5}, "#"),
        ({"multipleOf": 2**53}, "#"),
        ({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}, "#/allOf/0"),
        ({"multipleOf": 7, "anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"multipleOf": 0.991}}}, "#/$defs/a"),
        ({"properties": {"a": {"multipleOf": 9}, "b": {"multipleOf": 99_989}}}, "#/properties/b"),
        ({"allOf": [{"multipleOf": 7}, {"multipleOf": 9}]}, "#"),  # only together are they too many
    ],
)
def test_more_multiples_than_a_grammar_tells_are_refused(schema: dict[str, Any], path: str):
    with pytest.raises(SchemaError, match="too many to list") as refused:
        GRAMMARS.matcher(schema)
    assert (refused.value.keyword, refused.value.path) == ("multipleOf", path)
    assert GRAMMARS.matcher({**schema, "x-guidance": {"lenient": True}})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": [["string"]]},
        {"type": [{}]},
        {"type": "text"},
        {"required": [["a"]]},
        {"required": [{}]},
        {"const": "a" * 5000},
    ],
)
def test_an_opposite_that_cannot_be_said_is_refused_whatever_stands_there(schema: dict[str, Any]):
    with pytest.raises(SchemaError):
        GRAMMARS.matcher({"not": schema})
    assert GRAMMARS.matcher({"not": schema, "x-guidance": {"lenient": True}})


@settings(max_examples=500, deadline=None)
@given(schema=st.dictionaries(KEYWORDS, JSON, max_size=4), lenient=st.booleans())
def test_any_json_is_read_or_refused_and_read_leniently_always(schema: dict[str, Any], lenient: bool):
    if lenient:
        schema = {**schema, "x-guidance": {"lenient": True}}
    try:
        assert GRAMMARS.matcher(schema)
    except SchemaError:
        assert not lenient


def test_a_schema_is_not_changed_by_being_read():
    before = json.dumps(UNION)
    GRAMMARS.matcher({**UNION, "x-guidance": {"lenient": True}})
    assert json.dumps(UNION) == before
