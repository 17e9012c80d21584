"""Ossia's own tools and model as another program sees them through MCP: names, schemas, and a tool set for each client.

In: a way to make a `ToolSet`, and one to ask the model. Out: `OfferedTool`s, and results of calls. It does not import
the `mcp` package.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, get_args

import msgspec

from ossia.harmony.messages import Effort, ToolNamespace
from ossia.tools.functions import Tool, ToolOutput
from ossia.tools.mcp.declaration import clean_names
from ossia.tools.session import Report, ToolUnavailableError
from ossia.tools.toolset import ToolSet

EFFORTS: dict[str, Effort] = {effort: effort for effort in get_args(Effort)}
MAX_PROMPT = 1_000_000  # characters
MAX_SESSION_NAME = 100
IDLE_SECONDS = 30 * 60.0
MAX_CLIENTS = 16
ASK = "ask"
ASK_DESCRIPTION = (
    "Ask the model that this server runs. It knows nothing of this conversation: the prompt must say everything. With a"
    " schema, the answer is JSON of that form."
)
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}
OTHER_CLIENTS = "all sessions of tools are in use by other clients; try again later"


class AskModel(Protocol):
    """Asks the model. effort: low, medium or high; schema: a JSON schema of the answer."""

    async def __call__(
        self, prompt: str, effort: Effort, schema: dict[str, Any] | None, report: Report
    ) -> ToolOutput: ...


class OfferedTool(NamedTuple):
    """A tool as clients see it. recipient: what it is called by inside. free: the argument that is passed as it is."""

    name: str
    description: str
    schema: dict[str, Any]
    recipient: str
    free: str | None = None


def offered_tools(namespaces: Sequence[ToolNamespace], functions: Sequence[Tool] = ()) -> list[OfferedTool]:
    """All tools of the namespaces: `browser_search`, `python`. A namespace without tools takes text as one argument."""
    found: list[OfferedTool] = []
    for space in namespaces:
        if not space.tools:
            argument = "code" if space.name == "python" else "input"
            schema = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
            found.append(OfferedTool(space.name, space.description or "", schema, space.name, argument))
        for tool in space.tools:
            about = f"{space.description}\n\n{tool.description}" if space.description else tool.description
            schema = dict(tool.parameters) if tool.parameters else NO_ARGUMENTS
            found.append(OfferedTool(f"{space.name}_{tool.name}", about, schema, f"{space.name}.{tool.name}"))
    for each in functions:
        schema = dict(each.spec.parameters) if each.spec.parameters else NO_ARGUMENTS
        found.append(OfferedTool(each.spec.name, each.spec.description, schema, each.recipient))
    names = clean_names([tool.name for tool in found])
    return [tool._replace(name=name) for tool, name in zip(found, names, strict=True)]


def ask_tool() -> OfferedTool:
    """The model as a tool."""
    properties = {
        "prompt": {"type": "string"},
        "effort": {"type": "string", "enum": list(EFFORTS), "default": "medium", "description": "How long to think."},
        "schema": {"type": "object", "description": "A JSON schema that the answer must fit."},
    }
    schema = {"type": "object", "properties": properties, "required": ["prompt"], "additionalProperties": False}
    return OfferedTool(ASK, ASK_DESCRIPTION, schema, ASK)


@dataclass(eq=False, slots=True)
class _Client:
    """The tools of one client. One call runs at a time."""

    toolset: ToolSet
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    last_used: float = 0.0


class Offer:
    """What a server offers. Each client has a tool set of its own, which is closed when it is idle for long.

    make: makes a tool set, None without tools. functions: tools of Python files. ask: None without a model.
    """

    def __init__(
        self,
        make: Callable[[], ToolSet | None] = lambda: None,
        functions: Sequence[Tool] = (),
        ask: AskModel | None = None,
        *,
        idle_seconds: float = IDLE_SECONDS,
        max_clients: int = MAX_CLIENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make, self._ask = make, ask
        self._functions = {tool.recipient: tool for tool in functions}
        self._idle_seconds, self._max_clients, self._clock = idle_seconds, max_clients, clock
        self._clients: dict[str, _Client] = {}
        self.tools: list[OfferedTool] = []

    async def open(self) -> None:
        """Start each tool once, to learn its declaration. Raises ToolUnavailableError, ValueError without any tool."""
        namespaces: Sequence[ToolNamespace] = ()
        if toolset := self._make():
            try:
                await toolset.open()
                namespaces = (*toolset.system_namespaces, *toolset.developer_namespaces)
            finally:
                await toolset.close()
        self.tools = offered_tools(namespaces, tuple(self._functions.values()))
        if self._ask:
            self.tools.insert(0, ask_tool())
        if not self.tools:
            raise ValueError("nothing to offer: give a model, tools, or both")

    async def call(self, client: str | None, name: str, arguments: Mapping[str, Any], report: Report) -> ToolOutput:
        """Run a call of a client. client: None makes new tools for this call alone."""
        tool = next((tool for tool in self.tools if tool.name == name), None)
        if tool is None:
            return ToolOutput(f"error: there is no tool {name[:64]}", failed=True)
        if tool.recipient == ASK and self._ask:
            return await _asked(self._ask, arguments, report)
        if function := self._functions.get(tool.recipient):
            return await _called(function, msgspec.json.encode(arguments).decode())
        try:
            text = _text(tool, arguments)
        except ValueError as error:
            return ToolOutput(f"error: {error}", failed=True)
        try:
            async with self._tools_of(client) as toolset:
                return await toolset.run(tool.recipient, text, report)
        except ToolUnavailableError as error:
            return ToolOutput(f"error: this tool cannot be used now: {error}", failed=True)

    async def close_client(self, client: str) -> None:
        """Close the tools of a client that left. Nothing happens if it has none."""
        if found := self._clients.pop(client, None):
            await found.toolset.close()

    async def close_idle(self) -> None:
        """Close the tools that no client used for long."""
        before = self._clock() - self._idle_seconds
        for key, client in list(self._clients.items()):
            if not client.users and client.last_used < before:
                await self.close_client(key)

    async def close(self) -> None:
        """Close the tools of all clients."""
        for key in list(self._clients):
            await self.close_client(key)

    @asynccontextmanager
    async def _tools_of(self, key: str | None) -> AsyncGenerator[ToolSet, None]:
        if key is None:
            toolset = self._made()
            try:
                await toolset.open()
                yield toolset
            finally:
                await toolset.close()
            return
        if key not in self._clients:
            await self._make_room()
            self._clients[key] = _Client(self._made())
        client = self._clients[key]
        client.users += 1
        try:
            async with client.busy:
                await client.toolset.open()
                client.toolset.begin_response()
                yield client.toolset
        finally:
            client.users -= 1
            client.last_used = self._clock()

    def _made(self) -> ToolSet:
        if (toolset := self._make()) is None:
            raise ToolUnavailableError("no tools are offered")
        return toolset

    async def _make_room(self) -> None:
        """Close the tools of the client that was idle longest, if there are too many."""
        if len(self._clients) < self._max_clients:
            return
        idle = [key for key, client in self._clients.items() if not client.users]
        if not idle:
            raise ToolUnavailableError(OTHER_CLIENTS)
        await self.close_client(min(idle, key=lambda key: self._clients[key].last_used))


def _text(tool: OfferedTool, arguments: Mapping[str, Any]) -> str:
    """The call's text as the tool reads it."""
    if tool.free is None:
        return msgspec.json.encode(arguments).decode()
    value = arguments.get(tool.free)
    if not isinstance(value, str):
        raise ValueError(f"{tool.name} needs the argument {tool.free!r}, a string")
    return value


async def _called(tool: Tool, text: str) -> ToolOutput:
    work: Awaitable[ToolOutput] = tool.call_async(text) if tool.call_async else asyncio.to_thread(tool.call, text)
    return await work


async def _asked(ask: AskModel, arguments: Mapping[str, Any], report: Report) -> ToolOutput:
    prompt, effort, schema = arguments.get("prompt"), arguments.get("effort", "medium"), arguments.get("schema")
    if not isinstance(prompt, str) or not prompt:
        return ToolOutput("error: ask needs the argument 'prompt', a string", failed=True)
    if len(prompt) > MAX_PROMPT:
        return ToolOutput(f"error: prompt is longer than {MAX_PROMPT} characters", failed=True)
    chosen = EFFORTS.get(effort) if isinstance(effort, str) else None
    if chosen is None:
        return ToolOutput(f"error: effort must be one of {', '.join(EFFORTS)}", failed=True)
    if schema is not None and not isinstance(schema, dict):
        return ToolOutput("error: schema must be a JSON schema, an object", failed=True)
    return await ask(prompt, chosen, schema, report)
