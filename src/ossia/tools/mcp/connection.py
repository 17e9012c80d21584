"""One connection to an MCP server, over stdio, streamable HTTP or SSE, in either generation of the protocol.

In: an `McpServer`. Out: its tools, and results of calls. The `mcp` package is imported here. It must enter and leave a
connection in the same task, so each connection has a task of its own.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import mcp_types
from mcp import Client, MCPError
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ossia.tools.addresses import AddressGuard
from ossia.tools.mcp.declaration import ListingError, clean_text
from ossia.tools.mcp.http import HttpTrouble, current_trouble, http_client
from ossia.tools.mcp.limits import McpLimits
from ossia.tools.mcp.results import McpCallError, McpFailure, McpTool
from ossia.tools.mcp.servers import McpServer
from ossia.tools.mcp.stdio import ProcessTrouble, stdio_transport
from ossia.tools.session import Report, ToolProgress

log = logging.getLogger("ossia.tools.mcp")
# What the mcp package itself writes for an HTTP error; any other text is the server's.
PACKAGE_MESSAGES = frozenset({"Server returned an error response", "Not Found", "Session terminated"})
SESSION_ENDED = "Session terminated"
MAX_MESSAGE = 500  # characters of a server's error text
MAX_PROGRESS = 1_000  # reports of one call
# Loggers of the packages below: their lines hold whole URLs and parts of messages.
CHATTY_LOGGERS = ("httpx2", "mcp.client", "client")
_RESULT = TypeAdapter(mcp_types.CallToolResult | mcp_types.InputRequiredResult)


class _RawListing(BaseModel):
    """A page of tools with all annotations. The package's own type drops those it does not know."""

    tools: list[dict[str, Any]]
    next_cursor: str | None = Field(None, alias="nextCursor")


@dataclass(frozen=True, slots=True)
class McpAnswer:
    """The content of a result, as plain objects. failed: the tool says that it failed."""

    blocks: list[dict[str, Any]]
    structured: object
    failed: bool


