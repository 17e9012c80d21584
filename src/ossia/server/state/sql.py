"""The tables of the store, and all SQL statements. The caller opens a transaction around each call.

In: a connection to SQLite, and rows. Out: rows.
"""

import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import msgspec

from ossia.server.state.clock import ClockState

VERSION = 1  # of the tables
SCHEMA = """
CREATE TABLE responses (
    id TEXT PRIMARY KEY, used REAL NOT NULL, status TEXT NOT NULL, previous TEXT, body BLOB NOT NULL);
CREATE TABLE conversations (id TEXT PRIMARY KEY, used REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE items (
    owner TEXT NOT NULL, place INTEGER NOT NULL, output INTEGER NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL, said BLOB,
    PRIMARY KEY (owner, place));
CREATE INDEX items_by_id ON items (id);
CREATE TABLE calls (id TEXT PRIMARY KEY, used REAL NOT NULL, owner TEXT, said BLOB NOT NULL);
CREATE INDEX calls_by_owner ON calls (owner);
CREATE INDEX responses_by_use ON responses (used);
CREATE INDEX conversations_by_use ON conversations (used);
CREATE INDEX calls_by_use ON calls (used);
"""
UNFINISHED = ("queued", "in_progress")
MIN_BYTES = 1024  # counted for a response, even an empty one: a chain may be long
BATCH = 8  # rows that are deleted at a time
# tables with rows that expire, and which of them: responses in progress stay
OWNERS = {"responses": f"status NOT IN {UNFINISHED}", "conversations": "true", "calls": "true"}
INTERRUPTED = {"code": "server_error", "message": "The server was stopped before this response was finished."}


class MissingError(LookupError):
    """A response that a request continues does not exist. The message is its id."""


class TooLargeError(LookupError):
    """The items have more bytes than the caller allows. Nothing was read."""


