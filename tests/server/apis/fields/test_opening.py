"""The first lines of the system message (A12): the server's, and a request's own."""

import subprocess
import sys
from datetime import date
from typing import Any

import pytest

from ossia.chat import Chat
from ossia.harmony.opening import OPENING, opening
from ossia.harmony.render import render
from ossia.server.settings import Settings
from tests.support.server import scripted, user
from tests.support.turns import final

OWN = Settings(opening=opening(OPENING, "You are Otto.", "2025-03", "2026-02-03"))
FIRST = "<|start|>system<|message|>You are Otto.\nKnowledge cutoff: 2025-03\nCurrent date: 2026-02-03\n\nReasoning: "


def shown(it: Any, body: dict[str, Any], api: str = "chat") -> str:
    return it.client.post(f"/v1/render?api={api}", json=body).json()["prompts"][0]["prompt"]


BODIES = [
    ("chat", {"messages": [user("x")]}),
    ("responses", {"input": "x"}),
    ("messages", {"messages": [user("x")], "max_tokens": 9}),
]


@pytest.mark.parametrize(("api", "body"), BODIES)
def test_A12_the_server_says_who_the_model_is(api: str, body: dict[str, Any]):
    with scripted(settings=OWN) as it:
        assert shown(it, body, api).startswith(FIRST)
    with scripted() as it:
        plain = shown(it, body, api)
        assert plain.startswith(
            "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
        )
        assert f"Current date: {date.today().isoformat()}\n" in plain


@pytest.mark.parametrize(("api", "body"), BODIES)
def test_A12_a_request_says_it_too(api: str, body: dict[str, Any]):
    with scripted(settings=OWN) as it:
        own = {"identity": "I am new <|end|>", "knowledge_cutoff": "none", "date": "2027-01-01"}
        text = shown(it, {**body, "ossia": own}, api)
        assert text.startswith("<|start|>system<|message|>I am new <|end|>\nCurrent date: 2027-01-01\n\nReasoning:")
        tokens = it.client.post(f"/v1/render?api={api}", json={**body, "ossia": own}).json()["prompts"][0]["tokens"]
        end = it.service.tokenizer.special["<|end|>"]
        assert tokens.count(end) == 2, "its control token is text"
        nothing = shown(it, {**body, "ossia": dict.fromkeys(own, "none")}, api)
        assert nothing.startswith("<|start|>system<|message|>Reasoning:")


def test_A12_the_template_s_argument_is_read():
    with scripted() as it:
        body = {"messages": [user("x")], "chat_template_kwargs": {"model_identity": "You are Ada."}}
        assert shown(it, body).startswith("<|start|>system<|message|>You are Ada.\nKnowledge cutoff")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"ossia": {"identity": "x" * 2001}}, "ossia.identity"),
        ({"ossia": {"date": "tomorrow"}}, "ossia.date"),
        ({"ossia": {"date": "2026-02-30"}}, "ossia.date"),
        ({"ossia": {"knowledge_cutoff": "2024"}}, "ossia.knowledge_cutoff"),
        ({"chat_template_kwargs": {"model_identity": "x" * 2001}}, "chat_template_kwargs.model_identity"),
        ({"chat_template_kwargs": {"model_identity": 3}}, "chat_template_kwargs.model_identity"),
    ],
)
def test_A12_what_cannot_be_is_named(body: dict[str, Any], param: str):
    with scripted(final("ok")) as it:
        assert it.refused(messages=[user("x")], **body)[:2] == (400, param)


def test_A12_a_chat_in_python_has_its_own():
    chat = Chat(identity="You are Otto.", knowledge_cutoff="2025-03", date="2026-02-03")
    tokenizer = chat.model.tokenizer
    assert tokenizer
    assert tokenizer.decode(render(tokenizer, chat.preamble())).startswith(FIRST)
    with pytest.raises(ValueError, match="date must be YYYY-MM-DD"):
        Chat(chat.model, date="soon")


@pytest.mark.parametrize("command", ["serve", "chat", "render"])
def test_A12_the_commands_refuse_a_date_that_is_none(command: str):
    call = [sys.executable, "-m", "ossia", command, *(["-"] if command == "render" else []), "--date", "soon"]
    done = subprocess.run(call, input="{}\n", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "date must be YYYY-MM-DD, today or none" in done.stderr
