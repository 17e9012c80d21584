"""`ossia mcp`: offer Ossia's tools and model to other programs over MCP.

In: options. Out: an MCP server on standard input and output, or over HTTP. What it has to say goes to standard error.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ossia.cli.app import app
from ossia.cli.common import (
    BackendOption,
    DenseOption,
    KvOption,
    MaxTokensOption,
    McpOption,
    MemoryGbOption,
    NetworkOption,
    SandboxOption,
    SearchOption,
    ThreadsOption,
    UnsafeOption,
    conversation_tools,
    fail,
    load_model,
    starting,
    weight_options,
)

if TYPE_CHECKING:
    from ossia.chat import Chat
    from ossia.harmony.messages import Effort
    from ossia.tools.functions import ToolOutput
    from ossia.tools.mcp.offer import Offer
    from ossia.tools.session import Report

STOP_SECONDS = 3  # for open requests when the HTTP server stops


@app.command()
def mcp(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Offer this model as the tool ask: a folder, a name, or ossia-mini."),
    ] = None,
    tools: Annotated[
        str | None,
        typer.Option(help="Offer these tools, with commas: python, browser, shell, mcp, mcp:NAME, my_tools.py."),
    ] = None,
    search: SearchOption = None,
    mcp: McpOption = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of python and the shell; a new one for each client.")
    ] = None,
    sandbox: SandboxOption = "auto",
    network: NetworkOption = False,
    unsafe_tools: UnsafeOption = False,
    transport: Annotated[str, typer.Option(help="stdio (the client starts this command) or http.")] = "stdio",
    host: Annotated[str, typer.Option(help="Address to listen on, with --transport http.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 picks a free one.")] = 8808,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="OSSIA_MCP_KEY", help="Key that clients must send. Needed beyond this machine."),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name that clients may use for this server. Repeatable.")
    ] = None,
    max_tokens: MaxTokensOption = None,
    backend: BackendOption = "auto",
    dense: DenseOption = None,
    kv: KvOption = None,
    threads: ThreadsOption = None,
    memory_gb: MemoryGbOption = None,
) -> None:
    """Offer tools and a model to Claude Desktop, Cursor, Codex and other MCP clients."""
    given = SimpleNamespace(**locals())
    if transport not in ("stdio", "http"):
        fail(f"--transport {transport!r} is none of stdio, http")
    with starting():
        from ossia.tools.session import ToolUnavailableError

    try:
        _serve(given)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, OSError, ModuleNotFoundError, ToolUnavailableError) as error:
        fail(_with_remedy(error))


def _serve(given: SimpleNamespace) -> None:
    """Serve until the client leaves, or until Ctrl-C."""
    ask = BackgroundModel(lambda: _load(given)) if given.model else None
    with starting():
        from ossia.tools.mcp.serving import http_app, serve_stdio

        offer = _offer(given, ask)
    if given.transport == "stdio":
        asyncio.run(_opened(offer, ask, lambda: serve_stdio(offer)))
    else:
        served = http_app(offer, given.host, given.api_key, tuple(given.allow_host or ()))
        asyncio.run(_opened(offer, ask, lambda: _serve_http(served, given.host, given.port)))


def _load(given: SimpleNamespace) -> "Chat":
    from ossia.chat import Chat
    from ossia.engine.request import SamplingParams

    model = load_model(given.model, given.backend, **weight_options(given))
    return Chat(model, params=SamplingParams(max_tokens=given.max_tokens))


def _offer(given: SimpleNamespace, ask: "BackgroundModel | None") -> "Offer":
    from ossia.tokenizer.tokenizer import Tokenizer
    from ossia.tokenizer.tokenizer_json import o200k_harmony
    from ossia.tools.choose import ToolFactory
    from ossia.tools.mcp.offer import Offer

    factory = ToolFactory(conversation_tools(given), Tokenizer(o200k_harmony()))
    return Offer(factory.toolset, factory.functions, ask)


async def _opened(offer: "Offer", ask: "BackgroundModel | None", serve: "Callable[[], Any]") -> None:
    await offer.open()
    if ask:
        ask.start()
    await serve()


async def _serve_http(served: Any, host: str, port: int) -> None:
    import uvicorn

    from ossia.server.http.sockets import listen, url_of

    with listen(host, port) as listening:
        typer.echo(f"MCP server at {url_of(listening)}/mcp", err=True)
        config = uvicorn.Config(served, log_level="warning", access_log=False, timeout_graceful_shutdown=STOP_SECONDS)
        await uvicorn.Server(config).serve([listening])


class BackgroundModel:
    """A model that loads in a thread, so that the server answers at once. It answers one question at a time."""

    def __init__(self, load: "Callable[[], Chat]") -> None:
        self._busy = asyncio.Lock()
        self._load = load
        self._loaded: Future[Chat] = Future()
        self._loaded.set_running_or_notify_cancel()  # a cancelled question does not stop the loading

    def start(self) -> None:
        """Begin to load."""
        threading.Thread(target=self._run, name="ossia-load", daemon=True).start()

    async def __call__(
        self, prompt: str, effort: "Effort", schema: dict[str, Any] | None, report: "Report"
    ) -> "ToolOutput":
        from ossia.chat import gather
        from ossia.harmony.parse import Start
        from ossia.tools.functions import ToolOutput
        from ossia.tools.session import ToolProgress

        async with self._busy:
            try:
                chat = await asyncio.wrap_future(self._loaded)
            except Exception as error:
                return ToolOutput(f"error: the model cannot be loaded: {error}", failed=True)
            chat.history.clear()
            chat.effort, chat.response_format = effort, schema
            chat.how = replace(chat.how, response_format=schema)
            events: list[Any] = []
            try:
                async for event in chat.stream_async(prompt):
                    events.append(event)
                    if isinstance(event, Start):
                        report(ToolProgress("thinking" if event.channel == "analysis" else "answering", "status"))
            except ValueError as error:  # a prompt that is too long, or a schema that cannot be enforced
                return ToolOutput(f"error: {error}", failed=True)
            answer = gather(events)
            if answer.finish != "stop":
                return ToolOutput(f"error: the answer was cut ({answer.finish}):\n{answer.text}", failed=True)
            return ToolOutput(answer.text)

    def _run(self) -> None:
        try:
            self._loaded.set_result(self._load())
        except BaseException as error:
            typer.secho(f"error: the model cannot be loaded: {error}", err=True, fg="red")
            self._loaded.set_exception(error if isinstance(error, Exception) else RuntimeError(str(error)))


def _with_remedy(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in ("mcp", "mcp_types"):
        return "ossia mcp needs the package mcp: pip install 'ossia[mcp]'"
    return str(error)
