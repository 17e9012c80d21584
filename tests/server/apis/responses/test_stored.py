"""Stored responses: found again, continued, deleted, listed in pages; and encrypted reasoning, which clients keep."""

from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import ResponseItemList

from tests.support.responses import ADD, SEALED
from tests.support.server import scripted
from tests.support.turns import call, final, think


def test_a_response_is_found_again_and_deleted(tmp_path: Path):
    with scripted(final("Four."), state=tmp_path) as w:
        response = w.respond(input="2 + 2?")
        path = f"/v1/responses/{response['id']}"
        assert w.client.get(path).json() == response
        assert w.client.delete(path).json() == {"id": response["id"], "object": "response", "deleted": True}
        for answer in (w.client.get(path), w.client.delete(path), w.client.get(f"{path}/input_items")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "response_not_found")
        assert w.refused("/v1/responses", input="x", previous_response_id=response["id"]) == (
            404,
            "previous_response_id",
            "previous_response_not_found",
        )


def test_nothing_is_kept_where_store_is_false(tmp_path: Path):
    with scripted(think("secret") + call("add", "{}"), final("ok"), state=tmp_path) as w:
        response = w.respond(input="secret", store=False, tools=[ADD])
        assert response["store"] is False
        assert w.client.get(f"/v1/responses/{response['id']}").status_code == 404
        called = response["output"][1]
        output = {"type": "function_call_output", "call_id": called["call_id"], "output": "1"}
        w.respond(input=[{"role": "user", "content": "x"}, called, output], store=False)
        assert "secret" not in w.script.prompts[1]
    assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_chain_keeps_calls_and_thinking_but_not_instructions(tmp_path: Path):
    spoken = think("I must add.") + call("add", '{"a": 1}')
    with scripted(spoken, think("Done.") + final("1"), final("bye"), state=tmp_path) as w:
        first = w.respond(input="add", tools=[ADD], instructions="Once.")
        output = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "1"}
        second = w.respond(input=[output], tools=[ADD], previous_response_id=first["id"])
        assert f"<|start|>assistant{spoken}<|start|>functions.add to=assistant" in w.script.prompts[1]
        assert "Once." not in w.script.prompts[1]
        third = w.respond(input="bye", previous_response_id=second["id"])
        assert third["previous_response_id"] == second["id"]
        assert "I must add." not in w.script.prompts[2]
        assert '{"a": 1}' in w.script.prompts[2]
        assert "<|channel|>final<|message|>1<|end|><|start|>user<|message|>bye" in w.script.prompts[2]
        w.client.delete(f"/v1/responses/{first['id']}")
        assert (
            w.refused("/v1/responses", input="x", previous_response_id=second["id"])[2] == "previous_response_not_found"
        )


def test_items_are_referred_to_by_id(tmp_path: Path):
    with scripted(think("so") + call("add", "{}"), final("ok"), state=tmp_path) as w:
        first = w.respond(input="add", tools=[ADD])
        references = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
        output = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "1"}
        w.respond(
            input=[{"role": "user", "content": "add"}, references[0], {"id": references[1]["id"]}, output], tools=[ADD]
        )
        assert "<|channel|>analysis<|message|>so<|end|>" in w.script.prompts[1]
        assert w.refused("/v1/responses", input=[{"type": "item_reference", "id": "msg_none"}])[:2] == (
            404,
            "input[0].id",
        )


def test_thinking_that_a_client_drops_is_put_back(tmp_path: Path):
    with scripted(think("so") + call("add", '{"a":1}'), final("ok"), state=tmp_path) as w:
        called = w.respond(input="add", tools=[ADD])["output"][1]
        output = {"type": "function_call_output", "call_id": called["call_id"], "output": "1"}
        w.respond(input=[{"role": "user", "content": "add"}, called, output], tools=[ADD])
        assert "<|channel|>analysis<|message|>so<|end|>" in w.script.prompts[1]


def test_sealed_reasoning_alone_brings_the_thinking_back():
    with scripted(think("so") + call("add", "{}"), final("ok")) as w:
        thought, called = w.respond(input="add", tools=[ADD], store=False, include=SEALED)["output"]
        sealed = {key: thought[key] for key in ("type", "id", "encrypted_content", "summary")}
        output = {"type": "function_call_output", "call_id": called["call_id"], "output": "1"}
        w.respond(input=[{"role": "user", "content": "add"}, sealed, called, output], tools=[ADD], store=False)
        assert "<|channel|>analysis<|message|>so<|end|>" in w.script.prompts[1]
        sealed["encrypted_content"] = sealed["encrypted_content"][:-4] + "AAAA"
        assert w.refused("/v1/responses", input=[sealed])[:2] == (400, "input[0].encrypted_content")


def test_a_conversation_goes_on_at_another_server_for_who_gives_back_the_thinking_itself_too():
    with scripted(think("so") + call("add", "{}")) as w:
        made = w.respond(input="add", tools=[ADD], store=False, include=SEALED)["output"]
    with scripted(final("ok")) as w:
        output = {"type": "function_call_output", "call_id": made[1]["call_id"], "output": "1"}
        w.respond(input=[{"role": "user", "content": "add"}, *made, output], tools=[ADD], store=False)
        assert "<|channel|>analysis<|message|>so<|end|>" in w.script.prompts[0]


