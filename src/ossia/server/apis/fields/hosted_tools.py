"""The tools of a request that this server runs itself: web search, code, shell.

In: the tools and the tool choice of a request, and the names of the tools that the server offers. Out: a `HostedRequest`,
and the tools and the choice that are left for the client's own functions.
"""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from ossia.harmony.messages import System, ToolNamespace
from ossia.server.apis.fields.client_run_tools import client_kind
from ossia.server.apis.fields.mcp_tools import MCP, check_servers, mcp_choice, mcp_server
from ossia.server.core.context import Context
from ossia.server.core.hosted import HostedRequest, HostedTools
from ossia.server.errors import ApiError, bad
from ossia.tools.browser.citations import Resolve
from ossia.tools.browser.results import BrowserLimits
from ossia.tools.mcp.results import McpListing
from ossia.tools.mcp.servers import McpServer
from ossia.tools.mcp.session import McpSession
from ossia.tools.session import ToolUnavailableError
from ossia.tools.toolset import ToolSet

BROWSER, PYTHON, CONTAINER = "browser", "python", "container"
# The types of a request's tools, each with the server's tool that runs it.
KINDS = {
    "web_search": BROWSER,
    "web_search_2025_08_26": BROWSER,
    "web_search_preview": BROWSER,
    "web_search_preview_2025_03_11": BROWSER,
    "browser_search": BROWSER,
    "code_interpreter": PYTHON,
    "shell": CONTAINER,
}
SHOWN_CHOICES = {BROWSER: "web_search_preview", PYTHON: "code_interpreter", CONTAINER: "shell"}
VIEW_TOKENS = {"low": 512, "medium": 1024, "high": 2048}  # of a page, by search_context_size
MAX_DOMAINS = 100


class _Filters(Struct):
    allowed_domains: list[str] | None = None


class _WebSearch(Struct):
    filters: _Filters | None = None
    search_context_size: str | None = None
    user_location: dict[str, Any] | None = None


class HostedFields(NamedTuple):
    """tools and tool_choice: what is left of the request's own. warnings: what is not done, and why."""

    request: HostedRequest | None
    tools: list[Mapping[str, Any]] | None
    tool_choice: Any
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class LeasedTools:
    """The server's own tools of one request, open. tools: None if the request turns none on."""

    context: Context
    fields: HostedFields
    tools: HostedTools | None = None

    @property
    def toolset(self) -> ToolSet | None:
        return self.tools.toolset if self.tools else None

    @property
    def recipients(self) -> frozenset[str]:
        return self.tools.toolset.recipients if self.tools else frozenset()

    @property
    def resolve(self) -> Resolve | None:
        """Finds the page that a citation means; None without a browser."""
        return self.tools.resolve if self.tools else None

    @property
    def container_id(self) -> str:
        return self.tools.id if self.tools else ""

    @property
    def listings(self) -> tuple[McpListing, ...]:
        return self.tools.listings if self.tools else ()

    def image_url(self, name: str) -> str | None:
        """A picture that code saved, as a data URL."""
        return self.tools.image_url(name) if self.tools else None

    @property
    def developer_namespaces(self) -> tuple[ToolNamespace, ...]:
        """The declarations for the developer message: of the request's MCP servers."""
        return self.tools.toolset.developer_namespaces if self.tools else ()

    @property
    def choice(self) -> str | None:
        """The tool choice if it forces one of these tools. A server that could not be listed forces nothing."""
        request = self.fields.request
        if request is None or request.mcp_choice is None:
            return request.tool_choice if request else None
        label, name = request.mcp_choice
        if (session := self.mcp_session(label)) is None:
            return None
        space, declared = session.namespace.name, session.declared_name(name) if name is not None else None
        if name is not None and declared is None:
            raise bad("tool_choice", f"tool_choice: MCP server {label!r} has no tool {name[:64]!r} that is allowed")
        return f"{space}.{declared}" if declared else space

    @property
    def shown_choice(self) -> dict[str, Any] | None:
        """The forced choice, as OpenAI's API shows it."""
        request = self.fields.request
        if request and request.mcp_choice:
            label, name = request.mcp_choice
            return {"type": MCP, "server_label": label, **({"name": name} if name else {})}
        kind = SHOWN_CHOICES.get(self.choice or "")
        return {"type": kind} if kind else None

    @property
    def needs_approval(self) -> frozenset[str]:
        """The recipients whose calls a user must approve first."""
        return self.tools.toolset.needs_approval if self.tools else frozenset()

    def mcp_session(self, label: str) -> McpSession | None:
        """The open session of an MCP server."""
        every = (*self.tools.toolset.sessions, *self.tools.toolset.developer) if self.tools else ()
        return next((each for each in every if isinstance(each, McpSession) and each.server.label == label), None)

    def has_server(self, tool: Mapping[str, Any]) -> bool:
        """Whether a request's tool is an MCP server that is used."""
        servers = self.fields.request.mcp if self.fields.request else ()
        return tool.get("type") == MCP and any(server.label == tool.get("server_label") for server in servers)

    def declared(self, opening: System) -> System:
        """The system message with the declarations of these tools."""
        return replace(opening, tools=self.tools.toolset.system_namespaces) if self.tools else opening

    def allowed(self, own: frozenset[str] | None) -> frozenset[str] | None:
        """The recipients that may be called, of those that a list of allowed tools leaves of the client's."""
        return None if own is None else own | self.recipients

    def names_kind(self, kind: object) -> bool:
        """Whether a request's tool of this type is one of these."""
        return self.fields.request is not None and KINDS.get(str(kind)) in self.fields.request.names

    async def again(self) -> "LeasedTools":
        """New sessions of the same tools."""
        return await _leased(self.context, self.fields, ())

    async def release(self, keys: Sequence[str] = ()) -> None:
        """Give the tools back. With keys, a later request finds them under these."""
        if self.tools:
            await self.context.hosted.release(self.tools, keys)

    @asynccontextmanager
    async def released_on_error(self) -> AsyncGenerator[None, None]:
        """Give the tools back if what is inside fails: then no answer does it."""
        try:
            yield
        except BaseException:
            await self.release()
            raise


