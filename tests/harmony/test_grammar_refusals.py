"""What a grammar refuses: schemas that cannot be enforced, undeclared tools, names that would break a header."""

import json
import random
import subprocess
import sys

import pytest

from ossia.harmony.grammar import TurnGrammar
from ossia.harmony.messages import JsonObject, ToolNamespace, ToolSpec
from tests.harmony.random_turns import (
    BUILT_IN,
    FUNCTIONS,
    GRAMMARS,
    WEATHER,
    allowed,
    answers,
    feed,
    read,
    walk,
)
from tests.support.vocabularies import small


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "#/$defs/A", "unevaluatedProperties": False, "$defs": {"A": {}}}, "unevaluatedProperties at #: "),
        ({"items": {"type": "string", "pattern": r"a\b"}}, "pattern at #/items: word boundaries"),
        ({"oneOf": [{"type": "integer"}, {"multipleOf": 2}]}, "oneOf at #: "),
        ({"$ref": "#/$defs/Nowhere"}, "Nowhere"),
        ({"$ref": "#"}, "no value fits it"),
        ({"enum": []}, "no value fits it"),
        ({"type": "text"}, "text"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_the_reason(schema: JsonObject, reason: str):
    with pytest.raises(ValueError, match=f"JSON schema of final cannot be enforced: .*{reason}"):
        TurnGrammar(GRAMMARS["small"], response_format=schema)


def test_a_schema_may_ask_for_less_to_be_enforced():
    schema = {"oneOf": [{"type": "integer"}, {"multipleOf": 2, "type": "number"}], "contains": {}}
    assert answers({**schema, "x-guidance": {"lenient": True}}, "4")
    with pytest.raises(ValueError, match="contains"):
        answers({**schema, "x-guidance": {"coerce_one_of": True}}, "4")


def test_a_refused_schema_of_a_tool_is_named_by_the_tool():
    tools = ToolNamespace("functions", None, (ToolSpec("f", "", {"properties": {"x": {"uniqueItems": True}}}),))
    with pytest.raises(
        ValueError, match=r"JSON schema of functions\.f cannot be enforced: uniqueItems at #/properties/x: "
    ):
        TurnGrammar(GRAMMARS["small"], (tools,))
    assert TurnGrammar(GRAMMARS["small"], (tools,), tool_choice="none")


def test_of_a_tool_that_is_not_strict_what_cannot_be_enforced_is_left_out_and_said():
    schema = {
        "properties": {"x": {"type": "array", "uniqueItems": True, "items": {"type": "integer", "maximum": 3}}},
        "required": ["x"],
    }
    space = ToolNamespace(
        "functions", None, (ToolSpec("f", "", schema, strict=False), ToolSpec("g", "", WEATHER, strict=False))
    )
    rules = TurnGrammar(GRAMMARS["small"], (space,), tool_choice="f", analysis_budget=0)
    assert [*rules.dropped] == ["functions.f"]
    assert rules.dropped["functions.f"][0].startswith("uniqueItems at #/properties/x: ")
    header = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
    turn = feed(rules.start(), small().encode_with_special(header + '{"x":[3,3]}'))
    assert GRAMMARS["small"].call in allowed(turn)
    turn = feed(rules.start(), small().encode_with_special(header + '{"x":['))
    assert small().encode("4")[0] not in allowed(turn)


def test_no_schema_of_a_tool_that_is_not_strict_is_refused():
    for schema in (
        {"type": "text"},
        {"type": "array"},
        {"properties": 3, "required": None},
        {"$ref": "http://a.b/c"},
        {"enum": []},
        {"not": {}},
    ):
        space = ToolNamespace("functions", None, (ToolSpec("f", "", schema, strict=False),))
        said = walk(TurnGrammar(GRAMMARS["small"], (space,), tool_choice="f", analysis_budget=0), 1)
        assert isinstance(json.loads(read(small(), said)[-1].text), dict)


def test_a_schema_too_costly_to_follow_sets_the_turn_free():
    rng = random.Random(0)
    text = "".join(rng.choice("abcx") for _ in range(1000))
    turn = TurnGrammar(
        GRAMMARS["small"], response_format={"type": "string", "pattern": "(.*a.{300}){3}"}, analysis_budget=0
    ).start()
    for token in small().encode_with_special("<|channel|>final<|message|>") + small().encode('"' + text):
        if not turn.strayed:
            feed(turn, [token])
    assert turn.strayed
    assert turn.mask() is None


def test_arguments_are_an_object_whatever_the_schema_says():
    tools = (ToolNamespace("functions", None, (ToolSpec("f", "d", {}),)),)
    turn = feed(
        TurnGrammar(GRAMMARS["small"], tools).start(),
        small().encode_with_special(" to=functions.f<|channel|>commentary<|message|>"),
    )
    assert allowed(turn) == small().encode("{")


@pytest.mark.parametrize("choice", ["weather", "open", "functions", "Python", ""])
def test_a_choice_of_an_undeclared_tool_is_refused(choice: str):
    with pytest.raises(
        ValueError,
        match=r"fits no declared tool \(declared: functions\.get_weather, functions\.get, python, browser\.open\)",
    ):
        TurnGrammar(GRAMMARS["small"], (FUNCTIONS,), BUILT_IN, tool_choice=choice)


def test_a_call_cannot_be_required_where_nothing_is_declared():
    with pytest.raises(ValueError, match=r"tool_choice 'required' fits no declared tool \(declared: none\)"):
        TurnGrammar(GRAMMARS["small"], (ToolNamespace("functions"),), tool_choice="required")


@pytest.mark.parametrize("tool_name", ["a b", "f<|channel|>final", "f\n", "", "f to=python", "a=b"])
def test_a_name_that_would_break_a_header_is_refused(tool_name: str):
    tools = (ToolNamespace("functions", None, (ToolSpec(tool_name, "d"),)),)
    with pytest.raises(ValueError, match="cannot stand in a header"):
        TurnGrammar(GRAMMARS["small"], tools)


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="analysis_budget -1"):
        TurnGrammar(GRAMMARS["small"], analysis_budget=-1)


def test_importing_the_module_imports_no_array_library():
    code = "import sys, ossia.harmony.grammar; print([n for n in ('torch', 'numpy') if n in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