def test_input_items_come_in_pages(tmp_path: Path):
    with scripted(final("ok"), state=tmp_path) as w:
        response = w.respond(input=[{"role": "user", "content": str(number)} for number in range(5)])
        path = f"/v1/responses/{response['id']}/input_items"

        def texts(**query: Any) -> list[str]:
            page = w.client.get(path, params=query).json()
            ResponseItemList.model_validate(page)
            assert page["data"] == [] or (page["first_id"], page["last_id"]) == (
                page["data"][0]["id"],
                page["data"][-1]["id"],
            )
            return [item["content"][0]["text"] for item in page["data"]] + ["more"] * page["has_more"]

        ids = [item["id"] for item in w.client.get(path, params={"order": "asc"}).json()["data"]]
        assert texts() == ["4", "3", "2", "1", "0"]
        assert texts(order="asc", limit=2) == ["0", "1", "more"]
        assert texts(order="asc", limit=2, after=ids[1]) == ["2", "3", "more"]
        assert texts(order="asc", after=ids[1], before=ids[3]) == ["2"]
        assert texts(after=ids[1]) == ["0"]
        for query in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "nobody"}):
            answer = w.client.get(path, params=query)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query)))


def test_every_kind_of_input_item_is_listed_as_the_types_say(tmp_path: Path):
    items = [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "input_text", "text": "u"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "r"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "o"},
        {"type": "custom_tool_call", "call_id": "2", "name": "c", "input": "i"},
        {"type": "custom_tool_call_output", "call_id": "2", "output": "o"},
        {"role": "assistant", "content": "a"},
    ]
    with scripted(final("ok"), state=tmp_path) as w:
        response = w.respond(input=items)
        page = w.client.get(f"/v1/responses/{response['id']}/input_items", params={"order": "asc"}).json()
        ResponseItemList.model_validate(page)
        assert [item["type"] for item in page["data"]] == [item.get("type", "message") for item in items]
        assert all(item["id"] for item in page["data"])


LOOKUPS = [
    ("POST", "/v1/responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}, "item_not_found"),
    ("POST", "/v1/responses", {"input": [{"id": "rs_1"}], "stream": True}, "item_not_found"),
    ("POST", "/v1/responses", {"input": "x", "previous_response_id": "resp_1"}, "previous_response_not_found"),
    ("POST", "/v1/responses", {"input": "x", "conversation": "conv_1"}, "conversation_not_found"),
    ("POST", "/v1/responses", {"input": "x", "conversation": {"id": "conv_1"}}, "conversation_not_found"),
    (
        "POST",
        "/v1/responses/input_tokens",
        {"input": "x", "previous_response_id": "resp_1"},
        "previous_response_not_found",
    ),
    ("GET", "/v1/responses/resp_1", None, "response_not_found"),
    ("GET", "/v1/responses/resp_1?stream=true", None, "response_not_found"),
    ("GET", "/v1/responses/resp_1/input_items", None, "response_not_found"),
    ("DELETE", "/v1/responses/resp_1", None, "response_not_found"),
    ("POST", "/v1/responses/resp_1/cancel", {}, "response_not_found"),
    ("GET", "/v1/conversations/conv_1", None, "conversation_not_found"),
    ("POST", "/v1/conversations/conv_1", {"metadata": {}}, "conversation_not_found"),
    ("DELETE", "/v1/conversations/conv_1", None, "conversation_not_found"),
    ("GET", "/v1/conversations/conv_1/items", None, "conversation_not_found"),
    ("GET", "/v1/conversations/conv_1/items/msg_1", None, "conversation_not_found"),
    ("POST", "/v1/conversations/conv_1/items", {"items": []}, "conversation_not_found"),
    ("DELETE", "/v1/conversations/conv_1/items/msg_1", None, "conversation_not_found"),
]


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize(("method", "path", "body", "code"), LOOKUPS)
def test_A17_what_is_not_stored_is_not_found(method: str, path: str, body: Any, code: str, keeps: bool, tmp_path: Path):
    """A 503 would make SDKs try again; nothing will be found then either."""
    with scripted(state=tmp_path if keeps else None) as w:
        answer = w.client.request(method, path, json=body) if body is not None else w.client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)
    assert answer.headers["x-should-retry"] == "false"


def test_A17_what_cannot_be_kept_is_refused_for_good():
    with scripted() as w:
        answer = w.client.post("/v1/conversations", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
    assert answer.headers["x-should-retry"] == "false"


def test_where_nothing_can_be_kept_the_answer_says_so(tmp_path: Path):
    (tmp_path / "state.sqlite").write_bytes(b"this is no database, of any kind whatsoever" * 100)
    with scripted(final("ok"), final("ok"), state=tmp_path) as w:
        response = w.respond(input="x")
        assert response["store"] is False
        assert "damaged" in response["metadata"]["ossia.warnings"]
        assert w.refused("/v1/responses", input="x", previous_response_id="resp_1")[::2] == (503, "store_unavailable")
    with scripted(final("ok")) as w:
        assert w.respond(input="x")["metadata"] == {}


def test_a_disk_that_fills_up_costs_the_keeping_not_the_answer(tmp_path: Path):
    with scripted(final("a" * 500), final("ok"), state=tmp_path) as w:
        assert w.store is not None
        w.store.database.writes.connection.execute("PRAGMA max_page_count = 1")
        events = w.events(input="x" * 2000)
        assert "full" in events[-1]["response"]["metadata"]["ossia.warnings"]
        assert events[-1]["response"]["store"] is False
        w.store.database.writes.connection.execute("PRAGMA max_page_count = 1000000")
        response = w.respond(input="x")
        assert w.client.get(f"/v1/responses/{response['id']}").json() == response
