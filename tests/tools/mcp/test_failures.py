"""MCP servers that fail: each failure has its kind, and the answer goes on."""

import asyncio
import builtins
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ossia.tools.addresses import AddressGuard
from ossia.tools.mcp.limits import McpLimits
from ossia.tools.mcp.results import McpFailure, McpListing, McpResult
from ossia.tools.mcp.servers import McpServer, operator_servers, request_server
from ossia.tools.mcp.session import McpSession, open_available
from ossia.tools.session import ToolUnavailableError
from tests.support import mcp_demo
from tests.support.mcp_demo import demo
from tests.support.mcp_http import LegacyHttp, body, reply, served

LEGACY = f"{sys.executable} {Path(mcp_demo.__file__).parent / 'mcp_legacy.py'}"
QUICK = McpLimits(connect_seconds=60.0, call_seconds=2.0)


def outcome_of_open(
    server: McpServer, limits: McpLimits | None = None, guard: AddressGuard | None = None
) -> tuple[str, McpListing]:
    async def run() -> tuple[str, McpListing]:
        session = McpSession(server, limits, guard=guard)
        try:
            with pytest.raises(ToolUnavailableError) as error:
                await session.open()
            return str(error.value), session.listing
        finally:
            await session.close()

    return asyncio.run(run())


def outcome_of_call(how: str, limits: McpLimits | None = None) -> McpFailure | None:
    async def run(url: str) -> McpFailure | None:
        session = McpSession(operator_servers(f"old={url}/mcp")[0], limits)
        try:
            await session.open()
            output = await session.run("echo", "{}")
            assert output.failed == (how != "forget")
            assert isinstance(output.details, McpResult)
            return output.details.error
        finally:
            await session.close()

    with served(LegacyHttp(how), "off") as url:
        return asyncio.run(run(url))


# calls


@pytest.mark.parametrize(
    ("how", "kind", "code", "message"),
    [
        ("401", "http_error", 401, "the server answered with HTTP status 401"),
        ("500", "http_error", 500, "the server answered with HTTP status 500"),
        ("error", "mcp_protocol_error", -32602, "Unknown tool"),
        ("garbage", "mcp_protocol_error", -32700, "Failed to parse JSON response"),
        ("huge", "mcp_protocol_error", -32700, "larger than 524288 bytes"),
        ("malformed", "mcp_protocol_error", -32600, "does not follow the protocol"),
        ("gzip", "mcp_protocol_error", -32000, "content encoding 'gzip'"),
        ("drop", "mcp_protocol_error", -32000, "connection lost"),
        ("redirect", "mcp_protocol_error", -32600, "not followed"),
    ],
)
def test_failures_of_a_call(how: str, kind: str, code: int, message: str):
    failure = outcome_of_call(how, McpLimits())
    assert failure is not None
    assert (failure.kind, failure.code) == (kind, code)
    assert message in failure.message


