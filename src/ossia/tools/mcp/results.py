"""What MCP servers offered and answered, as values that other parts may keep and show.

In and out: these types only. They hold no credentials.
"""

from typing import Any, Literal

import msgspec

ErrorKind = Literal["mcp_protocol_error", "mcp_tool_execution_error", "http_error"]


class McpFailure(msgspec.Struct, frozen=True):
    """Why a call failed, in the kinds of the Responses API. code: of the protocol or HTTP; 0 if there is none."""

    kind: ErrorKind
    message: str
    code: int = 0


class McpTool(msgspec.Struct, frozen=True):
    """A tool as its server lists it. annotations: the server's own hints; read_only: what they say of writing.

    in_prompt: False: the tool can be called but is not declared to the model.
    """

    name: str
    description: str = ""
    input_schema: dict[str, Any] = {}
    annotations: dict[str, Any] | None = None
    in_prompt: bool = True

    @property
    def read_only(self) -> bool:
        return bool(self.annotations and self.annotations.get("readOnlyHint") is True)


class McpListing(msgspec.Struct, frozen=True):
    """The tools of a server. error: why they could not be listed; then the answer goes on without the server."""

    server_label: str
    tools: list[McpTool] = []
    error: str | None = None


class McpResult(msgspec.Struct, frozen=True):
    """One call: what was called, with what, and what came of it. name: the server's own name of the tool."""

    server_label: str
    name: str
    arguments: str
    output: str | None = None
    error: McpFailure | None = None


class McpCallError(Exception):
    """A call or a connection failed. lost: the connection cannot be used any more. unsent: the server ran nothing."""

    def __init__(self, failure: McpFailure, lost: bool = False, unsent: bool = False) -> None:
        super().__init__(failure.message)
        self.failure, self.lost, self.unsent = failure, lost, unsent
