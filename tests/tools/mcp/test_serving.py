"""Ossia as an MCP server, with the clients of the mcp package and with Ossia's own."""

import asyncio
import json
import sys

import httpx
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from ossia.tools.mcp.servers import operator_servers
from ossia.tools.mcp.serving import http_app
from ossia.tools.mcp.session import McpSession
from tests.support import mcp_offer
from tests.support.mcp_http import served
from tests.support.mcp_offer import offer, sessions_made

STDIO = StdioServerParameters(command=sys.executable, args=[mcp_offer.__file__], env={"PYTHONPATH": ":".join(sys.path)})


def opened_app(**options):
    offered = offer()
    asyncio.run(offered.open())
    return http_app(offered, "127.0.0.1", **options)


def text(result) -> str:
    return result.content[0].text


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_client_on_stdio(mode: str):
    async def run():
        async with Client(STDIO, mode=mode) as client:
            assert client.protocol_version == ("2026-07-28" if mode == "auto" else "2025-11-25")
            assert client.server_info.name == "ossia"
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert list(tools) == ["ask", "counter_add", "counter_wait", "counter_shout", "python"]
            assert "session" not in tools["counter_add"].input_schema["properties"]
            assert text(await client.call_tool("counter_add", {"by": 2})) == "2"
            assert text(await client.call_tool("counter_shout", {})) == "shouted"  # standard output stays clean
            assert text(await client.call_tool("counter_add", {})) == "3"
            assert text(await client.call_tool("python", {"code": "print(1)"})) == "ran: print(1)"
            assert (await client.call_tool("counter_add", {"by": 100})).is_error
            assert (await client.call_tool("nothing", {})).is_error
            seen = []

            async def on_progress(progress, total, message):
                seen.append(message)

            asked = await client.call_tool("ask", {"prompt": "Why?"}, progress_callback=on_progress)
            assert json.loads(text(asked)) == ["Why?", "medium", None]
            assert seen == ["thinking"]

    asyncio.run(run())


def test_each_client_over_http_has_its_own_state():
    async def run(url: str):
        async with Client(f"{url}/mcp", mode="legacy") as first, Client(f"{url}/mcp", mode="legacy") as second:
            assert text(await first.call_tool("counter_add", {})) == "1"
            assert text(await second.call_tool("counter_add", {})) == "1"
            assert text(await first.call_tool("counter_add", {})) == "2"

    with served(opened_app()) as url:
        asyncio.run(run(url))


def test_a_client_that_leaves_has_its_tools_closed():
    sessions_made.clear()

    async def run(url: str):
        async with Client(f"{url}/mcp", mode="legacy") as client:
            await client.call_tool("counter_add", {})
            assert [each.closed for each in sessions_made][-1] is False
        async with asyncio.timeout(20):
            while not sessions_made[-1].closed:
                await asyncio.sleep(0.01)

    with served(opened_app()) as url:
        asyncio.run(run(url))


def test_clients_of_the_newest_generation_name_their_sessions():
    """They have no session of the protocol over HTTP. Without a name, each call begins anew."""

    async def run(url: str):
        async with Client(f"{url}/mcp") as client:
            assert client.protocol_version == "2026-07-28"
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert tools["counter_add"].input_schema["properties"]["session"]["type"] == "string"
            assert "session" not in tools["ask"].input_schema["properties"]
            calls = [{"session": "one"}, {"session": "one"}, {"session": "two"}, {}, {}]
            found = [text(await client.call_tool("counter_add", call)) for call in calls]
            assert found == ["1", "2", "1", "1", "1"]

    with served(opened_app()) as url:
        asyncio.run(run(url))


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_cancelled_call_ends_in_the_tool(mode: str):
    sessions_made.clear()
    named = {"session": "one"} if mode == "auto" else {}

    async def run(url: str):
        async with Client(f"{url}/mcp", mode=mode) as client:
            await client.call_tool("counter_add", named)
            call = asyncio.create_task(client.call_tool("counter_wait", named))
            await asyncio.sleep(0.2)
            call.cancel()
            await asyncio.wait([call])
            async with asyncio.timeout(20):
                while not sessions_made[-1].cancelled:
                    await asyncio.sleep(0.01)
            assert text(await client.call_tool("counter_add", named)) == "2"

    with served(opened_app()) as url:
        asyncio.run(run(url))


