"""What outlives a request: responses, their items, conversations, and the thinking before a call. One SQLite file.

In: items as JSON, with the harmony message of what the model said. Out: the same again, after a kill -9 too, until age
or size pushes it out. It does not know HTTP or what an item means.

One thread writes, every write one transaction; another reads on a connection of its own. A damaged file or a full disk
is a `StoreError` for the request that met it: the server goes on without.
"""

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from ossia.harmony.messages import Message, Role
from ossia.tokenizer import Tokenizer

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
BATCH = 32  # rows that make room at a time
INTERRUPTED = {"code": "server_error", "message": "The server was stopped before this response was finished."}

Result = TypeVar("Result")


class StoreError(RuntimeError):
    """Nothing can be kept or found now; the message says why and what helps."""


class MissingError(LookupError):
    """A response that others go on from is not there; its id is the message."""


class Item(NamedTuple):
    """An item as JSON and, where the model said it, its message with the ids it was sampled as; of a call, its call_id."""

    id: str
    body: bytes
    said: Message | None = None
    call_id: str | None = None


class Made(NamedTuple):
    """What came of a response. calls: by call_id, the thinking before a call, and the call.

    into: the conversation to which its output is added, after the items that were `given`.
    """

    output: Sequence[Item]
    calls: Mapping[str, Sequence[Message]] = {}
    into: str | None = None
    given: Sequence[Item] = ()


class _Said(msgspec.Struct, array_like=True):
    """A message at rest. Its ids mean something to one vocabulary only."""

    vocabulary: str
    role: Role
    text: str
    name: str | None
    channel: str | None
    recipient: str | None
    content_type: str | None
    tokens: tuple[int, ...] | None


