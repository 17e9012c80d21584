"""What the server writes to its log: never what was asked or answered, unless that is wanted.

In: whether it is. Out: a handler's format, and what becomes of failures that nobody waited for.
It does not know who logs what.
"""

import asyncio
import logging
import sqlite3
import time
import traceback
from types import TracebackType
from typing import Any

FORMAT = "%(asctime)s %(levelname)s %(message)s"
SECONDS = 10.0  # between two failures of one kind in the event loop
# What these say comes from the system. Any other exception may quote what it stumbled over.
PLAIN = (OSError, MemoryError, sqlite3.Error, AssertionError)


class Discreet(logging.Formatter):
    """Tracebacks without what the exceptions say: the places are told, a user's words are not."""

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # as another handler may have put it
        return super().format(record)

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        chain: list[BaseException] = []
        error = ei[1]
        while error and error not in chain:
            chain.append(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n\n".join(_told(error) for error in reversed(chain))


def _told(error: BaseException) -> str:
    places = "".join(traceback.format_tb(error.__traceback__))
    said = str(error) if isinstance(error, PLAIN) else "(what it says may quote a request: --log-prompts shows it)"
    return f"Traceback (most recent call last):\n{places}{type(error).__qualname__}: {said}"


def write_log(log_prompts: bool) -> None:
    """To stderr, from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter((logging.Formatter if log_prompts else Discreet)(FORMAT))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("ossia").setLevel(logging.INFO)


class Forgotten:
    """An event loop's handler of failures in tasks that are not awaited; asyncio's own words would quote the task.

    Of one kind it logs the first in a while: a failing accept() may come thousands of times a second.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def __call__(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message, now = context["message"], time.monotonic()
        if now - self._last.get(message, -SECONDS) < SECONDS:
            return
        self._last[message] = now
        logging.getLogger("ossia.server").error("in the event loop: %s", message, exc_info=context.get("exception"))
