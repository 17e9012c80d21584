"""Python functions as tools: what the model is told, and what a call gives."""

import json
from typing import Annotated, Literal

import msgspec
import pytest

from ossia.tools.functions import ToolResult, function_tool


def weather(city: Annotated[str, "name of the city"], unit: Literal["c", "f"] = "c", days: int | None = None) -> dict:
    """Weather of a city.

    Only known cities.
    """
    if city == "Atlantis":
        raise LookupError("no such city")
    return {"city": city, "unit": unit, "days": days}


def test_the_signature_becomes_a_schema():
    spec = function_tool(weather).spec
    assert (spec.name, spec.description) == ("weather", "Weather of a city.\n\nOnly known cities.")
    assert spec.parameters == {
        "type": "object",
        "properties": {
            "city": {"description": "name of the city", "type": "string"},
            "unit": {"enum": ["c", "f"], "default": "c"},
            "days": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        },
        "required": ["city"],
        "additionalProperties": False,
    }


def test_a_call_decodes_its_arguments_and_encodes_its_result():
    result = function_tool(weather).call('{"city": "Kyoto", "days": 2}')
    assert json.loads(result.text) == {"city": "Kyoto", "unit": "c", "days": 2}
    assert not result.failed


def test_text_is_given_as_it_is_and_no_arguments_may_be_empty():
    def hello() -> str:
        return "hello"

    assert function_tool(hello).call("") == ToolResult("hello")
    assert function_tool(hello).call("{}") == ToolResult("hello")


class Point(msgspec.Struct):
    x: int
    y: int


def test_nested_types_have_their_definitions_beside_them():
    def move(to: Point) -> str:
        return f"{to.x},{to.y}"

    tool = function_tool(move)
    assert tool.spec.parameters is not None
    assert tool.spec.parameters["properties"] == {"to": {"$ref": "#/$defs/Point"}}
    assert tool.call('{"to": {"x": 1, "y": 2}}') == ToolResult("1,2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{", "invalid arguments for weather"),
        ('{"days": 1}', "missing required field `city`"),
        ('{"city": 1}', "Expected `str`, got `int`"),
        ('{"city": "x", "place": 1}', "unknown field `place`"),
        ('{"city": "Atlantis"}', "LookupError: no such city"),
    ],
)
def test_what_goes_wrong_is_told_to_the_model(arguments: str, said: str):
    result = function_tool(weather).call(arguments)
    assert result.failed
    assert said in result.text


def test_a_result_without_json_form_is_told_too():
    def handle() -> object:
        return object()

    assert function_tool(handle).call("").failed


def takes_any_number(*values: int) -> int:
    return sum(values)


def takes_by_position(value: int, /) -> int:
    return value


def takes_a_function(callback: type(takes_any_number)) -> None:
    callback()


@pytest.mark.parametrize("function", [takes_any_number, takes_by_position, takes_a_function])
def test_functions_that_cannot_be_declared_are_refused_by_name(function):
    with pytest.raises(ValueError, match=f"function '{function.__name__}' cannot be a tool"):
        function_tool(function)
