"""The SQLite file of the state, with a connection for writing and one for reading.

In: functions over `Tables`. Out: their results; each is one transaction.

One thread calls `write`, another `read`. A full or read-only disk raises `StoreError`; later calls try again.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TypeVar

from ossia.server.state.clock import Clock
from ossia.server.state.disk import Condition, Reserve, Trouble, trouble_of
from ossia.server.state.sql import Tables, transaction

Result = TypeVar("Result")
log = logging.getLogger("ossia.server")
LOG_LIMIT = f"journal_size_limit = {8 << 20}"
RETRY_SECONDS = 5.0  # between two attempts to open what could not be opened
_STEP_PAGES = 64  # freed at a time on a full disk


class StoreError(RuntimeError):
    """The store cannot be used now. The message says why, and what to do."""


class Database:
    """The file in `folder`. max_bytes: of the file; the least recently used rows go first. max_seconds: since the last use.

    Opening never raises. If the file cannot be used, `fault` says why, and every call raises StoreError.
    """

    def __init__(self, folder: Path, max_bytes: int, max_seconds: float) -> None:
        self.path = folder / "state.sqlite"
        self.fault: str | None = None
        self.condition: Condition = "ok"
        self._max_bytes, self._max_seconds = max_bytes, max_seconds
        self._reserve = Reserve(folder)
        self._tried, self._is_final, self._is_prepared = 0.0, False, False
        self._lock: sqlite3.Connection | None = None
        self.writes: _Opened | None = None
        self._reads: _Opened | None = None
        self._reading = Lock()  # held while the connection that reads is used or exchanged
        self._clock: Clock | None = None
        self._log_number: tuple[int, int] | None = None

    def open(self) -> None:
        """Open the file, in the writing thread. After a failure, later calls try again, unless a person must repair it."""
        self._tried = time.monotonic()
        self._close_both()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except (sqlite3.Error, OSError) as error:
                self._close_both()
                if trouble_of(error, self.path).condition != "full" or not self._reserve.free():
                    raise
                self._open()  # even reading needs a little space
            self._reads = _Opened(self.path)
            self._reserve.take()
            self.fault = None
        except (StoreError, ValueError) as error:  # used by another server, or made by a newer one
            self._close_both()
            self.fault, self.condition, self._is_final = str(error), "failed", True
        except (sqlite3.Error, OSError) as error:
            self._close_both()
            self.condition, self.fault = trouble_of(error, self.path)
            self._is_final = self.condition == "damaged"

    def _open(self) -> None:
        if self._lock is None:
            self._lock = _lock(self.path.parent / "state.lock")
        self.writes = _Opened(self.path)
        _set_up(self.writes.connection)
        tables = Tables(self.writes.connection)
        try:
            self._prepare(tables)
        except ValueError as error:
            raise ValueError(f"{self.path.name} cannot be used: {error}") from error
        except sqlite3.OperationalError as error:
            if not tables.is_made:
                raise
            self._clock, self._is_prepared = Clock(tables.clock(), tables.newest()), False  # it can still be read
            self._failed(error, is_write=True)

    def _prepare(self, tables: Tables) -> None:
        with transaction(self._writing(), "IMMEDIATE"):
            tables.prepare()
            self._clock = Clock(tables.clock(), tables.newest())
            self._tick(tables, self._clock)
            tables.prune(tables.now - self._max_seconds, self._max_bytes)
        self._is_prepared, self.condition = True, "ok"

    @property
    def may_open(self) -> bool:
        """Whether to try again now."""
        return self.fault is not None and not self._is_final and time.monotonic() - self._tried >= RETRY_SECONDS

    @property
    def is_there(self) -> bool:
        """Whether the open file is the one in the folder."""
        return self.writes is not None and self.writes.is_there()

    def reopen(self) -> None:
        """Open a removed or replaced file again, in the writing thread."""
        with suppress(StoreError):
            self._writing()

    def close(self) -> None:
        self._close_both()
        if self._lock:
            self._lock.close()

    def write(self, work: Callable[[Tables], Result], *, wipe: bool = False, durable: bool = False) -> Result:
        """Run `work` as one transaction.

        wipe: it deletes. It is also tried on a full disk, and no copy stays in the write-ahead log. durable: the data is
        on the disk when this returns; otherwise a power failure may lose the last moments.
        """
        with self._explained():
            connection = self._writing()
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable or wipe else 'NORMAL'}")
            try:
                result = self._committed(connection, work)
            except sqlite3.OperationalError as error:
                if not wipe or trouble_of(error, self.path).condition != "full":
                    raise
                result = self._in_little_room(connection, work)
            if wipe:
                with suppress(sqlite3.Error):  # the write-ahead log has older copies still
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if self.condition != "ok":
                self._reserve.take()
            self.condition, self._log_number = "ok", _number(_log_of(self.path))
            return result

    def read(self, work: Callable[[Tables], Result]) -> Result:
        """Run `work` on a consistent snapshot."""
        try:
            with self._reading:
                if self._reads is None:
                    raise StoreError(self.fault or f"{self.path.name} cannot be used")
                with transaction(self._reads.connection):
                    return work(Tables(self._reads.connection))
        except sqlite3.DatabaseError as error:
            raise self._failed(error, is_write=False) from error

    def _committed(self, connection: sqlite3.Connection, work: Callable[[Tables], Result]) -> Result:
        tables = Tables(connection)
        if not self._is_prepared:
            self._prepare(tables)
        clock = self._clock
        assert clock is not None, "an open file has a clock"
        with transaction(connection, "IMMEDIATE"):
            self._tick(tables, clock)
            result = work(tables)
            tables.prune(tables.now - self._max_seconds, self._max_bytes)
        return result

    def _in_little_room(self, connection: sqlite3.Connection, work: Callable[[Tables], Result]) -> Result:
        """Delete with as few writes as possible, and free the pages a few at a time.

        The deleted bytes are not overwritten: the file is truncated, or other pages take their place.
        """
        log.warning("the disk of %s is full: deleting in the reserved space", self.path.name)
        self._reserve.free()
        for pragma in ("wal_checkpoint(TRUNCATE)", "secure_delete = OFF", "auto_vacuum = INCREMENTAL"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        try:
            with transaction(connection, "IMMEDIATE"):
                result = work(Tables(connection))
            before = -1
            while (free := connection.execute("PRAGMA freelist_count").fetchone()[0]) and free != before:
                before = free
                connection.execute(f"PRAGMA incremental_vacuum({_STEP_PAGES})").fetchall()
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            for pragma in ("secure_delete = ON", "auto_vacuum = FULL"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
        return result

    def _tick(self, tables: Tables, clock: Clock) -> None:
        was_doubted = clock.doubts
        if move := clock.tick():
            tables.move(*move, clock.state.now)
        if clock.doubts and not was_doubted:
            log.warning("the system's clock jumped: stored rows age by the earlier time for one day")
        tables.now = clock.state.now
        tables.save_clock(clock.state)

    def _writing(self) -> sqlite3.Connection:
        """The open connection. A removed or replaced file is opened, or created, again."""
        if self.writes is not None and self.writes.is_there():
            return self.writes.connection
        if self.writes is not None:
            log.warning("%s was removed or replaced while the server ran: it is opened again", self.path.name)
            self._close_both()
            self._drop_log()
            self.open()
        elif self.may_open:
            self.open()
        if self.writes is None:
            raise StoreError(self.fault or f"{self.path.name} cannot be used")
        return self.writes.connection

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise self._failed(error, is_write=True) from error

    def _failed(self, error: Exception, is_write: bool) -> StoreError:
        trouble: Trouble = trouble_of(error, self.path)
        if is_write or trouble.condition == "damaged":
            self.condition = trouble.condition
        if trouble.condition == "damaged":  # later calls would fail as well
            self.fault, self._is_final = trouble.message, True
        return StoreError(trouble.message)

    def _close_both(self) -> None:
        with self._reading:
            for opened in (self._reads, self.writes):
                if opened:
                    with suppress(sqlite3.Error):
                        opened.connection.close()
            self._reads = self.writes = None

    def _drop_log(self) -> None:
        """Delete the write-ahead log of a removed file: SQLite would apply it to another file of this name."""
        for path in (_log_of(self.path), self.path.with_name(f"{self.path.name}-shm")):
            if path.name.endswith("-shm") or _number(path) == self._log_number:
                with suppress(OSError):
                    path.unlink(missing_ok=True)


class _Opened:
    """A connection, and the identity of its file."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.touch(0o600)
        self.connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._path, self._number = path, _number(path)

    def is_there(self) -> bool:
        return _number(self._path) == self._number


def _number(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _set_up(connection: sqlite3.Connection) -> None:
    """Set up the file. Writes nothing if that was done before: the disk may be full."""
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0] != 1:
        connection.execute("PRAGMA auto_vacuum = FULL")
    for pragma in ("journal_mode = WAL", "secure_delete = ON", LOG_LIMIT):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _lock(path: Path) -> sqlite3.Connection:
    """A lock on the folder until it is closed or the process ends. SQLite's lock works on every system."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        connection.close()
        if error.sqlite_errorname not in ("SQLITE_BUSY", "SQLITE_LOCKED"):
            raise
        raise StoreError("another server keeps its state in the same folder: give this one another") from error
    return connection
