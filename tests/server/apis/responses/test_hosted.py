"""The server's own tools on the Responses API: their items and events are what openai's types say, and the loop runs."""

import base64
import re
import time
from pathlib import Path
from typing import Any

import pytest

from ossia.server.core.hosted import hosted_sessions
from ossia.tools.choose import ToolSettings
from tests.support.hosted import FakePython, hosted
from tests.support.responses import fold
from tests.support.server import scripted
from tests.support.turns import call, final, say, think
from tests.support.vocabularies import small
from tests.tools.sandbox.places import python_sandbox_or_skip

SEARCH = {"type": "web_search"}
ADD = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}
CODE = {"type": "code_interpreter", "container": {"type": "auto"}}


def browse(function: str, arguments: str) -> str:
    return f"<|channel|>analysis to=browser.{function} code<|message|>{arguments}<|call|>"


def code(text: str) -> str:
    return f"<|channel|>analysis to=python code<|message|>{text}<|call|>"


def kinds(response: dict[str, Any]) -> list[str]:
    return [item["type"] for item in response["output"]]


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview", "web_search_2025_08_26", "browser_search"])
def test_a_search_is_run_and_shown(tmp_path: Path, kind: str):
    turns = think("I look.") + browse("search", '{"query": "plums"}'), final("Blue.")
    with scripted(*turns, hosted=hosted(tmp_path)) as w:
        body: dict[str, Any] = {"input": "colour of plums?", "tools": [{"type": kind}], "store": False}
        answer = w.client.post("/v1/responses", json=body).json()
        assert kinds(answer) == ["reasoning", "web_search_call", "message"]
        search = answer["output"][1]
        assert search["status"] == "completed"
        assert search["action"] == {"type": "search", "query": "plums", "queries": ["plums"]}
        assert answer["tools"] == [{"type": kind}]
        assert "namespace browser" in w.script.prompts[0]
        assert "Plums" in w.script.prompts[1]
        assert "browser.search to=assistant<|channel|>analysis" in w.script.prompts[1]
        assert answer["usage"]["output_tokens"] > 0


def test_a_tool_that_is_not_offered_is_left_out_with_a_warning():
    with scripted(final("No idea.")) as w:
        answer = w.client.post("/v1/responses", json={"input": "x", "tools": [SEARCH], "store": False})
        assert "web_search" in answer.headers["x-ossia-warnings"]
        assert answer.json()["tools"] == []
        assert "namespace browser" not in w.script.prompts[0]


def test_the_events_of_a_search_and_its_citation(tmp_path: Path):
    turns = (
        browse("search", '{"query": "plums"}'),
        browse("open", '{"id": 0}'),
        browse("find", '{"pattern": "trees"}'),
        final("Plums are blue【1†L3】."),
    )
    with scripted(*turns, hosted=hosted(tmp_path)) as w:
        include = ["web_search_call.action.sources", "web_search_call.results"]
        events = w.events(input="colour?", tools=[SEARCH], include=include, store=False)
        output = fold(events)
        assert [item["type"] for item in output] == ["web_search_call"] * 3 + ["message"]
        search, opened, found, message = output
        assert search["action"]["sources"][0]["type"] == "url"
        assert (opened["action"]["type"], found["action"]["type"]) == ("open_page", "find_in_page")
        assert found["action"]["pattern"] == "trees"
        assert "blue" in opened["results"][0]["text"]
        part = message["content"][0]
        (cited,) = part["annotations"]
        assert cited["type"] == "url_citation"
        assert part["text"][cited["start_index"] : cited["end_index"]].startswith("([")
        assert cited["url"] == opened["action"]["url"]
        assert "【" not in part["text"]
        assert events[-1]["response"]["output"] == output
        first = types(events)[2:8]
        assert first == [
            "output_item.added",
            "web_search_call.in_progress",
            "web_search_call.searching",
            "web_search_call.completed",
            "output_item.done",
            "output_item.added",
        ]


