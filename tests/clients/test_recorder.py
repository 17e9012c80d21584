"""What the recorder says of answers that OpenAI's types, or the rules of streams, do not allow."""

import json
from typing import Any

import pytest

from tests.clients.recorder import Exchange, complaints

RESPONSE: dict[str, Any] = {
    "id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": [], "parallel_tool_calls": True,
    "tool_choice": "auto", "tools": [], "status": "completed",
}  # fmt: skip
CHUNK: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}


def heard(path: str, answer: bytes, status: int = 200, kind: str = "application/json") -> list[str]:
    return complaints([Exchange("POST", path, b"{}", status, answer, kind, whole=True)])


def stream(path: str, *frames: Any) -> list[str]:
    data = "".join(f"event: x\ndata: {each if isinstance(each, str) else json.dumps(each)}\n\n" for each in frames)
    return heard(path, data.encode(), kind="text/event-stream; charset=utf-8")


def events(*found: dict[str, Any]) -> list[str]:
    return stream("/v1/responses", *({"sequence_number": i, **each} for i, each in enumerate(found)))


CREATED = {"type": "response.created", "response": {**RESPONSE, "status": "in_progress"}}
COMPLETED = {"type": "response.completed", "response": RESPONSE}


def test_good_answers_are_good():
    assert heard("/v1/responses", json.dumps(RESPONSE).encode()) == []
    assert events(CREATED, COMPLETED) == []
    assert stream("/v1/chat/completions", CHUNK, "[DONE]") == []
    error = {"message": "no", "type": "invalid_request_error", "param": None, "code": None}
    assert heard("/v1/responses", json.dumps({"error": error}).encode(), 400) == []


@pytest.mark.parametrize("gone", ["id", "output", "tools"])
def test_a_field_that_is_missing_is_told(gone: str):
    (said,) = heard("/v1/responses", json.dumps({k: v for k, v in RESPONSE.items() if k != gone}).encode())
    assert gone in said


def test_an_event_of_no_known_kind_is_told():
    assert events(CREATED, {"type": "response.invented"}, COMPLETED)


def test_the_order_of_events_is_told():
    assert "ends in" in events(CREATED)[0]
    assert "ends in" in events(COMPLETED, CREATED)[0]
    assert (
        "sequence numbers"
        in stream("/v1/responses", {**CREATED, "sequence_number": 1}, {**COMPLETED, "sequence_number": 1})[0]
    )


def test_text_that_is_not_what_streamed_is_told():
    part = {"type": "output_text", "text": "whole", "annotations": []}
    item = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}
    delta = {
        "type": "response.output_text.delta",
        "item_id": "m",
        "output_index": 0,
        "content_index": 0,
        "delta": "whol",
        "logprobs": [],
    }
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}
    end = {"type": "response.completed", "response": {**RESPONSE, "output": [item]}}
    (said,) = events(CREATED, delta, done, end)
    assert "'whol'" in said
    assert events(CREATED, {**delta, "delta": "whole"}, done, end) == []


def test_chat_streams_and_errors_of_another_form_are_told():
    assert "ends in" in stream("/v1/chat/completions", CHUNK)[0]
    assert stream("/v1/chat/completions", {**CHUNK, "choices": [{}]}, "[DONE]")
    assert heard("/v1/responses", b'{"error": {"message": "no"}}', 400)
    assert heard("/v1/responses", b"broken", 500)