class StoredRow(NamedTuple):
    """An item as it is stored."""

    id: str
    body: bytes
    message: bytes | None


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "") -> Generator[None]:
    """A transaction. kind: IMMEDIATE for one that writes. One that reads sees a snapshot."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


class Tables:
    """All statements over one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._c = connection
        self.now = 0.0  # the timestamp of new rows

    def prepare(self) -> None:
        """Create the tables, or mark responses that an earlier server left unfinished. Raises ValueError for newer tables."""
        version = self._pragma("user_version")
        if version > VERSION:
            raise ValueError("it was made by a newer Ossia: use that one, or another folder")
        if version == 0:
            for statement in SCHEMA.split(";")[:-1]:
                self._c.execute(statement)
            self._c.execute(f"PRAGMA user_version = {VERSION}")
        self._c.execute("CREATE TABLE IF NOT EXISTS clock (id INTEGER PRIMARY KEY, now REAL, doubted REAL, begun REAL)")
        unfinished = f"SELECT id, body FROM responses WHERE status IN {UNFINISHED}"
        for response, body in self._c.execute(unfinished).fetchall():
            marked = {**msgspec.json.decode(body), "status": "failed", "error": INTERRUPTED}
            self.update(response, "failed", msgspec.json.encode(marked))

    def prune(self, before: float, max_bytes: int) -> None:
        """Delete rows last used before that time, and then the least recently used, until the rest fits."""
        for table in OWNERS:
            self._drop(table, "used < ? LIMIT ?", (before, BATCH))
        while self._bytes() > max_bytes:
            oldest = [(used, table) for table in OWNERS if (used := self._oldest(table)) is not None]
            if not oldest:
                return
            self._drop(min(oldest)[1], "1 ORDER BY used LIMIT ?", (BATCH,))

    @property
    def is_made(self) -> bool:
        """Whether the tables exist."""
        return self._pragma("user_version") == VERSION

    def clock(self) -> ClockState | None:
        """The stored state of the clock."""
        if not self._c.execute("SELECT 1 FROM sqlite_master WHERE name = 'clock'").fetchone():
            return None
        row = self._c.execute("SELECT now, doubted, begun FROM clock").fetchone()
        return ClockState(*row) if row else None

    def save_clock(self, state: ClockState) -> None:
        self._c.execute("INSERT OR REPLACE INTO clock VALUES (1, ?, ?, ?)", state)

    def newest(self) -> float | None:
        """The newest time of use."""
        found = [self._c.execute(f"SELECT max(used) FROM {table}").fetchone()[0] for table in OWNERS]
        return max((used for used in found if used is not None), default=None)

    def move(self, begun: float, seconds: float, now: float) -> None:
        """Move times of use from `begun` on by `seconds`, at most to now."""
        for table in OWNERS:
            self._c.execute(f"UPDATE {table} SET used = used + ? WHERE used >= ?", (seconds, begun))
            self._c.execute(f"UPDATE {table} SET used = ? WHERE used > ?", (now, now))

    def _bytes(self) -> int:
        return (self._pragma("page_count") - self._pragma("freelist_count")) * self._pragma("page_size")

    def _pragma(self, name: str) -> int:
        return self._c.execute(f"PRAGMA {name}").fetchone()[0]

    def _oldest(self, table: str) -> float | None:
        return self._c.execute(f"SELECT min(used) FROM {table} WHERE {OWNERS[table]}").fetchone()[0]

    def begin(self, response: str, status: str, body: bytes, previous: str | None, given: Sequence[StoredRow]) -> None:
        self._c.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?)", (response, self.now, status, previous, body))
        self._add(response, given, output=False)

    def update(self, response: str, status: str, body: bytes) -> bool:
        return bool(
            self._c.execute("UPDATE responses SET status = ?, body = ? WHERE id = ?", (status, body, response)).rowcount
        )

    def finish(
        self,
        response: str,
        status: str,
        body: bytes,
        output: Sequence[StoredRow],
        given: Sequence[StoredRow],
        conversation: str | None,
        calls: Mapping[str, bytes],
    ) -> None:
        if self.update(response, status, body):
            self._add(response, output, output=True)
            for call_id, message in calls.items():
                self.remember(call_id, response, message)
        if conversation is not None:
            self.append(conversation, [*given, *output])

    def _add(self, owner: str, rows: Sequence[StoredRow], output: bool) -> None:
        first = self._c.execute("SELECT coalesce(max(place) + 1, 0) FROM items WHERE owner = ?", (owner,)).fetchone()[0]
        places = enumerate(rows, first)
        self._c.executemany(
            "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", [(owner, at, output, *row) for at, row in places]
        )

    def body(self, table: str, owner: str) -> bytes | None:
        row = self._c.execute(f"SELECT body FROM {table} WHERE id = ?", (owner,)).fetchone()
        return row[0] if row else None

    def given(self, response: str) -> list[StoredRow] | None:
        found = self.body("responses", response) is not None
        return self._rows("owner = ? AND NOT output ORDER BY place", response) if found else None

    def items(self, owner: str, max_bytes: int | None = None) -> list[StoredRow]:
        if max_bytes is not None and self._size(owner) > max_bytes:
            raise TooLargeError
        return self._rows("owner = ? ORDER BY place", owner)

    def item(self, item: str) -> list[StoredRow]:
        return self._rows("id = ? ORDER BY rowid DESC LIMIT 1", item)

    def _rows(self, condition: str, value: str) -> list[StoredRow]:
        return [
            StoredRow(*row) for row in self._c.execute(f"SELECT id, body, said FROM items WHERE {condition}", (value,))
        ]

    def _size(self, owner: str) -> int:
        sizes = "sum(length(body) + coalesce(length(said), 0))"
        return self._c.execute(f"SELECT coalesce({sizes}, 0) FROM items WHERE owner = ?", (owner,)).fetchone()[0]

    def item_sizes(self, items: Sequence[str]) -> dict[str, int]:
        """Bytes of the newest item of each id, for the ids that exist."""
        query = "SELECT length(body) FROM items WHERE id = ? ORDER BY rowid DESC LIMIT 1"
        found = {item: self._c.execute(query, (item,)).fetchone() for item in items}
        return {item: row[0] for item, row in found.items() if row}

    def history(self, response: str, max_bytes: int | None = None) -> tuple[list[str], list[StoredRow]]:
        chain: list[str] = []
        size = 0
        at: str | None = response
        while at is not None:
            row = self._c.execute("SELECT previous FROM responses WHERE id = ?", (at,)).fetchone()
            if row is None:
                raise MissingError(at)
            chain.append(at)
            if max_bytes is not None and (size := size + MIN_BYTES + self._size(at)) > max_bytes:
                raise TooLargeError
            at = row[0]
        return chain, [row for owner in reversed(chain) for row in self.items(owner)]

    def touch(self, responses: Sequence[str]) -> None:
        """Mark continued responses as used, so that a conversation does not lose its beginning."""
        self._c.executemany("UPDATE responses SET used = ? WHERE id = ?", [(self.now, each) for each in responses])

    def delete(self, table: str, owner: str) -> bool:
        self._c.execute("DELETE FROM items WHERE owner = ?", (owner,))
        self._c.execute("DELETE FROM calls WHERE owner = ?", (owner,))
        return bool(self._c.execute(f"DELETE FROM {table} WHERE id = ?", (owner,)).rowcount)

    def _drop(self, table: str, which: str, values: Sequence[object]) -> None:
        """Delete rows with their items and calls."""
        owners = self._c.execute(f"SELECT id FROM {table} WHERE {OWNERS[table]} AND {which}", values).fetchall()
        self._c.executemany("DELETE FROM items WHERE owner = ?", owners)
        self._c.executemany("DELETE FROM calls WHERE owner = ?", owners)
        self._c.executemany(f"DELETE FROM {table} WHERE id = ?", owners)

    def create(self, conversation: str, body: bytes, items: Sequence[StoredRow]) -> None:
        self._c.execute("INSERT INTO conversations VALUES (?, ?, ?)", (conversation, self.now, body))
        self._add(conversation, items, output=False)

    def change(self, conversation: str, body: bytes) -> None:
        self._c.execute("UPDATE conversations SET body = ?, used = ? WHERE id = ?", (body, self.now, conversation))

    def append(self, conversation: str, items: Sequence[StoredRow]) -> None:
        if self._c.execute("UPDATE conversations SET used = ? WHERE id = ?", (self.now, conversation)).rowcount:
            self._add(conversation, items, output=False)

    def delete_item(self, owner: str, item: str) -> bool:
        return bool(self._c.execute("DELETE FROM items WHERE owner = ? AND id = ?", (owner, item)).rowcount)

    def remember(self, call_id: str, owner: str | None, message: bytes) -> None:
        self._c.execute("INSERT OR REPLACE INTO calls VALUES (?, ?, ?, ?)", (call_id, self.now, owner, message))

    def recall(self, call_id: str) -> bytes | None:
        row = self._c.execute("SELECT said FROM calls WHERE id = ?", (call_id,)).fetchone()
        return row[0] if row else None