def test_code_is_run_with_its_state_and_shown():
    python = FakePython({"print(2 + 2)": "4\n"})
    turns = code("print(2 + 2)"), code("x"), final("Four.")
    with scripted(*turns, hosted=hosted(None, python)) as w:
        events = w.events(input="2 + 2?", tools=[CODE], include=["code_interpreter_call.outputs"], store=False)
        first, second, message = fold(events)
        assert (first["type"], first["status"], first["code"]) == ("code_interpreter_call", "completed", "print(2 + 2)")
        assert first["outputs"] == [{"type": "logs", "logs": "4\n"}]
        assert second["outputs"] == [{"type": "logs", "logs": "cell 2\n"}]
        assert first["container_id"] == second["container_id"] != ""
        assert message["content"][0]["text"] == "Four."
        assert python.cells == 2
        assert "python to=assistant<|channel|>analysis<|message|>4\n<|end|>" in w.script.prompts[1]
        assert not python.open_now
        own = [kind for kind in types(events) if "code_interpreter" in kind]
        assert own[0] == "code_interpreter_call.in_progress"
        assert own[-2:] == ["code_interpreter_call.interpreting", "code_interpreter_call.completed"]


def test_outputs_are_null_unless_they_are_included():
    with scripted(code("x"), final("ok"), hosted=hosted(None, FakePython())) as w:
        answer = w.respond(input="x", tools=[CODE], store=False)
        assert answer["output"][0]["outputs"] is None


def test_a_continued_response_has_the_same_session(tmp_path: Path):
    python = FakePython()
    turns = think("First.") + code("x = 1"), final("Set."), code("x"), final("One.")
    with scripted(*turns, state=tmp_path, hosted=hosted(None, python)) as w:
        first = w.respond(input="set x", tools=[CODE])
        second = w.respond(input="and now?", previous_response_id=first["id"], tools=[CODE])
        assert python.cells == 2
        assert second["output"][0]["container_id"] == first["output"][1]["container_id"]


def test_a_session_is_closed_when_nothing_continues_it(tmp_path: Path):
    python = FakePython()
    with scripted(code("x"), final("Set."), state=tmp_path, hosted=hosted(None, python, idle_seconds=0.05)) as w:
        w.respond(input="set x", tools=[CODE])
        assert python.open_now
        for _ in range(200):
            if not python.open_now:
                break
            time.sleep(0.01)
        assert not python.open_now


def test_a_client_that_sends_the_items_back_gets_the_stored_results(tmp_path: Path):
    turns = code("x = 1"), call("add", "{}"), final("Yes.")
    with scripted(*turns, state=tmp_path, hosted=hosted(None, *[FakePython()] * 2)) as w:
        first = w.respond(input="set x", tools=[CODE, ADD])
        result = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "3"}
        w.respond(input=[{"role": "user", "content": "set x"}, *first["output"], result], tools=[CODE, ADD])
        assert "x = 1<|call|><|start|>python to=assistant<|channel|>analysis<|message|>cell 1" in w.script.prompts[2]


def test_a_call_and_its_logs_are_read_from_the_items_without_a_store():
    item = {"type": "code_interpreter_call", "id": "ci_1", "code": "1+1", "container_id": "c", "status": "completed"}
    logs = [{"type": "logs", "logs": "2\n"}]
    given = [{"role": "user", "content": "?"}, {**item, "outputs": logs}, {"role": "user", "content": "and?"}]
    with scripted(final("ok"), hosted=hosted(None, FakePython())) as w:
        w.respond(input=given, tools=[CODE], store=False)
        assert "to=python<|channel|>analysis code<|message|>1+1<|call|>" in w.script.prompts[0]
        assert "python to=assistant<|channel|>analysis<|message|>2\n" in w.script.prompts[0]


def test_a_tool_that_cannot_start_is_refused_with_its_reason():
    with scripted(final("x"), hosted=hosted(None, FakePython(broken=True))) as w:
        assert w.refused("/v1/responses", input="x", tools=[CODE]) == (503, "tools", "tool_unavailable")
        assert w.script.prompts == []


def test_a_sandbox_that_breaks_fails_the_response_and_is_not_shown_to_the_model():
    with scripted(code("break"), final("x"), hosted=hosted(None, FakePython())) as w:
        events = w.events(input="x", tools=[CODE], store=False)
        assert events[-1]["type"] == "response.failed"
        assert "the sandbox broke" in events[-1]["response"]["error"]["message"]
        assert events[-1]["response"]["output"][0]["status"] == "incomplete"
        assert len(w.script.prompts) == 1


