"""The server's log. It has no prompts and answers unless --log-prompts is set; then they are escaped.

Output: a log handler, and a handler for exceptions in tasks that are not awaited.
"""

import asyncio
import logging
import os
import sqlite3
import threading
import time
import traceback
import unicodedata
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

FORMAT = "%(asctime)s %(levelname)s %(message)s"
MAX_LINE = 16384  # characters of a line
SECONDS = 10.0  # between two log messages of one kind of error in the event loop
STDERR = 2  # its file descriptor
UNWRITTEN_BYTES = 4 << 20  # of lines that wait to be written
LAST_SECONDS = 2.0  # for the lines that wait when the process ends
# Their messages come from the system. Messages of other exceptions may quote a request.
PLAIN = (OSError, MemoryError, sqlite3.Error, AssertionError)


# They can end a line, control a terminal, or change the reading order: controls, formats, separators, lone surrogates.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


class OneLine(logging.Formatter):
    """A line for a record, and a traceback below it. Text from a client cannot look like another line.

    quotes: whether tracebacks contain exception messages, which may quote a user.
    """

    def __init__(self, fmt: str | None = None, quotes: bool = False) -> None:
        super().__init__(fmt)
        self.quotes = quotes

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # another handler may have set it
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escaped(shortened(super().formatMessage(record)))

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        chain: list[BaseException] = []
        error = ei[1]
        while error and error not in chain:
            chain.append(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n\n".join(self._formatted(error) for error in reversed(chain))

    def _formatted(self, error: BaseException) -> str:
        places = "".join(traceback.format_tb(error.__traceback__))
        is_plain = self.quotes or isinstance(error, PLAIN)
        message = (
            escaped(shortened(str(error))) if is_plain else "(what it says may quote a request: --log-prompts shows it)"
        )
        return f"Traceback (most recent call last):\n{places}{type(error).__qualname__}: {message}"


def shortened(text: str) -> str:
    """A long text's beginning and end: a prompt of megabytes would block the event loop and fill the disk."""
    left = len(text) - MAX_LINE
    if left <= 0:
        return text
    return f"{text[: MAX_LINE // 2]} ... {left} characters left out ... {text[len(text) - MAX_LINE // 2 :]}"


def escaped(text: str) -> str:
    """The text on one line, with backslashes and unsafe characters as Python's escapes."""
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if unicodedata.category(character) not in _UNSAFE:
        return character
    return character.encode("unicode_escape").decode("ascii")


class Writer(logging.Handler):
    """Writes lines in a separate thread, so that a full pipe or a slow disk does not block the server.

    write: takes bytes, returns how many it wrote, may block. Lines above UNWRITTEN_BYTES are left out and counted.
    """

    def __init__(self, write: Callable[[bytes], int]) -> None:
        super().__init__()
        self._write = write
        self._lines: deque[bytes] = deque()
        self._size = self._left_out = 0  # bytes that wait, and lines
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="ossia-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record).encode(errors="backslashreplace") + b"\n"
        with self._changed:
            if self._size + len(line) > UNWRITTEN_BYTES:
                self._left_out += 1
                return
            if self._left_out:
                notice = f"{self._left_out} lines were left out: what reads the log is too slow\n".encode()
                self._add(notice)
                self._left_out = 0
            self._add(line)

    def flush(self) -> None:
        """Wait until all lines are written, for two seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._size, LAST_SECONDS)

    def _add(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                line = self._lines.popleft()
            failed = not self._whole(line)
            with self._changed:
                self._size -= len(line)
                self._left_out += failed
                self._changed.notify_all()

    def _whole(self, line: bytes) -> bool:
        try:
            while line:
                line = line[self._write(line) :]
        except OSError:  # a closed pipe, a full disk
            return False
        return True


def write_log(log_prompts: bool) -> None:
    """Write the log to stderr."""
    handler = Writer(lambda data: os.write(STDERR, data))
    handler.setFormatter(OneLine(FORMAT, quotes=log_prompts))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("ossia").setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every write to a client that has left


class UnawaitedErrors:
    """The event loop's handler of errors in tasks that are not awaited. asyncio's own message would quote the task.

    It logs errors of one kind at most every ten seconds: accept() may fail thousands of times a second.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def __call__(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message, now = context["message"], time.monotonic()
        if now - self._last.get(message, -SECONDS) < SECONDS:
            return
        self._last[message] = now
        logging.getLogger("ossia.server").error("in the event loop: %s", message, exc_info=context.get("exception"))