def test_a_long_stream_is_cut():
    """A server that sends 20 MB of progress takes neither the time nor the memory of the answer."""

    class Flood(LegacyHttp):
        async def misbehave(self, send, message) -> bool:
            token = message["params"]["_meta"]["progressToken"]
            note = {"progressToken": token, "progress": 1, "message": "x" * 100_000}
            event = json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": note})
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for _ in range(200):
                await send({"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True})
            return True

    async def run(url: str):
        session = McpSession(operator_servers(f"old={url}/mcp")[0], McpLimits())
        await session.open()
        seen: list[str] = []
        output = await session.run("echo", "{}", lambda progress: seen.append(progress.text))
        assert output.failed
        assert len(seen) < 100
        assert max(map(len, seen)) <= 500
        await session.close()

    with served(Flood(), "off") as url:
        asyncio.run(run(url))


def test_a_call_that_hangs_ends_with_its_time():
    assert outcome_of_call("hang", QUICK) == McpFailure("mcp_protocol_error", "Request 'tools/call' timed out", -32001)


def test_a_session_that_the_server_forgot_is_begun_again():
    assert outcome_of_call("forget") is None


def test_a_server_that_goes_away_is_a_lost_connection():
    async def run():
        with served(LegacyHttp(), "off") as url:
            session = McpSession(operator_servers(f"old={url}/mcp")[0], QUICK)
            await session.open()
        output = await session.run("echo", "{}")
        assert isinstance(output.details, McpResult)
        assert output.details.error is not None
        assert output.details.error.kind == "mcp_protocol_error"
        assert output.failed
        await session.close()

    asyncio.run(run())


def test_an_sse_server_that_refuses_a_message_fails_the_call_at_once():
    """It answers a call with 403 on the other connection. The call does not wait for its time to end."""
    app = demo().sse_app()

    async def refusing(scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "POST":
            await app(scope, receive, send)
            return
        data = await body(receive)
        if b"tools/call" in data:
            await reply(send, 403)
            return
        parts = iter([{"type": "http.request", "body": data}])

        async def again():
            return next(parts, {"type": "http.disconnect"})

        await app(scope, again, send)

    async def run(url: str):
        session = McpSession(operator_servers(f"demo=sse+{url}/sse")[0])
        await session.open()
        output = await session.run("add", '{"a": 1}')
        assert isinstance(output.details, McpResult)
        assert output.details.error == McpFailure("http_error", "the server answered with HTTP status 403", 403)
        await session.close()

    with served(refusing) as url:
        asyncio.run(run(url))


# listings


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("401", "the server answered with HTTP status 401"),
        ("500", "the server answered with HTTP status 500"),
        ("garbage", "Failed to parse JSON response"),
        ("huge", "larger than 524288 bytes"),
        ("hang", "no answer within 1 s"),
    ],
)
@pytest.mark.parametrize("transport", ["http", "sse"])
def test_a_failed_connection_says_why(how: str, reason: str, transport: str):
    with served(LegacyHttp(how, everything=True), "off") as url:
        message, listing = outcome_of_open(
            McpServer("old", transport, url=f"{url}/mcp"),  # type: ignore[arg-type]
            McpLimits(connect_seconds=1.0 if how == "hang" else 60.0),
        )  # type: ignore[arg-type]
    assert listing.error is not None
    assert listing.server_label == "old"
    assert message.startswith("MCP server old: ")
    assert (reason if transport == "http" else "HTTP status 405") in listing.error


def test_a_port_without_a_server_is_a_failed_connection():
    _, listing = outcome_of_open(operator_servers("old=http://127.0.0.1:9/mcp")[0])
    assert "connection failed" in str(listing.error)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("garbage", "the server writes lines that are no JSON-RPC messages"),
        ("flood", "the server wrote a line of more than 524288 bytes"),
        ("exit", "the server's process ended with exit code 3"),
        ("hang", "no answer within 1 s"),
    ],
)
def test_a_process_that_cannot_be_used_says_why(how: str, reason: str):
    message, listing = outcome_of_open(
        operator_servers(f"old={LEGACY} {how}")[0], McpLimits(connect_seconds=60.0 if how != "hang" else 1.0)
    )
    assert listing == McpListing("old", error=reason)
    if how == "exit":
        assert message == f"MCP server old: {reason}\nIts last output:\nno licence found"


def test_a_command_that_does_not_exist_says_so():
    _, listing = outcome_of_open(operator_servers("old=/no/such/program --at all")[0])
    assert listing.error == "the server's command cannot be started: No such file or directory"


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ([], "the server offers no tool that is allowed"),
        (
            [{"name": f"t{number}", "inputSchema": {"type": "object"}} for number in range(200)],
            "200 tools, of at most 128",
        ),
        (
            [{"name": f"t{number}", "inputSchema": {"type": "object"}} for number in range(2_100)],
            "more than 2000 tools",
        ),
        (
            [{"name": "t", "description": "x" * 2_000_000, "inputSchema": {"type": "object"}}],
            "larger than 524288 bytes",
        ),
        ([{"title": "no name"}], "does not follow the protocol"),
    ],
)
def test_lists_that_cannot_be_used(tools: list, reason: str):
    app = LegacyHttp(tools=tools)
    app.tools = tools
    with served(app, "off") as url:
        _, listing = outcome_of_open(operator_servers(f"old={url}/mcp")[0], McpLimits())
    assert reason in str(listing.error)


def test_pages_that_do_not_end_are_an_error():
    class Endless(LegacyHttp):
        async def misbehave(self, send, message) -> bool:
            if message["method"] != "tools/list":
                return False
            page = int((message.get("params") or {}).get("cursor", 0)) + 1
            result = {"tools": [{"name": f"t{page}", "inputSchema": {"type": "object"}}], "nextCursor": str(page)}
            await reply(send, 200, {"jsonrpc": "2.0", "id": message["id"], "result": result})
            return True

    with served(Endless(everything=True), "off") as url:
        _, listing = outcome_of_open(operator_servers(f"old={url}/mcp")[0])
    assert listing.error == "a list of tools whose pages do not end"


def test_an_answer_goes_on_without_a_server_that_cannot_be_listed():
    async def run(url: str):
        good, bad = McpSession(operator_servers(f"good={url}/mcp")[0]), McpSession(operator_servers("bad=/no/such")[0])
        assert await open_available([bad, good]) == [good]
        assert bad.listing.error is not None
        assert good.listing.error is None
        await good.close()

    with served(LegacyHttp(), "off") as url:
        asyncio.run(run(url))


