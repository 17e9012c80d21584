"""Half surrogate pairs in a request are U+FFFD, wherever they stand, and never a refusal."""

import json
import random
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.server.http.decoding import surrogates
from ossia.server.http.decoding.json_codec import decode, loads
from ossia.server.http.decoding.surrogates import as_utf8, check_utf8, without_halves
from tests.support.server import function, scripted, user
from tests.support.turns import call, final

CUT = "cut \ud83d"
# escapes, halves, whole pairs, and what only looks like one of them
TOKENS = [
    r"\ud83d",
    r"\uDE00",
    r"\\",
    "ud83d",
    "a",
    r"\n",
    r"\"",
    "é",
    r"\u00e9",
    r"\udbff",
    r"\udc00",
    r"\ud7ff",
    "😀",
]


def mended(value: Any) -> Any:
    """Python's own reading of JSON keeps halves: its codec for UTF-16 says which they are."""
    match value:
        case str():
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case list():
            return [mended(each) for each in value]
        case dict():
            return {mended(key): mended(each) for key, each in value.items()}
    return value


@given(st.lists(st.sampled_from(TOKENS), max_size=9), st.lists(st.sampled_from(TOKENS), max_size=4))
def test_A8_halves_are_replaced_and_nothing_else(text: list[str], key: list[str]):
    body = f'{{"a": ["{"".join(text)}"], "k{"".join(key)}": 1}}'
    wanted = mended(json.loads(body))
    assert decode(body.encode(), dict) == loads(body) == wanted


@given(st.lists(st.sampled_from(TOKENS), max_size=60), st.integers(19, 40))
def test_A8_a_large_text_is_read_in_pieces_with_the_same_result(text: list[str], piece: int):
    body = f'["{"".join(text)}"]'.encode()
    with patch.object(surrogates, "PIECE", piece):
        in_pieces = without_halves(body)
    assert in_pieces == without_halves(body)


@given(st.text(st.characters(codec=None, categories=["Cs", "Lu"]) | st.sampled_from("é日😀"), max_size=8))
def test_A8_halves_in_raw_bytes_are_replaced_too(text: str):
    """Some encoders write a half as three bytes, which are no UTF-8."""
    assert as_utf8(text.encode("utf-8", "surrogatepass")).decode() == mended(text)


def test_A8_other_bytes_are_still_no_utf8():
    with scripted() as served:
        assert (
            served.client.post("/v1/responses", content=b'{"input": "\xff"}').json()["error"]["code"] == "invalid_json"
        )
        assert (
            served.client.post("/v1/responses", content=b'{"input": "\\ud8"}').json()["error"]["code"] == "invalid_json"
        )


TOOL = function("look", {"at": {"type": "string", "description": CUT}}, description=CUT)
ASKED = [
    ("/v1/chat/completions", {"messages": [user(CUT)]}),
    ("/v1/chat/completions", {"messages": [user([{"type": "text", "text": CUT}])], "stop": [CUT], "user": CUT}),
    ("/v1/chat/completions", {"messages": [{"role": "system", "content": CUT}, user("\ude00")], "tools": [TOOL]}),
    ("/v1/chat/completions", {"messages": [user("hi")], CUT: CUT, "metadata": {CUT: CUT}}),
    ("/v1/responses", {"input": CUT, "instructions": CUT, "metadata": {"k": CUT}, "user": CUT}),
    ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": CUT}]}]}),
    ("/v1/completions", {"prompt": CUT, "stop": CUT}),
    ("/v1/messages", {"messages": [user(CUT)], "max_tokens": 50, "system": CUT, "stop_sequences": [CUT]}),
]


@pytest.mark.parametrize(("path", "body"), ASKED)
@pytest.mark.parametrize("stream", [False, True])
def test_A8_every_api_reads_them(path: str, body: dict[str, Any], stream: bool):
    with scripted(final("ok")) as served:
        answer = served.client.post(path, content=json.dumps({**body, "stream": stream}))
    assert answer.status_code == 200, answer.text
    assert ("cut \ufffd" in served.script.prompts[0]) is (CUT not in body)


