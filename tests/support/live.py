"""The real app on a real port, in a thread of this process: for tests with a browser.

In: a model, and an engine where it is not the model's own. Out: its address. It does not know what is asked of it.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from ossia.loading import Model
from ossia.server.app import app
from ossia.server.core.context import Context
from ossia.server.core.hosted import HostedSessions
from ossia.server.core.service import Service
from ossia.server.core.worker import TokenEngine
from ossia.server.settings import Settings
from tests.support.waiting import until


@contextmanager
def live(
    model: Model,
    engine: TokenEngine | None = None,
    settings: Settings | None = None,
    port: int | None = None,
    hosted: HostedSessions | None = None,
) -> Iterator[str]:
    """Serve until the block is left. engine: used by this server only. hosted: the tools that the server runs."""
    settings = settings or Settings(log_requests=False)
    make: Callable[[], TokenEngine] | None = (lambda: engine) if engine else None
    service = Service(model, settings, make_engine=make)
    sock = socket.create_server(("127.0.0.1", port or 0))
    context = Context(settings, service, hosted=hosted or HostedSessions())
    config = uvicorn.Config(app(context), log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive(), "the server listens")
    assert server.started, "the server did not start"
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        sock.close()
