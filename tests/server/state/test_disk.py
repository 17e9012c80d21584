"""The state on a disk that refuses: what is kept is read, what is deleted makes room, and all say what is wrong."""

import errno
import logging
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest

from ossia.loading import load
from ossia.server.run import context_of
from ossia.server.settings import Settings
from ossia.server.state import database, disk
from ossia.server.state.database import StoreError
from ossia.server.state.disk import trouble_of
from ossia.server.state.encrypted_reasoning import key_in
from ossia.server.state.store import Store
from tests.server.state.test_store import SAID, body, item, keep, run
from tests.support.server import scripted
from tests.support.turns import final
from tests.support.vocabularies import small

FULL = "the disk of state.sqlite is full: free some space"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """64 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all that is left."""
    path = folder / "full"
    with open(path, "ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return path


def taken(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("state.sqlite*"))


def keep_many(store: Store) -> None:
    """More than fits what is left of the log, which may be written over."""
    for number in range(99):
        keep(store, f"more{number}", "x" * 300_000)


def test_K11_a_full_disk_is_read_and_deleting_makes_room(small_disk: Path):
    store = Store(small_disk / "state", small())
    for name in "abc":
        keep(store, name, "x" * 500_000, previous="a" if name != "a" else None)
    filler = fill(small_disk)
    with pytest.raises(StoreError, match=FULL):
        keep_many(store)
    assert store.condition == "full"
    assert store.fault is None
    assert run(store.response("b")) == body("completed", id="b")
    assert [each.id for each in run(store.history("c"))] == ["a-in", "a-out", "c-in", "c-out"]
    size = taken(small_disk / "state")
    assert run(store.delete("b"))
    assert run(store.response("b")) is None
    assert taken(small_disk / "state") < size - 400_000
    assert store.condition == "ok"
    filler.unlink()
    keep(store, "d", "x" * 500_000)
    assert (small_disk / "state" / "state.reserve").stat().st_size == disk.RESERVE_BYTES
    store.close()
    assert b"xxxx" in (small_disk / "state" / "state.sqlite").read_bytes()


@pytest.mark.parametrize("deletes", ["a large response", "many conversations", "an item"])
def test_K11_whatever_is_deleted_makes_room(small_disk: Path, deletes: str):
    store = Store(small_disk, small())
    keep(store, "large", "y" * 5_000_000)
    for number in range(30):
        run(store.create_conversation(f"conv{number}", b"{}", [item(f"{number}", "z" * 50_000)]))
    fill(small_disk)
    if deletes == "a large response":
        assert run(store.delete("large"))
    elif deletes == "an item":
        assert run(store.delete_item("conv3", "3"))
    else:
        assert all(run(store.delete_conversation(f"conv{number}")) for number in range(30))
    keep(store, "new", "x" * 10_000)
    store.close()
    if deletes == "a large response":
        assert b"yyyy" not in (small_disk / "state.sqlite").read_bytes()


def test_K11_a_start_on_a_full_disk_says_so_and_recovers(small_disk: Path, monkeypatch: pytest.MonkeyPatch):
    filler = fill(small_disk)
    store = Store(small_disk, small())
    assert FULL in (store.fault or "")
    assert store.condition == "full"
    with pytest.raises(OSError, match="No space left"):
        key_in(small_disk)
    assert not list(small_disk.glob("sealing.key*"))
    filler.unlink()
    monkeypatch.setattr(database, "RETRY_SECONDS", 0.0)
    assert store.fault is not None, "the next attempt begins now"
    store.writer.submit(lambda: None).result()
    keep(store, "a")
    assert (store.fault, store.condition) == (None, "ok")
    store.close()


def test_K11_what_was_kept_is_read_after_a_start_on_a_full_disk(small_disk: Path):
    store = Store(small_disk, small())
    keep(store, "a")
    run(store.begin("b", "in_progress", body("in_progress", id="b"), None, []))
    store.close()
    fill(small_disk)
    store = Store(small_disk, small())
    assert run(store.response("a")) == body("completed", id="a")
    assert [each.id for each in run(store.history("a"))] == ["a-in", "a-out"]
    assert run(store.delete("a"))
    store.close()


def test_K11_the_log_names_the_full_disk_when_no_key_can_be_kept(small_disk: Path, caplog: pytest.LogCaptureFixture):
    fill(small_disk)
    with caplog.at_level(logging.WARNING, "ossia.server"), scripted(final("{0}"), settings=Settings(state=small_disk)):
        pass
    assert "its key cannot be stored (the disk of sealing.key is full" in caplog.text


def test_K11_a_read_only_file_system(small_disk: Path):
    store = Store(small_disk, small())
    keep(store, "a")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=False, capture_output=True)
    try:
        (small_disk / "probe").touch()
    except OSError:
        with pytest.raises(StoreError, match="cannot be written"):
            keep(store, "b")
        assert store.condition == "read_only"
        assert run(store.response("a")) == body("completed", id="a")
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        keep(store, "b")
        assert store.condition == "ok"
    store.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_K11_a_file_that_is_taken_away_is_made_anew(replaced: bool, tmp_path: Path):
    store = Store(tmp_path / "state", small())
    keep(store, "a")
    path = tmp_path / "state" / "state.sqlite"
    path.unlink()
    if replaced:
        other = Store(tmp_path / "other", small())
        keep(other, "b")
        other.close()
        os.replace(tmp_path / "other" / "state.sqlite", path)
    keep(store, "c")
    assert run(store.response("a")) is None
    assert (run(store.response("b")) is not None) == replaced
    assert run(store.response("c")) == body("completed", id="c")
    store.close()
    again = Store(tmp_path / "state", small())
    assert run(again.response("c")) == body("completed", id="c")
    again.close()


