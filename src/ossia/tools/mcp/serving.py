"""An MCP server for an `Offer`, over stdio or streamable HTTP, in both generations of the protocol.

In: an `Offer`. Out: a running server. On stdio standard output carries the protocol alone: the `mcp` package redirects
what else is written there to standard error. The `mcp` package is imported here.
"""

import asyncio
import hmac
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import aclosing, asynccontextmanager
from importlib.metadata import version
from typing import Any, TypeAlias

import mcp_types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from ossia.tools.functions import ToolOutput
from ossia.tools.mcp.offer import ASK, MAX_SESSION_NAME, Offer, OfferedTool
from ossia.tools.runner import with_progress
from ossia.tools.session import ToolProgress

PATH = "/mcp"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CLEANING_SECONDS = 30.0
MAX_PROGRESS_TEXT = 1_000  # characters
STDIO_CLIENT = "stdio"
INSTRUCTIONS = "Tools of Ossia. They keep their state (pages, variables, files) from call to call."
SESSION_SCHEMA = {
    "type": "string",
    "description": "A name of your choice. Calls with the same name share pages, variables and files. Without it, each"
    " call begins anew.",
}
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def mcp_server(offer: Offer, on_stdio: bool) -> Server[Any]:
    """The server. Over HTTP, clients of the newest generation have no session; they name one in an argument."""

    async def list_tools(ctx: Any, params: Any) -> mcp_types.ListToolsResult:
        named = _names_sessions(ctx, on_stdio)
        return mcp_types.ListToolsResult(tools=[_described(tool, named) for tool in offer.tools])

    async def call_tool(ctx: Any, params: mcp_types.CallToolRequestParams) -> mcp_types.CallToolResult:
        arguments = dict(params.arguments or {})
        client: str | None = STDIO_CLIENT
        if not on_stdio:
            client = _session_id(ctx)
            if _names_sessions(ctx, on_stdio) and params.name != ASK:
                client = _named_client(ctx, arguments.pop("session", None))
        return await _run(offer, client, params.name, arguments, ctx.session.report_progress)

    @asynccontextmanager
    async def lifespan(_: Server[Any]) -> AsyncGenerator[dict[str, Any], None]:
        cleaning = asyncio.create_task(_clean(offer))
        try:
            yield {}
        finally:
            cleaning.cancel()
            await asyncio.wait([cleaning])
            await asyncio.shield(offer.close())

    return Server(
        "ossia",
        version=version("ossia"),
        instructions=INSTRUCTIONS,
        lifespan=lifespan,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def serve_stdio(offer: Offer) -> None:
    """Serve one client on standard input and output, until its end."""
    server = mcp_server(offer, on_stdio=True)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def http_app(offer: Offer, host: str, api_key: str | None = None, allowed_hosts: Sequence[str] = ()) -> App:
    """The ASGI application, at /mcp. Requests from web pages of other origins, or under other host names, are refused.

    api_key: sent by clients as a bearer token. Raises ValueError for a host beyond this machine without a key.
    """
    if host not in LOOPBACK and api_key is None:
        raise ValueError(f"--host {host} is reached from other machines: give --api-key, or keep --host 127.0.0.1")
    names = [*LOOPBACK[:2], "[::1]", *([host] if host not in (*LOOPBACK, "0.0.0.0", "::") else []), *allowed_hosts]
    security = TransportSecuritySettings(
        allowed_hosts=[*(f"{name}:*" for name in names), *names],
        allowed_origins=[
            f"{scheme}://{name}{port}" for name in names for scheme in ("http", "https") for port in ("", ":*")
        ],
    )
    server = mcp_server(offer, on_stdio=False)
    inner = server.streamable_http_app(streamable_http_path=PATH, transport_security=security, host=host)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if api_key is not None and not _has_key(headers.get("authorization", ""), api_key):
            await _refuse(send)
            return
        await inner(scope, receive, send)
        if scope["method"] == "DELETE" and (ended := headers.get("mcp-session-id")):
            await offer.close_client(ended)

    return app


async def _run(
    offer: Offer, client: str | None, name: str, arguments: dict[str, Any], progress: Callable[..., Awaitable[None]]
) -> mcp_types.CallToolResult:
    """Run a call and pass on its progress while it runs. Cancelling this task ends the call."""
    count = 0
    async with aclosing(with_progress(lambda report: offer.call(client, name, arguments, report))) as running:
        async for each in running:
            if not isinstance(each, ToolProgress):
                return _result(each.result())
            count += 1
            await progress(count, message=each.text[-MAX_PROGRESS_TEXT:])
    raise AssertionError("a call ends with its task")


def _result(output: ToolOutput) -> mcp_types.CallToolResult:
    content: list[Any] = [mcp_types.TextContent(type="text", text=output.text.encode("utf-8", "replace").decode())]
    return mcp_types.CallToolResult(content=content, is_error=output.failed)


def _described(tool: OfferedTool, with_session: bool) -> mcp_types.Tool:
    schema = tool.schema
    if with_session and tool.recipient != ASK:
        schema = {**schema, "properties": {**schema.get("properties", {}), "session": SESSION_SCHEMA}}
    return mcp_types.Tool(name=tool.name, description=tool.description, input_schema=schema)


def _names_sessions(ctx: Any, on_stdio: bool) -> bool:
    return not on_stdio and ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def _session_id(ctx: Any) -> str | None:
    return ctx.request.headers.get("mcp-session-id") if ctx.request is not None else None


def _named_client(ctx: Any, session: object) -> str | None:
    """The key of a session that a client names. Names of clients that call themselves differently do not meet."""
    if not isinstance(session, str) or not session:
        return None
    params = ctx.session.client_params
    info = params.client_info.name if params else ""
    return json.dumps([info[:MAX_SESSION_NAME], session[:MAX_SESSION_NAME]])


async def _clean(offer: Offer) -> None:
    while True:
        await asyncio.sleep(CLEANING_SECONDS)
        await offer.close_idle()


def _has_key(authorization: str, api_key: str) -> bool:
    kind, _, token = authorization.partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), api_key.encode())


async def _refuse(send: Send) -> None:
    headers = [(b"www-authenticate", b"Bearer"), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": b"give the key of this server as a bearer token"})
