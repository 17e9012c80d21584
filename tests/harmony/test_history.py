"""One rule for old thinking: `Chat`, every API and the trainer show the same prompt for the same conversation."""

from pathlib import Path
from typing import Any

import pytest

from ossia.harmony.history import drop_old_analysis, prompt_indices
from ossia.harmony.messages import Message, assistant, tool, user
from ossia.harmony.render import render
from tests.support.server import function, scripted
from tests.support.turns import call, final, think
from tests.support.vocabularies import small
from tests.test_chat import chat_with

ASK = user("a")
HM = assistant("hm", "analysis")
SAY = assistant("wait", "commentary")
LOOK = assistant("{}", "commentary", "functions.f")
LOOKED = tool("functions.f", "1")
ANSWER = assistant("ok")


@pytest.mark.parametrize(
    ("messages", "kept"),
    [
        ([], []),
        ([ASK, HM], [0, 1]),
        ([ASK, HM, ANSWER, ASK], [0, 2, 3]),
        ([ASK, HM, LOOK, LOOKED], [0, 1, 2, 3]),  # the turn is not over: its analysis stays
        ([ASK, HM, LOOK, LOOKED, HM, SAY, LOOK, LOOKED], [0, 1, 2, 3, 4, 5, 6, 7]),
        ([ASK, HM, LOOK, LOOKED, HM, ANSWER, ASK], [0, 2, 3, 5, 6]),  # calls and results of old turns stay
        ([ASK, HM, ANSWER, ASK, HM, ANSWER, ASK], [0, 2, 3, 5, 6]),
        ([ASK, HM, ANSWER, ASK, HM, LOOK, LOOKED], [0, 2, 3, 4, 5, 6]),  # OpenAI's renderer keeps all seven
    ],
)
def test_thinking_from_before_the_last_answer_is_left_out(messages: list[Message], kept: list[int]):
    assert prompt_indices(messages) == kept
    shown = drop_old_analysis(messages)
    assert render(small(), shown) == render(small(), shown, drop_analysis=False), "OpenAI's renderer drops no more"


@pytest.mark.parametrize("turns", [1, 2, 3, 4])
def test_chat_and_the_apis_show_the_same_history(turns: int):
    """From the third turn on, `Chat` once kept thinking that the server dropped."""
    said = [think(f"t{number}") + final(f"a{number}") for number in range(turns)]
    chat, script = chat_with(*said, date="none")
    given: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    for number in range(turns):
        asked = {"role": "user", "content": f"q{number}"}
        given.append(asked)
        items.append(asked)
        answer = chat.ask(f"q{number}")
        if number < turns - 1:
            given.append({"role": "assistant", "content": answer.text, "reasoning": answer.reasoning})
            items.append({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]})
            items.append({"role": "assistant", "content": answer.text})
    with scripted(final("ok")) as it:
        it.client.post("/v1/chat/completions", json={"messages": given, "ossia": {"date": "none"}})
        assert it.script.prompts[0] == script.prompts[-1]
    with scripted(final("ok")) as it:
        it.respond(input=items, ossia={"date": "none"})
        assert it.script.prompts[0] == script.prompts[-1]


def test_thinking_since_the_last_answer_is_shown_between_calls(tmp_path: Path):
    """Old thinking goes, that of the turn under way stays."""
    called = think("look") + call("f", "{}")
    with scripted(think("old") + final("ok"), called, final("done"), state=tmp_path) as it:
        tools = [{"type": "function", **function("f")["function"]}]
        first = it.respond(input="x", tools=tools)
        second = it.respond(input="y", tools=tools, previous_response_id=first["id"])
        output = {"type": "function_call_output", "call_id": second["output"][-1]["call_id"], "output": "1"}
        it.respond(input=[output], tools=tools, previous_response_id=second["id"])
        assert "old" not in it.script.prompts[2]
        assert "<|channel|>analysis<|message|>look<|end|>" in it.script.prompts[2]
