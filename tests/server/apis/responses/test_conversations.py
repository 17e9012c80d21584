"""Conversations: they grow with each response, and are read, changed and deleted."""

from pathlib import Path

from tests.support.server import scripted
from tests.support.turns import final


def test_a_conversation_grows_with_each_response(tmp_path: Path):
    with scripted(final("Hello."), final("Ann."), final("-"), state=tmp_path) as w:
        from openai.types.conversations import Conversation, ConversationItemList

        made = w.client.post(
            "/v1/conversations", json={"metadata": {"a": "b"}, "items": [{"role": "user", "content": "I am Ann."}]}
        ).json()
        Conversation.model_validate(made)
        path = f"/v1/conversations/{made['id']}"
        first = w.respond(input="Hi.", conversation=made["id"])
        assert first["conversation"] == {"id": made["id"]}
        w.respond(input="Who am I?", conversation={"id": made["id"]})
        assert (
            "I am Ann.<|end|><|start|>user<|message|>Hi.<|end|><|start|>assistant<|channel|>final<|message|>Hello."
            in w.script.prompts[1]
        )
        page = w.client.get(f"{path}/items", params={"order": "asc"}).json()
        ConversationItemList.model_validate(page)
        assert [item["content"][0]["text"] for item in page["data"]] == [
            "I am Ann.",
            "Hi.",
            "Hello.",
            "Who am I?",
            "Ann.",
        ]
        w.respond(input="Not to be kept.", conversation=made["id"], store=False)
        assert len(w.client.get(f"{path}/items").json()["data"]) == 5
        w.client.delete(f"/v1/responses/{first['id']}")
        assert len(w.client.get(f"{path}/items").json()["data"]) == 5


def test_conversations_are_changed_and_deleted(tmp_path: Path):
    with scripted(state=tmp_path) as w:
        own = w.client.post("/v1/conversations", json={}).json()["id"]
        path = f"/v1/conversations/{own}"
        assert w.client.post(path, json={"metadata": {"x": "y"}}).json()["metadata"] == {"x": "y"}
        assert w.client.get(path).json()["metadata"] == {"x": "y"}
        added = w.client.post(f"{path}/items", json={"items": [{"role": "user", "content": "hi"}]}).json()
        (item,) = added["data"]
        assert w.client.get(f"{path}/items/{item['id']}").json() == item
        assert w.client.delete(f"{path}/items/{item['id']}").json()["id"] == own
        assert w.client.get(f"{path}/items/{item['id']}").status_code == 404
        assert w.client.delete(path).json() == {"id": own, "object": "conversation.deleted", "deleted": True}
        for answer in (w.client.get(path), w.client.get(f"{path}/items"), w.client.delete(path)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "conversation_not_found")
        assert w.refused("/v1/responses", input="x", conversation=own)[:2] == (404, "conversation")
        too_many = {"items": [{"role": "user", "content": "x"}] * 21}
        assert w.client.post("/v1/conversations", json=too_many).json()["error"]["param"] == "items"
        assert (
            w.client.post("/v1/conversations", json={"items": [{"role": 1}]}).json()["error"]["param"]
            == "items[0].role"
        )
