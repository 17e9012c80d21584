"""apply_patch, local_shell and shell run by the client: their items, and their outputs as the model reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from ossia.server.core.hosted import HostedSessions
from tests.support.responses import checked, fold
from tests.support.server import scripted
from tests.support.turns import call, final, think

PATCH_TOOL = {"type": "apply_patch"}
SHELL_TOOL = {"type": "local_shell"}
PATCH = (
    "*** Begin Patch\n*** Add File: new.txt\n+hi\n*** Update File: a.py\n@@ def f():\n-    return 1\n+    return 2\n"
    "*** Delete File: old.txt\n*** End Patch\n"
)


def patch_call(patch: str) -> str:
    return call("apply_patch", json.dumps({"input": patch}))


def outputs(items: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    """What a client sends after it ran the calls."""
    calls = [item for item in items if item["type"] == "apply_patch_call"]
    return [
        {"type": "apply_patch_call_output", "call_id": each["call_id"], "status": "completed", **more} for each in calls
    ]


def test_a_patch_is_one_item_for_each_file():
    with scripted(think("I patch.") + patch_call(PATCH)) as w:
        events = w.events(input="x", tools=[PATCH_TOOL], store=False)
        reasoning, created, updated, deleted = fold(events)
        assert reasoning["type"] == "reasoning"
        assert {each["type"] for each in (created, updated, deleted)} == {"apply_patch_call"}
        assert created["operation"] == {"type": "create_file", "path": "new.txt", "diff": "+hi\n"}
        assert updated["operation"] == {
            "type": "update_file",
            "path": "a.py",
            "diff": "@@ def f():\n-    return 1\n+    return 2\n",
        }
        assert deleted["operation"] == {"type": "delete_file", "path": "old.txt"}
        assert created["id"].startswith("apc_")
        assert len({each["call_id"] for each in (created, updated, deleted)}) == 3
        assert {each["status"] for each in (created, updated, deleted)} == {"completed"}
        assert events[-1]["response"]["output"] == [reasoning, created, updated, deleted]
        assert events[-1]["response"]["tools"] == [PATCH_TOOL]
        assert "type apply_patch = (_: {" in w.script.prompts[0]


def test_the_plain_answer_is_the_same():
    with scripted(patch_call(PATCH)) as w:
        answer = checked(w.respond(input="x", tools=[PATCH_TOOL], store=False))
        kinds = [item["operation"]["type"] for item in answer["output"]]
        assert kinds == ["create_file", "update_file", "delete_file"]


@pytest.mark.parametrize("kept", [True, False])
def test_the_outputs_are_one_result_of_one_call(kept: bool, tmp_path: Path):
    """The model reads its own call as it wrote it, whether the server kept it or the client sends the items."""
    with scripted(think("I patch.") + patch_call(PATCH), final("Done."), state=tmp_path) as w:
        first = w.respond(input="x", tools=[PATCH_TOOL])
        if kept:
            again: dict[str, Any] = {"input": outputs(first["output"]), "previous_response_id": first["id"]}
        else:
            again = {"input": [{"role": "user", "content": "x"}, *first["output"], *outputs(first["output"])]}
        second = w.respond(**again, tools=[PATCH_TOOL])
        assert second["output"][0]["content"][0]["text"] == "Done."
        prompt = w.script.prompts[1]
        assert prompt.count("to=functions.apply_patch") == 1
        assert json.dumps({"input": PATCH}) in prompt
        assert "I patch." in prompt
        assert prompt.count("functions.apply_patch to=assistant") == 1
        assert "<|message|>Done!<|end|>" in prompt


@pytest.mark.parametrize(
    ("status", "output", "read"),
    [
        ("completed", "Created new.txt", "Created new.txt\nCreated new.txt\nCreated new.txt"),
        ("failed", "Invalid Context 3", "Error applying patch: Invalid Context 3"),
        ("failed", None, "Error applying patch: the client could not apply it"),
    ],
)
def test_what_the_client_says_is_the_result(status: str, output: str | None, read: str, tmp_path: Path):
    with scripted(patch_call(PATCH), final("ok"), state=tmp_path) as w:
        first = w.respond(input="x", tools=[PATCH_TOOL])
        given = outputs(first["output"], status=status, output=output)
        w.respond(input=given, previous_response_id=first["id"], tools=[PATCH_TOOL])
        assert f"<|message|>{read}<|end|>" in w.script.prompts[1]


@pytest.mark.parametrize(
    "patch", ["nonsense", PATCH[:60], "*** Begin Patch\n*** Update File: a\n*** Move to: b\n*** End Patch"]
)
def test_a_patch_that_cannot_be_split_is_an_item_that_fails_at_the_client(patch: str):
    with scripted(patch_call(patch)) as w:
        (item,) = checked(w.respond(input="x", tools=[PATCH_TOOL], store=False))["output"]
        assert item["operation"]["type"] == "update_file"
        assert patch in json.loads(item["operation"]["diff"])["input"]


def test_a_command_for_the_clients_shell(tmp_path: Path):
    arguments = {"command": ["bash", "-lc", "ls"], "working_directory": "/x", "timeout_ms": 500}
    said = json.dumps({**arguments, "user": None})
    with scripted(call("local_shell", said), final("Two."), final("2"), state=tmp_path) as w:
        first = checked(w.respond(input="files?", tools=[SHELL_TOOL]))
        (item,) = first["output"]
        assert item["type"] == "local_shell_call"
        action = {"type": "exec", "env": {}, **arguments}  # clients refuse a null user
        assert item["action"] == action
        # the id of an output is that of the call's item, or there is a call_id
        for given in ({"id": item["id"]}, {"call_id": item["call_id"]}):  # both clients' forms
            answer = {"type": "local_shell_call_output", "output": "a\nb", **given}
            w.respond(input=[answer], previous_response_id=first["id"], tools=[SHELL_TOOL])
            assert "functions.local_shell to=assistant" in w.script.prompts[-1]
            assert "<|message|>a\nb<|end|>" in w.script.prompts[-1]


@pytest.mark.parametrize("tool", [{"type": "shell"}, {"type": "shell", "environment": {"type": "local"}}])
def test_commands_of_the_shell_tool(tool: dict, tmp_path: Path):
    own = HostedSessions(["container"])  # the server's shell is another
    with scripted(
        call("shell", '{"commands": ["ls", "false"], "timeout_ms": 9}'), final("ok"), state=tmp_path, hosted=own
    ) as w:
        events = w.events(input="x", tools=[tool])
        kinds = [event["type"].removeprefix("response.") for event in events]
        assert kinds[2:-1] == [
            "output_item.added", "shell_call_command.added", "shell_call_command.done", "shell_call_command.added",
            "shell_call_command.done", "output_item.done",
        ]  # fmt: skip
        (item,) = events[-1]["response"]["output"]
        assert item["action"] == {"commands": ["ls", "false"], "timeout_ms": 9, "max_output_length": None}
        output = [
            {"stdout": "a\n", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}},
            {"stdout": "", "stderr": "no\n", "outcome": {"type": "exit", "exit_code": 1}},
            {"stdout": "", "stderr": "", "outcome": {"type": "timeout"}},
        ]
        result = {"type": "shell_call_output", "call_id": item["call_id"], "output": output}
        w.respond(input=[result], previous_response_id=events[-1]["response"]["id"], tools=[tool])
        assert "<|message|>a\nno\n[exit code 1]\n[the command timed out]<|end|>" in w.script.prompts[1]


def test_a_choice_of_such_a_tool_is_its_function():
    with scripted(patch_call(PATCH)) as w:
        answer = w.respond(input="x", tools=[PATCH_TOOL], tool_choice=PATCH_TOOL, store=False)
        assert answer["tool_choice"] == PATCH_TOOL


def test_a_function_of_the_same_name_is_another_tool():
    own = {"type": "function", "name": "apply_patch", "parameters": {"type": "object", "properties": {}}}
    with scripted(call("apply_patch", "{}")) as w:
        (item,) = w.respond(input="x", tools=[PATCH_TOOL, own], store=False)["output"]
        assert (item["type"], item["name"]) == ("function_call", "apply_patch")
        assert "type apply_patch_tool = " in w.script.prompts[0]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "apply_patch_call", "operation": {}}, "input[0].call_id"),
        ({"type": "apply_patch_call", "call_id": "c"}, "input[0].operation"),
        ({"type": "apply_patch_call", "call_id": "c", "operation": {"type": "x"}}, "input[0].operation"),
        ({"type": "local_shell_call", "call_id": "c"}, "input[0].action"),
    ],
)
def test_items_that_cannot_be_read_are_refused(item: dict[str, Any], param: str):
    with scripted() as w:
        answer = w.client.post("/v1/responses", json={"input": [item], "tools": [PATCH_TOOL]})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
