"""Reports progress at intervals while slow work runs.

In: a function that makes the line, and one that shows it. Out: a context manager around the work.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Event, Thread

FIRST_SECONDS = 1.0  # before the first line: work is usually faster
NEXT_SECONDS = 2.0  # between two lines


@contextmanager
def reported(line: Callable[[], str], show: Callable[[str], None]) -> Generator[None]:
    """Show a line after one second, and then every two seconds, until the block ends."""
    ended = Event()

    def report() -> None:
        seconds = FIRST_SECONDS
        while not ended.wait(seconds):
            show(line())
            seconds = NEXT_SECONDS

    thread = Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
