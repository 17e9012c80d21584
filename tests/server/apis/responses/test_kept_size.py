"""K3: kept items are bounded before they are read: references, chains of responses, conversations."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from ossia.server.apis.responses import requests
from ossia.server.state.store import Store
from tests.support.server import Served, scripted
from tests.support.turns import final

LARGE = "word " * 600_000
TOO_LONG = "context_length_exceeded"


def kept_item(w: Served, text: str) -> tuple[str, str]:
    """A conversation with one item, and the item."""
    item = {"role": "user", "content": [{"type": "input_text", "text": text}]}
    made = w.client.post("/v1/conversations", json={"items": [item]})
    assert made.status_code == 200, made.text
    own = made.json()["id"]
    return own, w.client.get(f"/v1/conversations/{own}/items").json()["data"][0]["id"]


def reference(item: str) -> dict[str, Any]:
    return {"type": "item_reference", "id": item}


def test_K3_many_references_to_a_large_item_read_it_once_at_most(tmp_path: Path):
    with scripted(state=tmp_path) as w:
        _, item = kept_item(w, LARGE)
        read, decoded = Store.item, requests.entry_of
        with (
            patch.object(Store, "item", autospec=True, side_effect=read) as reads,
            patch.object(requests, "entry_of", side_effect=decoded) as decodes,
        ):
            for count in (1, 5, 60):
                assert w.refused("/v1/responses", input=[reference(item)] * count) == (400, "input", TOO_LONG)
        assert reads.call_count == decodes.call_count == 2  # of 60 the bytes alone are too many
        assert not w.script.prompts


def test_K3_an_item_that_is_named_twice_is_read_once_and_stands_twice(tmp_path: Path):
    with scripted(final("ok"), state=tmp_path) as w:
        _, item = kept_item(w, "Hello there.")
        read = Store.item
        with patch.object(Store, "item", autospec=True, side_effect=read) as reads:
            w.respond(input=[reference(item), reference(item)])
        assert reads.call_count == 1
        assert w.script.prompts[0].count("Hello there.") == 2


def test_K3_a_reference_that_leads_nowhere_is_named_by_its_place(tmp_path: Path):
    with scripted(state=tmp_path) as w:
        _, item = kept_item(w, "Hello there.")
        assert w.refused("/v1/responses", input=[reference(item), reference("msg_none")]) == (
            404,
            "input[1].id",
            "item_not_found",
        )


def test_K3_a_large_conversation_is_refused_by_its_size(tmp_path: Path):
    with scripted(state=tmp_path) as w:
        own, _ = kept_item(w, LARGE)
        assert w.refused("/v1/responses", input="hi", conversation=own) == (400, "input", TOO_LONG)
        with patch.object(requests, "LOGPROB_BYTES", 0), patch.object(requests, "entry_of", side_effect=AssertionError):
            assert w.refused("/v1/responses", input="hi", conversation=own) == (400, "conversation", TOO_LONG)
        assert not w.script.prompts


def test_K3_a_long_chain_of_responses_is_refused_by_its_size(tmp_path: Path):
    turns = [final("ok")] * 60
    with scripted(*turns, state=tmp_path) as w, patch.object(requests, "max_stored_bytes", return_value=40_000):
        text, last, made = "word " * 400, None, 0
        while made < 60:
            answer = w.client.post(
                "/v1/responses", json={"input": text, "previous_response_id": last, "truncation": "auto"}
            )
            if answer.status_code != 200:
                break
            last, made = answer.json()["id"], made + 1
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, TOO_LONG)
        assert answer.json()["error"]["param"] == "previous_response_id"
        assert made > 5


@pytest.mark.parametrize("content", ["word " * 200_000, [{"type": "input_text", "text": "word " * 1000}] * 200])
def test_K3_inline_items_that_cannot_fit_are_refused_before_they_are_rendered(content: Any):
    with scripted() as w:
        items = [{"role": "user", "content": content}]
        with patch.object(requests, "conversation", side_effect=AssertionError):
            assert w.refused("/v1/responses", input=items) == (400, "input", TOO_LONG)
            assert w.refused("/v1/responses", input=items * 3, instructions="Be brief.") == (400, "input", TOO_LONG)


def test_K3_with_truncation_the_newest_items_are_kept(tmp_path: Path):
    with scripted(final("ok"), state=tmp_path) as w:
        items = [{"role": "user", "content": "word " * 3000}] * 100 + [{"role": "user", "content": "the last"}]
        w.respond(input=items, truncation="auto")
        assert "the last" in w.script.prompts[0]
        assert len(json.dumps(w.script.prompts[0])) < 40_000
