"""The arguments of container.exec: the declared form, and what models write in its place."""

import json

import pytest

from ossia.tools.container.arguments import ExecCall, container_namespace, exec_call
from ossia.tools.signature import ArgumentsError

GOOD = [
    ({"cmd": ["ls", "-l"]}, ExecCall(("ls", "-l"), None, None, None)),
    ({"cmd": "ls | wc"}, ExecCall(("bash", "-lc", "ls | wc"), None, None, None)),
    ({"command": ["ls"], "workdir": "/mnt/data/a"}, ExecCall(("ls",), "/mnt/data/a", None, None)),
    ({"commands": ["bash", "-lc", "ls -l"]}, ExecCall(("bash", "-lc", "ls -l"), None, None, None)),
    ({"commands": ["cd a", "ls"]}, ExecCall(("bash", "-lc", "cd a\nls"), None, None, None)),
    ({"cmd": ["sleep", 1], "timeout": 5}, ExecCall(("sleep", "1"), None, 5.0, None)),
    ({"cmd": ["ls"], "timeout_ms": 500}, ExecCall(("ls",), None, 0.5, None)),
    ({"cmd": ["ls"], "session_name": "s", "user": "root", "workdir": None}, ExecCall(("ls",), None, None, "s")),
]


@pytest.mark.parametrize(("arguments", "call"), GOOD, ids=lambda value: str(value)[:40])
def test_calls_are_read(arguments: dict, call: ExecCall):
    assert exec_call(json.dumps(arguments)) == call


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"cmd": []}', '{"cmd": ""}', '{"cmd": {"a": 1}}', '{"cmd": [["ls"]]}', '{"cmd": ["a\\u0000"]}',
     '{"cmd": ["ls"], "timeout": -1}', '{"cmd": ["ls"], "timeout": "soon"}', '{"cmd": ["ls"], "workdir": 3}',
     '{"cmd": "' + "x" * 2_000_000 + '"}'],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_what_is_no_command_is_an_error_for_the_model(text: str):
    with pytest.raises(ArgumentsError):
        exec_call(text)


def test_the_declaration_names_the_function():
    space = container_namespace()
    assert (space.name, [tool.name for tool in space.tools]) == ("container", ["exec"])
