"""Work that grows with a request is done beside the event loop, so that others are answered meanwhile."""

import asyncio
from typing import Any

import pytest

from ossia.tokenizer.tokenizer import Tokenizer
from tests.support.server import scripted, user

LONG = "a long text"


def in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": LONG}),
        ("/v1/responses/input_tokens", {"input": LONG}),
        ("/v1/chat/completions", {"messages": [user(LONG)]}),
        ("/v1/messages", {"messages": [user(LONG)], "max_tokens": 9}),
        ("/v1/messages/count_tokens", {"messages": [user(LONG)]}),
        ("/v1/completions", {"prompt": LONG}),
    ],
)
def test_a_prompt_is_tokenized_in_another_thread(path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    seen: list[bool] = []
    encode = Tokenizer.encode

    def watched(self: Tokenizer, text: str) -> list[int]:
        if text == LONG:
            seen.append(in_a_loop())
        return encode(self, text)

    monkeypatch.setattr(Tokenizer, "encode", watched)
    with scripted("<|channel|>final<|message|>ok<|return|>") as served:
        assert served.client.post(path, json=body).status_code == 200
    assert seen
    assert not any(seen)
