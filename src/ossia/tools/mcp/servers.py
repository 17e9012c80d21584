"""Which MCP servers to connect to: those an operator names, and those a request names.

In: `NAME=URL`, `NAME=COMMAND`, or a file with `mcpServers`, as other clients have it; or the fields of a request's tool.
Out: `McpServer`s. Credentials stay out of their text form, so they cannot reach a log.
"""

import json
import os
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from ossia.tools.mcp.approval import ApprovalPolicy, ToolFilter, read_filter, read_policy

Transport = Literal["stdio", "http", "sse"]
LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# Headers that HTTP or the protocol sets itself.
FIXED_HEADERS = frozenset(
    "host connection content-length content-type transfer-encoding te trailer upgrade accept accept-encoding cookie"
    " mcp-session-id mcp-protocol-version last-event-id".split()
)
MAX_HEADERS = 32
MAX_HEADER_BYTES = 8_192  # all of them
MAX_URL = 2_048
MAX_FILE = 1_000_000
UNASKED = ApprovalPolicy("never")  # the default of servers that an operator names


@dataclass(frozen=True, slots=True)
class McpServer:
    """How to reach a server, and what its tools may do.

    label: the name on the wire. command, environment, directory: of a stdio server; environment holds whole values.
    from_request: named by a request, so only public addresses are reached, and its tools stand in the developer
    message. description: instead of the server's own instructions.
    """

    label: str
    transport: Transport
    url: str = field(default="", repr=False)
    command: tuple[str, ...] = field(default=(), repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    directory: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    allowed_tools: ToolFilter | None = None
    approval: ApprovalPolicy = UNASKED
    description: str | None = None
    from_request: bool = False
    private_hosts: frozenset[str] = frozenset()


def operator_servers(spec: str, environment: Mapping[str, str] = os.environ) -> list[McpServer]:
    """The servers that a `--mcp` option names. Raises ValueError for a malformed option, OSError for a missing file.

    NAME=https://host/mcp is streamable HTTP, NAME=sse+https://host/sse the older transport, NAME=COMMAND ARGUMENTS runs
    a process. A path of a .json file reads all servers in its `mcpServers`.
    """
    name, separator, target = spec.partition("=")
    if not separator and spec.endswith(".json"):
        return _from_file(Path(spec), environment)
    if not separator or not target.strip():
        raise ValueError(f"--mcp {spec!r}: write NAME=URL, NAME=COMMAND, or the path of a .json file with mcpServers")
    if target.startswith(("http://", "https://", "sse+http://", "sse+https://")):
        return [_web(name, target.removeprefix("sse+"), "sse" if target.startswith("sse+") else "http", {})]
    return [_process(name, shlex.split(target))]


def _from_file(path: Path, environment: Mapping[str, str]) -> list[McpServer]:
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"{path} is larger than {MAX_FILE} bytes")
    try:
        entries = json.loads(path.read_text("utf-8"))["mcpServers"]
        return [_entry(str(name), dict(entry), environment) for name, entry in dict(entries).items()]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has no object mcpServers of names and servers: {error}") from error


def _entry(name: str, entry: dict[str, object], environment: Mapping[str, str]) -> McpServer:
    """A server of a file. `${NAME}` in a value of env or headers is a variable of Ossia's own environment."""
    approval = read_policy(entry.get("requireApproval", "never"), f"mcpServers.{name}.requireApproval")
    listed = entry.get("allowedTools")
    allowed = None if listed is None else read_filter(listed, f"mcpServers.{name}.allowedTools")
    if (url := entry.get("url")) is not None:
        headers = _expanded(name, entry.get("headers"), environment)
        return _web(name, str(url), "sse" if entry.get("type") == "sse" else "http", headers, allowed, approval)
    command, arguments = entry.get("command"), entry.get("args") or []
    if not isinstance(command, str) or not isinstance(arguments, Sequence):
        raise ValueError(f"MCP server {name!r} needs a url, or a command with a list of args")
    directory = entry.get("cwd")
    return _process(
        name,
        [command, *map(str, arguments)],
        _expanded(name, entry.get("env"), environment),
        None if directory is None else str(directory),
        allowed,
        approval,
    )


def _expanded(name: str, values: object, environment: Mapping[str, str]) -> dict[str, str]:
    def value_of(match: re.Match[str]) -> str:
        if (found := environment.get(match[1])) is None:
            raise ValueError(f"MCP server {name!r} needs the environment variable {match[1]}; it is not set")
        return found

    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ValueError(f"MCP server {name!r}: env and headers are objects of strings")
    return {str(key): VARIABLE.sub(value_of, str(value)) for key, value in values.items()}