class McpConnection:
    """A connection to one server. `changed` is called when the server says that its tools changed."""

    def __init__(
        self, server: McpServer, limits: McpLimits, guard: AddressGuard | None, changed: Callable[[], None]
    ) -> None:
        self._server, self._limits, self._guard, self._changed = server, limits, guard, changed
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._process = ProcessTrouble()
        self._connected: Client | None = None

    @property
    def _client(self) -> Client:
        if self._connected is None:
            raise McpCallError(self._lost_failure(), lost=True, unsent=True)
        return self._connected

    @property
    def is_open(self) -> bool:
        return self._connected is not None

    @property
    def protocol(self) -> str:
        return self._client.protocol_version

    @property
    def name(self) -> str | None:
        """The server's own name, if it says one."""
        info = self._client.server_info
        return info.name if info else None

    @property
    def instructions(self) -> str | None:
        return self._client.instructions

    @property
    def last_output(self) -> str:
        """What a process wrote last to its standard error. For the operator only."""
        return self._process.stderr.decode("utf-8", "replace").strip()

    async def open(self) -> None:
        """Connect. Raises McpCallError if that fails or takes too long."""
        _quieten()
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        trouble = HttpTrouble()
        self._task = asyncio.create_task(self._serve(ready, trouble))
        try:
            async with asyncio.timeout(self._limits.connect_seconds):
                await asyncio.shield(ready)
        except TimeoutError:
            await self.close()
            seconds = self._limits.connect_seconds
            raise McpCallError(_failure(-32001, f"no answer within {seconds:g} s", trouble), lost=True) from None
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        except Exception as error:
            await self.close()
            raise McpCallError(self._connect_failure(error, trouble), lost=True) from error

    async def list_tools(self) -> list[McpTool]:
        """All tools, from all pages. Raises McpCallError, or ListingError for a list that is too large."""
        found: list[McpTool] = []
        cursor, seen = None, set[str]()
        while True:
            for tool in (page := await self._requested(self._page(cursor), self._limits.call_seconds))[0]:
                found.append(_tool(tool))
            if len(found) > self._limits.max_listed:
                raise ListingError(f"more than {self._limits.max_listed} tools")
            cursor = page[1]
            if cursor is None:
                return found
            if cursor in seen or len(seen) >= self._limits.max_pages:
                raise ListingError("a list of tools whose pages do not end")
            seen.add(cursor)

    async def _page(self, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
        params, session = mcp_types.PaginatedRequestParams(cursor=cursor), self._client.session
        if self._client.protocol_version in MODERN_PROTOCOL_VERSIONS:  # the package learns the headers of arguments
            page = await session.list_tools(params=params)
            tools = [tool.model_dump(by_alias=True, exclude_none=True, mode="json") for tool in page.tools]
            return tools, page.next_cursor
        raw = await session.send_request(mcp_types.ListToolsRequest(params=params), _RawListing)
        return raw.tools, raw.next_cursor

    async def call(self, name: str, arguments: dict[str, Any], report: Report) -> McpAnswer:
        """Call a tool. If this task is cancelled, the server gets a cancel and the call ends at once.

        Raises McpCallError.
        """
        left = MAX_PROGRESS

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            nonlocal left
            left -= 1
            if left >= 0:
                text = clean_text(message or "", MAX_MESSAGE) or f"{progress:g}" + (f"/{total:g}" if total else "")
                report(ToolProgress(text, "status"))

        request = mcp_types.CallToolRequest(params=mcp_types.CallToolRequestParams(name=name, arguments=arguments))
        result = await self._requested(
            self._client.session.send_request(
                request, _RESULT, request_read_timeout_seconds=self._limits.call_seconds, progress_callback=on_progress
            ),
            self._limits.call_seconds + 1,
        )
        if isinstance(result, mcp_types.InputRequiredResult):
            raise McpCallError(McpFailure("mcp_protocol_error", "the tool asks for input of a user; it was not given"))
        blocks = [block.model_dump(by_alias=True, exclude_none=True, mode="json") for block in result.content]
        return McpAnswer(blocks, result.structured_content, bool(result.is_error))

    async def close(self) -> None:
        """End the connection and its process. Safe to call twice."""
        was_open, self._connected = self.is_open, None
        for call in tuple(self._calls):
            call.cancel()
        self._closing.set()
        if self._task:
            if not was_open:  # still connecting
                self._task.cancel()
            _, late = await asyncio.wait([self._task], timeout=self._limits.close_seconds)
            for task in late:
                task.cancel()
                await asyncio.wait([task], timeout=self._limits.close_seconds)

    async def _requested(self, work: Any, seconds: float) -> Any:
        """Await a request in a task of its own, so that a cancelled caller need not wait for the server."""
        trouble = HttpTrouble()

        async def run() -> Any:
            current_trouble.set(trouble)
            return await work

        task = asyncio.create_task(run())
        self._calls.add(task)
        task.add_done_callback(self._forget)
        waited: set[asyncio.Future[Any]] = {task, *((self._task,) if self._task else ())}
        failed = asyncio.create_task(trouble.failed.wait())
        if self._server.transport == "sse":  # there the package does not pass on that a message was refused
            waited.add(failed)
        try:
            done, _ = await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            failed.cancel()
        if task not in done:
            task.cancel()
            if done:
                raise McpCallError(self._lost_failure(trouble), lost=True)
            raise McpCallError(_failure(-32001, f"no answer within {seconds:g} s", trouble))
        return self._answered(task, trouble)

    def _answered(self, task: "asyncio.Task[Any]", trouble: HttpTrouble) -> Any:
        try:
            return task.result()
        except MCPError as error:
            if error.code == mcp_types.CONNECTION_CLOSED:
                raise McpCallError(self._lost_failure(trouble), lost=True) from error
            ended = error.message == SESSION_ENDED and trouble.status > 0
            raise McpCallError(_failure(error.code, error.message, trouble), lost=ended, unsent=ended) from error
        except ValidationError as error:
            raise McpCallError(
                McpFailure("mcp_protocol_error", "the server's answer does not follow the protocol", -32600)
            ) from error
        except asyncio.CancelledError:
            raise McpCallError(self._lost_failure(trouble), lost=True) from None

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also if no caller waits any more

    async def _serve(self, ready: "asyncio.Future[None]", trouble: HttpTrouble) -> None:
        """Hold the connection open until `close`."""
        current_trouble.set(trouble)
        try:
            async with self._client_of_transport() as client:
                self._connected = client
                listening = asyncio.create_task(self._listen(client))
                ready.set_result(None)
                try:
                    await self._closing.wait()
                finally:
                    listening.cancel()
                    await asyncio.wait([listening])
        except Exception as error:
            if not ready.done():
                ready.set_exception(_first(error))
            else:
                log.info("connection to the MCP server %s ended: %s", self._server.label, type(_first(error)).__name__)
        finally:
            self._connected = None
            if not ready.done():
                ready.set_exception(ConnectionError("the connection was closed"))
                ready.exception()

    @asynccontextmanager
    async def _client_of_transport(self) -> AsyncGenerator[Client, None]:
        server, limits = self._server, self._limits
        info = mcp_types.Implementation(name="ossia", version=version("ossia"))

        def client(transport: Any) -> Client:
            return Client(transport, client_info=info, cache=None, message_handler=self._noticed)

        if server.transport == "stdio":
            async with client(stdio_transport(server, limits.max_bytes, self._process)) as connected:
                yield connected
            return
        seconds = limits.call_seconds + 10
        if server.transport == "sse":
            transport = sse_client(
                server.url,
                timeout=seconds,
                httpx_client_factory=lambda *_, **__: http_client(server, self._guard, limits.max_bytes, seconds),
            )
            async with client(transport) as connected:
                yield connected
            return
        async with http_client(server, self._guard, limits.max_bytes, seconds) as http:
            transport = streamable_http_client(server.url, http_client=http, max_sse_event_size=limits.max_bytes)
            async with client(transport) as connected:
                yield connected

    async def _noticed(self, message: object) -> None:
        if isinstance(message, mcp_types.ToolListChangedNotification):
            self._changed()

    async def _listen(self, client: Client) -> None:
        """Newer servers send changes of their tools only to clients that ask for them."""
        tools = client.server_capabilities.tools
        if client.protocol_version not in MODERN_PROTOCOL_VERSIONS or not (tools and tools.list_changed):
            return
        with suppress(MCPError, RuntimeError, TimeoutError):
            async with client.listen(tools_list_changed=True) as events:
                async for _ in events:
                    self._changed()

    def _connect_failure(self, error: Exception, trouble: HttpTrouble) -> McpFailure:
        if self._process.reason:
            return McpFailure("mcp_protocol_error", self._process.reason, mcp_types.CONNECTION_CLOSED)
        if isinstance(error, MCPError):
            return _failure(error.code, error.message, trouble)
        if trouble.status:
            return _http_failure(trouble)
        if trouble.reason:
            return _failure(mcp_types.CONNECTION_CLOSED, "connection failed", trouble)
        if isinstance(error, OSError) and self._server.transport == "stdio":
            reason = error.strerror or type(error).__name__
            return McpFailure("mcp_protocol_error", f"the server's command cannot be started: {reason}")
        text = clean_text(str(error), MAX_MESSAGE) or type(error).__name__
        return McpFailure("mcp_protocol_error", text, mcp_types.CONNECTION_CLOSED)

    def _lost_failure(self, trouble: HttpTrouble | None = None) -> McpFailure:
        if trouble and trouble.status:
            return _http_failure(trouble)
        reason = self._process.reason or (trouble.reason if trouble else None)
        text = f"connection lost: {clean_text(reason, MAX_MESSAGE)}" if reason else "connection lost"
        return McpFailure("mcp_protocol_error", text, mcp_types.CONNECTION_CLOSED)


def _quieten() -> None:
    """Keep contents and URLs out of the log, unless someone set a level for these loggers."""
    for logger in map(logging.getLogger, CHATTY_LOGGERS):
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)