def test_K11_a_file_that_is_taken_away_is_gone_for_readers_too(tmp_path: Path):
    store = Store(tmp_path, small())
    keep(store, "a")
    (tmp_path / "state.sqlite").unlink()
    assert run(store.response("a")) is None
    store.remember("call", [SAID])
    assert store.recall("call") == (SAID,)
    store.close()


def sqlite_error(name: str, text: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("error", "system", "condition"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), None, "full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), None, "full"),
        (OSError(errno.EROFS, "Read-only file system"), None, "read_only"),
        (OSError(errno.EIO, "Input/output error"), None, "failed"),
        (sqlite_error("SQLITE_FULL", "database or disk is full"), None, "full"),
        (sqlite_error("SQLITE_IOERR_WRITE", "disk I/O error"), errno.EDQUOT, "full"),
        (sqlite_error("SQLITE_IOERR_WRITE", "disk I/O error"), None, "failed"),
        (sqlite_error("SQLITE_CANTOPEN", "unable to open database file"), errno.ENOSPC, "full"),
        (sqlite_error("SQLITE_CANTOPEN", "unable to open database file"), errno.EACCES, "read_only"),
        (sqlite_error("SQLITE_READONLY", "attempt to write a readonly database"), None, "read_only"),
        (sqlite_error("SQLITE_CORRUPT", "database disk image is malformed"), None, "damaged"),
    ],
)
def test_K11_the_message_says_what_the_system_says(
    error: Exception, system: int | None, condition: str, tmp_path: Path
):
    with patch("ossia.server.state.disk.refusal_of", return_value=system):
        trouble = trouble_of(error, tmp_path / "state.sqlite")
    assert trouble.condition == condition
    assert "state.sqlite" in trouble.message
    assert str(tmp_path) not in trouble.message
    assert ("full" in trouble.message) == (condition == "full")


def test_K11_health_and_a_metric_show_the_state(tmp_path: Path):
    with scripted(final("{0}"), state=tmp_path) as w:
        assert w.client.get("/health").json()["state"] == "ok"
        w.store.database.condition = "full"
        health = w.client.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["state"]) == (200, "ok", "full")
    with scripted(final("{0}")) as w:
        assert w.client.get("/health").json()["state"] == "off"
    context = context_of(load(), Settings(state=tmp_path / "other"))
    assert 'ossia_state{condition="ok"} 1.0' in context.service.metrics.text().decode()
    assert 'ossia_state{condition="full"} 0.0' in context.service.metrics.text().decode()
    context.store.close()