def _process(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    directory: str | None = None,
    allowed: ToolFilter | None = None,
    approval: ApprovalPolicy = UNASKED,
) -> McpServer:
    if not command:
        raise ValueError(f"MCP server {name!r} has an empty command")
    return McpServer(
        _label(name), "stdio", command=tuple(command), environment=dict(environment or {}), directory=directory,
        allowed_tools=allowed, approval=approval,
    )  # fmt: skip


def _web(
    name: str,
    url: str,
    transport: Transport,
    headers: Mapping[str, str],
    allowed: ToolFilter | None = None,
    approval: ApprovalPolicy = UNASKED,
) -> McpServer:
    _parsed(url, f"MCP server {name!r}")
    return McpServer(
        _label(name), transport, url=url, headers=_headers(headers), allowed_tools=allowed, approval=approval
    )


def request_server(tool: Mapping[str, object], allowed_hosts: Collection[str]) -> McpServer:
    """The server of a request's `{"type": "mcp"}` tool. Raises ValueError, also if its host is not in the allow-list.

    allowed_hosts: "example.com", "*.example.com", "*" for all public hosts, or "host:port"; a host that is named whole
    may have private addresses. `authorization` goes to that server alone, and is not kept in the result's text form.
    """
    label, url = tool.get("server_label"), tool.get("server_url")
    if not isinstance(label, str) or not LABEL.fullmatch(label):
        raise ValueError("server_label must be 1 to 64 letters, digits, _ or -")
    if tool.get("connector_id") is not None:
        raise ValueError("connector_id is not supported; pass the server_url of an MCP server")
    if not isinstance(url, str):
        raise ValueError("server_url is missing")
    parts = _parsed(url, "server_url")
    host, port = (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)
    if not _is_allowed(host, port, allowed_hosts):
        raise ValueError(f"server_url: this server does not connect to {host!r}; its operator must allow the host")
    headers = tool.get("headers") or {}
    if not isinstance(headers, Mapping):
        raise ValueError("headers must be an object of strings")
    if (token := tool.get("authorization")) is not None:
        if not isinstance(token, str) or not token:
            raise ValueError("authorization must be a non-empty string")
        headers = {key: value for key, value in headers.items() if str(key).lower() != "authorization"}
        headers["Authorization"] = token if token.startswith(("Bearer ", "Basic ")) else f"Bearer {token}"
    listed, description = tool.get("allowed_tools"), tool.get("server_description")
    return McpServer(
        label,
        "sse" if parts.path.rstrip("/").endswith("/sse") else "http",
        url=url,
        headers=_headers(headers),
        allowed_tools=None if listed is None else read_filter(listed, "allowed_tools"),
        approval=read_policy(tool.get("require_approval")),
        description=description if isinstance(description, str) else None,
        from_request=True,
        private_hosts=frozenset({host, f"{host}:{port}"} & {each.strip().lower() for each in allowed_hosts}),
    )


def _is_allowed(host: str, port: int, allowed: Collection[str]) -> bool:
    return any(
        each == "*" or each in (host, f"{host}:{port}") or (each.startswith("*.") and host.endswith(each[1:]))
        for each in (entry.strip().lower() for entry in allowed)
    )


def _parsed(url: str, where: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{where} is not a valid URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or len(url) > MAX_URL:
        raise ValueError(f"{where} must be an http or https URL of at most {MAX_URL} characters")
    if parts.username is not None or parts.password is not None or any(each <= " " for each in url):
        raise ValueError(f"{where} must not contain a user name, a password or spaces")
    return parts


def _headers(headers: Mapping[object, object] | Mapping[str, str]) -> dict[str, str]:
    """Headers that may be sent. The message of a ValueError holds names and never values."""
    found: dict[str, str] = {}
    for key, value in headers.items():
        if not isinstance(key, str) or not HEADER.fullmatch(key) or not isinstance(value, str):
            raise ValueError("headers must be an object of header names and strings")
        if key.lower() in FIXED_HEADERS:
            raise ValueError(f"header {key} cannot be set")
        if not value.isascii() or not all(each.isprintable() or each == "\t" for each in value):
            raise ValueError(f"header {key} has characters that a header cannot have")
        found[key] = value
    if len(found) > MAX_HEADERS or sum(len(key) + len(value) for key, value in found.items()) > MAX_HEADER_BYTES:
        raise ValueError(f"at most {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes in all can be set")
    return found


def _label(name: str) -> str:
    if not LABEL.fullmatch(name):
        raise ValueError(f"MCP server name {name!r} must be 1 to 64 letters, digits, _ or -")
    return name
