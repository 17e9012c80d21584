"""Responses in the background: queued, streamed again, cancelled, deleted, and ended with the server."""

from pathlib import Path
from typing import Any

from tests.support.responses import checked, events_of, fold
from tests.support.server import scripted
from tests.support.turns import final


def said_by(response: dict[str, Any]) -> list[str]:
    return [part["text"] for item in response["output"] for part in item.get("content", ())]


def test_in_the_background_an_answer_is_queued_then_made(tmp_path: Path):
    with scripted(final("ok"), state=tmp_path) as w:
        w.script.held = True
        response = w.respond(input="x", background=True)
        assert (response["status"], response["background"]) == ("queued", True)
        assert w.client.get(f"/v1/responses/{response['id']}").json()["status"] in ("queued", "in_progress")
        w.script.held = False
        done = w.until_status(response["id"], "completed")
        assert said_by(done) == ["ok"]
        assert w.client.post(f"/v1/responses/{response['id']}/cancel").json() == done


def test_a_background_stream_is_resumed_where_it_was_left():
    with scripted(final("a long enough answer")) as w:
        whole = w.events(input="x", background=True)
        kinds = [event["type"] for event in whole]
        assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
        assert fold(whole) == whole[-1]["response"]["output"]
        path = f"/v1/responses/{whole[0]['response']['id']}"
        assert events_of(w.client.get(path, params={"stream": "true"}).text) == whole
        assert events_of(w.client.get(path, params={"stream": "true", "starting_after": 4}).text) == whole[5:]
        assert (
            w.client.get(path, params={"stream": "true", "starting_after": "x"}).json()["error"]["param"]
            == "starting_after"
        )


def test_a_background_answer_is_cancelled(tmp_path: Path):
    with scripted(final("never"), state=tmp_path) as w:
        w.script.held = True
        response = w.respond(input="x", background=True)
        cancelled = checked(w.client.post(f"/v1/responses/{response['id']}/cancel").json())
        assert cancelled["status"] == "cancelled"
        assert w.until_status(response["id"], "cancelled") == cancelled
        told = events_of(w.client.get(f"/v1/responses/{response['id']}", params={"stream": "true"}).text)
        assert told[-1]["response"]["status"] == "cancelled"
        assert w.client.post("/v1/responses/resp_none/cancel").status_code == 404


def test_only_background_answers_can_be_cancelled_or_resumed(tmp_path: Path):
    with scripted(final("ok"), state=tmp_path) as w:
        response = w.respond(input="x")
        path = f"/v1/responses/{response['id']}"
        assert w.client.post(f"{path}/cancel").json()["error"]["code"] == "not_cancellable"
        assert w.client.get(path, params={"stream": "true"}).json()["error"]["code"] == "stream_unavailable"


def test_what_goes_on_from_an_answer_waits_for_its_end(tmp_path: Path):
    with scripted(final("ok"), final("ok"), state=tmp_path) as w:
        w.script.held = True
        first = w.respond(input="x", background=True)["id"]
        assert w.refused("/v1/responses", input="y", previous_response_id=first)[2] == "previous_response_in_progress"
        w.script.held = False
        w.until_status(first, "completed")
        assert w.respond(input="y", previous_response_id=first)["status"] == "completed"


def test_deleting_a_background_answer_stops_it(tmp_path: Path):
    with scripted(final("never"), state=tmp_path) as w:
        w.script.held = True
        response = w.respond(input="x", background=True)
        assert w.client.delete(f"/v1/responses/{response['id']}").status_code == 200
        assert w.client.get(f"/v1/responses/{response['id']}").status_code == 404
        assert w.script.requests == [] or w.script.closed


def test_a_server_that_stops_fails_what_is_under_way(tmp_path: Path):
    with scripted(final("never"), state=tmp_path) as w:
        w.script.held = True
        response = w.respond(input="x", background=True)
    with scripted(state=tmp_path) as w:
        kept = checked(w.client.get(f"/v1/responses/{response['id']}").json())
        assert (kept["status"], kept["error"]["code"]) == ("failed", "server_error")