def test_max_tool_calls_ends_the_calls_of_the_servers_tools():
    with scripted(code("a"), code("b"), final("x"), hosted=hosted(None, FakePython())) as w:
        answer = w.respond(input="x", tools=[CODE], max_tool_calls=1, store=False)
        assert "tool call limit reached" in w.script.prompts[2]
        assert kinds(answer) == ["code_interpreter_call", "code_interpreter_call", "message"]


def test_a_forced_tool_is_forced_until_its_first_call_only(tmp_path: Path):
    with scripted(browse("search", '{"query": "q"}'), final("x"), hosted=hosted(tmp_path)) as w:
        answer = w.respond(input="x", tools=[SEARCH], tool_choice={"type": "web_search"}, store=False)
        assert answer["tool_choice"] == {"type": "web_search_preview"}
        assert kinds(answer) == ["web_search_call", "message"]


def test_a_clients_function_beside_the_servers_tools(tmp_path: Path):
    turns = code("x"), call("add", "{}"), final("done")
    with scripted(*turns, state=tmp_path, hosted=hosted(None, python := FakePython())) as w:
        first = w.respond(input="x", tools=[CODE, ADD])
        assert kinds(first) == ["code_interpreter_call", "function_call"]
        result = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "3"}
        w.respond(input=[result], previous_response_id=first["id"], tools=[CODE, ADD])
        assert w.script.prompts[2].count("cell 1") == 1
        assert python.cells == 1


RUNS = {
    "code": ("cell 1", code("x")),
    "code twice": ("cell 2", code("x"), code("y")),
    "thought, then code": ("cell 1", think("First.") + code("x")),
    "code, then a preamble": ("cell 1", code("x"), say("I add.")),
    "a page": ("Search Results", browse("search", '{"query": "plums"}')),
    "a page, then code": ("cell 1", browse("search", '{"query": "plums"}'), think("Now.") + code("x")),
}


@pytest.mark.parametrize("sent", ["continued", "sent back", "sent back, nothing stored", "thoughts hidden"])
@pytest.mark.parametrize("run", RUNS)
def test_a_call_after_runs_of_the_server_is_continued_with_each_message_once(tmp_path: Path, run: str, sent: str):
    seen, *turns = RUNS[run]
    *before, last = turns
    ended = last + call("add", "{}") if last.startswith("<|channel|>commentary") else None
    turns = [*before, ended] if ended else [*turns, call("add", "{}")]
    stores = "nothing" not in sent
    more: dict[str, Any] = {"reasoning": {"exclude": True}} if "hidden" in sent else {}
    own = hosted(tmp_path / "pages", *[FakePython() for _ in range(3)])
    with scripted(*turns, final("ok"), state=tmp_path if stores else None, hosted=own) as w:
        body = {"tools": [SEARCH, CODE, ADD], "store": stores, "include": ["code_interpreter_call.outputs"], **more}
        first = w.respond(input="hello", **body)
        result = {"type": "function_call_output", "call_id": first["output"][-1]["call_id"], "output": "3"}
        if sent in ("continued", "thoughts hidden"):
            w.respond(input=[result], previous_response_id=first["id"], **body)
        else:
            w.respond(input=[{"role": "user", "content": "hello"}, *first["output"], result], **body)
        prompt = w.script.prompts[-1].partition("<|start|>user")[2]
        texts = set(re.findall(r"<\|message\|>(.*?)<\|", "".join(turns)))
        lost = set() if stores else {'{"query": "plums"}', "Search Results"}  # an item does not tell what a page said
        for text in texts:
            assert prompt.count(f"<|message|>{text}<|") == (text not in lost), (text, prompt)
        assert prompt.count(seen) == (seen not in lost), prompt


