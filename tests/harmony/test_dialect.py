"""Other spellings of JSON schemas mean the same to the prompt and to the grammar (A16)."""

import json
from typing import Any

import pytest

from ossia.harmony.calls import recipients
from ossia.harmony.client_tools import toolbox
from ossia.harmony.dialect import canonical, object_schema
from ossia.harmony.errors import InputError
from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import ToolNamespace, ToolSpec
from ossia.harmony.schema import typescript
from ossia.harmony.simplify import simplified
from tests.support.vocabularies import o200k

GRAMMARS = GrammarCache(o200k())
STRING = {"type": "string"}


def allows(schema: dict[str, Any], value: object) -> bool:
    tokens = o200k().encode(json.dumps(value, ensure_ascii=False))
    matcher = GRAMMARS.matcher(schema)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (STRING, "x"),
        ({"type": "string", "enum": ["a", "b"]}, "a"),
        ({"const": 3}, 3),
        ({"type": "integer", "minimum": 2}, 2),
        ({"type": "object", "properties": {"a": STRING}, "required": ["a"], "additionalProperties": False}, {"a": "x"}),
        ({"type": "array", "items": STRING}, ["x"]),
        ({"anyOf": [STRING, {"type": "integer"}]}, 1),
        ({"oneOf": [STRING, {"type": "integer"}]}, 1),
        ({"allOf": [STRING, {"minLength": 1}]}, "x"),
        ({"type": ["string", "integer"]}, 1),
        ({"$ref": "#/$defs/S"}, "x"),
    ],
)
def test_A16_nullable_lets_null_come_and_the_prompt_says_so(schema: dict[str, Any], value: object):
    def root(nullable: object) -> dict[str, Any]:
        field = {**schema, "nullable": nullable}
        return {"type": "object", "properties": {"p": field}, "required": ["p"], "$defs": {"S": STRING}}

    assert allows(root(True), {"p": None})
    assert allows(root(True), {"p": value})
    assert not allows(root(False), {"p": None})
    assert not allows(root(True), {"p": {"other": 1.5}})
    assert "| null" in typescript(simplified(root(True)))
    assert "null" not in typescript(simplified(root(False)))


def test_A16_references_into_what_may_be_null_still_lead_there():
    point = {"type": "object", "nullable": True, "properties": {"x": {"type": "number"}}, "required": ["x"]}
    schema = {
        "type": "object",
        "properties": {"p": point, "q": {"$ref": "#/properties/p/properties/x"}},
        "required": ["p", "q"],
    }
    assert allows(schema, {"p": None, "q": 1})
    assert not allows(schema, {"p": None, "q": None})


@pytest.mark.parametrize("kind", ["dict", "OBJECT", "Object", "object", ["object", "null"], None, ""])
def test_A16_a_root_of_any_spelling_is_an_object(kind: object):
    parameters = {
        "type": kind,
        "properties": {"city": {"type": "STRING"}, "n": {"type": "float"}},
        "required": ["city"],
    }
    function = {"name": "f", "parameters": parameters}
    box = toolbox([{"type": "function", "function": function}])
    strict = ToolNamespace("functions", None, (ToolSpec("f", "", parameters),))
    for space in (*box.spaces, strict):
        schema = recipients([space])["functions.f"]
        assert schema is not None
        assert allows(dict(schema), {"city": "x", "n": 1.5})
        assert not allows(dict(schema), {"city": 1})
        assert not allows(dict(schema), None)
    told = box.spaces[0].tools[0].parameters
    assert told is not None
    assert typescript(simplified(told)) == "{\ncity: string,\nn?: number,\n}"


@pytest.mark.parametrize("kind", ["string", "STRING", "list", ["string", "null"], 3])
def test_A16_a_root_of_another_type_is_refused_by_name(kind: object):
    function = {"name": "f", "parameters": {"type": kind}}
    with pytest.raises(InputError, match="must be 'object', not"):
        toolbox([{"type": "function", "function": function}])


def test_A16_gemini_and_python_names_anywhere_but_in_values_and_names_of_properties():
    given = {
        "type": "OBJECT",
        "properties": {
            "type": {"type": "STRING", "enum": ["OBJECT", "dict"], "default": "OBJECT"},
            "nullable": {"type": "ARRAY", "items": {"type": "int"}},
            "any": {"type": "any", "description": "x"},
            "list": {"type": ["STRING", "NULL"]},
        },
        "$defs": {"type": {"type": "bool"}},
    }
    assert canonical(given) == {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["OBJECT", "dict"], "default": "OBJECT"},
            "nullable": {"type": "array", "items": {"type": "integer"}},
            "any": {"description": "x"},
            "list": {"type": ["string", "null"]},
        },
        "$defs": {"type": {"type": "boolean"}},
    }
    assert canonical({"type": "text"}) == {"type": "text"}  # no name of a type: the grammar refuses it
    assert object_schema({})["type"] == "object"
