"""A tool's parameters in the prompt, in any form in which the caller declared them (A1)."""

import json
import re
from pathlib import Path
from typing import Any

import openai_harmony as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.messages import Developer, ToolNamespace, ToolSpec, developer
from ossia.harmony.render import render
from ossia.harmony.schema import typescript
from ossia.harmony.simplify import MAX_SCHEMAS, simplified
from tests.support.vocabularies import o200k

SHAPES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "tool_schemas.jsonl").read_text("utf-8").splitlines()
]
STRING, NUMBER, NULL = {"type": "string"}, {"type": "number"}, {"type": "null"}
POINT = {"type": "object", "properties": {"x": NUMBER}, "required": ["x"]}
CITY = {"title": "City", "description": "a city", **POINT}


def told(schema: Any, **definitions: Any) -> str:
    """How one required parameter of this schema is shown, without the braces around it."""
    parameters = {"type": "object", "properties": {"p": schema}, "required": ["p"], "$defs": definitions}
    return typescript(simplified(parameters))[2:-2]


def declared_names(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return {name for each in schema for name in declared_names(each)}
    if not isinstance(schema, dict):
        return set()
    fields = schema.get("properties", {})
    rest = [value for key, value in schema.items() if key != "properties"]
    return {*fields, *declared_names([*fields.values(), *rest])}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape['family']}/{shape['name']}")