def offered_types(available: Collection[str]) -> list[str]:
    """The types of tools that requests can turn on, one for each of the server's tools. MCP servers are "mcp:LABEL"."""
    types: dict[str, str] = {}
    for kind, name in KINDS.items():
        if name in available:
            types.setdefault(name, kind)
    return [*types.values(), *sorted(name for name in available if name.startswith("mcp:"))]


async def leased_tools(
    context: Context,
    tools: Sequence[Mapping[str, Any]] | None,
    tool_choice: Any,
    keys: Sequence[str] = (),
    listings: Mapping[str, McpListing] | None = None,
) -> LeasedTools:
    """Open the hosted tools of a request, or find those of an earlier answer again by its ids.

    listings: of MCP servers, from earlier answers. Raises ApiError: 400 for invalid fields, 503 for a tool that cannot start.
    """
    fields = hosted_fields(tools, tool_choice, context.hosted.available, context.hosted.mcp_hosts)
    return await _leased(context, fields, keys, listings)


async def _leased(
    context: Context, fields: HostedFields, keys: Sequence[str], listings: Mapping[str, McpListing] | None = None
) -> LeasedTools:
    if fields.request is None:
        return LeasedTools(context, fields)
    try:
        return LeasedTools(context, fields, await context.hosted.lease(fields.request, keys, listings))
    except ToolUnavailableError as error:
        raise ApiError(503, str(error), param="tools", code="tool_unavailable") from error


def hosted_fields(
    tools: Sequence[Mapping[str, Any]] | None,
    tool_choice: Any,
    available: Collection[str],
    mcp_hosts: Collection[str] = (),
) -> HostedFields:
    """Separate the hosted tools from the client's. Tools that the server does not offer are left in `tools`.

    Raises ApiError (400) for a hosted tool with invalid fields.
    """
    own: list[Mapping[str, Any]] = []
    names: list[str] = []
    limits, warnings, servers = BrowserLimits(), list[str](), list[McpServer]()
    for number, tool in enumerate(tools or ()):
        kind = tool.get("type")
        if kind == MCP and (server := mcp_server(tool, f"tools[{number}]", available, mcp_hosts)):
            servers.append(server)
            names += [] if server.url else [f"mcp:{server.label}"]
            continue
        name = KINDS.get(kind) if isinstance(kind, str) else None
        if name is None or name not in available or client_kind(tool) is not None:
            own.append(tool)
            continue
        names.append(name)
        if name == BROWSER:
            limits = _browser_limits(tool, f"tools[{number}]", warnings)
    check_servers(servers)
    if not names and not servers:
        return HostedFields(None, list(tools) if tools is not None else None, tool_choice, warnings)
    choice, forced = _hosted_choice(tool_choice, names), mcp_choice(tool_choice, servers)
    request = HostedRequest(tuple(dict.fromkeys(names)), limits, choice, tuple(servers), forced)
    own_choice = None if choice or forced else _own_choice(tool_choice, [*names, *([MCP] if servers else [])])
    return HostedFields(request, own, own_choice, warnings)


def _browser_limits(tool: Mapping[str, Any], at: str, warnings: list[str]) -> BrowserLimits:
    try:
        given = msgspec.convert(tool, _WebSearch)
    except msgspec.ValidationError as error:
        raise bad(at, f"{at}: {error}", "invalid_type") from error
    size = given.search_context_size or "medium"
    if size not in VIEW_TOKENS:
        raise bad(f"{at}.search_context_size", f"search_context_size is {size[:40]!r}: want low, medium or high")
    if given.user_location:
        warnings.append(f"{at}.user_location: searches of this server do not depend on a place; it was left out")
    domains = (given.filters.allowed_domains if given.filters else None) or []
    if len(domains) > MAX_DOMAINS:
        raise bad(
            f"{at}.filters.allowed_domains", f"allowed_domains has {len(domains)} names: want {MAX_DOMAINS} at most"
        )
    return BrowserLimits(view_tokens=VIEW_TOKENS[size], allowed_domains=tuple(domains))


def _hosted_choice(choice: Any, names: Sequence[str]) -> str | None:
    """The server's tool that the choice forces; None for any other choice."""
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    name = KINDS.get(kind) if isinstance(kind, str) else None
    return name if name in names else None


def _own_choice(choice: Any, names: Sequence[str]) -> Any:
    """The choice without the server's tools in a list of allowed ones."""
    listed = choice.get("tools") if isinstance(choice, Mapping) else None
    if not isinstance(listed, list):
        return choice
    kinds = {**KINDS, MCP: MCP}
    kept = [each for each in listed if not (isinstance(each, Mapping) and kinds.get(str(each.get("type"))) in names)]
    if kept == listed:
        return choice
    mode = choice.get("mode")
    return {**choice, "tools": kept} if kept else mode if mode in ("auto", "required") else "auto"
