"""JSON schema as TypeScript: the quirks one at a time, as the reference has them (test_vectors.py checks that it has)."""

from typing import Any

import pytest

from ossia.harmony.messages import ToolNamespace, ToolSpec
from ossia.harmony.schema import compact_json, split_lines, tools_section, typescript


def of(**properties: Any) -> str:
    """The lines between the braces of an object with these properties."""
    return typescript({"type": "object", "properties": properties, "required": ["r"]})[2:-1]


@pytest.mark.parametrize(
    ("schema", "type"),
    [
        ({"type": "string"}, "string"),
        ({"type": "string", "enum": ["a", "b", 3]}, '"a" | "b"'),
        ({"type": "integer"}, "number"),
        ({"type": ["integer", "null"]}, "number | null"),
        ({"type": "array"}, "Array<any>"),
        ({"type": "array", "items": {"type": ["string", "null"]}}, "string | null[]"),  # precedence is lost
        ({"type": "null"}, "any"),
        ({"enum": ["a"]}, "any"),
        ({"anyOf": [{"type": "string"}]}, "any"),
        ({"oneOf": [{"type": "string", "description": "d"}, {"type": "number", "default": 1}]}, "\n | string // d\n | number // default: 1"),
        (True, "any"),
    ],
)  # fmt: skip
def test_types(schema: Any, type: str):
    assert typescript(schema) == type


def test_properties():
    assert of(r={"type": "string"}, o={"type": "number", "nullable": True}) == "r: string,\no?: number | null,\n"


def test_comments():
    field = {"type": "string", "title": "T", "description": "D", "examples": ["x", 1], "default": "x"}
    assert of(f=field) == '// T\n//\n// D\n// Examples:\n// - "x"\nf?: string, // default: "x"\n'


def test_a_default_of_an_enum_is_bare():
    assert of(f={"type": "string", "enum": ["x"], "default": "x"}) == 'f?: "x", // default: x\n'


def test_nested_objects_describe_themselves_twice_and_step_in_by_four():
    inner = {"type": "object", "description": "d", "properties": {"a": {"type": "boolean"}}}
    assert of(f=inner) == "// d\nf?:     // d\n{\n    a?: boolean,\n    },\n"


def test_variants_of_a_property():
    variants = [{"type": "string", "description": "one"}, {"type": "number", "description": "two", "default": 2}]
    assert of(f={"oneOf": variants}) == "f?:\n | string // one\n | number // two default: 2\n,\n"
    assert of(f={"oneOf": variants, "description": "one"}) == "f?:\n | string\n | number // two default: 2\n,\n"
    assert of(f={"oneOf": variants, "description": "all"}) == "// all\nf?:\n | string\n | number // two default: 2\n,\n"


def test_namespaces_stand_in_the_order_of_their_keys():
    spaces = (ToolNamespace("b", "B"), ToolNamespace("a", "A\nA2", (ToolSpec("f", "F"),)), ToolNamespace("z", key="0"))
    assert tools_section(spaces) == (
        "# Tools\n\n## z\n\n\n## a\n\n// A\n// A2\nnamespace a {\n\n// F\ntype f = () => any;\n\n} // namespace a\n\n## b\n\nB"
    )


@pytest.mark.parametrize(
    ("value", "json"),
    [
        (1.0, "1.0"),
        (1e-7, "1e-7"),
        (1.5e-5, "0.000015"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e16"),
        (-0.0, "-0.0"),
        (2**64 - 1, "18446744073709551615"),
        (2**64, "1.8446744073709552e19"),
        ({"é": [None, True, "\n"]}, '{"é":[null,true,"\\n"]}'),
        (6.991381464004748e-08, "6.991381464004748e-8"),  # the reference's reader makes ...749e-8 of it
    ],
)
def test_values_are_written_as_serde_writes_them(value: Any, json: str):
    assert compact_json(value) == json


def test_only_newlines_end_lines():
    assert split_lines("a\r\nb\n\nc\u2028d\x0be\n") == ["a", "b", "", "c\u2028d\x0be"]
