"""Where calls stand: placement by the declaring message, arguments in any order, malformed headers and slips recovered.

The real headers are those of gpt-oss-20b in the data set gpt_oss_responses.
"""

import itertools
import json
from typing import Any

import pytest

from ossia.harmony.calls import DeclaredTools, declared_tools, recipients
from ossia.harmony.client_tools import toolbox
from ossia.harmony.grammar import GrammarCache, TurnGrammar
from ossia.harmony.messages import Developer, Message, System, ToolNamespace, ToolSpec, developer, system
from ossia.harmony.parse import Delta, End, Parser, Start
from tests.support.data_sets import shared
from tests.support.vocabularies import o200k, small

GRAMMARS = GrammarCache(o200k())
EXEC = {"type": "object", "properties": {"cmd": {"type": "array", "items": {"type": "string"}}}, "required": ["cmd"]}
OPEN: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": ["number", "string"], "default": -1},
        "cursor": {"type": "number", "default": -1},
        "loc": {"type": "number", "default": -1},
        "num_lines": {"type": "number", "default": -1},
        "view_source": {"type": "boolean", "default": False},
        "source": {"type": "string"},
    },
}
SYSTEM = (
    ToolNamespace("container", None, (ToolSpec("exec", "Run.", EXEC),)),
    ToolNamespace("browser", None, (ToolSpec("open", "Open.", OPEN),)),
    ToolNamespace("python", "Run code."),
)
FUNCTIONS = (ToolNamespace("functions", None, (ToolSpec("exec", "Run.", EXEC),)),)
RULES = TurnGrammar(GRAMMARS, FUNCTIONS, SYSTEM)
CHANNELS = DeclaredTools(SYSTEM, FUNCTIONS).channels


def is_allowed(text: str, rules: TurnGrammar = RULES) -> bool:
    turn = rules.start()
    for token in rules.grammars.tokenizer.encode_with_special(text):
        turn.accept(token)
    return not turn.strayed and turn.mask() is None


def read(text: str, channels: dict[str, str] | None = None) -> list[Message]:
    parser = Parser(o200k(), "assistant", CHANNELS if channels is None else channels)
    events = [event for token in o200k().encode_with_special(text) for event in parser.feed(token)] + parser.finish()
    return [event.message for event in events if isinstance(event, End)]


# Placement


@pytest.mark.parametrize("kind", [" code", ""])
@pytest.mark.parametrize("head", ["<|channel|>analysis to={}", " to={}<|channel|>analysis"])
@pytest.mark.parametrize(
    ("recipient", "arguments"),
    [("container.exec", '{"cmd": ["ls"]}'), ("browser.open", '{"id": 3}'), ("python", "print(1)\n")],
)
def test_tools_of_the_system_message_are_called_on_analysis(head: str, kind: str, recipient: str, arguments: str):
    assert is_allowed(f"{head.format(recipient)}{kind}<|message|>{arguments}<|call|>")


@pytest.mark.parametrize(
    "text",
    [
        '<|channel|>commentary to=container.exec <|constrain|>json<|message|>{"cmd": ["ls"]}<|call|>',
        '<|channel|>commentary to=container.exec code<|message|>{"cmd": ["ls"]}<|call|>',
        '<|channel|>analysis to=container.exec <|constrain|>json<|message|>{"cmd": ["ls"]}<|call|>',
        "<|channel|>commentary to=python code<|message|>print(1)<|call|>",
        '<|channel|>analysis to=functions.exec code<|message|>{"cmd": ["ls"]}<|call|>',
    ],
)
def test_each_tool_has_one_placement(text: str):
    assert not is_allowed(text)


@pytest.mark.parametrize("kind", [" <|constrain|>json", "<|constrain|>json", " json", ""])
@pytest.mark.parametrize("head", ["<|channel|>commentary to={}", " to={}<|channel|>commentary"])
def test_functions_of_the_developer_message_are_called_on_commentary(head: str, kind: str):
    assert is_allowed(f'{head.format("functions.exec")}{kind}<|message|>{{"cmd":["ls"]}}<|call|>')


def test_the_message_that_declares_a_namespace_places_it_whatever_its_name_is():
    swapped = declared_tools([system(System(tools=FUNCTIONS)), developer(Developer(None, SYSTEM))])
    rules = TurnGrammar(GRAMMARS, swapped.developer, swapped.system)
    assert is_allowed('<|channel|>analysis to=functions.exec code<|message|>{"cmd":["ls"]}<|call|>', rules)
    assert is_allowed("<|channel|>commentary to=python code<|message|>print(1)<|call|>", rules)
    assert swapped.channels["container.exec"] == "commentary"


