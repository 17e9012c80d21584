"""The server's own tools on /v1/messages: Anthropic's types turn them on, and blocks show what they did."""

import json
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from tests.support.hosted import FakePython, hosted
from tests.support.server import scripted, user
from tests.support.turns import final, think

SEARCH = '<|channel|>analysis to=browser.search code<|message|>{"query": "plums"}<|call|>'
OPEN = '<|channel|>analysis to=browser.open code<|message|>{"id": 0}<|call|>'
CODE = "<|channel|>analysis to=python code<|message|>x<|call|>"
WEB = [{"type": "web_search_20250305", "name": "web_search"}, {"type": "web_fetch_20250910", "name": "web_fetch"}]
EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


def asked(w: Any, **body: Any) -> Any:
    given = {"max_tokens": 500, "messages": [user("colour?")], "thinking": {"type": "adaptive"}, **body}
    answer = w.client.post("/v1/messages", json=given)
    assert answer.status_code == 200, answer.text
    return answer


def events(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


def test_a_search_and_an_opened_page_are_blocks_and_the_text_has_citations(tmp_path: Path):
    turns = think("I look.") + SEARCH, OPEN, final("Blue【1†L3】.")
    with scripted(*turns, hosted=hosted(tmp_path)) as w:
        answer = asked(w, tools=WEB).json()
    Message.model_validate(answer)
    kinds = [block["type"] for block in answer["content"]]
    assert kinds == [
        "thinking", "server_tool_use", "web_search_tool_result", "server_tool_use", "web_fetch_tool_result", "text",
    ]  # fmt: skip
    _, search, found, fetch, page, text = answer["content"]
    assert (search["name"], search["input"]) == ("web_search", {"query": "plums"})
    assert found["tool_use_id"] == search["id"]
    assert any("plums" in hit["url"] for hit in found["content"])
    assert fetch["name"] == "web_fetch"
    assert page["content"]["url"] == fetch["input"]["url"]
    assert "Plums are blue" in page["content"]["content"]["source"]["data"]
    assert text["citations"][0]["url"] == fetch["input"]["url"]
    assert answer["usage"]["server_tool_use"] == {"web_search_requests": 1, "web_fetch_requests": 1}
    assert answer["stop_reason"] == "end_turn"


@pytest.mark.parametrize("fails", [False, True])
def test_code_is_a_block_with_its_output(fails: bool):
    code = CODE.replace("x<", "1/0<") if fails else CODE
    with scripted(code, final("done"), hosted=hosted(None, FakePython())) as w:
        answer = asked(w, tools=[{"type": "code_execution_20250825", "name": "code_execution"}]).json()
    Message.model_validate(answer)
    use, result, _ = answer["content"]
    assert use["input"] == {"code": "1/0" if fails else "x"}
    assert result["content"]["stdout"] == "cell 1\n"
    assert result["content"]["return_code"] == int(fails)


def test_the_stream_adds_up_to_the_whole_answer(tmp_path: Path):
    turns = think("I look.") + SEARCH, OPEN, final("Blue【1†L3】.")
    with scripted(*turns, *turns, hosted=hosted(tmp_path)) as w:
        whole = asked(w, tools=WEB).json()
        streamed = events(asked(w, tools=WEB, stream=True))
    blocks: list[dict[str, Any]] = []
    for event in streamed:
        EVENT.validate_python(event)
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            _add(blocks[event["index"]], event["delta"])
    for block in (*blocks, *whole["content"]):
        block.pop("id", None), block.pop("tool_use_id", None)
    assert blocks == whole["content"]
    assert streamed[-2]["usage"] == whole["usage"]


def _add(block: dict[str, Any], delta: dict[str, Any]) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "input_json_delta":
            block["input"] = json.loads(delta["partial_json"])
        case "citations_delta":
            block.setdefault("citations", []).append(delta["citation"])


def test_blocks_that_come_back_do_not_confuse_the_model(tmp_path: Path):
    turns = SEARCH, final("Blue."), final("Yes.")
    with scripted(*turns, hosted=hosted(tmp_path)) as w:
        first = asked(w, tools=WEB).json()
        history = [user("colour?"), {"role": "assistant", "content": first["content"]}, user("sure?")]
        answer = asked(w, tools=WEB, messages=history)
        assert answer.json()["content"][0]["text"] == "Yes."
        assert "web_search_tool_result" in answer.headers["x-ossia-warnings"]
        assert "[web_search_tool_result: not readable by this model]" in w.script.prompts[-1]
        assert w.script.prompts[-1].count("Blue.") == 1


def test_what_is_not_honoured_is_said(tmp_path: Path):
    with scripted(final("ok"), hosted=hosted(tmp_path)) as w:
        answer = asked(w, tools=[{**WEB[0], "max_uses": 3, "allowed_domains": ["example.org"]}])
        assert "tools[0].max_uses has no effect" in answer.headers["x-ossia-warnings"]
