"""The Responses API over HTTP, with a scripted engine: every answer and every event is what openai's types say."""

from pathlib import Path

from tests.server.responses.world import CALL, FINAL, SAY, THINK, world

ADD = {"type": "function", "name": "add", "description": None, "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}, "strict": True}


def test_an_answer():
    with world(THINK.format("Hm.") + FINAL.format("Four.")) as w:
        response = w.post(model="script", input="2 + 2?", reasoning={"effort": "low"})
        thought, message = response["output"]
        assert (response["status"], response["model"]) == ("completed", "script")
        assert thought["content"] == [{"type": "reasoning_text", "text": "Hm."}]
        assert message["content"][0]["text"] == "Four."
        assert "Reasoning: low" in w.script.prompts[0]


def test_a_stream():
    with world(THINK.format("Hm.") + SAY.format("Wait.") + CALL.format("add", '{"a": 1}')) as w:
        events = w.stream(input="add", tools=[ADD])
        assert events[0]["type"] == "response.created"
        assert events[-1]["type"] == "response.completed"
        assert [item["type"] for item in events[-1]["response"]["output"]] == ["reasoning", "message", "function_call"]


def test_kept(tmp_path: Path):
    with world(FINAL.format("Four."), state=tmp_path) as w:
        response = w.post(input="2 + 2?")
        assert w.client.get(f"/v1/responses/{response['id']}").json() == response
