"""A clock that jumps takes nothing away: what is kept ages by the machine's uptime until a day has confirmed the jump."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossia.server.state import clock
from ossia.server.state.store import Store
from tests.server.state.test_store import ResponseResult, body, item, keep, run
from tests.support.vocabularies import small

DAY = 86400.0
START = 1_800_000_000.0


class Machine:
    """Its clock and its uptime."""

    def __init__(self) -> None:
        self.time, self.up = START, 1000.0

    def passes(self, seconds: float) -> None:
        self.time += seconds
        self.up += seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(clock.time, "time", lambda: made.time)
    monkeypatch.setattr(clock, "_uptime", lambda: made.up)
    return made


@pytest.fixture
def store(machine: Machine, tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path, small())
    yield made
    made.close()


def state(store: Store, names: str) -> str:
    return "".join(name for name in names if run(store.response(name)) == body("completed", id=name))


@pytest.mark.parametrize("jump", [31 * DAY, 400 * DAY, 2 * 3600, -31 * DAY, -START])
def test_K12_one_jump_takes_nothing_away(jump: float, machine: Machine, store: Store, tmp_path: Path):
    keep(store, "a")
    machine.passes(29 * DAY)
    keep(store, "b")
    machine.time += jump
    for name in "cde":
        keep(store, name)
    assert state(store, "abcde") == "abcde"
    store.close()
    again = Store(tmp_path, small())
    keep(again, "f")
    assert state(again, "abcdef") == "abcdef"
    machine.time -= jump
    keep(again, "g")
    assert state(again, "abcdefg") == "abcdefg"
    machine.passes(2 * DAY)
    keep(again, "h")
    assert state(again, "abcdefgh") == "bcdefgh", "a is 31 days old now"
    again.close()


@pytest.mark.parametrize("jump", [31 * DAY, -31 * DAY])
def test_K12_a_jump_that_stays_is_believed_after_a_day(jump: float, machine: Machine, store: Store):
    keep(store, "a")
    machine.passes(60)
    machine.time += jump
    keep(store, "b")
    machine.passes(1.1 * DAY)
    keep(store, "c")
    keep(store, "d")
    assert state(store, "abcd") == ("bcd" if jump > 0 else "abcd")
    machine.passes(28 * DAY)
    keep(store, "e")
    assert state(store, "bcde") == "bcde"
    machine.passes(1.5 * DAY)
    keep(store, "f")
    assert state(store, "abcdef") == ("cdef" if jump > 0 else "acdef"), "a was used in what is the future now"


def test_K12_a_server_that_was_off_for_long_forgets_a_day_later(machine: Machine, store: Store, tmp_path: Path):
    keep(store, "a")
    machine.passes(60)
    store.close()
    machine.time += 40 * DAY
    machine.up = 10  # it was off
    again = Store(tmp_path, small())
    assert state(again, "a") == "a"
    machine.passes(60)
    keep(again, "b")
    again.close()
    machine.passes(1.1 * DAY)
    again = Store(tmp_path, small())
    keep(again, "c")
    assert state(again, "abc") == "bc"
    again.close()


def test_K12_time_that_passes_is_no_jump(machine: Machine, store: Store):
    keep(store, "a")
    for _ in range(31):
        machine.passes(DAY)
        machine.time += 200  # a clock that is put right now and then
    keep(store, "b")
    assert state(store, "ab") == "b"


def test_K12_the_log_says_that_the_clock_jumped(machine: Machine, store: Store, caplog: pytest.LogCaptureFixture):
    keep(store, "a")
    machine.time += 31 * DAY
    with caplog.at_level(logging.WARNING, "ossia.server"):
        keep(store, "b")
        keep(store, "c")
    assert caplog.text.count("clock jumped") == 1


def test_K16_what_is_completed_changed_or_deleted_is_on_the_disk_before_it_is_said(store: Store):
    opened = store.database.writes
    assert opened is not None
    log: list[str] = []
    opened.connection.set_trace_callback(log.append)

    def level(work: object) -> str:
        log.clear()
        run(work)  # type: ignore[arg-type]
        commit = log.index("COMMIT")
        return [line for line in log[:commit] if line.startswith("PRAGMA synchronous")][-1].split()[-1]

    assert level(store.begin("a", "in_progress", b"{}", None, [])) == "NORMAL"
    assert level(store.finish("a", "completed", b"{}", ResponseResult([item("x")]))) == "FULL"
    assert level(store.create_conversation("conv", b"{}", [])) == "FULL"
    assert level(store.add_items("conv", [item("y")])) == "FULL"
    assert level(store.update_conversation("conv", b"{}")) == "FULL"
    assert level(store.delete_item("conv", "y")) == "FULL"
    assert level(store.delete_conversation("conv")) == "FULL"
    assert level(store.delete("a")) == "FULL"