def test_a_cancelled_response_stops_its_tool(tmp_path: Path):
    python = FakePython(waits=True)
    with scripted(code("x"), final("x"), state=tmp_path, hosted=hosted(None, python)) as w:
        made = w.client.post("/v1/responses", json={"input": "x", "tools": [CODE], "background": True}).json()
        for _ in range(500):
            if python.cells:
                break
            time.sleep(0.01)
        ended = w.client.post(f"/v1/responses/{made['id']}/cancel").json()
        assert ended["status"] == "cancelled"
        assert python.cancelled
        assert not python.open_now


def test_an_undeclared_tool_gets_an_answer_and_is_not_shown(tmp_path: Path):
    with scripted(browse("click", '{"id": 1}'), final("x"), hosted=hosted(tmp_path)) as w:
        answer = w.respond(input="x", tools=[SEARCH], store=False)
        assert kinds(answer) == ["message"]
        assert "unknown tool browser.click" in w.script.prompts[1]


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "web_search", "search_context_size": "huge"}, "tools[0].search_context_size"),
        ({"type": "web_search", "filters": {"allowed_domains": 3}}, "tools[0]"),
        ({"type": "web_search", "filters": {"allowed_domains": ["a.b"] * 101}}, "tools[0].filters.allowed_domains"),
    ],
)
def test_invalid_fields_of_a_search_are_named(tmp_path: Path, tool: dict[str, Any], param: str):
    with scripted(final("x"), hosted=hosted(tmp_path)) as w:
        assert w.refused("/v1/responses", input="x", tools=[tool])[:2] == (400, param)


def test_tokens_are_counted_with_the_declarations(tmp_path: Path):
    with scripted(final("x"), hosted=hosted(tmp_path)) as w:
        body = {"input": "x", "tools": [SEARCH]}
        counted = w.client.post("/v1/responses/input_tokens", json=body).json()["input_tokens"]
        w.respond(**body)
        assert counted == len(small().encode_with_special(w.script.prompts[0]))


def test_a_response_that_ran_a_shell_is_continued(tmp_path: Path):
    python_sandbox_or_skip()
    shell = '<|channel|>analysis to=container.exec code<|message|>{"cmd": ["echo", "hi"]}<|call|>'
    tools = [{"type": "shell", "environment": {"type": "container_auto"}}, ADD]
    own = hosted_sessions(ToolSettings(tools=("shell",)), small(), 131072)
    with scripted(shell, call("add", "{}"), final("ok"), final("ok"), state=tmp_path, hosted=own) as w:
        first = w.respond(input="x", tools=tools)
        assert kinds(first) == ["shell_call", "shell_call_output", "function_call"]
        result = {"type": "function_call_output", "call_id": first["output"][2]["call_id"], "output": "3"}
        w.respond(input=[result], previous_response_id=first["id"], tools=tools)
        assert w.script.prompts[2].count("container.exec to=assistant<|channel|>analysis<|message|>") == 1
        w.respond(input=[{"role": "user", "content": "x"}, *first["output"], result], tools=tools)
        assert "hi" in w.script.prompts[3]


def test_a_shell_and_code_share_a_folder_and_pictures_come_back(tmp_path: Path):
    python_sandbox_or_skip()
    shell = '<|channel|>analysis to=container.exec code<|message|>{"cmd": ["bash", "-lc", "echo hi > a.txt; cat a.txt"]}<|call|>'
    draw = "class P:\n    def _repr_png_(self): return b'\\x89PNG' + open('/mnt/data/a.txt', 'rb').read()\nP()"
    tools = [{"type": "shell", "environment": {"type": "container_auto"}}, CODE]
    own = hosted_sessions(ToolSettings(tools=("python", "shell")), small(), 131072)
    with scripted(shell, code(draw), final("ok"), hosted=own) as w:
        events = w.events(input="x", tools=tools, include=["code_interpreter_call.outputs"], store=False)
        ran, written, drawn, _ = fold(events)
        assert (ran["type"], ran["action"]["commands"]) == ("shell_call", ["echo hi > a.txt; cat a.txt"])
        assert written["output"] == [{"stdout": "hi\n", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]
        assert written["call_id"] == ran["call_id"]
        assert drawn["container_id"] == ran["environment"]["container_id"]
        image = drawn["outputs"][1]
        assert base64.b64decode(image["url"].partition("base64,")[2]) == b"\x89PNGhi\n"