def test_A1_no_known_type_is_told_as_any_and_no_parameter_is_left_out(shape: dict[str, Any]):
    text = typescript(simplified(shape["schema"]))
    types = re.sub(r"//.*", "", text)
    assert len(re.findall(r"\bany\b", types)) == shape["any"], text
    assert not [name for name in declared_names(shape["schema"]) if not re.search(rf"{name}\??:", types)]
    assert types.split() != ["{", "}"]


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"anyOf": [STRING, NULL]}, "p: string | null,"),
        ({"anyOf": [STRING, NULL], "default": None, "description": "d"}, "// d\np: string | null, // default: null"),
        ({"anyOf": [{**STRING, "description": "d"}, NULL]}, "// d\np: string | null,"),
        ({"oneOf": [STRING, NULL]}, "p: string | null,"),
        ({"anyOf": [STRING, {"type": "integer"}, {"type": "array", "items": STRING}]}, "p: string | number | string[],"),
        ({"anyOf": [{"type": "string", "enum": ["a", "b"]}, NULL], "default": "a"}, 'p: "a" | "b" | null, // default: a'),
        ({"anyOf": [{**STRING, "description": "one"}, {**NUMBER, "description": "two"}]}, "p:\n | string // one\n | number // two\n,"),
        ({"anyOf": [STRING, {"anyOf": [NUMBER, NULL]}]}, "p: string | number | null,"),
        ({"anyOf": [STRING, STRING]}, "p: string,"),
        ({"anyOf": [{}, NULL]}, "p: any,"),
        ({"type": "string", "anyOf": [{"format": "date"}, {"format": "date-time"}]}, "p: string,"),
        ({"type": ["string", "null"]}, "p: string | null,"),  # A1b
        ({"type": ["string", "null"], "enum": ["a", None]}, 'p: "a" | null,'),
        ({"type": ["array", "null"], "items": STRING}, "p: string[] | null,"),
        ({"type": ["object", "null"], **{k: POINT[k] for k in ("properties", "required")}}, "p: {\n    x: number,\n    } | null,"),
        ({"const": "x"}, 'p: "x",'),
        ({"type": "string", "const": "x"}, 'p: "x",'),
        ({"const": 3}, "p: 3,"),
        ({"const": None}, "p: null,"),
        ({"const": False}, "p: false,"),
        ({"enum": ["a", "b"], "default": "a"}, 'p: "a" | "b", // default: a'),
        ({"enum": ["a", 1, None, True]}, 'p: "a" | 1 | null | true,'),
        ({"type": "integer", "enum": [1, 2]}, "p: 1 | 2,"),
        ({"type": "number", "enum": [0.5, 1]}, "p: 0.5 | 1,"),
        ({"type": "boolean", "enum": [True]}, "p: true,"),
        ({"type": "boolean", "enum": [True, False]}, "p: boolean,"),
        ({"type": "null"}, "p: null,"),
        ({"type": "array", "items": {"type": "integer", "enum": [1, 2]}}, "p: (1 | 2)[],"),
        ({"type": "array", "items": {"anyOf": [STRING, NULL]}}, "p: (string | null)[],"),
        ({"type": "array", "items": {"type": "array", "items": {"anyOf": [STRING, NUMBER]}}}, "p: (string | number)[][],"),
        ({"type": "array", "items": {**STRING, "nullable": True}}, "p: (string | null)[],"),
        ({"type": "array", "prefixItems": [STRING, {"anyOf": [NUMBER, NULL]}]}, "p: [string, number | null],"),
        ({"type": "array", "items": [STRING, NUMBER], "additionalItems": STRING}, "p: [string, number, ...string[]],"),
        ({"type": "array", "prefixItems": [STRING, POINT]}, "p: \n     | string\n     | {\n       x: number,\n       }[],"),
        ({"type": "object", "additionalProperties": NUMBER}, "p: {\n    [key: string]: number,\n    },"),
        ({"type": "object", "additionalProperties": True}, "p: {\n    },"),
        ({**POINT, "additionalProperties": STRING}, "p: {\n    x: number,\n    [key: string]: string,\n    },"),
        ({"patternProperties": {"^a": STRING, "^b": NUMBER}}, "p: {\n    [key: string]: string | number,\n    },"),
        ({"type": "object", "additionalProperties": STRING, "propertyNames": {"enum": ["a", "b"]}}, 'p: {\n    [key in "a" | "b"]: string,\n    },'),
        ({"allOf": [POINT, {"properties": {"y": STRING}}]}, "p: {\n    x: number,\n    y?: string,\n    },"),
        ({"allOf": [{"properties": {"x": {"type": "number"}}}, {"properties": {"x": {"enum": [1, 2]}}}]}, "p: {\n    x?: 1 | 2,\n    },"),
        ({**POINT, "anyOf": [{"required": ["x"]}]}, "p: {\n    x: number,\n    },"),
        ({"anyOf": [POINT, STRING]}, "p:\n | {\n   x: number,\n   }\n | string\n,"),
        ({"type": "string", "oneOf": [{"const": "a", "description": "A"}, {"const": "b"}]}, 'p:\n | "a" // A\n | "b"\n,'),
        ({"properties": {"a": {"pattern": "x"}, "b": {"minimum": 1}, "c": {"items": NUMBER}}}, "p: {\n    a?: string,\n    b?: number,\n    c?: number[],\n    },"),
        ({**STRING, "nullable": True, "enum": ["null", "b"]}, 'p: "null" | "b" | null,'),
        ({"nullable": True, "type": "integer", "enum": [1]}, "p: 1 | null,"),
        ({"nullable": True, "oneOf": [STRING, NUMBER]}, "p:\n | string\n | number\n | null\n,"),
        ({"$ref": "http://example.org/elsewhere.json", "description": "d"}, "// d\np: any,"),
    ],
)  # fmt: skip
def test_A1_forms(schema: Any, text: str):
    assert told(schema) == text


def test_A1_a_reference_is_told_in_full_and_keeps_what_stands_beside_it():
    assert told({"$ref": "#/$defs/City"}, City=CITY) == (
        "// City\n//\n// a city\np:     // a city\n{\n    x: number,\n    },"
    )
    enum = {"type": "string", "enum": ["c", "f"], "description": "of the scale"}
    beside = {"$ref": "#/$defs/Unit", "description": "the unit", "default": "c"}
    assert told(beside, Unit=enum) == '// the unit\np: "c" | "f", // default: c'
    assert told({"anyOf": [{"$ref": "#/$defs/Unit"}, NULL]}, Unit=enum) == '// of the scale\np: "c" | "f" | null,'
    assert told({"allOf": [{"$ref": "#/$defs/Unit"}], "default": "f"}, Unit=enum).endswith("// default: f")
    assert told({"$ref": "#/$defs/a~1b"}, **{"a/b": {"$ref": "#/$defs/c"}, "c": STRING}) == "p: string,"
    assert told({"$ref": "#here"}, x={"$anchor": "here", **STRING}) == "p: string,"


