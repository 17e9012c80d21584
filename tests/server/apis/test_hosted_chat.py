"""The server's own tools on Chat Completions: they run, and the answer shows what ran and what it cites."""

from pathlib import Path
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.support.hosted import FakePython, hosted
from tests.support.server import scripted, user
from tests.support.turns import call, final, say, think

SEARCH = '<|channel|>analysis to=browser.search code<|message|>{"query": "plums"}<|call|>'
OPEN = '<|channel|>analysis to=browser.open code<|message|>{"id": 0}<|call|>'
CODE = "<|channel|>analysis to=python code<|message|>x<|call|>"
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def asked(w: Any, **body: Any) -> dict[str, Any]:
    answer = w.client.post("/v1/chat/completions", json={"messages": [user("colour?")], **body})
    assert answer.status_code == 200, answer.text
    ChatCompletion.model_validate(answer.json())
    return answer.json()["choices"][0]["message"]


def test_web_search_options_turn_the_browser_on_and_citations_are_annotations(tmp_path: Path):
    turns = think("I look.") + SEARCH, OPEN, say("Here:") + final("Blue【1†L3】 indeed【1†L3】.")
    with scripted(*turns, hosted=hosted(tmp_path)) as w:
        message = asked(w, web_search_options={"search_context_size": "low"})
        assert message["content"].startswith("Here:\n\nBlue ([")
        for cited in message["annotations"]:
            own = cited["url_citation"]
            assert message["content"][own["start_index"] : own["end_index"]].startswith("([")
            assert message["content"][own["end_index"] - 1] == ")"
        assert len(message["annotations"]) == 2
        first, second = message["executed_tools"]
        assert (first["index"], first["type"], first["arguments"]) == (0, "browser.search", '{"query": "plums"}')
        assert "Plums" in first["output"]
        assert len(first["search_results"]) > 0
        assert second["type"] == "browser.open"
        assert message["reasoning"] == "I look."


def test_the_stream_adds_up_to_the_whole_answer(tmp_path: Path):
    turns = SEARCH, OPEN, final("Blue【1†L3】.")
    body = {"messages": [user("colour?")], "tools": [{"type": "browser_search"}]}
    with scripted(*turns, *turns, hosted=hosted(tmp_path)) as w:
        whole = asked(w, tools=[{"type": "browser_search"}])
        chunks = w.chunks("colour?", tools=body["tools"])
        for chunk in chunks:
            ChatCompletionChunk.model_validate(chunk)
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == whole["content"]
        assert [each for delta in deltas for each in delta.get("annotations") or ()] == whole["annotations"]
        assert [each for delta in deltas for each in delta.get("executed_tools") or ()] == whole["executed_tools"]


def test_each_of_several_answers_has_tools_of_its_own():
    pythons = [FakePython(), FakePython()]
    with scripted(*[CODE] * 2, *[final("ok")] * 2, hosted=hosted(None, *pythons)) as w:
        answer = w.client.post(
            "/v1/chat/completions",
            json={"messages": [user("x")], "n": 2, "tools": [{"type": "code_interpreter"}]},
        ).json()
        assert len(answer["choices"]) == 2
        assert [each.cells for each in pythons] == [1, 1]
        assert not any(each.open_now for each in pythons)


def test_a_clients_function_finds_the_session_and_the_earlier_calls_again():
    python = FakePython()
    turns = CODE, call("add", "{}"), CODE, final("ok")
    with scripted(*turns, hosted=hosted(None, python)) as w:
        tools = [ADD, {"type": "code_interpreter"}]
        message = asked(w, tools=tools)
        assert message["executed_tools"][0]["output"] == "cell 1\n"
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "3"}
        sent_back = {"role": "assistant", "tool_calls": message["tool_calls"]}
        asked(w, messages=[user("colour?"), sent_back, result], tools=tools)
        assert python.cells == 2
        assert w.script.prompts[2].count("python to=assistant<|channel|>analysis<|message|>cell 1") == 1


def test_a_forced_hosted_tool():
    with scripted(CODE, final("ok"), hosted=hosted(None, FakePython())) as w:
        tools = [{"type": "code_interpreter"}]
        assert asked(w, tools=tools, tool_choice={"type": "code_interpreter"})["executed_tools"]


def test_a_refused_request_leaves_no_session_open():
    python = FakePython()
    with scripted(final("ok"), hosted=hosted(None, python)) as w:
        tools = [{"type": "code_interpreter"}]
        status, param, _ = w.refused(messages=[user("x")], tools=tools, n=99)
        assert (status, param) == (400, "n")
        assert not python.open_now


def test_a_render_of_the_prompt_shows_the_declaration_and_leaves_nothing_open(tmp_path: Path):
    with scripted(final("ok"), hosted=hosted(tmp_path, python := FakePython())) as w:
        body = {"messages": [user("x")], "tools": [{"type": "code_interpreter"}, {"type": "web_search"}]}
        shown = w.client.post("/v1/render", json=body).json()["prompts"][0]["prompt"]
        assert "namespace browser" in shown
        assert "Runs Python." in shown
        assert not python.open_now


def test_counting_and_refusing_a_message_leave_no_session_open():
    python = FakePython()
    body = {"max_tokens": 99, "messages": [user("x")], "tools": [{"type": "code_interpreter"}]}
    with scripted(CODE, final("ok"), hosted=hosted(None, python, again := FakePython(), third := FakePython())) as w:
        assert w.client.post("/v1/messages/count_tokens", json=body).json()["input_tokens"] > 0
        assert not python.open_now
        schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
        form = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
        assert w.client.post("/v1/messages", json=body | form).status_code == 400
        assert not again.open_now
        answer = w.client.post("/v1/messages", json=body).json()
        assert answer["content"][-1] == {"type": "text", "text": "ok"}
        assert third.cells == 1
        assert not third.open_now
