"""What is kept comes back as it was, is bounded, is gone when deleted, and is never half there."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from ossia.harmony.messages import Message, assistant
from ossia.server.state.database import StoreError
from ossia.server.state.sql import MissingError
from ossia.server.state.store import Item, ResponseResult, Store
from tests.support.vocabularies import o200k, small

T = TypeVar("T")
SAID = Message("assistant", ("4",), channel="final", tokens=(5, 6, 7))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path, small())
    yield made
    made.close()


def run(work: Awaitable[T]) -> T:
    async def waited() -> T:
        return await work

    return asyncio.run(waited())


def body(status: str, **more: Any) -> bytes:
    return msgspec.json.encode({"status": status, **more})


def item(name: str, text: str = "", message: Message | None = None) -> Item:
    return Item(name, msgspec.json.encode({"id": name, "text": text}), message)


def keep(store: Store, name: str, text: str = "", previous: str | None = None, **made: Any) -> None:
    run(store.begin(name, "in_progress", body("in_progress"), previous, [item(f"{name}-in", text)]))
    run(
        store.finish(
            name, "completed", body("completed", id=name), ResponseResult([item(f"{name}-out", text, SAID)], **made)
        )
    )


def writes(store: Store) -> sqlite3.Connection:
    opened = store.database.writes
    assert opened is not None
    return opened.connection


def test_a_response_with_its_items(store: Store):
    keep(store, "a")
    assert run(store.response("a")) == body("completed", id="a")
    assert run(store.input_items("a")) == [item("a-in")]
    assert run(store.item("a-out")) == item("a-out", message=SAID)
    assert run(store.response("b")) is None
    assert run(store.input_items("b")) is None
    assert run(store.item("b")) is None


def test_a_history_is_its_chain_from_the_beginning(store: Store):
    keep(store, "a")
    keep(store, "b", previous="a")
    keep(store, "c", previous="b")
    assert [each.id for each in run(store.history("c"))] == ["a-in", "a-out", "b-in", "b-out", "c-in", "c-out"]
    run(store.delete("a"))
    with pytest.raises(MissingError, match="a"):
        run(store.history("c"))


def test_everything_is_there_when_opened_again(tmp_path: Path):
    first = Store(tmp_path, small())
    keep(first, "a", calls={"call": [assistant("so", "analysis"), SAID]})
    first.close()
    again = Store(tmp_path, small())
    assert run(again.history("a"))[1].message == SAID
    assert again.recall("call") == (assistant("so", "analysis"), SAID)
    again.close()
    other_vocabulary = Store(tmp_path, o200k())
    assert run(other_vocabulary.history("a"))[1].message == assistant("4")
    other_vocabulary.close()


def test_what_was_under_way_is_failed_when_opened_again(tmp_path: Path):
    first = Store(tmp_path, small())
    run(first.begin("a", "in_progress", body("in_progress", id="a"), None, [item("i")]))
    run(first.begin("b", "queued", body("queued"), None, []))
    keep(first, "c")
    first.close()
    again = Store(tmp_path, small())
    for name in "ab":
        kept = msgspec.json.decode(run(again.response(name)) or b"")
        assert (kept["status"], kept["error"]["code"]) == ("failed", "server_error")
    assert run(again.input_items("a")) == [item("i")]
    assert run(again.response("c")) == body("completed", id="c")
    again.close()


def test_what_is_deleted_leaves_no_trace(store: Store, tmp_path: Path):
    keep(store, "a", "a very secret word", calls={"call": [assistant("a very secret word", "analysis")]})
    keep(store, "b", "a public word")
    run(store.create_conversation("conv", b"{}", [item("i", "a very secret word")]))
    assert run(store.delete("a"))
    assert run(store.delete_conversation("conv"))
    assert not run(store.delete("a"))
    assert store.recall("call") == ()
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"secret" not in files
    assert b"public" in files


def test_one_that_was_deleted_while_it_was_made_stays_deleted(store: Store):
    run(store.begin("a", "in_progress", body("in_progress"), None, []))
    run(store.delete("a"))
    run(store.update("a", "in_progress", b"{}"))
    run(store.finish("a", "completed", b"{}", ResponseResult([item("x")], {"call": [SAID]})))
    assert run(store.response("a")) is None
    assert run(store.item("x")) is None
    assert store.recall("call") == ()


def test_conversations(store: Store):
    run(store.create_conversation("conv", b"{}", [item("1")]))
    run(store.add_items("conv", [item("2"), item("3")]))
    keep(store, "a", conversation="conv", given=[item("4")])
    assert [each.id for each in run(store.conversation_items("conv"))] == ["1", "2", "3", "4", "a-out"]
    assert run(store.delete_item("conv", "2"))
    assert not run(store.delete_item("conv", "2"))
    run(store.update_conversation("conv", b'{"a":1}'))
    assert run(store.conversation("conv")) == b'{"a":1}'
    run(store.delete_conversation("conv"))
    keep(store, "b", conversation="conv")
    assert run(store.conversation_items("conv")) == []


def test_the_longest_unused_goes_first_when_room_is_short(tmp_path: Path):
    store = Store(tmp_path, small(), max_bytes=1_000_000)
    for number in range(200):
        keep(store, f"r{number}", "x" * 10_000, previous="r0" if number else None)
        if number % 10 == 0:
            run(store.history("r0"))  # in use, so it stays
    assert run(store.response("r199")) is not None
    assert run(store.response("r0")) is not None
    assert run(store.response("r1")) is None
    store.close()
    assert sum(path.stat().st_size for path in tmp_path.glob("state.sqlite*")) < 1_100_000


def test_what_is_too_old_is_forgotten(store: Store):
    keep(store, "a")
    keep(store, "b", previous="a")
    keep(store, "c")
    store.remember("call", [SAID])
    for table in ("responses", "calls"):
        writes(store).execute(f"UPDATE {table} SET used = used - 40 * 86400")
    run(store.history("b"))  # so it is in use, with what it goes on from
    keep(store, "d")
    assert [each for each in "abcd" if run(store.response(each))] == ["a", "b", "d"]
    assert run(store.item("c-in")) is None
    assert store.recall("call") == ()


def test_calls_are_remembered_and_replaced(store: Store):
    store.remember("call", [assistant("one", "analysis")])
    store.remember("call", [assistant("two", "analysis"), SAID])
    assert store.recall("call") == (assistant("two", "analysis"), SAID)
    assert store.recall("other") == ()


def test_a_damaged_file_is_said_and_left_alone(tmp_path: Path):
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"no database at all, but something of value " * 100)
    before = path.read_bytes()
    store = Store(tmp_path, small())
    assert store.fault is not None
    assert "damaged" in store.fault
    with pytest.raises(StoreError, match="move the file away"):
        run(store.response("a"))
    store.remember("call", [SAID])
    assert store.recall("call") == ()
    store.close()
    assert path.read_bytes() == before


async def all_of(store: Store) -> list[bytes | None]:
    return [await store.response(f"r{number}") for number in range(50)]


def test_pages_that_are_damaged_later_are_no_crash(tmp_path: Path):
    store = Store(tmp_path, small())
    for number in range(50):
        keep(store, f"r{number}", "x" * 2000)
    store.close()
    path = tmp_path / "state.sqlite"
    data = bytearray(path.read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)
    store = Store(tmp_path, small())
    with pytest.raises(StoreError):
        run(all_of(store))
    store.close()


def test_a_full_disk_is_an_error_of_that_write_alone(store: Store):
    keep(store, "a")
    writes(store).execute("PRAGMA max_page_count = 1")
    with pytest.raises(StoreError, match="full: free some space"):
        keep(store, "b", "x" * 100_000)
    assert run(store.response("a")) is not None
    assert run(store.response("b")) is None or store.fault is None
    writes(store).execute("PRAGMA max_page_count = 1000000")
    keep(store, "c", "x" * 100_000)
    assert run(store.response("c")) is not None


def test_one_server_a_folder(store: Store, tmp_path: Path):
    second = Store(tmp_path, small())
    assert second.fault is not None
    assert "another server" in second.fault
    second.close()
    keep(store, "a")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "state", small())
    assert store.fault is not None
    assert str(tmp_path) not in store.fault
    store.close()


def test_a_newer_store_is_not_touched(tmp_path: Path):
    Store(tmp_path, small()).close()
    with sqlite3.connect(tmp_path / "state.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    store = Store(tmp_path, small())
    assert store.fault is not None
    assert "newer" in store.fault
    store.close()


def test_many_write_and_read_at_once(store: Store):
    async def one(number: int) -> bytes | None:
        name = f"r{number}"
        await store.begin(name, "in_progress", body("in_progress"), None, [item(name)])
        await store.finish(name, "completed", body("completed", id=name), ResponseResult([]))
        return await store.response(name)

    async def all_of_them() -> list[bytes | None]:
        return await asyncio.gather(*(one(number) for number in range(200)))

    assert asyncio.run(all_of_them()) == [body("completed", id=f"r{number}") for number in range(200)]


def test_what_a_cancelled_writer_began_is_written_before_all_that_is_written_later(store: Store):
    async def hasty() -> bool:
        task = asyncio.create_task(store.begin("a", "in_progress", b"{}", None, []))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await store.finish("a", "completed", b"[]", ResponseResult([]))
        return task.cancelled()

    assert asyncio.run(hasty())
    assert run(store.response("a")) == b"[]"


def test_the_files_are_their_owners_alone(store: Store, tmp_path: Path):
    keep(store, "a")
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.glob("state.sqlite*"))
