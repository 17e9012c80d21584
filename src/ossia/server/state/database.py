"""The SQLite file of the state: one connection that writes, one that reads, opened again where the disk allows it again.

In: work on `Tables`. Out: its result, all of it on the disk or nothing. It does not know what rows mean, nor asyncio.

One thread calls `write`, another `read`. A full or read-only disk is a `StoreError` of that call; later ones try again.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
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
_STEP_PAGES = 64  # given back to a full disk at a time


class StoreError(RuntimeError):
    """Nothing can be kept or found now; the message says why and what helps."""


class Database:
    """The file in `folder`. max_bytes: of the file; the longest unused go first. max_seconds: since a thing's last use.

    Opening never fails: `fault` says why the file cannot be used, and then every call raises StoreError.
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
        """In the thread that writes. Where it fails, `write` and `read` try again, but for what a person must mend."""
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
                self._open()  # a file that is only read needs a little room, too
            self._reads = _Opened(self.path)
            self._reserve.take()
            self.fault = None
        except (StoreError, ValueError) as error:  # another server's, or a newer one's
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
            self._clock, self._is_prepared = Clock(tables.clock(), tables.newest()), False  # it can be read, at least
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
        """Whether it is time to try again."""
        return self.fault is not None and not self._is_final and time.monotonic() - self._tried >= RETRY_SECONDS

    @property
    def is_there(self) -> bool:
        """Whether the open file is the one in the folder."""
        return self.writes is not None and self.writes.is_there()

    def reopen(self) -> None:
        """In the thread that writes: open what was removed or replaced."""
        with suppress(StoreError):
            self._writing()

    def close(self) -> None:
        self._close_both()
        if self._lock:
            self._lock.close()

    def write(self, work: Callable[[Tables], Result], *, wipe: bool = False, durable: bool = False) -> Result:
        """The work as one transaction. wipe: it deletes, so it is tried with less room, too, and no copy stays in the log.

        durable: it is on the disk when this returns, even should the power fail; else the last moments may be lost.
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
        """The state of one moment."""
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
        """Deleted with the least that can be written, and the pages given back a few at a time.

        The bytes are not overwritten one by one: the file is cut, or other pages take their place.
        """
        log.warning("the disk of %s is full: deleting in the room set aside", self.path.name)
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
            tables.move(*move, clock.kept.now)
        if clock.doubts and not was_doubted:
            log.warning("the system's clock jumped: what is kept ages by the time before, until a day has passed")
        tables.now = clock.kept.now
        tables.keep_clock(clock.kept)

    def _writing(self) -> sqlite3.Connection:
        """The open connection. A file that was removed or replaced meanwhile is opened, or made, anew."""
        if self.writes is not None and self.writes.is_there():
            return self.writes.connection
        if self.writes is not None:
            log.warning("%s was removed or replaced while the server ran: it is opened anew", self.path.name)
            self._close_both()
            self._drop_log()
            self.open()
        elif self.may_open:
            self.open()
        if self.writes is None:
            raise StoreError(self.fault or f"{self.path.name} cannot be used")
        return self.writes.connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise self._failed(error, is_write=True) from error

    def _failed(self, error: Exception, is_write: bool) -> StoreError:
        trouble: Trouble = trouble_of(error, self.path)
        if is_write or trouble.condition == "damaged":
            self.condition = trouble.condition
        if trouble.condition == "damaged":  # later calls would fail, too
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
        """The write-ahead log of a file that is gone: SQLite would read it into another file of this name."""
        for path in (_log_of(self.path), self.path.with_name(f"{self.path.name}-shm")):
            if path.name.endswith("-shm") or _number(path) == self._log_number:
                with suppress(OSError):
                    path.unlink(missing_ok=True)


class _Opened:
    """A connection, and which file it is."""

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
    """Without a write where the file is set up already: the disk may be full."""
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0] != 1:
        connection.execute("PRAGMA auto_vacuum = FULL")
    for pragma in ("journal_mode = WAL", "secure_delete = ON", LOG_LIMIT):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _lock(path: Path) -> sqlite3.Connection:
    """Held until closed, or until the process is gone: one server a folder. SQLite's lock works on every system."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        connection.close()
        if error.sqlite_errorname not in ("SQLITE_BUSY", "SQLITE_LOCKED"):
            raise
        raise StoreError("another server keeps its state in the same folder: give this one another") from error
    return connection
