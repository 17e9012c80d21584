"""The server's own tools in an answer: which ones a request turns on, and their sessions.

In: a `HostedRequest`. Out: a `HostedTools` with an open `ToolSet`. A session may outlive its answer, so that a later
request of the same conversation finds its pages, variables and files again.
"""

import asyncio
import base64
import mimetypes
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tools.browser.citations import CitesPages, Resolve
from ossia.tools.browser.results import BrowserLimits
from ossia.tools.choose import ToolFactory, ToolSettings
from ossia.tools.data_folder import DataFolderError
from ossia.tools.mcp.results import McpListing
from ossia.tools.mcp.servers import McpServer
from ossia.tools.mcp.session import McpSession, open_available
from ossia.tools.session import ToolSession
from ossia.tools.toolset import HasFolder, ToolSet

IDLE_SECONDS = 20 * 60.0  # a kept session without an answer is closed after this time
MAX_KEPT = 32
MAX_IMAGE = 4 << 20  # bytes
LEASE_SECONDS = 2 * 3600.0  # an answer never takes longer; a lease that was lost ends then


@dataclass(frozen=True, slots=True)
class HostedRequest:
    """The tools that a request turns on: names in the order of their declaration, and limits of the browser.

    mcp: MCP servers of the request, and how it uses those of the operator. mcp_choice: a server and one of its tools.
    """

    names: tuple[str, ...] = ()
    browser: BrowserLimits = field(default_factory=BrowserLimits)
    tool_choice: str | None = None
    mcp: tuple[McpServer, ...] = ()
    mcp_choice: tuple[str, str | None] | None = None

    @property
    def without_choice(self) -> "HostedRequest":
        return replace(self, tool_choice=None, mcp_choice=None)


class MadeSessions(NamedTuple):
    """New sessions of one answer. cleanup: called when they are closed."""

    sessions: Sequence[ToolSession] = ()
    cleanup: Callable[[], None] | None = None


MakeSessions = Callable[[HostedRequest], MadeSessions]


@dataclass(eq=False, slots=True)
class HostedTools:
    """The open tools of one answer. id: of the container, as the API calls it, that holds their state.

    listings: of MCP servers that were listed for this answer, also of those that failed and are left out.
    """

    request: HostedRequest
    toolset: ToolSet
    listings: tuple[McpListing, ...] = ()
    id: str = field(default_factory=lambda: f"cntr_{secrets.token_hex(24)}")

    @property
    def resolve(self) -> Resolve | None:
        """Finds the page that a citation means; None without a browser."""
        browser = next((each for each in self.toolset.sessions if isinstance(each, CitesPages)), None)
        return browser.cited_source if browser else None

    def image_url(self, name: str) -> str | None:
        """A picture in the folder of the conversation, as a data URL; None if it is gone or too large."""
        folder = next((each.data for each in self.toolset.sessions if isinstance(each, HasFolder)), None)
        kind = mimetypes.guess_type(name)[0]
        if folder is None or kind is None:
            return None
        try:
            return f"data:{kind};base64,{base64.b64encode(folder.read(name, MAX_IMAGE)).decode()}"
        except (DataFolderError, OSError):
            return None


