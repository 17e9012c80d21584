"""What a request becomes for the model, shown: by /v1/render, /tokenize, /detokenize and `ossia render`."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.server import function, mini, refusal, scripted, user
from tests.support.turns import final

TOOL = {"name": "look", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("chat", "/v1/chat/completions", {"messages": [user("hi <|end|>")], "tools": [function("f")], "seed": 1}),
    ("chat", "/v1/chat/completions", {"messages": [{"role": "system", "content": "Reasoning: high"}, user("x")]}),
    ("chat", "/v1/chat/completions", {"messages": [user("x")], "response_format": {"type": "json_object"}}),
    ("responses", "/v1/responses", {"input": "hi", "instructions": "be brief", "tools": [{"type": "function", **TOOL}]}),
    ("messages", "/v1/messages", {"messages": [user("hi")], "system": "s", "max_tokens": 9}),
    ("completions", "/v1/completions", {"prompt": "17 + 25 ="}),
]  # fmt: skip
BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("chat", "/v1/chat/completions", {"messages": "x"}),
    ("chat", "/v1/chat/completions", {"messages": [user([{"type": "audio"}])]}),
    ("chat", "/v1/chat/completions", {"messages": [user("x")], "model": "other"}),
    ("chat", "/v1/chat/completions", {"messages": [user("x" * 9000)]}),
    ("chat", "/v1/chat/completions", {"messages": [user("x")], "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"uniqueItems": True}}}}),
    ("responses", "/v1/responses", {"input": "x", "text": {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": {"uniqueItems": True}}}}),
    ("responses", "/v1/responses", {"input": "x" * 9000}),
    ("responses", "/v1/responses", {"input": [{"type": "function_call_output", "call_id": "none", "output": "x"}]}),
    ("completions", "/v1/completions", {"prompt": []}),
    ("completions", "/v1/completions", {"prompt": "x" * 9000}),
]  # fmt: skip


def ossia_render(body: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ossia", "render", "-", *options]
    return subprocess.run(command, input=json.dumps(body), capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(("api", "path", "body"), REQUESTS)
def test_what_is_shown_is_what_the_model_is_given(api: str, path: str, body: dict[str, Any]):
    with scripted(final("ok")) as it:
        shown = it.client.post(f"/v1/render?api={api}", json=body).json()
        assert it.client.post(path, json=body).status_code == 200
    (prompt,) = shown["prompts"]
    assert [prompt["prompt"]] == it.script.prompts
    assert prompt["count"] == len(prompt["tokens"])


@pytest.mark.parametrize(("api", "path", "body"), BAD)
def test_what_would_be_refused_is_refused_alike(api: str, path: str, body: dict[str, Any]):
    with scripted(final("ok")) as it:
        shown, answered = it.client.post(f"/v1/render?api={api}", json=body), it.client.post(path, json=body)
    assert shown.json() == answered.json()
    assert shown.status_code == answered.status_code >= 400


def test_warnings_are_shown_as_an_answer_carries_them():
    body = {"messages": [user("x")], "tools": [{"type": "web_search"}]}
    with scripted(final("ok")) as it:
        shown = it.client.post("/v1/render", json=body).json()
        assert (
            "; ".join(shown["warnings"])
            == it.client.post("/v1/chat/completions", json=body).headers["x-ossia-warnings"]
        )


def test_several_prompts_of_a_completion_are_shown_in_order():
    with scripted() as it:
        shown = it.client.post("/v1/render?api=completions", json={"prompt": ["a", "b c"]}).json()
    assert [each["prompt"] for each in shown["prompts"]] == ["a", "b c"]


def test_an_api_that_is_none_is_refused_by_name():
    with scripted() as it:
        assert refusal(it.client.post("/v1/render?api=ollama", json={})) == (400, "api", "invalid_value")


def test_a_text_is_tokenized_and_its_tokens_give_the_text():
    with scripted() as it:
        made = it.client.post("/tokenize", json={"prompt": "Grüße <|end|>", "return_token_strs": True}).json()
        assert it.client.post("/detokenize", json={"tokens": made["tokens"]}).json() == {"prompt": "Grüße <|end|>"}
    assert made["count"] == len(made["tokens"]) == len(made["token_strs"])
    assert made["max_model_len"] == 3000
    assert it.service.tokenizer.special["<|end|>"] not in made["tokens"]


def test_a_chat_is_tokenized_as_it_is_rendered():
    body = {"messages": [user("hi")], "tools": [function("f")]}
    with scripted() as it:
        tokens = it.client.post("/tokenize", json=body).json()["tokens"]
        (prompt,) = it.client.post("/v1/render", json=body).json()["prompts"]
        without = it.client.post("/tokenize", json={**body, "add_generation_prompt": False}).json()["tokens"]
    assert tokens == prompt["tokens"]
    opening = tokens[len(without) :]
    assert tokens == [*without, *opening]
    assert it.service.tokenizer.decode(opening) == "<|start|>assistant"


def test_tokens_are_bounded_and_named():
    with scripted() as it:
        assert refusal(it.client.post("/detokenize", json={"tokens": [1, 10**9]})) == (
            400,
            "tokens[1]",
            "invalid_value",
        )
        assert refusal(it.client.post("/detokenize", json={"tokens": [1] * 4000}))[1:] == (
            "tokens",
            "context_length_exceeded",
        )
        assert refusal(it.client.post("/tokenize", json={"prompt": "x" * 9000}))[1:] == (
            "prompt",
            "context_length_exceeded",
        )
        assert refusal(it.client.post("/tokenize", json={"prompt": "x", "messages": [user("x")]}))[1] == "prompt"


def test_the_command_prints_what_the_server_shows():
    body = {"messages": [user("What is 17 + 25?")], "tools": [function("f"), {"type": "web_search"}]}
    with mini() as it:
        shown = it.client.post("/v1/render", json=body).json()
    done = ossia_render(body)
    assert done.stdout == f"{shown['prompts'][0]['prompt']}\n"
    assert f"{shown['prompts'][0]['count']} tokens" in done.stderr
    assert shown["warnings"][0] in done.stderr
    assert json.loads(ossia_render(body, "--json").stdout) == shown
    assert ossia_render(body, "--tokens").stdout.split() == list(map(str, shown["prompts"][0]["tokens"]))


def test_the_command_refuses_what_the_server_refuses():
    done = ossia_render({"input": 3}, "--api", "responses")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: 400 input:")
    told = json.loads(ossia_render({"messages": []}, "--json").stdout)
    assert (told["status"], told["error"]["param"]) == (400, "messages")


def test_the_command_reads_no_weights():
    code = (
        "import sys; from ossia.cli import main; sys.argv = ['ossia', 'render', '-']\n"
        "try: main()\nexcept SystemExit as e: assert not e.code\n"
        "print([n for n in sys.modules if n.split('.')[0] in ('torch', 'numba')], file=sys.stderr)"
    )
    body = json.dumps({"messages": [user("x")]})
    done = subprocess.run(
        [sys.executable, "-c", code], input=body, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"
