"""Items and events of MCP servers: the tools they list, their calls, and calls that wait for an approval.

In and out: only these types, as OpenAI's API has them.
"""

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from ossia.server.apis.responses.wire.base import ItemEvent
from ossia.server.http.decoding.json_codec import JsonDict

McpStatus = Literal["in_progress", "calling", "completed", "incomplete", "failed"]


class ListedTool(Struct, omit_defaults=True):  # clients refuse null here
    name: str
    input_schema: JsonDict
    description: str | None = None
    annotations: JsonDict | None = None


class McpListToolsItem(Struct, tag_field="type", tag="mcp_list_tools"):
    id: str
    server_label: str
    tools: list[ListedTool] = []
    error: str | UnsetType = UNSET


class McpProtocolError(Struct, tag_field="type", tag="mcp_protocol_error"):
    code: int
    message: str


class McpExecutionError(Struct, tag_field="type", tag="mcp_tool_execution_error"):
    content: list[dict[str, Any]]


class McpHttpError(Struct, tag_field="type", tag="http_error"):
    code: int
    message: str


class McpCallItem(Struct, tag_field="type", tag="mcp_call"):
    id: str
    status: McpStatus
    server_label: str
    name: str
    arguments: str
    output: str | None = None
    error: McpProtocolError | McpExecutionError | McpHttpError | None = None
    approval_request_id: str | None = None


class McpApprovalRequestItem(Struct, tag_field="type", tag="mcp_approval_request"):
    id: str
    server_label: str
    name: str
    arguments: str


class GivenApproval(Struct):
    """A client's answer to an approval request."""

    approval_request_id: str
    approve: bool
    reason: str | None = None
    id: str | None = None


class GivenMcpCall(Struct):
    """An approval request that a client sends back."""

    server_label: str
    name: str
    arguments: str = "{}"


McpItem: TypeAlias = McpListToolsItem | McpCallItem | McpApprovalRequestItem


# events


class McpListInProgress(ItemEvent, tag="response.mcp_list_tools.in_progress"):
    pass


class McpListCompleted(ItemEvent, tag="response.mcp_list_tools.completed"):
    pass


class McpListFailed(ItemEvent, tag="response.mcp_list_tools.failed"):
    pass


class McpCallInProgress(ItemEvent, tag="response.mcp_call.in_progress"):
    pass


class McpArgumentsDelta(ItemEvent, tag="response.mcp_call_arguments.delta"):
    delta: str


class McpArgumentsDone(ItemEvent, tag="response.mcp_call_arguments.done"):
    arguments: str


class McpCallCompleted(ItemEvent, tag="response.mcp_call.completed"):
    pass


class McpCallFailed(ItemEvent, tag="response.mcp_call.failed"):
    pass


McpEvent: TypeAlias = (
    McpListInProgress
    | McpListCompleted
    | McpListFailed
    | McpCallInProgress
    | McpArgumentsDelta
    | McpArgumentsDone
    | McpCallCompleted
    | McpCallFailed
)