def test_ossias_own_client_uses_ossias_server():
    async def run(url: str):
        session = McpSession(operator_servers(f"own={url}/mcp")[0])
        await session.open()
        assert session.namespace.name == "ossia"
        assert (await session.run("counter_add", '{"session": "a"}')).text == "1"
        assert (await session.run("counter_add", '{"session": "a"}')).text == "2"
        await session.close()

    with served(opened_app()) as url:
        asyncio.run(run(url))


INITIALIZE = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
}  # fmt: skip
ACCEPT = {"accept": "application/json, text/event-stream"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example"}, 421),
        ({"host": "localhost.evil.example:80"}, 421),
        ({"host": "tools.lan:8808"}, 421),
        ({"mcp-protocol-version": "2026-07-28", "origin": "https://evil.example"}, 403),
        ({"mcp-protocol-version": "2026-07-28", "host": "evil.example"}, 421),
    ],
)
def test_web_pages_of_other_origins_are_refused(headers: dict, status: int):
    with served(opened_app()) as url:
        assert httpx.post(f"{url}/mcp", json=INITIALIZE, headers={**ACCEPT, **headers}).status_code == status


def test_a_further_name_can_be_allowed():
    with served(opened_app(allowed_hosts=["tools.lan"])) as url:
        headers = {**ACCEPT, "host": "tools.lan:8808"}
        assert httpx.post(f"{url}/mcp", json=INITIALIZE, headers=headers).status_code == 200


@pytest.mark.parametrize("key", [None, "wrong", "kéy"])
def test_a_server_with_a_key_refuses_clients_without_it(key: str | None):
    headers = {} if key is None else {"authorization": f"Bearer {key}".encode()}
    with served(opened_app(api_key="right")) as url:
        response = httpx.post(f"{url}/mcp", json=INITIALIZE, headers={**ACCEPT, **headers})
        assert response.status_code == 401
        assert httpx.delete(f"{url}/mcp", headers=headers).status_code == 401


def test_a_client_with_the_key_is_served():
    async def run(url: str):
        import httpx2

        async with (
            httpx2.AsyncClient(headers={"authorization": "Bearer right"}) as http,
            Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
        ):
            assert (await client.list_tools()).tools

    with served(opened_app(api_key="right")) as url:
        asyncio.run(run(url))


def test_a_server_for_other_machines_needs_a_key():
    with pytest.raises(ValueError, match="give --api-key"):
        http_app(offer(), "0.0.0.0")


def test_bodies_are_bounded():
    with served(opened_app()) as url:
        response = httpx.post(
            f"{url}/mcp", content=b"x" * 5_000_000, headers={**ACCEPT, "content-type": "application/json"}
        )
        assert response.status_code == 413


def test_garbage_on_stdio_does_not_end_the_server():
    async def run():
        process = await asyncio.create_subprocess_exec(
            sys.executable, mcp_offer.__file__, stdin=-1, stdout=-1, stderr=-3, env={"PYTHONPATH": ":".join(sys.path)}
        )
        assert process.stdin
        assert process.stdout
        process.stdin.write(b'not json\n\xff\xfe\n{"jsonrpc": "1.0"}\n[]\n' + json.dumps(INITIALIZE).encode() + b"\n")
        async with asyncio.timeout(30):
            while True:
                answer = json.loads(await process.stdout.readline())
                if answer.get("id") == 1:
                    break
        assert answer["result"]["serverInfo"]["name"] == "ossia"
        process.stdin.close()
        async with asyncio.timeout(30):
            assert await process.wait() == 0

    asyncio.run(run())
