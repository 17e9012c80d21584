"""Python functions as tools: their specification, and the results of calls."""

import asyncio
import functools
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest

from ossia.harmony.calls import recipients
from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import ToolNamespace
from ossia.harmony.schema import typescript
from ossia.harmony.simplify import simplified
from ossia.tools.background import BackgroundLoop
from ossia.tools.functions import ToolOutput, function_tool
from tests.support.vocabularies import small


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

    assert function_tool(hello).call("") == ToolOutput("hello")
    assert function_tool(hello).call("{}") == ToolOutput("hello")


class Point(msgspec.Struct):
    x: int
    y: int


def test_nested_types_have_their_definitions_beside_them():
    def move(to: Point) -> str:
        return f"{to.x},{to.y}"

    tool = function_tool(move)
    assert tool.spec.parameters is not None
    assert tool.spec.parameters["properties"] == {"to": {"$ref": "#/$defs/Point"}}
    assert tool.call('{"to": {"x": 1, "y": 2}}') == ToolOutput("1,2")


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


def takes_a_function(callback: Callable[[], None]) -> None:
    callback()


def takes_what_pydantic_refuses(word: Annotated[str, pydantic.Field(pattern="(?!a)b")]) -> str:
    return word


@pytest.mark.parametrize(
    "function", [takes_any_number, takes_by_position, takes_a_function, takes_what_pydantic_refuses]
)
def test_functions_that_cannot_be_declared_are_refused_by_name(function):
    with pytest.raises(ValueError, match=f"function '{function.__name__}' cannot be a tool"):
        function_tool(function)


class Unit(Enum):
    C = "celsius"
    F = "fahrenheit"


@dataclass
class Item:
    name: str
    count: int = 1
    tags: list[str] = field(default_factory=list)


class Size(TypedDict):
    wide: float
    high: float


class Pair(NamedTuple):
    left: int
    right: str


class Address(pydantic.BaseModel):
    """A postal address."""

    street: str
    zip: str | None = pydantic.Field(None, pattern="^[0-9]+$")


class Order(pydantic.BaseModel):
    to: Address
    items: list[Item]
    at: datetime
    unit: Unit = Unit.C


def plain_types(
    a: str | None,
    b: Unit,
    c: Literal["x", "y", 3],
    d: list[Item],
    e: Size,
    f: tuple[int, str],
    g: dict[str, int],
    h: datetime,
    i: Pair | None = None,
    j: Annotated[list[str] | None, "some words"] = None,
    k: Unit = Unit.F,
    l: list[str] = ["q"],  # noqa: B006
    m: int | float = 2,
    n: bool = False,
) -> str:
    return repr((a, b, c, d, e, f, g, h, i, j, k, l, m, n))


def pydantic_types(
    order: Order,
    size: Annotated[int, pydantic.Field(ge=1, description="the count")],
    note: str | None = pydantic.Field(None, description="a word"),
    more: Annotated[list[Address], "further ones"] = [],  # noqa: B006
    model_config: int = 3,
) -> str:
    return repr((order, size, note, more, model_config))


def told(function: Callable[..., object]) -> str:
    parameters = function_tool(function).spec.parameters
    assert parameters is not None
    return typescript(simplified(parameters))


def test_A1_every_annotation_is_told():
    item = "{\n    name: string,\n    count?: number, // default: 1\n    tags?: string[], // default: []\n    }"
    assert told(plain_types).splitlines() == [
        "{",
        "a: string | null,",
        "// Unit",
        "//",
        'b: "celsius" | "fahrenheit",',
        'c: 3 | "x" | "y",',
        *f"d: {item}[],".splitlines(),
        "// Size",
        "//",
        *"e: {\n    high: number,\n    wide: number,\n    },".splitlines(),
        "f: [number, string],",
        *"g: {\n    [key: string]: number,\n    },".splitlines(),
        "h: string,",
        "// Pair",
        "//",
        "i?: [number, string] | null, // default: null",
        "// some words",
        "j?: string[] | null, // default: null",
        "// Unit",
        "//",
        'k?: "celsius" | "fahrenheit", // default: fahrenheit',
        'l?: string[], // default: ["q"]',
        "m?: number, // default: 2",
        "n?: boolean, // default: false",
        "}",
    ]


def test_A1_what_is_called_has_the_types_of_its_annotations():
    given = {"a": None, "b": "celsius", "c": 3, "d": [{"name": "n"}], "e": {"wide": 1, "high": 2}, "f": [1, "x"],
             "g": {"k": 1}, "h": "2026-12-01T00:00:00Z", "i": [1, "r"]}  # fmt: skip
    result = function_tool(plain_types).call(json.dumps(given))
    assert result.text.startswith("(None, <Unit.C: 'celsius'>, 3, [Item(name='n', count=1, tags=[])], {'wide': 1.0")
    assert result.text.endswith("Pair(left=1, right='r'), None, <Unit.F: 'fahrenheit'>, ['q'], 2, False)")


def test_a_default_that_can_change_is_a_new_one_for_each_call():
    def collect(words: list[str] = ["a"]) -> list[str]:  # noqa: B006
        words.append("b")
        return words

    tool = function_tool(collect)
    assert [tool.call("{}").text, tool.call("{}").text] == ['["a","b"]'] * 2


