"""The tools that an operator allows, and the sessions of each conversation.

In: `ToolSettings`, which hold the values of --tools, --search, --mcp, --sandbox and the like. Out: a `ToolFactory`, which makes a
session of a tool for each conversation. The command line, the terminal and the server use it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ossia.tools.functions import Tool
from ossia.tools.python_file import tools_from
from ossia.tools.session import ToolSession
from ossia.tools.toolset import ToolSet

if TYPE_CHECKING:  # each tool's own libraries are imported when it is offered
    from ossia.tokenizer.tokenizer import Tokenizer
    from ossia.tools.browser.results import BrowserLimits
    from ossia.tools.browser.search import SearchProvider
    from ossia.tools.browser.session import BrowserSession
    from ossia.tools.container.session import ContainerSession, ContainerSettings
    from ossia.tools.data_folder import DataFolder
    from ossia.tools.mcp.servers import McpServer
    from ossia.tools.mcp.session import McpSession
    from ossia.tools.python.session import PythonSession, PythonSettings
    from ossia.tools.repo_browser.session import RepoBrowserSession
    from ossia.tools.sandbox.choose import Sandbox

PARTS = {"shell": ("container", "repo_browser")}  # names of --tools that mean several tools
BUILT_IN = ("python", "browser", "shell", "container", "repo_browser")  # beside mcp, mcp:NAME and Python files
SMALL_CONTEXT = 16_384  # tokens
SANDBOXED = frozenset(("python", "container"))


@dataclass(frozen=True, slots=True)
class ToolSettings:
    """Which tools are offered, and with what.

    tools: names of BUILT_IN, "mcp" (all servers), "mcp:NAME", or the path of a Python file. search: see
    `search_provider`. mcp: servers, see `operator_servers`. keys: environment variables, for the keys of search services
    and MCP servers. root: the folder of python and the shell; None for a new one in each conversation. network: their
    programs may use the network. sandbox: a form of the sandbox, or "auto". unsafe: they run without a sandbox.
    mcp_hosts: where MCP servers of requests may be, see `request_server`. asks_first: the caller asks the user before
    each call that needs an approval.
    """

    tools: tuple[str, ...] = ()
    search: str | None = None
    mcp: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    root: Path | None = None
    network: bool = False
    sandbox: str = "auto"
    unsafe: bool = False
    mcp_hosts: tuple[str, ...] = ()
    asks_first: bool = False


def tool_names(value: str) -> tuple[str, ...]:
    """The names in a value of --tools, separated by commas."""
    return tuple(name.strip() for name in value.split(",") if name.strip())


class ToolFactory:
    """Makes sessions of the offered tools. What conversations share, such as a search index, exists once.

    names: the offered built-in tools: "python", "browser", "container", "repo_browser", "mcp:NAME". functions: the tools
    of Python files. context: of the model; below SMALL_CONTEXT tools have short descriptions. Raises ValueError for
    settings that do not fit together, OSError for a file that is missing, and ToolUnavailableError if there is no sandbox
    for the tools that need one.
    """

    def __init__(self, settings: ToolSettings, tokenizer: "Tokenizer", context: int | None = None) -> None:
        self.settings, self._tokenizer = settings, tokenizer
        self._is_small = context is not None and context < SMALL_CONTEXT
        self._servers = {server.label: server for spec in settings.mcp for server in _servers(spec, settings)}
        self.names = _names(settings, tuple(self._servers))
        files = [name for name in settings.tools if name.endswith(".py")]
        self.functions: tuple[Tool, ...] = tuple(tool for name in files for tool in tools_from(Path(name)))
        self._provider = self._search() if "browser" in self.names else None
        self.sandbox = _sandbox(settings) if SANDBOXED & {*self.names} else None
        if settings.root is not None and not settings.root.is_dir():
            raise ValueError(f"--root {settings.root} is not a folder")

    @property
    def asks(self) -> frozenset[str]:
        """Namespaces and recipients that change something, so that a person should agree to each call."""
        asks = {"container", "repo_browser.apply_patch"}
        return frozenset(asks | {"python"} if self.settings.unsafe else asks)

    def toolset(self, names: Sequence[str] | None = None) -> ToolSet | None:
        """New sessions of these tools, or of all, for one conversation; None if there are none.

        Python and the shell share a folder, which is removed when the tool set is closed, unless the settings name it.
        """
        chosen = self.names if names is None else names
        if not chosen:
            return None
        folder = self.folder()
        return ToolSet([self.session(name, folder) for name in chosen], cleanup=folder.close)

    def folder(self) -> "DataFolder":
        """The folder of one conversation."""
        from ossia.tools.data_folder import DataFolder

        return DataFolder(self.settings.root)

    def session(self, name: str, folder: "DataFolder") -> ToolSession:
        """A new session of a tool in `names`, with the usual limits."""
        kind, _, label = name.partition(":")
        match kind:
            case "python":
                return self.python(folder)
            case "container":
                return self.container(folder)
            case "repo_browser":
                return self.repo_browser(folder)
            case "mcp":
                return self.mcp(label)
        return self.browser()

    def python(self, folder: "DataFolder", settings: "PythonSettings | None" = None) -> "PythonSession":
        """A Python process. settings: without its sandbox, which is this factory's."""
        from ossia.tools.python.session import PythonSession, PythonSettings

        limits = settings or PythonSettings(short_description=self._is_small)
        limits = replace(limits, sandbox=replace(limits.sandbox, network=self.settings.network))
        return PythonSession(folder, limits, self.sandbox)

    def container(self, folder: "DataFolder", settings: "ContainerSettings | None" = None) -> "ContainerSession":
        """Commands in the sandbox. settings: without its sandbox, which is this factory's."""
        from ossia.tools.container.session import ContainerSession, ContainerSettings

        limits = settings or ContainerSettings()
        limits = replace(limits, sandbox=replace(limits.sandbox, network=self.settings.network))
        return ContainerSession(folder, limits, self.sandbox)

    def repo_browser(self, folder: "DataFolder") -> "RepoBrowserSession":
        """The files of the folder, and patches."""
        from ossia.tools.repo_browser.session import RepoBrowserSession

        return RepoBrowserSession(folder.root)

    def browser(self, limits: "BrowserLimits | None" = None) -> "BrowserSession":
        """A browser with these limits. Raises ValueError if the browser is not offered."""
        if self._provider is None:
            raise ValueError("the browser is not offered: give --tools browser")
        from ossia.tools.browser.session import BrowserSession, token_splitter

        return BrowserSession(self._provider, token_splitter(self._tokenizer), limits)

    def mcp(self, label: str) -> "McpSession":
        """A connection to an operator's server, made when it is opened."""
        from ossia.tools.mcp.session import McpSession

        return McpSession(self._servers[label], asked_before=self.settings.asks_first)

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

    def _search(self) -> "SearchProvider":
        from ossia.tools.browser.settings import FORMS, search_provider

        if self.settings.search is None:
            raise ValueError(f"the browser needs a search provider: give --search {FORMS}")
        return search_provider(self.settings.search, self.settings.keys)


def _sandbox(settings: ToolSettings) -> "Sandbox":
    from ossia.tools.sandbox.choose import find
    from ossia.tools.sandbox.settings import FORMS

    if settings.sandbox == "auto":
        return find(unsafe=settings.unsafe)
    for form in FORMS:
        if form == settings.sandbox:
            return find(form, settings.unsafe)
    raise ValueError(f"--sandbox {settings.sandbox}: no such form; give auto, {', '.join(FORMS)}")


def _servers(spec: str, settings: ToolSettings) -> "list[McpServer]":
    from ossia.tools.mcp.servers import operator_servers

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
            names += PARTS.get(name, (name,))
        elif not name.endswith(".py"):
            choices = ", ".join((*BUILT_IN, "mcp", "mcp:NAME"))
            raise ValueError(f"--tools {name}: no such tool; give {choices}, or a Python file")
    if settings.mcp and not any(name.startswith("mcp:") for name in names):
        raise ValueError("--mcp names a server, but --tools does not offer it: add mcp to --tools")
    return tuple(dict.fromkeys(names))
