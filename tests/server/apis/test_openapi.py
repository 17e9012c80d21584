"""The OpenAPI document is true: every route is in it, and whatever is sent, the answer is one that it describes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.requests import Request
from starlette.testclient import TestClient

from ossia.server.apis.openapi import OPERATIONS, document
from ossia.server.app import app
from ossia.server.core.context import Context
from ossia.server.core.service import Service
from ossia.server.http.decoding.token_bound import Shares
from ossia.server.settings import Settings
from ossia.server.state.store import Store
from tests.support.engine import scripted_model
from tests.support.hostile import HostileEngine
from tests.support.server import refusal
from tests.support.vocabularies import small

DOCUMENT = document()
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
API = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS_OF_API = {f"{each.ok().method} {each.ok().path}": each.ok() for each in API.get_all_operations()}
POSTS = [each.path for each in OPERATIONS if each.request and "{" not in each.path and "compact" not in each.path]
EXAMPLES = [
    pytest.param(8, id="few"),
    pytest.param(150, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder: Path = tmp_path_factory.mktemp("state")
    engine, store = HostileEngine(), Store(folder, small())
    service = Service(scripted_model(), Settings(state=folder), make_engine=lambda: engine)  # type: ignore[arg-type]
    context = Context(service.settings, service, memory=store, store=store)
    with TestClient(app(context), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client
    store.close()


def test_every_route_is_in_the_document():
    context: Any = SimpleNamespace(
        settings=Settings(),
        service=SimpleNamespace(metrics=None, context=1, limits=SimpleNamespace(shares=Shares([b"a"]))),
        memory=None,
        store=None,
        names=(),
    )
    served = {
        (re.sub(":path", "", route.path), method.lower())
        for route in app(context).routes
        for method in getattr(route, "methods", ()) or ()
        if method != "HEAD" and route.path != "/"
    }
    assert served == {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}


def test_the_document_is_valid_and_served(client: TestClient):
    API.validate()
    served = client.get("/openapi.json")
    assert served.headers["content-type"] == "application/json"
    assert served.json() == DOCUMENT
    assert "ossia.server" not in served.text


def test_a_body_that_does_not_come_is_in_the_document(client: TestClient):
    async def never(_: Request) -> AsyncIterator[bytes]:
        yield await asyncio.get_running_loop().create_future()

    with patch("ossia.server.http.requests.STALL_SECONDS", 0.01), patch.object(Request, "stream", never):
        statuses = {path: client.post(path, content=b"{}").status_code for path in POSTS}
    assert set(statuses.values()) == {408}
    assert all("408" in DOCUMENT["paths"][path]["post"]["responses"] for path in statuses)


def test_names_in_the_document_are_the_wire_s_own():
    chat = DOCUMENT["components"]["schemas"]["ChatRequest"]
    assert chat["required"] == ["messages"]
    assert {"response_format", "tools", "reasoning_effort"} <= chat["properties"].keys()


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", OPERATIONS_OF_API)
def test_no_answer_is_undocumented(client: TestClient, name: str, examples: int):
    checks = CHECKS if "compact" in name else [*CHECKS, not_a_server_error]

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        derandomize=examples < 100,
    )
    @given(case=OPERATIONS_OF_API[name].as_strategy())
    def tried(case: Any):
        response = client.request(**case.as_transport_kwargs(base_url="http://localhost"))
        case.validate_response(response, checks=checks)

    tried()


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/responses", {"input": "hi"}), ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})],
)
def test_events_of_a_stream_are_as_described(client: TestClient, path: str, body: dict[str, Any]):
    case = OPERATIONS_OF_API[f"post {path}"].Case(body={**body, "stream": True}, media_type="application/json")
    response = client.request(**case.as_transport_kwargs(base_url="http://localhost"))
    assert "text/event-stream" in response.headers["content-type"]
    case.validate_response(response, checks=CHECKS)


BAD = [
    b"", b"\x00", b"{", b"null", b"[]", b'"x"', b"3", b"\xff\xfe", b'{"messages": "\xff"}', b'{"messages": ' + b"[" * 5000,
    b"[" * 50_000 + b"]" * 50_000, b'{"input": ' * 2000, b'{"temperature": 1e999, "messages": []}', b'{"max_output_tokens": 1e400, "max_tokens": ' + b"9" * 5000 + b"}",
    b'{"messages": 1, "messages": 2, "input": 1, "input": 2, "prompt": 3, "prompt": {}, "items": 3, "metadata": 3}', b"\xef\xbb\xbf{}", b"NaN",
    b'{"messages": [{"role": "user", "content": NaN}], "input": NaN, "prompt": NaN, "items": NaN}',
]  # fmt: skip


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", BAD, ids=lambda body: ascii(body[:24]))
def test_a_body_that_is_no_request_is_refused_in_the_api_s_shape(client: TestClient, path: str, body: bytes):
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    if path == "/v1/conversations" and answer.status_code == 200:
        return  # everything in it is optional
    assert answer.status_code == 400, answer.text
    if "messages" in path:
        assert answer.json()["error"]["message"]
    else:
        assert refusal(answer)[2]  # a code
    assert client.get("/health").json()["status"] == "ok"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from([2**64, -(10**40), "\0", "<|call|>", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
USER = {"role": "user", "content": "hi"}
BASES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER], "max_tokens": 5},
    "/v1/responses": {"input": [USER], "max_output_tokens": 5, "store": False},
    "/v1/completions": {"prompt": "hi", "max_tokens": 5},
    "/v1/messages": {"messages": [USER], "max_tokens": 5},
    "/v1/conversations": {"items": [USER], "metadata": {"a": "b"}},
}
TYPES = st.sampled_from([
    "function", "custom", "web_search", "mcp", "namespace", "message", "reasoning", "function_call", "function_call_output", "item_reference", "json_schema",
    "json_object", "text", "input_text", "input_image", "output_text", "tool_use", "tool_result", "allowed_tools", "auto", "required", "none", "thinking",
])  # fmt: skip
FIELDS = st.sampled_from([
    "type", "role", "content", "name", "arguments", "call_id", "id", "output", "parameters", "function", "strict", "schema", "json_schema", "tools", "format",
    "input", "input_schema", "summary", "encrypted_content", "text", "tool_calls", "tool_call_id", "description", "tool_use_id", "mode", "namespace",
])  # fmt: skip
LIKELY = st.recursive(
    JSON | TYPES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner | TYPES, min_size=1, max_size=5),
    max_leaves=8,
)


def fields_of(path: str) -> list[str]:
    taken = next(each.request for each in OPERATIONS if each.path == path and each.request)
    return list(taken.__struct_encode_fields__)


@pytest.mark.parametrize(
    "examples",
    [pytest.param(40, id="few"), pytest.param(1200, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(1200)])],
)
@pytest.mark.parametrize("path", BASES)
def test_a_field_of_any_value_is_accepted_or_named(client: TestClient, path: str, examples: int):
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=examples < 100)
    @given(changed=st.dictionaries(st.sampled_from(fields_of(path)), LIKELY, min_size=1, max_size=2))
    def tried(changed: dict[str, Any]):
        body = json.dumps({**BASES[path], **changed}).encode()
        answer = client.post(path, content=body)
        assert answer.status_code in (200, 400, 404), (answer.status_code, answer.text)
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert error["message"]
            if path != "/v1/messages":
                assert error["param"] or error["code"] == "invalid_json" or answer.status_code == 404, error
                assert error["code"], error

    tried()
    assert client.get("/health").json()["status"] == "ok"