def test_A1_root_references_and_allof_and_anyof_are_one_object():
    zod = {"$ref": "#/definitions/F", "definitions": {"F": POINT}, "$schema": "http://json-schema.org/draft-07/schema#"}
    assert typescript(simplified(zod)) == "{\nx: number,\n}"
    assert typescript(simplified({"allOf": [POINT, {"properties": {"y": STRING}}]})) == "{\nx: number,\ny?: string,\n}"
    two = {"anyOf": [POINT, {"type": "object", "properties": {"x": NUMBER, "y": STRING}, "required": ["x", "y"]}]}
    assert typescript(simplified(two)) == "{\nx: number,\ny?: string,\n}"
    apart = [{"properties": {"k": {"const": k}, k: STRING}, "required": ["k", k]} for k in "ab"]
    assert typescript(simplified({"type": "object", "anyOf": apart})) == (
        '\n | {\n   k: "a",\n   a: string,\n   }\n | {\n   k: "b",\n   b: string,\n   }'
    )


def test_A1_what_contains_itself_is_told_once_under_its_name():
    node = {"type": "object", "properties": {"v": NUMBER, "next": {"anyOf": [{"$ref": "#/$defs/Node"}, NULL]}}}
    assert told({"$ref": "#/$defs/Node"}, Node=node) == (
        "// Node\np:     // Node\n{\n    v?: number,\n    next?: Node | null,\n    },"
    )
    tree = {"title": "Tree", "type": "object", "properties": {"all": {"type": "array", "items": {"$ref": "#"}}}}
    assert typescript(simplified(tree)) == "// Tree\n{\nall?: Tree[],\n}"
    assert told({"$ref": "#/$defs/A"}, A={"$ref": "#/$defs/B"}, B={"$ref": "#/$defs/A"}) == "// A\np: A,"


def test_A1_references_that_would_multiply_are_told_once_each():
    doubled = {f"D{n}": {"properties": {k: {"$ref": f"#/$defs/D{n + 1}"} for k in "ab"}} for n in range(30)}
    text = told({"$ref": "#/$defs/D0"}, **doubled, D30=POINT)
    assert len(text) < 100_000
    assert text.count("x: number") == 1
    assert text.count("D30,") == 1
    both = {f"D{n}": {"allOf": [{"$ref": f"#/$defs/D{n + 1}"}] * 2} for n in range(30)}
    assert told({"$ref": "#/$defs/D0"}, **both, D30=POINT) == "p: {\n    x: number,\n    },"
    unions = {
        f"D{n}": {"anyOf": [{"$ref": f"#/$defs/D{n + 1}"}, {"items": {"$ref": f"#/$defs/D{n + 1}"}}]} for n in range(30)
    }
    assert len(told({"$ref": "#/$defs/D0"}, **unions, D30=STRING)) < 100_000
    products = {"allOf": [{"anyOf": [{"properties": {f"{n}{k}": STRING}} for k in range(9)]} for n in range(9)]}
    assert len(told(products)) < 200 * MAX_SCHEMAS
    ways = [{"properties": {"k": {"enum": [n]}, "v": NUMBER}, "required": ["v"]} for n in range(300)]
    assert simplified({"anyOf": [*ways, {"properties": {"v": NUMBER}}]})["properties"]["k"]["type"][298:] == [
        "298",
        "299",
    ]
    wide = {"enum": [f"value {n}" for n in range(5000)]}
    many = {"type": "object", "properties": {f"p{n}": {"$ref": "#/$defs/Wide"} for n in range(400)}}
    assert len(told(many, Wide=wide)) < 1_000_000