def _failure(code: int, message: str, trouble: HttpTrouble) -> McpFailure:
    """An HTTP error, unless its body was an error of the protocol."""
    text = clean_text(message, MAX_MESSAGE)
    if trouble.status and not (trouble.is_json and message not in PACKAGE_MESSAGES):
        return _http_failure(trouble)
    if trouble.reason and code in (mcp_types.CONNECTION_CLOSED, mcp_types.INTERNAL_ERROR):
        text = clean_text(f"{message}: {trouble.reason}", MAX_MESSAGE)
    return McpFailure("mcp_protocol_error", text, code)


def _http_failure(trouble: HttpTrouble) -> McpFailure:
    return McpFailure("http_error", f"the server answered with HTTP status {trouble.status}", trouble.status)


def _tool(raw: dict[str, Any]) -> McpTool:
    annotations, meta = raw.get("annotations") or {}, raw.get("_meta") or {}
    hidden = annotations.get("include_in_prompt") is False or meta.get("include_in_prompt") is False
    kept = {key: annotations[key] for key in annotations if key == "title" or key.endswith("Hint")}
    return McpTool(
        raw["name"], raw.get("description") or "", raw.get("inputSchema") or {}, kept or None, in_prompt=not hidden
    )


def _first(error: BaseException) -> Exception:
    """The first error inside groups of errors, as task groups raise them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else ConnectionError(type(error).__name__)