# servers of requests


def request_tool(url: str, allowed: list[str], **fields: object) -> McpServer:
    return request_server({"server_label": "shop", "server_url": url, **fields}, allowed)


@pytest.mark.parametrize("transport", ["/mcp", "/sse"])
def test_a_private_address_is_not_reached(transport: str):
    """The host is allowed by a pattern, and its name leads to this machine."""
    app = LegacyHttp()

    async def resolve(host: str, port: int):
        return ["127.0.0.1", "169.254.169.254", "::1"]

    with served(app, "off") as url:
        port = url.rpartition(":")[2]
        server = request_tool(f"http://shop.example:{port}{transport}", ["*.example"])
        _, listing = outcome_of_open(server, guard=AddressGuard(server.private_hosts, resolve))
        assert "host 'shop.example' has no public address" in str(listing.error)
        direct = request_tool(f"http://127.0.0.1:{port}{transport}", ["*"])
        assert "has no public address" in str(outcome_of_open(direct)[1].error)
    assert not app.seen


def test_the_checked_address_is_the_one_that_is_used():
    """A name that changes its address between the check and the connection gains nothing: it is resolved once."""
    answers = iter([["127.0.0.1"]])
    app = LegacyHttp()

    async def resolve(host: str, port: int):
        return next(answers)

    async def run(port: str):
        server = request_tool(f"http://shop.example:{port}/mcp", [f"shop.example:{port}"])
        session = McpSession(server, guard=AddressGuard(server.private_hosts, resolve))
        await session.open()
        assert session.namespace.name == "shop"
        await session.close()

    with served(app, "off") as url:
        port = url.rpartition(":")[2]
        asyncio.run(run(port))
    assert {each["host"] for each in app.seen} == {f"shop.example:{port}"}


def test_the_authorization_of_a_request_goes_to_its_server_and_nowhere_else(caplog, monkeypatch):
    """It is in no log line, no listing, no result, and no text of an error. No other credential is sent."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", "our-key")
    app = LegacyHttp("401")

    async def run(url: str):
        port = url.rpartition(":")[2]
        server = request_tool(
            f"{url}/mcp?key=qu3ry", [f"127.0.0.1:{port}"], authorization="s3cret", require_approval="never"
        )
        session = McpSession(server)
        await session.open()
        output = await session.run("echo", "{}")
        assert output.failed
        assert "s3cret" not in repr((session.listing, output, server))
        await session.close()

    with served(app, "off") as url:
        asyncio.run(run(url))
    assert {each["authorization"] for each in app.seen} == {"Bearer s3cret"}
    assert not any("our-key" in value for each in app.seen for value in each.values())
    assert not any("cookie" in each for each in app.seen)
    assert "s3cret" not in caplog.text
    assert "qu3ry" not in caplog.text


def test_a_servers_cookie_is_not_sent_back_to_another_session():
    app = LegacyHttp()

    async def run(url: str):
        server = operator_servers(f"old={url}/mcp")[0]
        for _ in range(2):
            session = McpSession(server)
            await session.open()
            await session.close()

    with served(app, "off") as url:
        asyncio.run(run(url))
    assert not any("cookie" in each for each in app.seen)


# the package


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    real = builtins.__import__

    def no_mcp(
        name: str, globals: Mapping[str, Any] | None = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ):
        if name.partition(".")[0] in ("mcp", "mcp_types"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, globals, locals, fromlist, level)

    for name in [name for name in sys.modules if name.startswith("ossia.tools.mcp.connection")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", no_mcp)
    message, listing = outcome_of_open(operator_servers("old=/no/such")[0])
    assert "pip install 'ossia[mcp]'" in message
    assert "pip install 'ossia[mcp]'" in str(listing.error)


def test_the_package_is_imported_only_when_a_server_is_connected():
    import subprocess

    code = "import sys, ossia.tools.mcp.session, ossia.cli; print([name for name in ('mcp', 'httpx2', 'pydantic') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_hundred_sessions_leave_no_task_and_no_connection():
    async def run(url: str):
        server = operator_servers(f"demo={url}/mcp")[0]
        before = len(asyncio.all_tasks())
        for _ in range(10):
            sessions = [McpSession(server) for _ in range(10)]
            assert await open_available(sessions) == sessions
            assert {(await each.run("add", '{"a": 1}')).text for each in sessions} == {"2"}
            await asyncio.gather(*(each.close() for each in sessions))
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) == before

    with served(demo().streamable_http_app()) as url:
        asyncio.run(run(url))