def test_clients_functions_named_like_built_in_tools_stand_beside_them():
    box = toolbox([{"type": "function", "name": "python", "parameters": EXEC}])
    rules = TurnGrammar(GRAMMARS, box.spaces, SYSTEM)
    assert is_allowed("<|channel|>analysis to=python code<|message|>print(1)<|call|>", rules)
    call = '<|channel|>commentary to=functions.client_python <|constrain|>json<|message|>{"cmd":["ls"]}<|call|>'
    assert is_allowed(call, rules)
    assert box.called["functions.client_python"].name == "python"


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        ("browser.open", {"browser.open"}),
        ("browser", {"browser.open"}),
        ("container", {"container.exec"}),
        ("python", {"python"}),
        ("exec", {"functions.exec"}),
    ],
)
def test_a_choice_may_name_a_built_in_tool_or_its_namespace(choice: str, left: set[str]):
    assert {form.name for form in TurnGrammar(GRAMMARS, FUNCTIONS, SYSTEM, tool_choice=choice).endings} == left


# Arguments in any order

VALUES = {"id": '"x"', "cursor": "1", "loc": "2", "num_lines": "3", "view_source": "true", "source": '"web"'}


@pytest.mark.parametrize("count", range(1, 7))
def test_arguments_of_system_tools_come_in_any_order_each_once(count: int):
    names = list(VALUES)[:count]
    parameters = {**OPEN, "properties": {name: OPEN["properties"][name] for name in names}, "required": names[:1]}
    space = ToolNamespace("browser", None, (ToolSpec("open", "", parameters),))
    schema = recipients((space,), in_system=True)["browser.open"]
    assert schema is not None
    for order in list(itertools.permutations(names))[::7]:
        whole = ", ".join(f'"{name}": {VALUES[name]}' for name in order)
        assert GRAMMARS.allows(schema, f"{{{whole}}}")
        assert not GRAMMARS.allows(schema, f'{{{whole}, "{order[0]}": {VALUES[order[0]]}}}')  # repeated
        assert not GRAMMARS.allows(schema, f'{{{whole}, "other": 1}}')  # unknown
        without = ", ".join(f'"{name}": {VALUES[name]}' for name in order if name != names[0])
        assert not GRAMMARS.allows(schema, f"{{{without}}}")  # the required one is missing
    assert not GRAMMARS.allows(schema, f'{{"{names[0]}": [1]}}')  # of another type


def test_with_many_properties_the_tool_checks_repeated_and_missing_ones():
    parameters = {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(20)}, "required": ["p0"]}
    space = ToolNamespace("many", None, (ToolSpec("f", "", parameters),))
    schema = recipients((space,), in_system=True)["many.f"]
    assert schema is not None
    assert GRAMMARS.allows(schema, json.dumps({f"p{n}": n for n in reversed(range(20))}))
    assert GRAMMARS.allows(schema, '{"p3": 1}')
    assert not GRAMMARS.allows(schema, "{}")
    assert not GRAMMARS.allows(schema, '{"p20": 1}')
    assert not GRAMMARS.allows(schema, '{"p1": "x"}')


def test_open_objects_take_other_names_between_the_declared_ones():
    parameters = {**EXEC, "additionalProperties": {"type": "integer"}}
    schema = recipients((ToolNamespace("x", None, (ToolSpec("f", "", parameters),)),), in_system=True)["x.f"]
    assert schema is not None
    assert GRAMMARS.allows(schema, '{"a": 1, "cmd": [], "b": 2}')
    assert GRAMMARS.allows(schema, '{"cmd": [], "b": 2, "a": 1}')
    assert not GRAMMARS.allows(schema, '{"a": 1}')
    assert not GRAMMARS.allows(schema, '{"a": "x", "cmd": []}')


def test_functions_keep_the_order_of_their_schema():
    assert is_allowed('<|channel|>analysis to=browser.open code<|message|>{"cursor": 1, "id": 2}<|call|>')
    rules = TurnGrammar(GRAMMARS, (ToolNamespace("functions", None, (ToolSpec("open", "", OPEN),)),))
    head = "<|channel|>commentary to=functions.open <|constrain|>json<|message|>"
    assert not is_allowed(head + '{"cursor": 1, "id": 2}<|call|>', rules)
    assert is_allowed(head + '{"id": 2, "cursor": 1}<|call|>', rules)


# Malformed headers

