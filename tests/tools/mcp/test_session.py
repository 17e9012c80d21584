"""An MCP session with real servers: over stdio, streamable HTTP and SSE, in both generations of the protocol."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from ossia.tools.choose import ToolFactory, ToolSettings
from ossia.tools.mcp.approval import ApprovalPolicy, ToolFilter
from ossia.tools.mcp.limits import McpLimits
from ossia.tools.mcp.results import McpFailure, McpListing, McpResult
from ossia.tools.mcp.servers import McpServer, operator_servers
from ossia.tools.mcp.session import McpSession
from ossia.tools.session import ToolProgress
from ossia.tools.toolset import ToolSet
from tests.support import mcp_demo
from tests.support.mcp_demo import demo
from tests.support.mcp_http import LegacyHttp, served
from tests.support.vocabularies import small

SUPPORT = Path(mcp_demo.__file__).parent
DEMO = f"{sys.executable} {SUPPORT / 'mcp_demo.py'}"
LEGACY = f"{sys.executable} {SUPPORT / 'mcp_legacy.py'}"


@pytest.fixture(params=["stdio", "http", "sse"])
def server(request) -> Iterator[McpServer]:
    if request.param == "stdio":
        yield operator_servers(f"demo={DEMO}")[0]
        return
    app = demo().streamable_http_app() if request.param == "http" else demo().sse_app()
    with served(app) as url:
        yield operator_servers(f"demo={url}/mcp" if request.param == "http" else f"demo=sse+{url}/sse")[0]


@asynccontextmanager
async def opened(server: McpServer, limits: McpLimits | None = None) -> AsyncIterator[McpSession]:
    session = McpSession(server, limits)
    try:
        await session.open()
        yield session
    finally:
        await session.close()
        await session.close()  # twice is safe


def stdio(how: str) -> McpServer:
    return operator_servers(f"old={LEGACY} {how}")[0]


def is_running(pid: int) -> bool:
    with suppress(OSError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_tools_are_listed_and_called(server: McpServer):
    async def run():
        async with opened(server) as session:
            assert session.namespace.name == "demo_shop"
            assert session.namespace.description == "Adds numbers."
            assert session.namespace.tools[0].name == "add"
            assert session.namespace.tools[0].parameters == {
                "type": "object",
                "properties": {
                    "a": {"type": "integer"},
                    "b": {"default": 1, "type": "integer"},
                    "note": {"type": ["string", "null"]},
                },
                "required": ["a"],
            }
            output = await session.run("add", '{"a": 2, "b": 3}')
            assert output.text == "5"
            assert output.details == McpResult("demo", "add", '{"a": 2, "b": 3}', "5")

    asyncio.run(run())


def test_names_lead_back_to_the_servers_own(server: McpServer):
    async def run():
        async with opened(server) as session:
            assert session.declared_name("bad/name?") == "bad_name__2"
            assert (await session.run("bad_name_", "")).text == "first"
            output = await session.run("bad_name__2", "{}")
            assert output.text == "second"
            assert isinstance(output.details, McpResult)
            assert output.details.name == "bad/name?"

    asyncio.run(run())


def test_failures_of_a_tool_are_text_for_the_model(server: McpServer):
    async def run():
        async with opened(server) as session:
            output = await session.run("refuse", "{}")
            assert output.failed
            assert output.text == "out of stock"
            failure = McpFailure("mcp_tool_execution_error", "out of stock")
            assert output.details == McpResult("demo", "refuse", "{}", "out of stock", failure)

    asyncio.run(run())


def test_progress_is_reported(server: McpServer):
    async def run():
        async with opened(server) as session:
            seen: list[ToolProgress] = []
            assert (await session.run("count", '{"steps": 3}', seen.append)).text == "counted"
            await until(lambda: len(seen) == 3)
            assert seen == [ToolProgress(f"step {step}", "status") for step in (1, 2, 3)]

    asyncio.run(run())


def test_images_and_resources_are_named(server: McpServer):
    async def run():
        async with opened(server) as session:
            text = (await session.run("show", "{}")).text
            assert text == "before\n[image: image/png, 300 bytes, not shown]\n[resource: manual file:///manual.txt]"

    asyncio.run(run())


def test_a_long_result_is_cut(server: McpServer):
    async def run():
        async with opened(server) as session:
            text = (await session.run("long", '{"size": 50000}')).text
            assert text == "é" * 32_768 + "\n[... 34464 bytes left out ...]"

    asyncio.run(run())


def test_a_changed_list_is_read_again(server: McpServer):
    async def run():
        async with opened(server) as session:
            assert not await session.refresh()
            await session.run("grow", "{}")
            await until(lambda: session.is_stale)
            assert await session.refresh()
            names = [tool.name for tool in session.namespace.tools]
            assert "extra" in names
            assert "fail" not in names
            assert (await session.run("extra", "")).text == "extra"
            assert [tool.name for tool in session.listing.tools][-1] == "extra"

    asyncio.run(run())


def test_a_cancelled_call_ends_at_once_and_at_the_server(server: McpServer, tmp_path):
    async def run():
        async with opened(server) as session:
            name = os.urandom(8).hex()
            call = asyncio.create_task(session.run("wait", json.dumps({"name": name})))
            if server.transport != "stdio":
                await until(lambda: f"{name} started" in mcp_demo.STARTED)
            else:
                await asyncio.sleep(0.2)
            call.cancel()
            done, _ = await asyncio.wait([call], timeout=1)
            assert done
            assert call.cancelled()
            if server.transport != "stdio":
                await until(lambda: f"{name} ended" in mcp_demo.STARTED)
            assert (await session.run("add", '{"a": 1}')).text == "2"  # the connection is as good as before

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Input data was truncated"),
        ("[]", "Expected `object`"),
        ("{} and more", "trailing"),
        ("x" * 300_000, "longer"),
    ],
)
def test_arguments_that_are_no_object_are_reported(text: str, reason: str):
    async def run():
        async with opened(stdio("plain")) as session:
            output = await session.run("echo", text)
            assert output.failed
            assert output.text.startswith("error: invalid arguments for echo: ")
            assert reason in output.text

    asyncio.run(run())


def test_an_unknown_tool_is_an_error_for_the_model():
    async def run():
        async with opened(stdio("plain")) as session:
            output = await session.run("nothing", "{}")
            assert output.failed
            assert output.text == "error: there is no tool nothing"

    asyncio.run(run())


def test_a_server_of_the_older_generation_on_stdio():
    """Two pages of tools, one of them not for the prompt. Lines that are no messages are skipped."""

    async def run():
        async with opened(stdio("chatty")) as session:
            assert session.protocol == "2025-11-25"
            assert session.namespace.name == "browser"
            assert session.namespace.description == "Old but good."
            assert [tool.name for tool in session.namespace.tools] == ["echo"]
            assert [tool.name for tool in session.listing.tools] == ["echo", "hidden"]
            assert (await session.run("hidden", '{"a": 1}')).text == "hidden: {'a': 1}"

    asyncio.run(run())


def test_a_server_of_the_older_generation_over_http():
    async def run(url: str):
        async with opened(operator_servers(f"old={url}/mcp")[0]) as session:
            assert session.protocol == "2025-11-25"
            assert (await session.run("echo", '{"a": 1}')).text == '{"a": 1}'

    app = LegacyHttp()
    with served(app, "off") as url:
        asyncio.run(run(url))
    assert app.methods == ["server/discover", "initialize", "notifications/initialized", "tools/list", "tools/call"]
    assert {each["mcp-protocol-version"] for each in app.seen[2:]} == {"2025-11-25"}


def test_the_newest_generation_is_used_where_the_server_knows_it(server: McpServer):
    async def run():
        async with opened(server) as session:
            assert session.protocol == "2026-07-28"

    asyncio.run(run())


def test_a_kept_listing_is_not_asked_for_again():
    app = LegacyHttp()

    async def run(url: str):
        server = operator_servers(f"old={url}/mcp")[0]
        async with opened(server) as session:
            listing = session.listing
        asked = list(app.methods)
        again = McpSession(server, listing=listing)
        await again.open()
        assert app.methods == asked  # not even connected
        assert (await again.run("echo", "{}")).text == "{}"
        await again.close()
        assert app.methods.count("tools/list") == 1

    with served(app, "off") as url:
        asyncio.run(run(url))


def test_calls_of_a_response_are_limited():
    async def run():
        async with opened(stdio("plain"), McpLimits(max_calls=2)) as session:
            outputs = [await session.run("echo", "{}") for _ in range(3)]
            assert [each.failed for each in outputs] == [False, False, True]
            assert outputs[2].text == "error: limit of 2 calls of MCP tools reached; answer with what you have"
            session.begin_response()
            assert not (await session.run("echo", "{}")).failed

    asyncio.run(run())


def test_a_set_of_tools_follows_a_changed_list():
    async def run():
        session = McpSession(operator_servers(f"demo={DEMO}")[0])
        tools = ToolSet([session])
        try:
            await tools.open()
            await tools.run("demo_shop.grow", "{}")
            await until(lambda: session.is_stale)
            assert "demo_shop.extra" not in tools.recipients
            await tools.refresh()
            assert "demo_shop.extra" in tools.recipients
            assert "demo_shop.fail" not in tools.recipients
            assert (await tools.run("demo_shop.extra", "{}")).text == "extra"
        finally:
            await tools.close()

    asyncio.run(run())


# approvals


def test_a_call_that_needs_approval_is_not_sent():
    app = LegacyHttp()

    async def run(url: str):
        server = McpServer("shop", "http", url=f"{url}/mcp", approval=ApprovalPolicy())
        async with opened(server) as session:
            assert session.needs_approval("echo")
            output = await session.run("echo", "{}")
            assert output.failed
            assert output.text == "error: this call needs the user's approval"
            assert "tools/call" not in app.methods
            assert (await session.run_approved("echo", '{"a": 1}')).text == '{"a": 1}'
            tools = ToolSet(developer=[session])
            await tools.open()
            assert tools.needs_approval == {"old.echo"}

    with served(app, "off") as url:
        asyncio.run(run(url))


def test_a_caller_that_asks_before_each_call_runs_them_directly():
    async def run(url: str):
        server = McpServer("shop", "http", url=f"{url}/mcp", approval=ApprovalPolicy())
        session = McpSession(server, asked_before=True)
        await session.open()
        assert not (await session.run("echo", "{}")).failed
        await session.close()

    with served(LegacyHttp(), "off") as url:
        asyncio.run(run(url))


def test_approval_can_be_left_out_for_tools_that_only_read(server: McpServer):
    async def run():
        policy = ApprovalPolicy(never=ToolFilter(read_only=True))
        careful = McpServer(
            server.label, server.transport, server.url, server.command, headers=server.headers, approval=policy
        )
        async with opened(careful) as session:
            assert not session.needs_approval("add")
            assert session.needs_approval("die")
            assert not session.needs_approval("no such tool")

    asyncio.run(run())


def test_a_declined_call_is_text_for_the_model():
    async def run():
        async with opened(stdio("plain")) as session:
            output = session.declined("echo", '{"a": 1}', "not on a Sunday\x00")
            assert output.text == "The user declined this call: not on a Sunday"
            assert output.failed
            assert output.details == McpResult("old", "echo", '{"a": 1}')
            assert session.declined("echo", "{}").text == "The user declined this call."

    asyncio.run(run())


def test_tools_of_a_terminal_ask_before_the_call(tmp_path: Path):
    """There the user was asked already, so the session runs the call."""
    entry = {"command": sys.executable, "args": [str(SUPPORT / "mcp_legacy.py"), "plain"], "requireApproval": "always"}
    (tmp_path / "servers.json").write_text(json.dumps({"mcpServers": {"shop": entry}}))

    async def run(asks_first: bool) -> bool:
        settings = ToolSettings(("mcp",), mcp=(str(tmp_path / "servers.json"),), asks_first=asks_first)
        tools = ToolFactory(settings, small()).toolset()
        assert tools is not None
        await tools.open()
        assert tools.needs_approval == {"browser.echo", "browser.hidden"} & tools.recipients
        output = await tools.run("browser.echo", "{}")
        await tools.close()
        return output.failed

    assert not asyncio.run(run(asks_first=True))
    assert asyncio.run(run(asks_first=False))


# processes


def test_a_process_gets_named_variables_only(monkeypatch):
    monkeypatch.setenv("OSSIA_SECRET", "s3cret")
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")

    async def run():
        server = McpServer("demo", "stdio", command=tuple(DEMO.split()), environment={"NAMED": "yes"})
        async with opened(server) as session:
            found = json.loads((await session.run("environment", "{}")).text)
            assert found["NAMED"] == "yes"
            assert found["PATH"] == os.environ["PATH"]
            assert "s3cret" not in found.values()
            assert set(found) <= {"NAMED", "PATH", "HOME", "LOGNAME", "SHELL", "TERM", "USER", "LC_CTYPE"}

    asyncio.run(run())


def test_a_process_ends_with_the_session():
    async def run():
        async with opened(operator_servers(f"demo={DEMO}")[0]) as session:
            pid = int((await session.run("process", "{}")).text)
            assert is_running(pid)
        assert not is_running(pid)

    asyncio.run(run())


def test_a_process_that_ignores_its_end_is_killed_with_its_children():
    async def run():
        async with opened(stdio("deaf")) as session:
            pids = [int(pid) for pid in session.namespace.tools[0].description.split()]
            assert all(map(is_running, pids))
        await until(lambda: not any(map(is_running, pids)))

    asyncio.run(run())


def test_a_cancelled_session_leaves_no_process():
    async def run():
        pids: list[int] = []

        async def use():
            async with opened(operator_servers(f"demo={DEMO}")[0]) as session:
                pids.append(int((await session.run("process", "{}")).text))
                await session.run("wait", "{}")

        task = asyncio.create_task(use())
        await until(lambda: bool(pids))
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: not is_running(pids[0]))

    asyncio.run(run())


def test_a_server_that_dies_in_a_call_is_started_again_for_the_next():
    async def run():
        async with opened(operator_servers(f"demo={DEMO}")[0]) as session:
            output = await session.run("die", "{}")
            assert output.failed
            assert output.text == "error: connection lost: the server's process ended with exit code -9"
            assert isinstance(output.details, McpResult)
            assert output.details.error == McpFailure(
                "mcp_protocol_error", "connection lost: the server's process ended with exit code -9", -32000
            )
            assert (await session.run("add", '{"a": 1}')).text == "2"

    asyncio.run(run())


def test_the_listing_of_a_session_that_is_not_open_says_so():
    assert McpSession(stdio("plain")).listing == McpListing("old", error="the server was not listed")
