"""`ossia serve` as a process of its own.

In: options of the command line. Out: the process and its address; its log lies in a file, which a failure shows.
"""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import PATIENCE


@contextmanager
def server_process(
    *options: str, log: Path | int | None = None, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """log: where its standard error goes; a temporary file, unless said. A pipe here is one that the test reads, or not."""
    command = [sys.executable, "-m", "ossia", "serve", "--port", "0", *options]
    with tempfile.TemporaryDirectory() as folder:
        path = log if isinstance(log, Path) else Path(folder) / "log"
        with path.open("w") as file:
            started = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log if isinstance(log, int) else file,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            )
        try:
            yield started, address_in(started, path)
        finally:
            started.kill()
            started.wait()
            if started.stderr:
                started.stderr.close()


def address_in(process: subprocess.Popen[str], log: Path | None = None) -> str:
    """The address in its first line. What it says later is read and dropped, so that no pipe fills."""
    out = process.stdout
    assert out is not None
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    line = out.readline()
    watchdog.cancel()
    if " at http://" not in line:
        process.kill()
        raise AssertionError(f"the server did not start; it said {line!r}, and its log: {log and log.read_text()}")
    threading.Thread(target=out.read, daemon=True).start()
    return line.split(" at ")[1].split(",")[0].strip()
