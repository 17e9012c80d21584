"""Answers that a client begins (A11): continued in the final channel, and only what is new is given back."""

from typing import Any

import pytest

from tests.support.server import Served, mini, refusal, scripted, user
from tests.support.turns import final

BEGUN = {"role": "assistant", "content": "The answer"}
FORMS: list[dict[str, Any]] = [
    {"messages": [user("x"), BEGUN], "continue_final_message": True},
    {"messages": [user("x"), BEGUN], "continue_final_message": True, "add_generation_prompt": False},
    {"messages": [user("x"), {**BEGUN, "prefix": True}]},
    {"messages": [user("x"), {**BEGUN, "content": [{"type": "text", "text": "The answer"}]}], "continue_final_message": True},
]  # fmt: skip
END = "<|start|>user<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>The answer"


def messages(it: Served, *turns: dict[str, Any], **body: Any) -> Any:
    return it.client.post("/v1/messages", json={"max_tokens": 99, "messages": list(turns), **body})


@pytest.mark.parametrize("body", FORMS, ids=lambda body: " ".join(body))
def test_A11_a_chat_continues_the_last_message(body: dict[str, Any]):
    with scripted(" is 42.<|return|>", " is 42.<|return|>") as it:
        answer = it.client.post("/v1/chat/completions", json=body).json()
        assert it.script.prompts[0].endswith(END)
        assert answer["choices"][0]["message"]["content"] == " is 42."
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == len(it.service.tokenizer.encode(" is 42.")) + 1
        text = it.client.post("/v1/chat/completions", json={**body, "stream": True}).text
    assert "The answer" not in text
    assert '"content":" ' in text


def test_A11_its_tokens_are_those_of_the_header_and_the_text():
    with scripted() as it:
        encode = it.service.tokenizer.encode_with_special
        (shown,) = it.client.post("/v1/render", json=FORMS[0]).json()["prompts"]
        (plain,) = it.client.post("/v1/render", json={"messages": [user("x")]}).json()["prompts"]
    begun = [*encode("<|channel|>final<|message|>"), *it.service.tokenizer.encode("The answer")]
    assert shown["tokens"] == [*plain["tokens"], *begun]


def test_A11_thinking_in_the_prefill_comes_before_it():
    body = {"messages": [user("x"), {**BEGUN, "reasoning_content": "hm", "prefix": True}]}
    with scripted(" is 42.<|return|>") as it:
        it.client.post("/v1/chat/completions", json=body)
        assert (
            "<|start|>assistant<|channel|>analysis<|message|>hm<|end|>" + END.partition("x<|end|>")[2]
            in it.script.prompts[0]
        )


def test_A11_messages_continues_a_last_message_of_the_assistant():
    with scripted(" is 42.<|return|>", " is 42.<|return|>", final("no")) as it:
        answer = messages(it, user("x"), BEGUN).json()
        assert it.script.prompts[0].endswith(END)
        assert [block["text"] for block in answer["content"]] == [" is 42."]
        streamed = messages(it, user("x"), BEGUN, stream=True).text
        assert "The answer" not in streamed
        assert '"text_delta"' in streamed
        counted = it.client.post("/v1/messages/count_tokens", json={"messages": [user("x"), BEGUN]}).json()[
            "input_tokens"
        ]
        used = answer["usage"]
        assert counted == used["input_tokens"] + used["cache_read_input_tokens"] + used["cache_creation_input_tokens"]
        messages(it, user("x"), BEGUN, user("y"))
        assert it.script.prompts[2].endswith("The answer<|end|><|start|>user<|message|>y<|end|><|start|>assistant")


def test_A11_a_stop_string_ends_what_is_new():
    with scripted(" is 42.<|return|>") as it:
        answer = it.client.post("/v1/chat/completions", json={**FORMS[0], "stop": ["The", "42"]}).json()
    assert answer["choices"][0]["message"]["content"] == " is "


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def test_A11_a_prefill_begins_the_form_of_the_answer():
    with mini() as it:
        body = {"messages": [user("What is 17 + 25?"), {**BEGUN, "content": '{"n": 4'}], "continue_final_message": True}
        answer = it.client.post("/v1/chat/completions", json={**body, "temperature": 0, "guided_json": SCHEMA}).json()
        int(('{"n": 4' + answer["choices"][0]["message"]["content"])[6:-1])
        body["guided_json"] = {**SCHEMA, "required": ["m"], "properties": {"m": {}}}
        refused = it.client.post("/v1/chat/completions", json=body)
        assert refusal(refused) == (400, "messages", "invalid_prefill")
        assert "does not fit the form" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [user("x")], "continue_final_message": True},
        {"messages": [{**user("x"), "prefix": True}]},
        {"messages": [user("x"), {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f"}}]}], "continue_final_message": True},
    ],
)  # fmt: skip
def test_A11_what_is_no_answer_cannot_be_continued(body: dict[str, Any]):
    with scripted() as it:
        assert it.refused(**body)[:2] == (400, f"messages[{len(body['messages']) - 1}]")


def test_A11_without_the_field_a_new_turn_begins():
    with scripted(final("ok")) as it:
        it.client.post("/v1/chat/completions", json={"messages": [user("x"), BEGUN]})
        assert it.script.prompts[0].endswith("The answer<|end|><|start|>assistant")


def test_A11_an_empty_last_message_of_messages_begins_nothing():
    with scripted(final("ok")) as it:
        messages(it, user("x"), {"role": "assistant", "content": ""})
        assert it.script.prompts[0].endswith("<|start|>user<|message|>x<|end|><|start|>assistant")


@pytest.mark.parametrize(
    "content", ["The answer ", "The answer\n", " ", [{"type": "text", "text": "The answer\u3000"}]]
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_A11_a_prefill_of_messages_that_ends_in_white_space_is_refused(content: Any, path: str):
    with scripted() as it:
        body = {"max_tokens": 9, "messages": [user("x"), {"role": "assistant", "content": content}]}
        answer = it.client.post(path, json=body)
        words = answer.json()["error"]["message"]
    assert answer.status_code == 400
    assert words.startswith("messages[1]")
    assert "final assistant content cannot end with trailing whitespace" in words


def test_A11_only_the_last_message_is_held_to_it():
    with scripted(final("ok"), final("ok")) as it:
        old = {"role": "assistant", "content": "The answer "}
        assert messages(it, user("x"), old, user("y")).status_code == 200
        chat = {"messages": [user("x"), old], "continue_final_message": True}
        assert it.client.post("/v1/chat/completions", json=chat).status_code == 200
        assert it.script.prompts[1].endswith("<|message|>The answer "), "other APIs continue such a text"


def test_A11_choices_and_log_probabilities_are_of_what_is_new():
    with mini() as it:
        body = {
            "messages": [user("What is 17 + 25?"), {**BEGUN, "content": "17 + 25 ="}],
            "continue_final_message": True,
        }
        answer = it.client.post("/v1/chat/completions", json={**body, "n": 2, "seed": 1, "logprobs": True}).json()
    for choice in answer["choices"]:
        assert "".join(each["token"] for each in choice["logprobs"]["content"]) == choice["message"]["content"]
        assert "reasoning" not in choice["message"]