REAL = [
    ("<|channel|>repo_browser.search<|channel|>analysis code", "repo_browser.search"),
    ("<|channel|>container.exec<|channel|>analysis code", "container.exec"),
    ("<|channel|>assistant to=repo_browser.open_file<|channel|>analysis code", "repo_browser.open_file"),
    ("<|channel|>browser.search to=assistant<|channel|>analysis code", "browser.search"),
]
TASK = dict.fromkeys(
    ("container.exec", *(f"repo_browser.{n}" for n in ("search", "open_file", "print_tree", "apply_patch"))), "analysis"
)


@pytest.mark.parametrize("channels", [TASK, {}], ids=["declared", "not declared"])
@pytest.mark.parametrize(("header", "recipient"), REAL)
def test_a_second_channel_in_a_header_is_recovered(header: str, recipient: str, channels: dict[str, str]):
    (call,) = read(header + '<|message|>{"a": 1}<|call|>', channels)
    assert (call.recipient, call.channel, call.content_type) == (recipient, "analysis", "code")
    assert call.text == '{"a": 1}'
    assert call.flaws == ("a second <|channel|> in a header",)
    assert call.tokens is None


def test_all_malformed_headers_of_a_real_model_are_recovered():
    flawed = 0
    for line in (shared("gpt_oss_responses") / "responses.jsonl").read_text("utf-8").splitlines():
        last = read(json.loads(line)["text"] + "<|call|>", TASK)[-1]
        flawed += bool(last.flaws)
        assert last.channel == "final" or last.recipient in {*TASK, "browser.search"}
        assert last.recipient is None or isinstance(json.loads(last.text), dict)
    assert flawed == 5


@pytest.mark.parametrize(
    ("header", "recipient", "channel"),
    [
        ("<|channel|>python<|channel|>analysis", "python", "analysis"),  # no dotted name, but declared
        ("<|channel|>functions.exec<|channel|>commentary json", "functions.exec", "commentary"),
        ("<|channel|>commentary exec.sh to=container.exec<|channel|>analysis code", "container.exec", "analysis"),
    ],
)
def test_declared_names_come_first_in_a_malformed_header(header: str, recipient: str, channel: str):
    (call,) = read(header + "<|message|>x<|call|>")
    assert (call.recipient, call.channel) == (recipient, channel)
    assert call.flaws


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("functions.browser.open", "browser.open"),
        ("functions.python", "python"),
        ("browser_open", "browser.open"),
        ("functions.container_exec", "container.exec"),
        ("exec", "functions.exec"),
    ],
)
def test_slips_of_a_recipient_become_the_declared_tool(written: str, meant: str):
    text = f"<|channel|>commentary to={written} <|constrain|>json<|message|>{{}}<|call|>"
    events = _events(text)
    assert {event.recipient for event in events if isinstance(event, Start | Delta)} == {meant}
    (call,) = read(text)
    assert call.recipient == meant
    assert call.flaws == (f"the recipient {written!r} is not declared; read as {meant!r}",)


def _events(text: str) -> list[Start | Delta | End]:
    parser = Parser(o200k(), "assistant", CHANNELS)
    return [event for token in o200k().encode_with_special(text) for event in parser.feed(token)]


def test_a_built_in_tool_on_commentary_is_called_with_a_flaw():
    (call,) = read("<|channel|>commentary to=python<|message|>print(1)<|call|>")
    assert (call.recipient, call.flaws) == ("python", ("python is called on the analysis channel, not on commentary",))


def test_a_declared_function_of_the_same_name_is_no_slip():
    box = toolbox([{"type": "function", "name": "python", "parameters": EXEC}])
    channels = DeclaredTools((ToolNamespace("python", ""),), box.spaces).channels
    (call,) = read("<|channel|>commentary to=functions.python json<|message|>{}<|call|>", channels)
    assert call.recipient == "functions.client_python"


@pytest.mark.parametrize(
    "text", ["<|channel|>final<|message|>Hi.<|return|>", " to=nothing.like<|channel|>analysis code<|message|>x<|call|>"]
)
def test_other_headers_are_read_as_before(text: str):
    assert read(text) == read(text, {})
    assert not read(text)[0].flaws


@pytest.mark.parametrize("grammars", [GRAMMARS, GrammarCache(small())], ids=["o200k", "small"])
def test_a_forced_built_in_call_is_written_out(grammars: GrammarCache):
    turn = TurnGrammar(grammars, (), SYSTEM[2:], tool_choice="python", analysis_budget=0).start()
    tokenizer, header = grammars.tokenizer, "<|channel|>analysis to=python code<|message|>"
    for token in tokenizer.encode_with_special(header):
        assert turn.mask() == grammars.mask_of([token])
        turn.accept(token)
