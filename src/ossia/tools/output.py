"""What a program writes, kept within a limit: the beginning and the end, and a note about what is left out.

In: pieces of bytes from pipes. Out: text. `PipeReader` reads a pipe on the event loop, `CallOutput` collects what one
call of a tool writes.
"""

import asyncio
import codecs
import os
from collections.abc import Callable

from ossia.tools.session import Report, ToolProgress

_PIECE = 1 << 16
_DRAIN = 1 << 20  # most that is read at the end of a call: a background process may still be writing


class HeadTail:
    """Keeps the first and the last half of a text. limit: characters."""

    def __init__(self, limit: int) -> None:
        self._half = max(limit // 2, 1)
        self._head, self._tail, self._total = "", "", 0

    @property
    def total(self) -> int:
        """All characters that were added."""
        return self._total

    def add(self, text: str) -> None:
        self._total += len(text)
        if room := self._half - len(self._head):
            self._head, text = self._head + text[:room], text[room:]
        self._tail += text
        if len(self._tail) > 2 * self._half:
            self._tail = self._tail[-self._half :]

    def text(self) -> str:
        """The text, with a note in place of the middle if that was left out."""
        left_out = self._total - len(self._head) - self._half
        if left_out <= 0:
            return self._head + self._tail
        return f"{self._head}\n[... {left_out} characters left out ...]\n{self._tail[-self._half :]}"


class PipeReader:
    """Reads a pipe as it is written. on_text: gets each piece. on_end: is called once when all writers have closed."""

    def __init__(self, on_text: Callable[[str], None], on_end: Callable[[], None] = lambda: None) -> None:
        self._read, self.writer = os.pipe()
        os.set_blocking(self._read, False)
        self._on_text, self._on_end = on_text, on_end
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._loop.add_reader(self._read, self._some)

    def close_writer(self) -> None:
        """Close our copy of the writing end, once the program has its own."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def drain(self) -> None:
        """Read what is in the pipe now."""
        for _ in range(_DRAIN // _PIECE):
            if not self._open or not self._some():
                return

    def _some(self) -> bool:
        try:
            piece = os.read(self._read, _PIECE)
        except BlockingIOError:
            return False
        if text := self._decoder.decode(piece, final=not piece):
            self._on_text(text)
        if not piece:
            self._loop.remove_reader(self._read)
            self._open = False
            self._on_end()
        return bool(piece)

    def close(self) -> None:
        """Safe to call twice."""
        self.close_writer()
        if self._read >= 0:
            if self._open:
                self._loop.remove_reader(self._read)
            self._open = False
            os.close(self._read)
            self._read = -1


class CallOutput:
    """What a program writes during one call. both: its two streams in the order in which they arrived.

    limit: characters that are kept of each. flood: more than that many make `flooded` true. report: gets each piece.
    """

    def __init__(self, limit: int, flood: int, report: Report) -> None:
        self.out, self.err, self.both = HeadTail(limit), HeadTail(limit), HeadTail(limit)
        self._flood, self._report = flood, report
        self.closed = False  # the call has returned: nothing is reported any more

    @property
    def flooded(self) -> bool:
        return self.both.total > self._flood

    def add(self, text: str, error: bool) -> None:
        (self.err if error else self.out).add(text)
        self.both.add(text)
        if not self.closed:
            self._report(ToolProgress(text, "stderr" if error else "stdout"))


class OutputPipes:
    """A program's output. call: where it goes; None at first. What comes between calls belongs to the last one."""

    def __init__(self) -> None:
        self.call: CallOutput | None = None
        self.flooded = asyncio.Event()
        self.ended = asyncio.Event()  # both pipes were closed by all writers
        self._open = 2
        self.out = PipeReader(lambda text: self._add(text, error=False), self._end)
        self.err = PipeReader(self._add_error, self._end)

    def _add(self, text: str, error: bool) -> None:
        if self.call:
            self.call.add(text, error)
            if self.call.flooded:
                self.flooded.set()

    def _add_error(self, text: str) -> None:
        self.out.drain()  # of two pieces that came in one turn of the event loop, output stands before errors
        self._add(text, error=True)

    def _end(self) -> None:
        self._open -= 1
        if not self._open:
            self.ended.set()

    def started(self) -> None:
        """Close our copies of the writing ends, once the program has its own."""
        self.out.close_writer()
        self.err.close_writer()

    def drain(self) -> None:
        self.out.drain()
        self.err.drain()

    def close(self) -> None:
        self.out.close()
        self.err.close()