def test_A1_depth_is_bounded():
    chain = {f"D{n}": {"properties": {"a": {"$ref": f"#/$defs/D{n + 1}"}}} for n in range(2000)}
    assert len(told({"$ref": "#/$defs/D0"}, **chain, D2000=STRING)) < 1_000_000
    deep: dict[str, Any] = STRING
    for _ in range(20):
        deep = {"anyOf": [{"type": "object", "properties": {"a": deep}}, NULL]}
    assert "a?: string," in told(deep)
    for _ in range(200):
        deep = {"type": "object", "properties": {"a": deep}}
    assert simplified({"type": "object", "properties": {"a": deep}}) == {"type": "object"}


@pytest.mark.parametrize(
    "other", [[], "text", {"properties": []}, {"properties": {"a": 3}}, {"anyOf": 3}, {"oneOf": {}}, {"$ref": 3}]
)
def test_what_is_no_schema_does_no_harm(other: Any):
    assert isinstance(told(other), str)
    assert isinstance(typescript(simplified(other if isinstance(other, dict) else {"allOf": other})), str)


# Where the reference says all there is to say, we say it token for token.
LEAVES = st.one_of(
    st.sampled_from([{"type": kind} for kind in ("string", "number", "integer", "boolean", "array", "object")]),
    st.builds(lambda words: {"type": "string", "enum": words}, st.lists(st.text("abc", min_size=1), min_size=1, max_size=3)),
    st.sampled_from([{"type": ["string", "null"]}, {"type": ["integer", "string"]}, {"type": "array", "items": STRING}]),
)  # fmt: skip
REMARKS = st.fixed_dictionaries(
    {},
    optional={
        "description": st.text("xyz \n", max_size=12),
        "title": st.text("TU", min_size=1, max_size=4),
        "default": st.sampled_from(["a", 1, None, [1], {"k": 1.5}]),
        "examples": st.lists(st.text("e", max_size=3), max_size=2),
        "nullable": st.booleans(),
        "format": st.sampled_from(["date", "int32"]),
        "minLength": st.integers(0, 3),
    },
)


def _with_remarks(schema: dict[str, Any], remarks: dict[str, Any]) -> dict[str, Any]:
    return {**remarks, **schema}


PLAIN = st.recursive(
    st.builds(_with_remarks, LEAVES, REMARKS),
    lambda inner: st.builds(
        _with_remarks,
        st.one_of(
            st.fixed_dictionaries(
                {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3)},
                optional={"required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
                          "additionalProperties": st.booleans()},
            ),
            st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=3)}),
            st.fixed_dictionaries(
                {"type": st.just("array"), "items": inner.map(lambda each: {**each, "nullable": False})}
            ),
        ),
        REMARKS,
    ),
    max_leaves=6,
)  # fmt: skip


def loses_null(schema: Any) -> bool:
    """Whether the reference leaves out that null may come: of variants, and of what has the word in its text."""
    return any(
        each.get("nullable") is True and ("oneOf" in each or "null" in json.dumps({**each, "nullable": 0}).replace('"nullable"', ""))
        for each in _all(schema)
    )  # fmt: skip


def _all(value: Any) -> list[dict[str, Any]]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [*([value] if isinstance(value, dict) else ()), *(each for one in inner for each in _all(one))]


ENCODING = oracle.load_harmony_encoding(oracle.HarmonyEncodingName.HARMONY_GPT_OSS)


@settings(max_examples=400, deadline=None)
@given(schema=PLAIN)
def test_A1_what_the_reference_tells_is_told_token_for_token(schema: dict[str, Any]):
    if loses_null(schema):
        return
    parameters = {"type": "object", "properties": {"p": schema}, "required": ["p"]}
    spec = {"name": "f", "description": "F", "parameters": parameters}
    tools = {"functions": {"name": "functions", "description": None, "tools": [spec]}}
    content = [{"type": "developer_content", "instructions": "I", "tools": tools}]
    conversation = {"messages": [{"role": "developer", "content": content}]}
    theirs = ENCODING._inner.render_conversation_for_completion(json.dumps(conversation), "assistant", None)
    spaces = (ToolNamespace("functions", None, (ToolSpec("f", "F", parameters),)),)
    ours = render(o200k(), [developer(Developer("I", spaces))], "assistant")
    assert o200k().decode(ours) == o200k().decode(theirs)
    assert ours == theirs
