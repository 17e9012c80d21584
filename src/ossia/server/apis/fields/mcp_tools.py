"""The MCP servers of a request: read from its tools and its choice, and shown again without credentials.

In: the tools of a request, and what the operator allows. Out: `McpServer`s.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ossia.server.errors import bad
from ossia.tools.mcp.approval import read_filter, read_policy
from ossia.tools.mcp.declaration import RESERVED
from ossia.tools.mcp.servers import McpServer, request_server

MCP = "mcp"
# Names that the server's own tools have in the prompt.
TAKEN = RESERVED | {"browser", "python", "container", "repo_browser"}
MAX_SERVERS = 16
SECRET_FIELDS = ("authorization", "headers")


def mcp_server(
    tool: Mapping[str, Any], at: str, available: Collection[str], allowed_hosts: Collection[str]
) -> McpServer | None:
    """The server that a tool of type mcp names; None if this server offers no such thing.

    Without server_url it is a server of the operator, and the request says only how its tools are used. Raises
    ApiError (400).
    """
    label = tool.get("server_label")
    try:
        if tool.get("server_url") is None and f"mcp:{label}" in available:
            listed = tool.get("allowed_tools")
            allowed = None if listed is None else read_filter(listed, "allowed_tools")
            return McpServer(
                str(label), "http", allowed_tools=allowed, approval=read_policy(tool.get("require_approval"))
            )
        if not allowed_hosts:
            return None
        if label in TAKEN:
            raise ValueError(f"server_label {label!r} is the name of something else; choose another")
        return request_server(tool, allowed_hosts)
    except ValueError as error:
        raise bad(at, f"{at}: {error}") from error


def check_servers(servers: Sequence[McpServer]) -> None:
    """Raises ApiError (400) for too many servers, or two of the same label."""
    labels = [server.label for server in servers]
    if len(labels) > MAX_SERVERS:
        raise bad("tools", f"tools name {len(labels)} MCP servers: want {MAX_SERVERS} at most")
    for label in labels:
        if labels.count(label) > 1:
            raise bad("tools", f"two MCP servers have the server_label {label!r}")


def shown_server(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool as a response shows it. Credentials are not stored."""
    return {key: value for key, value in tool.items() if key not in SECRET_FIELDS}


def mcp_choice(choice: Any, servers: Sequence[McpServer]) -> tuple[str, str | None] | None:
    """The server and the tool that a choice forces; None for any other choice."""
    if not isinstance(choice, Mapping) or choice.get("type") != MCP:
        return None
    label, name = choice.get("server_label"), choice.get("name")
    if not any(server.label == label for server in servers):
        raise bad("tool_choice", f"tool_choice names the MCP server {label!r}, which the tools do not name")
    return str(label), None if name is None else str(name)