class HostedSessions:
    """All tool sessions of a server.

    available: names of the tools that requests may turn on. make: makes the sessions of a request. check: starts each
    tool once. close: of what sessions share. mcp_hosts: where MCP servers of requests may be; see `request_server`.
    """

    def __init__(
        self,
        available: Iterable[str] = (),
        make: MakeSessions = lambda _: MadeSessions(),
        *,
        check: Callable[[], Awaitable[None]] | None = None,
        close: Callable[[], Awaitable[None]] | None = None,
        idle_seconds: float = IDLE_SECONDS,
        max_kept: int = MAX_KEPT,
        mcp_hosts: Iterable[str] = (),
    ) -> None:
        self.available, self.mcp_hosts = frozenset(available), tuple(mcp_hosts)
        self._make, self._check, self._close_shared = make, check, close
        self._idle_seconds, self._max_kept = idle_seconds, max_kept
        self._kept: dict[str, HostedTools] = {}  # by the ids of responses, conversations and calls
        self._timers: dict[HostedTools, asyncio.TimerHandle] = {}
        self._in_use: dict[HostedTools, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def check(self) -> None:
        """Start each tool once, before the first request. Raises ToolUnavailableError with the reason and the remedy."""
        if self._check:
            await self._check()

    async def lease(
        self, request: HostedRequest, keys: Iterable[str] = (), listings: Mapping[str, McpListing] | None = None
    ) -> HostedTools:
        """Open tools, or those kept under one of the keys if they are the same. Raises ToolUnavailableError.

        listings: what earlier answers listed, by the server's label; it is not listed again. The caller gives the tools
        back with `release`.
        """
        tools = self._take(request, keys) or await self._made(request, listings or {})
        tools.toolset.begin_response()
        self._in_use[tools] = asyncio.get_running_loop().call_later(LEASE_SECONDS, self._give_up, tools)
        try:
            await tools.toolset.open()
            await tools.toolset.refresh()
        except BaseException:
            self._give_up(tools)
            raise
        return tools

    async def _made(self, request: HostedRequest, listings: Mapping[str, McpListing]) -> HostedTools:
        """New sessions. MCP servers that cannot be listed are left out."""
        asked = {server.label: server for server in request.mcp}
        made = self._make(request)
        own = [_as_asked(session, asked) for session in made.sessions]
        known = {label: each for label, each in listings.items() if label in asked and _covers(each, asked[label])}
        named = [McpSession(server, listing=known.get(label)) for label, server in asked.items() if server.url]
        every = [each for each in (*own, *named) if isinstance(each, McpSession)]
        works = await open_available(every)
        new = tuple(each.listing for each in every if each.listing.error or each.server.label not in known)
        kept = [each for each in own if not isinstance(each, McpSession) or each in works]
        return HostedTools(request, ToolSet(kept, [each for each in named if each in works], made.cleanup), new)

    async def release(self, tools: HostedTools, keys: Iterable[str] = ()) -> None:
        """End a lease. With keys, the sessions are kept for later requests; otherwise they are closed."""
        timer = self._in_use.pop(tools, None)
        if timer is None:
            return
        timer.cancel()
        keys = tuple(keys)
        if not keys:
            await tools.toolset.close()
            return
        for key in (*keys, tools.id):
            self._kept[key] = tools
        self._timers[tools] = asyncio.get_running_loop().call_later(self._idle_seconds, self._expire, tools)
        while len(self._timers) > self._max_kept:
            self._expire(next(iter(self._timers)))

    async def close(self) -> None:
        """Close everything: the server stops."""
        for tools in list(self._timers):
            self._expire(tools)
        for tools in list(self._in_use):
            self._give_up(tools)
        if self._closing:
            await asyncio.wait(self._closing)
        if self._close_shared:
            await self._close_shared()

    def _take(self, request: HostedRequest, keys: Iterable[str]) -> HostedTools | None:
        for key in keys:
            tools = self._kept.get(key)
            if tools and tools.request.without_choice == request.without_choice:
                self._forget(tools)
                tools.listings = ()
                return tools
        return None

    def _forget(self, tools: HostedTools) -> None:
        self._timers.pop(tools).cancel()
        for key in [key for key, each in self._kept.items() if each is tools]:
            del self._kept[key]

    def _expire(self, tools: HostedTools) -> None:
        self._forget(tools)
        self._close(tools)

    def _give_up(self, tools: HostedTools) -> None:
        self._in_use.pop(tools).cancel()
        self._close(tools)

    def _close(self, tools: HostedTools) -> None:
        task = asyncio.ensure_future(tools.toolset.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _covers(listing: McpListing, server: McpServer) -> bool:
    """Whether an earlier listing has all tools that the request names: it may have been made for fewer."""
    names = server.allowed_tools.names if server.allowed_tools else None
    return names is None or names <= {tool.name for tool in listing.tools}


def _as_asked(session: ToolSession, asked: Mapping[str, McpServer]) -> ToolSession:
    """An operator's MCP server with the approvals and the tools that the request asks for."""
    if not isinstance(session, McpSession) or (wanted := asked.get(session.server.label)) is None:
        return session
    allowed = session.server.allowed_tools or wanted.allowed_tools
    return McpSession(replace(session.server, allowed_tools=allowed, approval=wanted.approval))


def hosted_sessions(settings: ToolSettings, tokenizer: Tokenizer, context: int) -> HostedSessions:
    """The sessions of the tools that the operator allows, for a model with this context.

    Raises as `ToolFactory` does, for settings that do not fit together and for a missing sandbox.
    """
    if not settings.tools and not settings.mcp_hosts:
        return HostedSessions()
    factory = ToolFactory(settings, tokenizer, context)

    def make(request: HostedRequest) -> MadeSessions:
        folder = factory.folder()
        sessions = [
            factory.browser(request.browser) if name == "browser" else factory.session(name, folder)
            for name in request.names
        ]
        return MadeSessions(sessions, folder.close)

    hosts = settings.mcp_hosts
    return HostedSessions(factory.names, make, check=factory.check, close=factory.close, mcp_hosts=hosts)