class Store:
    """Kept in `folder`. max_bytes: of the file; the longest unused go first. max_seconds: since a thing's last use.

    Opening never fails: `fault` says why nothing can be kept, and then every call raises StoreError.
    """

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, *, max_bytes: int = 1 << 30, max_seconds: float = 30 * 86400
    ) -> None:
        self.path = folder / "state.sqlite"
        self.fault: str | None = None
        self._vocabulary = vocabulary_of(tokenizer)
        self._max_bytes, self._max_seconds = max_bytes, max_seconds
        self._writer, self._reader = (ThreadPoolExecutor(1, f"store-{name}") for name in ("writer", "reader"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder / "state.lock")
            self._writes = _connect(self.path)
            self._writer.submit(self._prepare).result()
            self._reads = _connect(self.path)
        except (sqlite3.Error, OSError, StoreError) as error:
            self.fault = _explain(error, self.path)

    def close(self) -> None:
        """Wait for what is being written, then let go of the file."""
        self._writer.shutdown()
        self._reader.shutdown()
        for name in ("_writes", "_reads", "_lock"):
            if connection := getattr(self, name, None):
                with suppress(sqlite3.Error):
                    connection.close()

    # responses

    async def begin(self, response: str, status: str, body: bytes, previous: str | None, given: Sequence[Item]) -> None:
        """A response that is being made, with its input."""
        await self._write(lambda c: _begin(c, response, status, body, previous, self._rows(given)))

    async def update(self, response: str, status: str, body: bytes) -> None:
        """A response that has changed but goes on. One that was deleted stays deleted."""
        await self._write(lambda c: _update(c, response, status, body))

    async def finish(self, response: str, status: str, body: bytes, made: "Made") -> None:
        """A response is over: its output is kept, and added to its conversation. One that was deleted stays deleted."""
        calls = {call_id: self._said(messages) for call_id, messages in made.calls.items()}
        output, given = self._rows(made.output), self._rows(made.given)
        await self._write(lambda c: _finish(c, response, status, body, output, given, made.into, calls))

    async def response(self, response: str) -> bytes | None:
        return await self._read(lambda c: _body(c, "responses", response))

    async def delete(self, response: str) -> bool:
        """Delete a response and its items: their bytes are overwritten. False when there is none."""
        return await self._write(lambda c: _delete(c, "responses", response), wipe=True)

    async def input_items(self, response: str) -> list[Item] | None:
        """What a response was given, without what came before; None when there is no such response."""
        rows = await self._read(lambda c: _given(c, response))
        return None if rows is None else self._items(rows)

    async def history(self, response: str) -> list[Item]:
        """All items up to the end of a response, its predecessors' first. Raises MissingError for one that is gone."""
        chain, rows = await self._read(lambda c: _history(c, response))
        await self._write(lambda c: _touch(c, chain))
        return self._items(rows)

    async def item(self, item: str) -> Item | None:
        """The newest item of this id."""
        found = self._items(await self._read(lambda c: _item(c, item)))
        return found[0] if found else None

    # conversations

    async def create_conversation(self, conversation: str, body: bytes, items: Sequence[Item]) -> None:
        await self._write(lambda c: _create(c, conversation, body, self._rows(items)))

    async def conversation(self, conversation: str) -> bytes | None:
        return await self._read(lambda c: _body(c, "conversations", conversation))

    async def update_conversation(self, conversation: str, body: bytes) -> None:
        await self._write(lambda c: _change(c, conversation, body))

    async def delete_conversation(self, conversation: str) -> bool:
        return await self._write(lambda c: _delete(c, "conversations", conversation), wipe=True)

    async def conversation_items(self, conversation: str) -> list[Item]:
        return self._items(await self._read(lambda c: _items(c, conversation)))

    async def add_items(self, conversation: str, items: Sequence[Item]) -> None:
        await self._write(lambda c: _append(c, conversation, self._rows(items)))

    async def delete_item(self, conversation: str, item: str) -> bool:
        return await self._write(lambda c: _delete_item(c, conversation, item), wipe=True)

    # thinking before calls: for any thread but the event loop's

    def remember(self, call_id: str, messages: Sequence[Message]) -> None:
        """Keep what the model said up to and with a call, for clients that give back the call alone.

        What cannot be kept is forgotten: an answer is not to fail for it.
        """
        said = self._said(messages)
        with suppress(StoreError):
            self._wait(self._writer, lambda: self._committed(lambda c: _remember(c, call_id, None, said)))

    def recall(self, call_id: str) -> tuple[Message, ...]:
        """What was remembered with this call; nothing when it is gone or was never here."""
        said: bytes | None = None
        with suppress(StoreError):
            said = self._wait(self._reader, lambda: self._looked(lambda c: _recall(c, call_id)))
        return tuple(self._unpack(each) for each in msgspec.msgpack.decode(said, type=list[_Said])) if said else ()

    # within

    async def _write(self, work: Callable[[sqlite3.Connection], Result], wipe: bool = False) -> Result:
        """In the writer's thread; a caller that goes away does not stop it."""
        future = self._submit(self._writer, lambda: self._committed(work, wipe))
        return await asyncio.shield(asyncio.wrap_future(future))

    async def _read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        return await asyncio.wrap_future(self._submit(self._reader, lambda: self._looked(work)))

    def _wait(self, thread: ThreadPoolExecutor, run: Callable[[], Result]) -> Result:
        return self._submit(thread, run).result()

    def _submit(self, thread: ThreadPoolExecutor, run: Callable[[], Result]) -> "Future[Result]":
        if self.fault:
            raise StoreError(self.fault)
        return thread.submit(run)

    def _committed(self, work: Callable[[sqlite3.Connection], Result], wipe: bool = False) -> Result:
        """The work as one transaction."""
        with self._explained(), _transaction(self._writes):
            result = work(self._writes)
            self._prune()
        if wipe:  # the write-ahead log has older copies still
            with suppress(sqlite3.Error):
                self._writes.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return result

    def _looked(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._explained():
            return work(self._reads)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            message = _explain(error, self.path)
            if type(error) is sqlite3.DatabaseError:  # damaged: later calls would fail, too
                self.fault = message
            raise StoreError(message) from error

    def _prepare(self) -> None:
        """Make the tables, or mark what an earlier server left unfinished."""
        version = self._writes.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StoreError(f"{self.path} was made by a newer Ossia: use that one, or another state folder")
        with _transaction(self._writes):
            if version == 0:
                for statement in SCHEMA.split(";")[:-1]:
                    self._writes.execute(statement)
                self._writes.execute(f"PRAGMA user_version = {VERSION}")
            rows = self._writes.execute("SELECT id, body FROM responses WHERE status IN (?, ?)", UNFINISHED).fetchall()
            for response, body in rows:
                marked = {**msgspec.json.decode(body), "status": "failed", "error": INTERRUPTED}
                _update(self._writes, response, "failed", msgspec.json.encode(marked))
            self._prune()

    def _prune(self) -> None:
        """Within a transaction: forget what is too old, and then the longest unused until the rest fits."""
        before = time.time() - self._max_seconds
        for table in ("responses", "conversations", "calls"):
            _drop(self._writes, table, "used < ? LIMIT ?", (before, BATCH))
        while self._bytes() > self._max_bytes and any(
            _drop(self._writes, table, "1 ORDER BY used LIMIT ?", (BATCH,))
            for table in ("calls", "responses", "conversations")
        ):
            pass

    def _bytes(self) -> int:
        pragmas = ("page_count", "freelist_count", "page_size")
        pages, free, size = (self._writes.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas)
        return (pages - free) * size

    def _said(self, messages: Sequence[Message]) -> bytes:
        return msgspec.msgpack.encode([self._pack(each) for each in messages])

    def _pack(self, m: Message) -> _Said:
        return _Said(self._vocabulary, m.role, m.text, m.name, m.channel, m.recipient, m.content_type, m.tokens)

    def _unpack(self, s: _Said) -> Message:
        tokens = s.tokens if s.vocabulary == self._vocabulary else None
        return Message(s.role, (s.text,), s.name, s.channel, s.recipient, s.content_type, tokens)

    def _rows(self, items: Sequence[Item]) -> "list[_Row]":
        return [_Row(i.id, i.body, msgspec.msgpack.encode(self._pack(i.said)) if i.said else None) for i in items]

    def _items(self, rows: "Sequence[_Row]") -> list[Item]:
        return [
            Item(row.id, row.body, self._unpack(msgspec.msgpack.decode(row.said, type=_Said)) if row.said else None)
            for row in rows
        ]


class _Row(NamedTuple):
    id: str
    body: bytes
    said: bytes | None


def vocabulary_of(tokenizer: Tokenizer) -> str:
    """A short name for what a tokenizer's ids mean."""
    digest = hashlib.sha256()
    for token in range(tokenizer.size):
        digest.update(tokenizer.token_bytes(token) + b"\0")
    return digest.hexdigest()[:16]


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(0o600)
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    for pragma in ("auto_vacuum = FULL", "journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _lock(path: Path) -> sqlite3.Connection:
    """Held until closed, or until the process is gone: one server a folder. SQLite's lock works on every system."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        connection.close()
        raise StoreError(f"another server keeps its state in {path.parent}: give this one another folder") from error
    return connection


def _explain(error: Exception, path: Path) -> str:
    text = str(error)
    if isinstance(error, StoreError):
        return text
    if "full" in text:
        return f"the disk of {path} is full: free some space, or limit the store's size"
    if type(error) is sqlite3.DatabaseError:
        return f"{path} is damaged ({text}): stop the server and move the file away"
    return f"{path} cannot be used: {text}"


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _begin(
    c: sqlite3.Connection, response: str, status: str, body: bytes, previous: str | None, given: Sequence[_Row]
) -> None:
    c.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?)", (response, time.time(), status, previous, body))
    _add(c, response, given, output=False)


def _update(c: sqlite3.Connection, response: str, status: str, body: bytes) -> bool:
    return bool(c.execute("UPDATE responses SET status = ?, body = ? WHERE id = ?", (status, body, response)).rowcount)


def _finish(
    c: sqlite3.Connection,
    response: str,
    status: str,
    body: bytes,
    output: Sequence[_Row],
    given: Sequence[_Row],
    into: str | None,
    calls: Mapping[str, bytes],
) -> None:
    if _update(c, response, status, body):
        _add(c, response, output, output=True)
        for call_id, said in calls.items():
            _remember(c, call_id, response, said)
    if into is not None:
        _append(c, into, [*given, *output])


def _add(c: sqlite3.Connection, owner: str, rows: Sequence[_Row], output: bool) -> None:
    first = c.execute("SELECT coalesce(max(place) + 1, 0) FROM items WHERE owner = ?", (owner,)).fetchone()[0]
    places = enumerate(rows, first)
    c.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", [(owner, at, output, *row) for at, row in places])


def _body(c: sqlite3.Connection, table: str, owner: str) -> bytes | None:
    row = c.execute(f"SELECT body FROM {table} WHERE id = ?", (owner,)).fetchone()
    return row[0] if row else None


def _given(c: sqlite3.Connection, response: str) -> list[_Row] | None:
    found = _body(c, "responses", response) is not None
    return _rows_where(c, "owner = ? AND NOT output ORDER BY place", response) if found else None


def _items(c: sqlite3.Connection, owner: str) -> list[_Row]:
    return _rows_where(c, "owner = ? ORDER BY place", owner)


def _item(c: sqlite3.Connection, item: str) -> list[_Row]:
    return _rows_where(c, "id = ? ORDER BY rowid DESC LIMIT 1", item)


def _rows_where(c: sqlite3.Connection, condition: str, value: str) -> list[_Row]:
    return [_Row(*row) for row in c.execute(f"SELECT id, body, said FROM items WHERE {condition}", (value,))]


def _history(c: sqlite3.Connection, response: str) -> tuple[list[str], list[_Row]]:
    chain: list[str] = []
    at: str | None = response
    while at is not None:
        row = c.execute("SELECT previous FROM responses WHERE id = ?", (at,)).fetchone()
        if row is None:
            raise MissingError(at)
        chain.append(at)
        at = row[0]
    return chain, [row for owner in reversed(chain) for row in _items(c, owner)]


def _touch(c: sqlite3.Connection, responses: Sequence[str]) -> None:
    """What an answer goes on from is in use: a conversation is not to lose its beginning."""
    c.executemany("UPDATE responses SET used = ? WHERE id = ?", [(time.time(), each) for each in responses])


def _delete(c: sqlite3.Connection, table: str, owner: str) -> bool:
    c.execute("DELETE FROM items WHERE owner = ?", (owner,))
    c.execute("DELETE FROM calls WHERE owner = ?", (owner,))
    return bool(c.execute(f"DELETE FROM {table} WHERE id = ?", (owner,)).rowcount)


def _drop(c: sqlite3.Connection, table: str, which: str, values: Sequence[object]) -> int:
    """Delete rows with their items; a response that is being made stays."""
    kept = f"status NOT IN {UNFINISHED} AND " if table == "responses" else ""
    owners = c.execute(f"SELECT id FROM {table} WHERE {kept}{which}", values).fetchall()
    c.executemany("DELETE FROM items WHERE owner = ?", owners)
    c.executemany("DELETE FROM calls WHERE owner = ?", owners)
    c.executemany(f"DELETE FROM {table} WHERE id = ?", owners)
    return len(owners)


def _create(c: sqlite3.Connection, conversation: str, body: bytes, items: Sequence[_Row]) -> None:
    c.execute("INSERT INTO conversations VALUES (?, ?, ?)", (conversation, time.time(), body))
    _add(c, conversation, items, output=False)


def _change(c: sqlite3.Connection, conversation: str, body: bytes) -> None:
    c.execute("UPDATE conversations SET body = ?, used = ? WHERE id = ?", (body, time.time(), conversation))


def _append(c: sqlite3.Connection, conversation: str, items: Sequence[_Row]) -> None:
    if c.execute("UPDATE conversations SET used = ? WHERE id = ?", (time.time(), conversation)).rowcount:
        _add(c, conversation, items, output=False)


def _delete_item(c: sqlite3.Connection, owner: str, item: str) -> bool:
    return bool(c.execute("DELETE FROM items WHERE owner = ? AND id = ?", (owner, item)).rowcount)


def _remember(c: sqlite3.Connection, call_id: str, owner: str | None, said: bytes) -> None:
    c.execute("INSERT OR REPLACE INTO calls VALUES (?, ?, ?, ?)", (call_id, time.time(), owner, said))


def _recall(c: sqlite3.Connection, call_id: str) -> bytes | None:
    row = c.execute("SELECT said FROM calls WHERE id = ?", (call_id,)).fetchone()
    return row[0] if row else None
