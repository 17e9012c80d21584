"""What was left out of a request is said in a header by the APIs whose answers have no place for it."""

from typing import Any

import pytest

from ossia.server.core.warnings import HEADER, header
from ossia.server.settings import Settings
from tests.support.server import scripted, user
from tests.support.turns import final

LOOSE = {"type": "object", "properties": {"t": {"type": "array", "uniqueItems": True}}}
CHAT = {"type": "function", "function": {"name": "tag_ü\n", "parameters": LOOSE}}
APIS = [("/v1/chat/completions", CHAT), ("/v1/messages", {"name": "tag_ü\n", "input_schema": LOOSE})]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "tool"), APIS)
def test_what_is_left_out_is_said_whole_and_streamed(path: str, tool: dict[str, Any], stream: bool):
    body = {"messages": [user("hi")], "max_tokens": 100, "stream": stream, "tools": [{"type": "web_search"}, tool]}
    with scripted(final("ok")) as served:
        answer = served.client.post(path, json=body)
    assert answer.status_code == 200
    told = answer.headers[HEADER]
    assert "'web_search'" in told
    assert r"tag_\xfc\n: not enforced: " in told
    assert "uniqueItems" in told


@pytest.mark.parametrize("path", [path for path, _ in APIS])
def test_tools_that_are_all_left_out_are_said_too_and_without_any_there_is_no_header(path: str):
    body = {"messages": [user("hi")], "max_tokens": 100}
    with scripted(final("ok"), final("ok")) as served:
        assert (
            "'web_search'" in served.client.post(path, json={**body, "tools": [{"type": "web_search"}]}).headers[HEADER]
        )
        assert HEADER not in served.client.post(path, json=body).headers


def test_the_header_is_short_and_ascii_whatever_it_says():
    told = header(["x\r\nset-cookie: y", "\ud800\x7f 名" * 1000])[HEADER]
    assert told.isascii()
    assert told.isprintable()
    assert len(told) <= 1000


def test_pages_that_may_ask_can_read_it():
    with scripted(final("ok"), settings=Settings(allow_origins=("https://app.example",))) as served:
        answer = served.client.get("/v1/models", headers={"origin": "https://app.example"})
    assert answer.headers["access-control-expose-headers"] == HEADER
