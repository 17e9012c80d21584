"""`ossia serve`: serve a model over HTTP."""

from functools import partial

import typer

from ossia.cli.app import app
from ossia.cli.common import fail, load_model, starting, state_folder
from ossia.server import options


@app.command()
def serve(
    model: options.Model = "ossia-mini",
    name: options.Names = None,
    backend: options.Backend = "cpu",
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
    max_bodies: options.MaxBodies = 256,
    max_connections: options.MaxConnections = 4096,
    max_per_address: options.MaxPerAddress = None,
    write_seconds: options.WriteSeconds = 60,
    max_running: options.MaxRunning = 256,
    max_waiting: options.MaxWaiting = 512,
    answer_seconds: options.AnswerSeconds = 3600,
    drain_seconds: options.DrainSeconds = 30,
    cache_gb: options.CacheGb = None,
    prefix_gb: options.PrefixGb = 1,
    state: options.State = None,
    state_gb: options.StateGb = 1,
    state_days: options.StateDays = 30,
    no_state: options.NoState = False,
    quiet: options.Quiet = False,
    log_prompts: options.LogPrompts = False,
) -> None:
    """Serve a model to every OpenAI client and to a browser, on this machine alone unless told otherwise."""
    with starting():
        from ossia.harmony.opening import OPENING, opening
        from ossia.server.run import serve as run
        from ossia.server.settings import Settings

    try:
        settings = Settings(
            names=tuple(name or ()), host=host, port=port, api_keys=tuple(api_key or ()),
            allow_origins=tuple(allow_origin or ()), allow_hosts=tuple(allow_host or ()), behind_proxy=behind_proxy,
            max_body_bytes=int(max_body * 2**20), max_bodies_bytes=int(max(max_bodies, 2 * max_body) * 2**20),
            max_connections=max_connections, max_connections_per_address=max_per_address,
            write_seconds=write_seconds, max_running=max_running, max_waiting=max_waiting,
            answer_seconds=answer_seconds, drain_seconds=drain_seconds,
            cache_bytes=None if cache_gb is None else int(cache_gb * 2**30), prefix_bytes=int(prefix_gb * 2**30),
            state=None if no_state else state or state_folder(),
            state_bytes=int(state_gb * 2**30), state_days=state_days, log_requests=not quiet, log_prompts=log_prompts,
            opening=opening(OPENING, identity, knowledge_cutoff, date, under="--"),
        )  # fmt: skip
        kinds = {"dense": dense, "kv": kv, "threads": threads, "memory_gb": memory_gb}
        run(partial(load_model, model, backend, cache_bytes=settings.cache_bytes, **kinds), settings, typer.echo)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(str(error))
