"""An event loop in a thread, for coroutines of callers without an event loop.

In: a coroutine. Out: its result, in the caller's thread.
"""

import asyncio
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class BackgroundLoop:
    """Runs coroutines, one or several at once. The thread starts with the first one and ends with the object.

    All run on the same event loop, so they can share a connection.
    """

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Wait for the coroutine's result. Safe in any thread, also in one with a running event loop."""
        if threading.current_thread() is self._thread:  # would deadlock
            return BackgroundLoop().run(coroutine)
        future = asyncio.run_coroutine_threadsafe(coroutine, self.started())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def started(self) -> asyncio.AbstractEventLoop:
        """The event loop itself, in its running thread."""
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="ossia-tools", daemon=True)
                self._thread.start()
                weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()