def test_A8_counting_reads_them():
    body = json.dumps({"messages": [user(CUT)]})
    with scripted() as served:
        count = served.client.post("/v1/messages/count_tokens", content=body).json()["input_tokens"]
        whole = served.client.post("/v1/messages/count_tokens", json={"messages": [user("cut \ufffd")]}).json()
    assert count == whole["input_tokens"]


def test_A8_arguments_of_calls_and_results_of_tools_may_hold_them():
    """Arguments are JSON within JSON: their halves are escaped twice."""
    called = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": json.dumps({"at": CUT})}}
    history = [
        user("hi"),
        {"role": "assistant", "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": CUT},
    ]
    claude = [
        user("hi"),
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {"at": CUT, CUT: 1}}],
        },
        user([{"type": "tool_result", "tool_use_id": "c1", "content": CUT}]),
    ]
    with scripted(final("a"), final("b")) as served:
        chat = served.client.post("/v1/chat/completions", content=json.dumps({"messages": history, "tools": [TOOL]}))
        body = json.dumps({"messages": claude, "max_tokens": 50})
        messages = served.client.post("/v1/messages", content=body)
    assert (chat.status_code, messages.status_code) == (200, 200), (chat.text, messages.text)
    assert all("cut \ufffd<|end|>" in prompt for prompt in served.script.prompts)


@pytest.mark.parametrize("stream", [False, True])
def test_A8_a_model_that_says_half_a_pair_breaks_no_answer(stream: bool):
    turn = call("look", r'{"at": "cut \ud83d"}')
    claude = {"name": "look", "input_schema": {"type": "object"}}
    with scripted(*[turn] * 3) as served:
        post = served.client.post
        custom = {"type": "custom", "custom": {"name": "look"}}
        answers = [
            post("/v1/messages", json={"messages": [user("x")], "max_tokens": 99, "tools": [claude], "stream": stream}),
            post(
                "/v1/chat/completions", content=json.dumps({"messages": [user("x")], "tools": [TOOL], "stream": stream})
            ),
            post("/v1/chat/completions", json={"messages": [user("x")], "tools": [custom], "stream": stream}),
        ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert "error" not in answer.text


def test_A8_stored_items_and_conversations_hold_what_can_be_read_again(tmp_path: Any):
    with scripted(final("one"), final("two"), state=tmp_path) as w:
        body = {"input": [{"role": "user", "content": CUT}], "metadata": {"k": CUT}}
        first = w.client.post("/v1/responses", content=json.dumps(body)).json()
        again = w.client.get(f"/v1/responses/{first['id']}").json()
        items = w.client.get(f"/v1/responses/{first['id']}/input_items").json()["data"]
        second = w.respond(input="and?", previous_response_id=first["id"])
        begun = {"items": [{"role": "user", "content": CUT}], "metadata": {"k": CUT}}
        conversation = w.client.post("/v1/conversations", content=json.dumps(begun)).json()
    assert first["metadata"] == again["metadata"] == conversation["metadata"] == {"k": "cut \ufffd"}
    assert items[0]["content"][0]["text"] == "cut \ufffd"
    assert second["status"] == "completed"
    assert "cut \ufffd" in w.script.prompts[1]


@pytest.mark.parametrize("piece", [8, 13, 64])
def test_K6_raw_halves_are_mended_in_pieces_and_wrong_bytes_are_named(piece: int):
    rng = random.Random(piece)
    for _ in range(300):
        text = "".join(rng.choices(["a", "é", "漢", "😀", "\ud83d", "\ude00", "\ud7ff", "\ue000"], k=40))
        body = text.encode("utf-8", "surrogatepass")
        with patch.object(surrogates, "PIECE", piece):
            assert as_utf8(body).decode() == mended(text)
            check_utf8(as_utf8(body))
            with pytest.raises(UnicodeDecodeError) as wrong:
                check_utf8(text.encode("utf-8", "replace") + b"\xff")
        assert wrong.value.start == len(text.encode("utf-8", "replace"))
