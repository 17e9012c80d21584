"""The tools of one MCP server in one conversation, as a `ToolSession`.

In: a server, and calls of the model. Out: its listing and declaration, and for each call text with an `McpResult`. Calls
that need a user's approval do not run until `run_approved`.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ossia.harmony.messages import ToolNamespace
from ossia.tools.addresses import AddressGuard
from ossia.tools.functions import ToolOutput
from ossia.tools.mcp.content import cut, decode_arguments, result_text
from ossia.tools.mcp.declaration import DeclaredMcpTools, ListingError, clean_namespace, clean_text, declare
from ossia.tools.mcp.limits import OPERATOR_LIMITS, REQUEST_LIMITS, McpLimits
from ossia.tools.mcp.results import McpCallError, McpFailure, McpListing, McpResult, McpTool
from ossia.tools.mcp.servers import McpServer
from ossia.tools.session import Report, ToolUnavailableError, ignore

if TYPE_CHECKING:
    from ossia.tools.mcp.connection import McpConnection

log = logging.getLogger("ossia.tools.mcp")
MISSING = "MCP servers need the package mcp: pip install 'ossia[mcp]'"
MAX_REASON = 500  # characters of a user's reason


class McpSession:
    """A `ToolSession`. Call `begin_response` and `refresh` before each response.

    The listing is made once and kept, until the server says that its tools changed.

    - listing: from an earlier session; then the server is not listed again, nor connected before the first call.
    - guard: for servers of a request; default: only public addresses, and hosts that the operator named whole.
    - asked_before: the caller asks the user before each `run`, so `run` does not check for an approval.
    """

    def __init__(
        self,
        server: McpServer,
        limits: McpLimits | None = None,
        listing: McpListing | None = None,
        guard: AddressGuard | None = None,
        asked_before: bool = False,
    ) -> None:
        self.server = server
        self._asked_before = asked_before
        self._limits = limits or (REQUEST_LIMITS if server.from_request else OPERATOR_LIMITS)
        self._guard = (guard or AddressGuard(server.private_hosts)) if server.from_request else guard
        self._listing = listing
        self._declared: DeclaredMcpTools | None = None
        self._connection: McpConnection | None = None
        self._connecting = asyncio.Lock()
        self._is_stale = False
        self._calls = 0

    @property
    def namespace(self) -> ToolNamespace:
        """The declaration. A request's server has its label as name, an operator's server its own name."""
        return self._tools.namespace

    @property
    def tools(self) -> Mapping[str, McpTool]:
        """The server's own tools by the names that the model calls them by."""
        return self._tools.tools

    @property
    def listing(self) -> McpListing:
        """All allowed tools as the server names them; with an error if `open` failed."""
        return self._listing or McpListing(self.server.label, error="the server was not listed")

    @property
    def is_stale(self) -> bool:
        """Whether the server said that its tools changed since they were listed."""
        return self._is_stale

    @property
    def protocol(self) -> str | None:
        """The version of the protocol that the open connection speaks."""
        return self._connection.protocol if self._connection else None

    @property
    def _tools(self) -> DeclaredMcpTools:
        if self._declared is None:
            raise ToolUnavailableError(f"MCP server {self.server.label} is not open")
        return self._declared

    async def open(self) -> None:
        """Connect and list the tools, once. Raises ToolUnavailableError; `listing` then says why too."""
        if self._declared is not None:
            return
        if self._listing is None or self._listing.error is not None:
            await self._list()
            return
        try:
            self._declared = self._declare(self._listing.tools, self.server.label, None)
        except ListingError as error:
            await self._give_up(str(error))

    def begin_response(self) -> None:
        """Reset the limit of calls of one response."""
        self._calls = 0

    async def refresh(self) -> bool:
        """List the tools again if the server said that they changed. Returns whether the declaration is another.

        The old declaration is kept if the list cannot be read.
        """
        if not self._is_stale or self._declared is None:
            return False
        before, listing = self._declared, self._listing
        try:
            await self._list()
        except ToolUnavailableError as error:
            self._listing = listing
            log.info("an MCP server cannot be listed again: %s", str(error).partition("\n")[0])
        return self._declared != before

    def needs_approval(self, name: str) -> bool:
        """Whether a user must approve calls of this tool first. Unknown tools need none: they do not run."""
        tool = self._find(name)
        return tool is not None and self.server.approval.needs_approval(tool)

    def declared_name(self, name: str) -> str | None:
        """The name that the model calls a tool by, from the server's own name."""
        return next((declared for declared, tool in self._tools.tools.items() if tool.name == name), None)

    async def run(self, name: str, text: str, report: Report = ignore) -> ToolOutput:
        """Run a call of the model. A call that needs approval is not sent: the model reads that it must wait.

        Errors of the server and of the connection are a `ToolOutput` with failed=True.
        """
        if self.needs_approval(name) and not self._asked_before:
            return self._failed(name, text, McpFailure("mcp_protocol_error", "this call needs the user's approval"))
        return await self.run_approved(name, text, report)

    async def run_approved(self, name: str, text: str, report: Report = ignore) -> ToolOutput:
        """Run a call that a user approved. name: as declared, or the server's own."""
        if self._calls >= self._limits.max_calls:
            message = f"limit of {self._limits.max_calls} calls of MCP tools reached; answer with what you have"
            return self._failed(name, text, McpFailure("mcp_protocol_error", message))
        self._calls += 1
        await self.refresh()
        if (tool := self._find(name)) is None:
            return self._failed(name, text, McpFailure("mcp_protocol_error", f"there is no tool {name[:64]}", -32602))
        try:
            arguments = decode_arguments(text)
        except ValueError as error:
            message = f"invalid arguments for {name}: {clean_text(str(error), MAX_REASON)}"
            return self._failed(name, text, McpFailure("mcp_protocol_error", message, -32602))
        return await self._call(tool, text, arguments, report)

    def declined(self, name: str, text: str, reason: str | None = None) -> ToolOutput:
        """The output of a call that the user declined."""
        why = clean_text(reason or "", MAX_REASON)
        said = f"The user declined this call: {why}" if why else "The user declined this call."
        return ToolOutput(said, failed=True, details=McpResult(self.server.label, self._own_name(name), text))

    async def close(self) -> None:
        """End the connection and its process. Safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _call(self, tool: McpTool, text: str, arguments: dict[str, object], report: Report) -> ToolOutput:
        for is_retry in (False, True):
            try:
                connection = await self._connected()
                answer = await connection.call(tool.name, arguments, report)
            except McpCallError as error:
                if error.lost:
                    await self.close()
                if error.unsent and not is_retry:  # the server forgot the session and ran nothing
                    continue
                return self._failed(tool.name, text, error.failure)
            except ToolUnavailableError as error:
                return self._failed(tool.name, text, McpFailure("mcp_protocol_error", str(error)))
            output = result_text(answer.blocks, answer.structured, self._limits.max_result)
            if answer.failed:
                return self._failed(tool.name, text, McpFailure("mcp_tool_execution_error", output), output)
            return ToolOutput(output, details=McpResult(self.server.label, tool.name, text, output))
        raise AssertionError("a retried call returns")

    async def _list(self) -> None:
        try:
            connection = await self._connected()
            self._is_stale = False  # a change during the listing makes it stale again
            name = self.server.label if self.server.from_request else connection.name or self.server.label
            tools = await connection.list_tools()
            self._declared = self._declare(tools, name, connection.instructions)
        except (ToolUnavailableError, ListingError, McpCallError) as error:
            await self._give_up(str(error))

    async def _give_up(self, reason: str) -> None:
        output = self._connection.last_output if self._connection and not self.server.from_request else ""
        await self.close()
        self._listing = McpListing(self.server.label, error=reason)
        hint = f"\nIts last output:\n{output}" if output else ""
        raise ToolUnavailableError(f"MCP server {self.server.label}: {reason}{hint}")

    def _declare(self, tools: Sequence[McpTool], name: str, instructions: str | None) -> DeclaredMcpTools:
        server = self.server
        declared = declare(
            server.label if server.from_request else clean_namespace(name, server.label),
            server.description if server.from_request else server.description or instructions,
            tools,
            server.allowed_tools,
        )
        if not declared.namespace.tools:
            raise ListingError("the server offers no tool that is allowed")
        self._listing = McpListing(server.label, list(declared.tools.values()))
        return declared

    async def _connected(self) -> "McpConnection":
        async with self._connecting:
            if self._connection is None or not self._connection.is_open:
                await self.close()
                connection = self._new_connection()
                self._connection = connection
                await connection.open()
            return self._connection

    def _new_connection(self) -> "McpConnection":
        try:
            from ossia.tools.mcp.connection import McpConnection
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types", "httpx2", "anyio", "pydantic"):
                raise
            raise ToolUnavailableError(MISSING) from error

        def changed() -> None:
            self._is_stale = True

        return McpConnection(self.server, self._limits, self._guard, changed)

    def _find(self, name: str) -> McpTool | None:
        tools = self._tools.tools
        return tools.get(name) or next((tool for tool in tools.values() if tool.name == name), None)

    def _own_name(self, name: str) -> str:
        tool = self._find(name)
        return tool.name if tool else name

    def _failed(self, name: str, text: str, failure: McpFailure, output: str | None = None) -> ToolOutput:
        details = McpResult(self.server.label, self._own_name(name), text, output, failure)
        shown = output if output is not None else f"error: {failure.message}"
        return ToolOutput(cut(shown, self._limits.max_result), failed=True, details=details)


async def open_available(sessions: Sequence[McpSession]) -> list[McpSession]:
    """Open sessions, all at once, and return those that work. The `listing` of each session says what happened."""

    async def opened(session: McpSession) -> bool:
        try:
            await session.open()
        except ToolUnavailableError as error:
            log.info("an MCP server is left out: %s", str(error).partition("\n")[0])
            return False
        return True

    works = await asyncio.gather(*map(opened, sessions))
    return [session for session, ok in zip(sessions, works, strict=True) if ok]
