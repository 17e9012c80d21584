"""The tools that an operator allows, and the sessions of each conversation.

In: `ToolSettings`, which hold the values of --tools, --search, --mcp and the like. Out: a `ToolFactory`, which makes a
session of a tool for each conversation. The command line, the terminal and the server use it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tools.browser.search import SearchProvider
from ossia.tools.browser.session import BrowserLimits, BrowserSession, token_splitter
from ossia.tools.browser.settings import FORMS, search_provider
from ossia.tools.functions import Tool
from ossia.tools.mcp.servers import McpServer, operator_servers
from ossia.tools.mcp.session import McpSession
from ossia.tools.python_file import tools_from
from ossia.tools.session import ToolSession
from ossia.tools.toolset import ToolSet

BUILT_IN = ("browser",)  # names of --tools beside mcp, mcp:NAME and Python files


@dataclass(frozen=True, slots=True)
class ToolSettings:
    """Which tools are offered, and with what.

    tools: "browser", "mcp" (all servers), "mcp:NAME", or the path of a Python file. search: see `search_provider`. mcp:
    servers, see `operator_servers`. keys: environment variables, for the keys of search services and MCP servers.
    """

    tools: tuple[str, ...] = ()
    search: str | None = None
    mcp: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)


def tool_names(value: str) -> tuple[str, ...]:
    """The names in a value of --tools, separated by commas."""
    return tuple(name.strip() for name in value.split(",") if name.strip())


class ToolFactory:
    """Makes sessions of the offered tools. What conversations share, such as a search index, exists once.

    names: the offered built-in tools: "browser", "mcp:NAME". functions: the tools of Python files. Raises ValueError for
    settings that do not fit together, and OSError for a file that is missing.
    """

    def __init__(self, settings: ToolSettings, tokenizer: Tokenizer) -> None:
        self.settings = settings
        self._split = token_splitter(tokenizer)
        self._servers = {server.label: server for spec in settings.mcp for server in _servers(spec, settings)}
        self.names = _names(settings, tuple(self._servers))
        files = [name for name in settings.tools if name.endswith(".py")]
        self.functions: tuple[Tool, ...] = tuple(tool for name in files for tool in tools_from(Path(name)))
        self._provider = self._search() if "browser" in self.names else None

    def toolset(self, names: Sequence[str] | None = None) -> ToolSet | None:
        """New sessions of these tools, or of all; None if there are none."""
        sessions = [self.session(name) for name in (self.names if names is None else names)]
        return ToolSet(sessions) if sessions else None

    def session(self, name: str) -> ToolSession:
        """A new session of a tool in `names`, with the usual limits."""
        kind, _, label = name.partition(":")
        return self.mcp(label) if kind == "mcp" else self.browser()

    def browser(self, limits: BrowserLimits | None = None) -> BrowserSession:
        """A browser with these limits. Raises ValueError if the browser is not offered."""
        if self._provider is None:
            raise ValueError("the browser is not offered: give --tools browser")
        return BrowserSession(self._provider, self._split, limits)

    def mcp(self, label: str) -> McpSession:
        """A connection to an operator's server, made when it is opened."""
        return McpSession(self._servers[label])

    async def check(self) -> None:
        """Start each tool once, so that what is missing shows before the first question.

        Raises ToolUnavailableError with the reason and the remedy.
        """
        if toolset := self.toolset():
            try:
                await toolset.open()
            finally:
                await toolset.close()

    async def close(self) -> None:
        """Close what conversations share. Their sessions must be closed before."""
        if self._provider is not None:
            await self._provider.close()

    def _search(self) -> SearchProvider:
        if self.settings.search is None:
            raise ValueError(f"the browser needs a search provider: give --search {FORMS}")
        return search_provider(self.settings.search, self.settings.keys)


def _servers(spec: str, settings: ToolSettings) -> list[McpServer]:
    return operator_servers(spec, settings.keys)


def _names(settings: ToolSettings, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The offered built-in tools, each once."""
    names: list[str] = []
    for name in settings.tools:
        kind, colon, label = name.partition(":")
        if name == "mcp":
            names += [f"mcp:{each}" for each in labels]
        elif kind == "mcp" and colon:
            if label not in labels:
                known = ", ".join(labels) or "none"
                raise ValueError(f"--tools {name}: no MCP server {label!r} (known: {known}); give --mcp {label}=URL")
            names.append(name)
        elif name in BUILT_IN:
            names.append(name)
        elif not name.endswith(".py"):
            choices = ", ".join((*BUILT_IN, "mcp", "mcp:NAME"))
            raise ValueError(f"--tools {name}: no such tool; give {choices}, or a Python file")
    if settings.mcp and not any(name.startswith("mcp:") for name in names):
        raise ValueError("--mcp names a server, but --tools does not offer it: add mcp to --tools")
    return tuple(dict.fromkeys(names))