def test_A18_pydantic_parameters_are_built_and_checked():
    assert "// the count\nsize: number," in told(pydantic_types)
    assert "// a word\nnote?: string | null, // default: null" in told(pydantic_types)
    assert "zip?: string | null, // default: null" in told(pydantic_types)
    assert "model_config?: number, // default: 3" in told(pydantic_types)
    assert "any" not in told(pydantic_types)
    order = {"to": {"street": "s"}, "items": [{"name": "n"}], "at": "2026-12-01T00:00:00Z"}
    result = function_tool(pydantic_types).call(json.dumps({"order": order, "size": 2}))
    assert not result.failed
    assert "Order(to=Address(street='s', zip=None), items=[Item(name='n', count=1, tags=[])]" in result.text
    assert result.text.endswith(", 2, None, [], 3)")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{", "invalid arguments for pydantic_types: Invalid JSON"),
        ({"order": 1, "size": 1}, "order: Input should be"),
        ({"size": 0}, "order: Field required; size: Input should be greater than or equal to 1"),
        ({"size": 1, "color": 2}, "color: Extra inputs are not permitted"),
        ({"order": {"to": {"street": "s", "zip": "x"}, "items": [], "at": "2026"}, "size": 1}, "order.to.zip: String should match"),
    ],
)  # fmt: skip
def test_A18_what_pydantic_refuses_is_told_to_the_model(arguments: Any, said: str):
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    result = function_tool(pydantic_types).call(text)
    assert result.failed
    assert said in result.text
    assert "errors.pydantic.dev" not in result.text


@dataclass
class Parcel:
    to: Address


def test_A18_pydantic_models_within_other_types():
    def send(parcel: Parcel, by_name: dict[str, Address] | None = None) -> Address:
        return parcel.to

    assert "street: string" in told(send)
    assert json.loads(function_tool(send).call('{"parcel": {"to": {"street": "s"}}}').text) == {
        "street": "s",
        "zip": None,
    }

    class Words(pydantic.RootModel[list[str]]):
        pass

    assert function_tool(lambda: Words(["a"])).call("") == ToolOutput('["a"]')


def test_A18_what_cannot_be_enforced_of_a_pydantic_type_is_left_to_pydantic():
    def tags(of: set[str], to: Address | None = None) -> str:
        return str(to)

    space = ToolNamespace("functions", None, (function_tool(tags).spec,))
    schema = recipients([space])["functions.tags"]
    assert schema is not None
    GrammarCache(small()).matcher(schema)


def test_A18_pydantic_is_not_imported_without_its_types():
    code = (
        "import sys\nfrom ossia.tools.functions import function_tool\nfrom typing import Annotated\n"
        "def f(a: Annotated[int, 'x'] = 1): return a\n"
        "print(function_tool(f).call('{}').text, 'pydantic' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["1", "False"]


async def later(x: int, fail: str = "") -> dict[str, object]:
    """Twice x, later."""
    await asyncio.sleep(0)
    if fail:
        raise LookupError(fail)
    return {"x": 2 * x, "thread": threading.get_ident()}


def test_A18_async_tools_run_for_callers_without_an_event_loop():
    tool = function_tool(later)
    assert tool.spec.description == "Twice x, later."
    assert json.loads(tool.call('{"x": 2}').text)["x"] == 4
    assert tool.call('{"x": 2, "fail": "gone"}') == ToolOutput("error: LookupError: gone", failed=True)
    assert "invalid arguments for later: Expected `int`" in tool.call('{"x": "2"}').text


def test_A18_async_tools_run_for_callers_within_an_event_loop():
    tool = function_tool(later)
    assert tool.call_async is not None

    async def outer() -> list[dict[str, object]]:
        assert tool.call_async is not None
        return [json.loads(tool.call('{"x": 1}').text), json.loads((await tool.call_async('{"x": 2}')).text)]

    blocking, awaited = asyncio.run(outer())
    assert (blocking["x"], awaited["x"]) == (2, 4)
    assert awaited["thread"] == threading.get_ident()
    assert blocking["thread"] != threading.get_ident()


def test_A18_async_tools_share_an_event_loop_and_may_call_each_other():
    loop, seen = BackgroundLoop(), list[object]()

    async def inner() -> str:
        seen.append(asyncio.get_running_loop())
        return "in"

    async def outer() -> str:
        seen.append(asyncio.get_running_loop())
        return function_tool(inner, loop).call("").text + "out"  # waits in the loop's own thread

    first, second = function_tool(inner, loop), function_tool(outer, loop)
    assert (first.call("").text, second.call("").text) == ("in", "inout")
    assert seen[0] is seen[1]


def test_A18_a_tool_that_cancels_itself_is_an_error_for_the_model():
    async def give_up() -> None:
        raise asyncio.CancelledError

    assert function_tool(give_up).call("") == ToolOutput("error: give_up was cancelled", failed=True)


class Counter:
    """Counts up."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, by: int = 1) -> int:
        self.count += by
        return self.count

    async def method(self, by: int) -> int:
        """Counts, too."""
        return await self(by)


def test_A18_partial_functions_methods_and_objects_can_be_async_tools():
    counter = Counter()
    tools = [function_tool(each) for each in (counter, counter.method, functools.partial(later, fail="x"))]
    assert [each.spec.name for each in tools] == ["Counter", "method", "later"]
    assert [each.spec.description for each in tools] == ["Counts up.", "Counts, too.", "Twice x, later."]
    assert [each.call('{"by": 2}').text for each in tools[:2]] == ["2", "4"]
    assert tools[2].call('{"x": 1}').text == "error: LookupError: x"
    assert all(each.call_async for each in tools)
    assert function_tool(lambda: later(3)).call("").text.startswith('{"x":6')  # gives a coroutine, and is none itself
