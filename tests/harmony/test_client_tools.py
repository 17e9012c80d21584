"""Tools of any API become functions that harmony can declare, and every call finds its way back to the client's name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.harmony.calls import recipients
from ossia.harmony.client_tools import ClientTool, toolbox
from ossia.harmony.errors import InputError

PLAIN = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}, **more}


def names_of(*tools: dict[str, Any]) -> dict[str, ClientTool]:
    return dict(toolbox(tools).called)


def test_flat_nested_and_anthropic_tools_are_the_same_function():
    nested = {"type": "function", "function": {k: v for k, v in PLAIN.items() if k != "type"}}
    anthropic = {"name": "add", "input_schema": PLAIN["parameters"]}
    named_custom = {"type": "custom", **anthropic}
    boxes = [toolbox([tool]) for tool in (PLAIN, nested, anthropic, named_custom)]
    assert all(box == boxes[0] for box in boxes)
    assert boxes[0].called == {"functions.add": ClientTool("add")}
    assert boxes[0].spaces[0].tools[0].parameters == PLAIN["parameters"]


def test_missing_descriptions_and_parameters_are_no_fault():
    (spec,) = toolbox([{"type": "function", "name": "now", "description": None, "parameters": None}]).spaces[0].tools
    assert (spec.description, spec.parameters) == ("", None)


@pytest.mark.parametrize("name", ["python", "browser", "browser.search", "python-run"])
def test_a_name_of_the_models_own_tools_is_aliased(name: str):
    box = toolbox([function(name)])
    (alias,) = box.called
    assert alias.startswith("functions.client_")
    assert box.called[alias] == ClientTool(name)
    assert f"Also known as: {name}" in box.spaces[0].tools[0].description
    assert box.recipient(name) == alias


def test_names_that_only_begin_like_the_models_own_are_left_alone():
    assert list(names_of(function("python3"), function("browse"))) == ["functions.python3", "functions.browse"]


def test_names_that_become_the_same_stay_apart():
    called = names_of(function("a b"), function("a\tb"), function("a_b"))
    assert [tool.name for tool in called.values()] == ["a b", "a\tb", "a_b"]
    assert len(called) == 3


def test_of_two_declarations_of_a_name_the_later_one_holds():
    box = toolbox([function("f", description="old"), function("g"), function("f", description="new")])
    assert [(tool.name, tool.description) for tool in box.spaces[0].tools] == [("f", "new"), ("g", "")]
    assert "more than once" in box.warnings[0]


def test_a_namespaces_members_are_flattened_and_found_again():
    space = {
        "type": "namespace",
        "name": "crm",
        "description": "",
        "tools": [function("find"), {"type": "custom", "name": "run"}],
    }
    box = toolbox([space, function("find")])
    assert box.called == {
        "functions.crm__find": ClientTool("find", "crm"),
        "functions.crm__run": ClientTool("run", "crm", custom=True),
        "functions.find": ClientTool("find"),
    }
    assert box.recipient("find", "crm") == "functions.crm__find"
    assert box.recipient("find") == "functions.find"


def test_a_call_without_its_namespace_still_finds_its_tool():
    space = {"type": "namespace", "name": "crm", "tools": [function("find")]}
    assert toolbox([space]).recipient("find") == "functions.crm__find"
    assert toolbox([space]).recipient("find", "other") == "functions.other__find"
    assert toolbox([]).recipient("gone") == "functions.gone"


def test_custom_tools_take_one_text():
    box = toolbox([{"type": "custom", "name": "sql", "format": {"type": "text"}}])
    assert box.spaces[0].tools[0].parameters == {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
        "additionalProperties": False,
    }


def test_a_custom_tools_regular_expression_is_enforced_and_its_lark_grammar_told():
    regex = {"type": "grammar", "syntax": "regex", "definition": "[a-z]+"}
    lark = {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'}
    flat, nested, told = (
        toolbox([tool])
        for tool in (
            {"type": "custom", "name": "f", "format": regex},
            {"type": "custom", "custom": {"name": "f", "format": {"type": "grammar", "grammar": regex}}},
            {"type": "custom", "name": "f", "format": lark},
        )
    )
    assert flat.spaces == nested.spaces
    assert flat.spaces[0].tools[0].parameters["properties"]["input"]["pattern"] == "^(?:[a-z]+)$"  # type: ignore[index]
    assert 'start: "x"' in told.spaces[0].tools[0].description
    assert "not enforced" in told.warnings[0]


@pytest.mark.parametrize("kind", ["web_search", "mcp", "file_search", "code_interpreter", "what_comes_next"])
def test_tools_that_only_a_provider_runs_are_left_out_with_a_warning(kind: str):
    box = toolbox([{"type": kind, "server_url": "x"}, PLAIN], "auto")
    assert list(box.called) == ["functions.add"]
    assert f"tools[0]: tools of type '{kind}'" in box.warnings[0]


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({}, "tools[0].type"),
        ({"type": "function"}, "tools[0].name"),
        ({"type": "function", "name": ""}, "tools[0].name"),
        ({"type": "function", "name": 7}, "tools[0].name"),
        ({"type": "function", "function": {"name": None}}, "tools[0].function.name"),
        ({"type": "function", "name": "f", "parameters": []}, "tools[0].parameters"),
        ({"type": "function", "name": "f", "parameters": {"type": "string"}}, "tools[0].parameters"),
        ({"type": "function", "name": "f", "description": 1}, "tools[0].description"),
        ({"type": "namespace", "name": "n", "tools": [{"type": "function"}]}, "tools[0].tools[0].name"),
        ({"type": "namespace", "name": "n", "tools": 3}, "tools[0].tools"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_by_its_place(tool: dict[str, Any], param: str):
    with pytest.raises(InputError) as caught:
        toolbox([tool])
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("choice", "word"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "any"}, "required"),
        ({"type": "function", "name": "add"}, "functions.add"),
        ({"type": "function", "function": {"name": "add"}}, "functions.add"),
        ({"type": "tool", "name": "add"}, "functions.add"),
        ({"type": "custom", "name": "sql"}, "functions.sql"),
        ({"type": "custom", "custom": {"name": "sql"}}, "functions.sql"),
    ],
)
def test_choices_of_every_api(choice: object, word: str):
    box = toolbox([PLAIN, {"type": "custom", "name": "sql"}], choice)
    assert (box.choice, box.allowed) == (word, None)


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_leave_the_prompt_as_it_is(mode: str):
    flat = {
        "type": "allowed_tools",
        "mode": mode,
        "tools": [{"type": "function", "name": "b"}, {"type": "mcp", "server_label": "x"}],
    }
    nested = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": mode, "tools": [{"type": "function", "function": {"name": "b"}}]},
    }
    for choice in (flat, nested):
        box = toolbox([function("a"), function("b")], choice)
        assert (box.choice, box.allowed) == (mode, {"functions.b"})
        assert [tool.name for tool in box.spaces[0].tools] == ["a", "b"]


@pytest.mark.parametrize(
    "choice",
    [
        "sometimes",
        3,
        {},
        {"type": "web_search"},
        {"type": "function", "name": "no"},
        {"type": "function"},
        {"type": "allowed_tools", "mode": "required", "tools": []},
    ],
)
def test_a_choice_that_cannot_be_is_refused(choice: object):
    with pytest.raises(InputError) as caught:
        toolbox([PLAIN], choice)
    assert caught.value.param == "tool_choice"


def test_required_needs_a_tool_that_can_be_called():
    with pytest.raises(InputError, match="at least one tool"):
        toolbox([{"type": "web_search"}], "required")


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=12), st.none() | st.text(min_size=1, max_size=8)),
        max_size=6,
        unique=True,
    )
)
def test_every_name_can_be_declared_and_comes_back(names: list[tuple[str, str | None]]):
    tools = [
        function(name) if space is None else {"type": "namespace", "name": space, "tools": [function(name)]}
        for name, space in names
    ]
    box = toolbox(tools)
    assert set(recipients(box.spaces)) == set(box.called)
    assert [(tool.name, tool.namespace) for tool in box.called.values()] == names
    assert all(box.called[box.recipient(name, space)] == ClientTool(name, space) for name, space in names)
