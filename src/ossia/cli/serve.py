"""`ossia serve`: serve a model over HTTP."""

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import typer

from ossia.cli.app import app
from ossia.cli.common import fail, load_model, starting, state_folder, tool_settings, weight_options
from ossia.cli.renamed import ServeCommand
from ossia.server import options

if TYPE_CHECKING:
    from ossia.server.settings import Settings


@app.command(cls=ServeCommand)
def serve(
    model: options.Model = "ossia-mini",
    name: options.Names = None,
    backend: options.Backend = "auto",
    dense: options.Dense = None,
    kv: options.Kv = None,
    threads: options.Threads = None,
    identity: options.Identity = None,
    knowledge_cutoff: options.KnowledgeCutoff = None,
    date: options.Date = None,
    memory_gb: options.MemoryGb = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    api_key: options.ApiKeys = None,
    allow_origin: options.Origins = None,
    allow_host: options.Hosts = None,
    behind_proxy: options.BehindProxy = False,
    max_body: options.MaxBody = 32,
    max_total_body: options.MaxTotalBody = 256,
    max_connections: options.MaxConnections = 4096,
    max_per_address: options.MaxPerAddress = None,
    write_timeout: options.WriteTimeout = 60,
    max_num_seqs: options.MaxNumSeqs = 256,
    max_queued: options.MaxQueued = 512,
    queue_timeout: options.QueueTimeout = 300,
    request_timeout: options.RequestTimeout = 3600,
    shutdown_timeout: options.ShutdownTimeout = 30,
    kv_cache_gb: options.KvCacheGb = None,
    prefix_cache_gb: options.PrefixCacheGb = 1,
    state: options.State = None,
    state_gb: options.StateGb = 1,
    state_days: options.StateDays = 30,
    no_state: options.NoState = False,
    quiet: options.Quiet = False,
    log_prompts: options.LogPrompts = False,
    tools: options.Tools = None,
    search: options.Search = None,
    mcp: options.Mcp = None,
    mcp_allow: options.McpAllow = None,
    sandbox: options.Sandbox = "auto",
    tool_network: options.ToolNetwork = False,
    unsafe_tools: options.UnsafeTools = False,
) -> None:
    """Serve a model over the OpenAI and Anthropic APIs, and a web page. Listens on this machine only by default."""
    given = SimpleNamespace(**locals())
    with starting():
        from ossia.server.run import serve as run

    try:
        settings = _settings(given)
        load = partial(load_model, model, backend, cache_bytes=settings.kv_cache_bytes, **weight_options(given))
        run(load, settings, typer.echo)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(str(error))


def _settings(given: SimpleNamespace) -> "Settings":
    """The server's settings from the command's options, by the names of its parameters."""
    from ossia.harmony.opening import OPENING, opening
    from ossia.server.settings import Settings

    return Settings(
        names=tuple(given.name or ()), host=given.host, port=given.port, api_keys=tuple(given.api_key or ()),
        allow_origins=tuple(given.allow_origin or ()), allow_hosts=tuple(given.allow_host or ()),
        behind_proxy=given.behind_proxy, max_body_bytes=int(given.max_body * 2**20),
        max_total_body_bytes=int(max(given.max_total_body, 2 * given.max_body) * 2**20),
        max_connections=given.max_connections, max_connections_per_address=given.max_per_address,
        write_timeout=given.write_timeout, max_num_seqs=given.max_num_seqs, max_queued=given.max_queued,
        queue_timeout=given.queue_timeout, request_timeout=given.request_timeout, shutdown_timeout=given.shutdown_timeout,
        prefix_cache_bytes=int(given.prefix_cache_gb * 2**30),
        kv_cache_bytes=None if given.kv_cache_gb is None else int(given.kv_cache_gb * 2**30),
        state=None if given.no_state else given.state or state_folder(), state_bytes=int(given.state_gb * 2**30),
        state_days=given.state_days, log_requests=not given.quiet, log_prompts=given.log_prompts,
        opening=opening(OPENING, given.identity, given.knowledge_cutoff, given.date, under="--"),
        tools=tool_settings(
            given.tools, given.search, given.mcp, given.sandbox, network=given.tool_network, unsafe=given.unsafe_tools,
            mcp_hosts=tuple(given.mcp_allow or ()),
        ),
    )  # fmt: skip
