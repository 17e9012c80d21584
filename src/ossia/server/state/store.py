"""Stores responses, their items, conversations, and the messages before tool calls, in one SQLite file.

In: items as JSON, with the harmony messages that the model sampled. Out: the same, also after a kill -9, until they
expire by age or size.

One thread writes; each write is a transaction. Another thread reads on its own connection. A damaged file or a full disk
is a `StoreError` for the request, and the server continues. Completed, changed and deleted responses are on the disk when
the client is informed. The first rows of a response and times of use follow within seconds.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from ossia.harmony.messages import Message, Role
from ossia.server.state.database import Database, StoreError
from ossia.server.state.disk import Condition
from ossia.server.state.sql import StoredRow, Tables
from ossia.tokenizer.tokenizer import Tokenizer

Result = TypeVar("Result")


class Item(NamedTuple):
    """An item as JSON. message: as the model sampled it, with its token ids. call_id: of a call.

    result: the answer of a tool that this server ran.
    """

    id: str
    body: bytes
    message: Message | None = None
    call_id: str | None = None
    result: Message | None = None


class ResponseResult(NamedTuple):
    """The result of a response. calls: by call_id, the messages before a call, and the call.

    conversation: to which the `given` items and the output are added.
    """

    output: Sequence[Item]
    calls: Mapping[str, Sequence[Message]] = {}
    conversation: str | None = None
    given: Sequence[Item] = ()


class _StoredMessage(msgspec.Struct, array_like=True):
    """A message as it is stored. Its token ids are valid for one vocabulary only."""

    vocabulary: str
    role: Role
    text: str
    name: str | None
    channel: str | None
    recipient: str | None
    content_type: str | None
    tokens: tuple[int, ...] | None
    result: "_StoredMessage | None" = None


class Store:
    """A store in `folder`. max_bytes: of the file; the least recently used rows go first. max_seconds: since the last use.

    Opening never raises. If the file cannot be used, `fault` says why, and every call raises StoreError.
    """

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, *, max_bytes: int = 1 << 30, max_seconds: float = 30 * 86400
    ) -> None:
        self._vocabulary = vocabulary_of(tokenizer)
        self.writer, self._reader = (ThreadPoolExecutor(1, f"store-{name}") for name in ("writer", "reader"))
        self.database = Database(folder, max_bytes, max_seconds)
        self.writer.submit(self.database.open).result()

    @property
    def fault(self) -> str | None:
        """Why the store cannot be used; None if it can. A temporary fault is tried again after a while."""
        if self.database.may_open:
            self.writer.submit(lambda: self.database.open() if self.database.may_open else None)
        return self.database.fault

    @property
    def condition(self) -> Condition:
        """The result of the last write."""
        return self.database.condition

    def close(self) -> None:
        """Wait for pending writes, then close the file."""
        self.writer.shutdown()
        self._reader.shutdown()
        self.database.close()

    # responses

    async def begin(self, response: str, status: str, body: bytes, previous: str | None, given: Sequence[Item]) -> None:
        """Store a response in progress, with its input."""
        await self._write(lambda t: t.begin(response, status, body, previous, self._rows(given)))

    async def update(self, response: str, status: str, body: bytes) -> None:
        """Store a changed response in progress. A deleted one stays deleted."""
        await self._write(lambda t: t.update(response, status, body))

    async def finish(self, response: str, status: str, body: bytes, result: "ResponseResult") -> None:
        """Store an ended response and its output, also in its conversation. A deleted one stays deleted."""
        calls = {call_id: self._encoded(messages) for call_id, messages in result.calls.items()}
        output, given = self._rows(result.output), self._rows(result.given)
        await self._write(
            lambda t: t.finish(response, status, body, output, given, result.conversation, calls), durable=True
        )

    async def response(self, response: str) -> bytes | None:
        return await self._read(lambda t: t.body("responses", response))

    async def delete(self, response: str) -> bool:
        """Delete a response and its items, and overwrite their bytes. False if there is none."""
        return await self._write(lambda t: t.delete("responses", response), wipe=True)

    async def input_items(self, response: str) -> list[Item] | None:
        """The input of a response, without earlier items; None if there is no such response."""
        rows = await self._read(lambda t: t.given(response))
        return None if rows is None else self._items(rows)

    async def history(self, response: str, max_bytes: int | None = None) -> list[Item]:
        """All items up to the end of a response, those of its predecessors first. Raises MissingError for a response that
        does not exist, and TooLargeError for more than `max_bytes`.
        """
        chain, rows = await self._read(lambda t: t.history(response, max_bytes))
        with suppress(StoreError):  # reading works on a full disk
            await self._write(lambda t: t.touch(chain))
        return self._items(rows)

    async def item(self, item: str) -> Item | None:
        """The newest item of this id."""
        found = self._items(await self._read(lambda t: t.item(item)))
        return found[0] if found else None

    async def item_sizes(self, items: Sequence[str]) -> dict[str, int]:
        """Bytes of each item, for the ids that exist."""
        return await self._read(lambda t: t.item_sizes(items))

    # conversations

    async def create_conversation(self, conversation: str, body: bytes, items: Sequence[Item]) -> None:
        await self._write(lambda t: t.create(conversation, body, self._rows(items)), durable=True)

    async def conversation(self, conversation: str) -> bytes | None:
        return await self._read(lambda t: t.body("conversations", conversation))

    async def update_conversation(self, conversation: str, body: bytes) -> None:
        await self._write(lambda t: t.change(conversation, body), durable=True)

    async def delete_conversation(self, conversation: str) -> bool:
        return await self._write(lambda t: t.delete("conversations", conversation), wipe=True)

    async def conversation_items(self, conversation: str, max_bytes: int | None = None) -> list[Item]:
        """Raises TooLargeError for more bytes than `max_bytes`."""
        return self._items(await self._read(lambda t: t.items(conversation, max_bytes)))

    async def add_items(self, conversation: str, items: Sequence[Item]) -> None:
        await self._write(lambda t: t.append(conversation, self._rows(items)), durable=True)

    async def delete_item(self, conversation: str, item: str) -> bool:
        return await self._write(lambda t: t.delete_item(conversation, item), wipe=True)

    # messages before calls: not for the event loop's thread

    def remember(self, call_id: str, messages: Sequence[Message]) -> None:
        """Store the messages up to a call, for clients that send back only the call.

        A failure is ignored, so that the answer does not fail.
        """
        message = self._encoded(messages)
        with suppress(StoreError):
            self._wait(self.writer, lambda: self.database.write(lambda t: t.remember(call_id, None, message)))

    def recall(self, call_id: str) -> tuple[Message, ...]:
        """The stored messages of this call; none if there are none."""
        message: bytes | None = None
        with suppress(StoreError):
            message = self._wait(self._reader, lambda: self.database.read(lambda t: t.recall(call_id)))
        return (
            tuple(self._unpack(each) for each in msgspec.msgpack.decode(message, type=list[_StoredMessage]))
            if message
            else ()
        )

    # internals

    async def _write(self, work: Callable[[Tables], Result], wipe: bool = False, durable: bool = False) -> Result:
        """Run in the writer's thread, one after another. Cancelling the caller does not stop the write."""
        future = self._submit(self.writer, lambda: self.database.write(work, wipe=wipe, durable=durable))
        return await asyncio.shield(asyncio.wrap_future(future))

    async def _read(self, work: Callable[[Tables], Result]) -> Result:
        if not self.database.is_there:
            await asyncio.wrap_future(self._submit(self.writer, self.database.reopen))
        return await asyncio.wrap_future(self._submit(self._reader, lambda: self.database.read(work)))

    def _wait(self, thread: ThreadPoolExecutor, run: Callable[[], Result]) -> Result:
        return self._submit(thread, run).result()

    def _submit(self, thread: ThreadPoolExecutor, run: Callable[[], Result]) -> "Future[Result]":
        if fault := self.fault:
            raise StoreError(fault)
        return thread.submit(run)

    def _encoded(self, messages: Sequence[Message]) -> bytes:
        return msgspec.msgpack.encode([self._pack(each) for each in messages])

    def _pack(self, m: Message) -> _StoredMessage:
        return _StoredMessage(
            self._vocabulary, m.role, m.text, m.name, m.channel, m.recipient, m.content_type, m.tokens
        )

    def _unpack(self, s: _StoredMessage) -> Message:
        tokens = s.tokens if s.vocabulary == self._vocabulary else None
        return Message(s.role, (s.text,), s.name, s.channel, s.recipient, s.content_type, tokens)

    def _rows(self, items: Sequence[Item]) -> "list[StoredRow]":
        return [StoredRow(item.id, item.body, self._encoded_item(item)) for item in items]

    def _encoded_item(self, item: Item) -> bytes | None:
        if item.message is None:
            return None
        packed = self._pack(item.message)
        packed.result = self._pack(item.result) if item.result else None
        return msgspec.msgpack.encode(packed)

    def _items(self, rows: "Sequence[StoredRow]") -> list[Item]:
        items: list[Item] = []
        for row in rows:
            packed = msgspec.msgpack.decode(row.message, type=_StoredMessage) if row.message else None
            result = self._unpack(packed.result) if packed and packed.result else None
            items.append(Item(row.id, row.body, self._unpack(packed) if packed else None, result=result))
        return items


def vocabulary_of(tokenizer: Tokenizer) -> str:
    """A hash of the vocabulary: token ids are valid for one only."""
    digest = hashlib.sha256()
    for token in range(tokenizer.size):
        digest.update(tokenizer.token_bytes(token) + b"\0")
    return digest.hexdigest()[:16]
