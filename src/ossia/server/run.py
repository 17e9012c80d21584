"""The server process: load the model, listen, print the address, and shut down gracefully.

Input: a model and settings. Returns after SIGTERM or Ctrl-C, when the running answers have ended.
"""

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from ossia.loading import Model
from ossia.server.app import app
from ossia.server.core.context import Context, RecentCalls
from ossia.server.core.hosted import hosted_sessions
from ossia.server.core.service import Service
from ossia.server.http.connections import Limits, protocol, raise_file_limit
from ossia.server.http.logs import UnawaitedErrors, write_log
from ossia.server.http.sockets import BACKLOG, listen, url_of
from ossia.server.settings import Settings
from ossia.server.state.store import Store

log = logging.getLogger("ossia.server")
KEEP_ALIVE_SECONDS = 75  # of an idle connection: longer than clients', which would write into a closed one
SWITCH_SECONDS = 0.001  # for which a thread may hold the interpreter; Python's default of 5 ms delays the event loop
LAST_SECONDS = 2  # for connections to close, after the answers have ended


def serve(load: Callable[[], Model], settings: Settings, show: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. `show` gets the address. Raises OSError, before the model is loaded, if the address
    cannot be used.
    """
    write_log(settings.log_prompts)
    sys.setswitchinterval(SWITCH_SECONDS)
    with listen(settings.host, settings.port) as listener:
        context = context_of(load(), settings)
        address = f"{context.service.name} at {url_of(listener)}, OpenAI's API at {url_of(listener)}/v1"
        server = Server(config_of(context), context, lambda: show(address))
        try:
            asyncio.run(server.serve([listener]))
        finally:
            if context.store:
                context.store.close()
        if not server.started:
            raise OSError("the server did not start: the log says why")


def config_of(context: Context) -> uvicorn.Config:
    """Settings of uvicorn. By default it would trust any local process's headers about the client's address."""
    settings = context.settings
    return uvicorn.Config(
        app(context),
        http=protocol(limits_of(settings)),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=settings.behind_proxy,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
    )


def limits_of(settings: Settings) -> Limits:
    """The limits of connections: no more than the process may open files. Behind a proxy, all have one address."""
    total, per_address = raise_file_limit(settings.max_connections), settings.max_connections_per_address
    if settings.behind_proxy:
        per_address = total
    elif per_address is None:
        per_address = max(1, total // 2)
    return Limits(settings.max_header_bytes, total, min(total, per_address), settings.write_timeout)


def context_of(model: Model, settings: Settings) -> Context:
    """The service, and the store if it has a folder."""
    service = Service(model, settings)
    hosted = hosted_sessions(settings.tools, service.tokenizer, service.context)
    if settings.state is None:
        return Context(settings, service, RecentCalls(), hosted=hosted)
    seconds = settings.state_days * 86400
    store = Store(settings.state, service.tokenizer, max_bytes=settings.state_bytes, max_seconds=seconds)
    service.metrics.watch_state(lambda: store.condition)
    if store.fault:
        log.warning("nothing is kept in %s: %s (give another --state, or --no-state)", settings.state, store.fault)
    return Context(settings, service, store, store, hosted=hosted)


class Server(uvicorn.Server):
    """At the first signal it rejects new answers with 503 and ends after the running ones. At the second it ends at once."""

    def __init__(self, config: uvicorn.Config, context: Context, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._context, self._say_started = context, started
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: list[asyncio.Task[None]] = []
        self._warming: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(UnawaitedErrors())
        await super().startup(sockets)
        if self.started:
            gc.collect()
            gc.freeze()  # loaded objects stay: garbage collections skip them
            self._say_started()
            self._warming = asyncio.ensure_future(self._context.service.warm())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal is not raised again afterwards, as uvicorn does: the exit status is 0."""
        if self._loop:
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        seconds = 0.0 if self._stopping else self._context.settings.shutdown_timeout
        self._stopping.append(asyncio.ensure_future(self._drain(seconds)))

    async def _drain(self, seconds: float) -> None:
        service = self._context.service
        if not await service.drain(seconds):
            log.warning("some answers were not finished in time")
            await service.close()  # tells their clients
        self.should_exit = True
