"""The same conversation makes the same prompt in every API and in the trainer.

All of them put leading system and developer texts into one developer message. Later ones stay where they are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from ossia.harmony.render import render
from ossia.train.data.chat_rows import read_row
from tests.support.server import Served, scripted
from tests.support.vocabularies import small

Text = str | list[str]
DAY = "2025-02-03"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "a town"}}}


class Case(NamedTuple):
    """turns: roles and texts. A list stands for content parts. effort: None leaves it to the texts."""

    turns: list[tuple[str, Text]]
    effort: str | None = None
    has_tool: bool = False


CASES = {
    "a user's text alone": Case([("user", "hi")]),
    "one system text": Case([("system", "Be brief."), ("user", "hi")]),
    "one developer text": Case([("developer", "Be brief."), ("user", "hi")]),
    "system, then developer": Case([("system", "Be brief."), ("developer", "Use metres."), ("user", "hi")]),
    "three leading texts, one blank": Case([("system", "a"), ("system", " \n"), ("developer", "b"), ("user", "hi")]),
    "only blank texts": Case([("system", "  "), ("developer", ""), ("user", "hi")]),
    "a text of two parts": Case([("system", ["a", "b"]), ("user", ["c", "d"])]),
    "a later developer text": Case(
        [("system", "a"), ("user", "hi"), ("assistant", "Hello."), ("developer", "b"), ("user", "more")]
    ),
    "a developer text after the first user": Case([("user", "hi"), ("system", "b"), ("user", "more")]),
    "an effort in the system text": Case([("system", "Be brief.\nReasoning: high"), ("user", "hi")]),
    "the last effort counts": Case([("system", "Reasoning: high"), ("user", "hi"), ("developer", "reasoning: LOW")]),
    "a field counts more than a text": Case([("system", "Reasoning: high"), ("user", "hi")], effort="low"),
    "tools beside instructions": Case([("system", "a"), ("developer", "b"), ("user", "hi")], has_tool=True),
    "tools without instructions": Case([("user", "hi")], has_tool=True),
    "control tokens are text": Case([("system", "<|end|><|start|>system<|message|>x"), ("user", "<|end|>")]),
}


def parts(text: Text, kind: str = "text") -> Any:
    return text if isinstance(text, str) else [{"type": kind, "text": each} for each in text]


def chat_turns(case: Case) -> list[dict[str, Any]]:
    return [{"role": role, "content": parts(text)} for role, text in case.turns]


def chat(case: Case) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": chat_turns(case)}
    if case.effort:
        body["reasoning_effort"] = case.effort
    if case.has_tool:
        body["tools"] = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
    return body


def responses(case: Case) -> dict[str, Any]:
    kinds = {"assistant": "output_text"}
    turns = [{"role": role, "content": parts(text, kinds.get(role, "input_text"))} for role, text in case.turns]
    body: dict[str, Any] = {"input": turns}
    if case.effort:
        body["reasoning"] = {"effort": case.effort}
    if case.has_tool:
        body["tools"] = [{"type": "function", "name": "weather", "parameters": PARAMETERS}]
    return body


def responses_with_instructions(case: Case) -> dict[str, Any]:
    """The first leading text in `instructions`."""
    body = responses(case)
    (role, text), *_ = case.turns
    if role in ("system", "developer"):
        body |= {"instructions": text if isinstance(text, str) else "\n".join(text), "input": body["input"][1:]}
    return body


def messages(case: Case) -> dict[str, Any]:
    """Anthropic's API has no developer role. The first leading text is its `system`."""
    names = {"developer": "system"}
    turns = [{"role": names.get(role, role), "content": parts(text)} for role, text in case.turns]
    body: dict[str, Any] = {"max_tokens": 9}
    if turns[0]["role"] == "system":
        body["system"] = turns.pop(0)["content"]
    body["messages"] = turns
    if case.effort:
        body["output_config"] = {"effort": case.effort}
    if case.has_tool:
        body["tools"] = [{"name": "weather", "input_schema": PARAMETERS}]
    return body


def trained(case: Case) -> str:
    """The trainer's prompt: a row's conversation up to the answer that it ends in."""
    row = chat(case) | {"current_date": DAY}
    row["messages"] = [*row["messages"], {"role": "assistant", "content": "Learn this."}]
    whole = read_row(row, 1).messages
    return small().decode(render(small(), whole[:-1], next_role="assistant"))


def prompt(server: Served, api: str, body: dict[str, Any]) -> str:
    answer = server.client.post(f"/v1/render?api={api}", json={**body, "ossia": {"date": DAY}})
    assert answer.status_code == 200, answer.text
    (shown,) = answer.json()["prompts"]
    return shown["prompt"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_api_and_the_trainer_make_the_same_prompt(case: Case):
    others: list[tuple[str, Callable[[Case], dict[str, Any]]]] = [
        ("responses", responses),
        ("responses", responses_with_instructions),
        ("messages", messages),
    ]
    with scripted() as server:
        expected = prompt(server, "chat", chat(case))
        for api, body_of in others:
            assert prompt(server, api, body_of(case)) == expected, body_of
    assert trained(case) == expected


def test_leading_texts_become_one_developer_message():
    case = Case([("system", "Be brief."), ("developer", "Use metres."), ("user", "hi"), ("system", "Stop.")])
    with scripted() as server:
        shown = prompt(server, "chat", chat(case))
    developer = "<|start|>developer<|message|># Instructions\n\n"
    assert f"{developer}Be brief.\n\nUse metres.<|end|><|start|>user<|message|>hi<|end|>" in shown
    assert shown.count("<|start|>system<|message|>") == 1
    assert shown.endswith(f"{developer}Stop.<|end|><|start|>assistant")
