"""The log tells what happened and where, and nobody's words or keys: at every level, and when something fails."""

import asyncio
import errno
import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from starlette.testclient import TestClient

from ossia.server.http.logs import FORMAT, MAX_LINE, OneLine, UnawaitedErrors, Writer, escaped, write_log
from ossia.server.settings import Settings
from tests.support.engine import ScriptedEngine
from tests.support.server import scripted
from tests.support.turns import final

KEY, WORDS, ANSWER = "key-of-a-customer", "my secret question", "a secret answer"


@contextmanager
def everything(formatter: logging.Formatter) -> Iterator[io.StringIO]:
    """All that is logged meanwhile, by anyone and at every level."""
    written, root = io.StringIO(), logging.getLogger()
    handler, before = logging.StreamHandler(written), root.level
    handler.setFormatter(formatter)
    handler.addFilter(lambda record: not record.name.startswith(("httpx", "httpcore")))  # the test's own client
    root.addHandler(handler)
    root.setLevel(1)
    try:
        yield written
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def ask_in_every_way(client: TestClient) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    chat = {"messages": [{"role": "user", "content": WORDS}]}
    for path, body in (
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "stream": True}),
        ("/v1/responses", {"input": WORDS}),
        ("/v1/responses", {"input": WORDS, "stream": True}),
        ("/v1/messages", {**chat, "max_tokens": 50}),
        ("/v1/completions", {"prompt": WORDS}),
        ("/v1/chat/completions", {"messages": WORDS}),
        (f"/v1/{WORDS}", {}),
    ):
        client.post(path, json=body, headers=headers)
        client.post(path, json=body, headers={"x-api-key": f"not-{KEY}"})
    client.post("/v1/responses", content=f'{{"input": "{WORDS}', headers=headers)
    client.get(f"/v1/models/{WORDS}?q={WORDS}", headers=headers)


@pytest.mark.parametrize("fails", [False, True])
def test_nobodys_words_or_keys_are_in_the_log(fails: bool):
    failure = RuntimeError(f"cannot cope with {WORDS!r}")
    engines = [ScriptedEngine([final(ANSWER)] * 9, fail=failure if fails else None) for _ in range(4)]
    with scripted(engines=engines, settings=Settings(api_keys=(KEY,))) as served, everything(OneLine()) as log:
        ask_in_every_way(served.client)
    assert "/v1/chat/completions" in log.getvalue()
    assert ("RuntimeError" in log.getvalue()) == fails
    for secret in (KEY, "secret"):
        assert secret not in log.getvalue()


def test_what_nobody_foresaw_is_told_by_its_place():
    def broken(*_: object) -> None:
        raise KeyError(WORDS) from ValueError(ANSWER)

    with scripted(final(ANSWER)) as served, everything(OneLine()) as log:
        with patch("ossia.server.apis.chat.chat_routes.prepare_chat", broken):
            answer = served.client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": WORDS}]})
        assert answer.status_code == 500
        with patch("ossia.server.core.events.EventTranslator.translate", broken):
            told = served.client.post(
                "/v1/chat/completions", json={"messages": [{"role": "user", "content": WORDS}], "stream": True}
            )
        logging.getLogger("ossia.server").error("so", exc_info=KeyError(WORDS))
    assert "secret" not in answer.text + told.text + log.getvalue()


def test_tracebacks_say_where_and_what_the_system_says():
    def fall(error: Exception) -> str:
        try:
            raise error from ValueError(WORDS)
        except Exception as caught:
            return OneLine().formatException((type(caught), caught, caught.__traceback__))

    told = fall(OSError(28, "No space left on device"))
    assert "ValueError: (what it says may quote a request: --log-prompts shows it)" in told
    assert "in fall" in told
    assert told.endswith("OSError: [Errno 28] No space left on device")


def test_a_failure_that_nobody_waits_for_is_logged_without_its_words():
    async def lose() -> None:
        asyncio.get_running_loop().set_exception_handler(UnawaitedErrors())

        async def fail() -> None:
            raise ValueError(WORDS)

        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task

    with everything(OneLine()) as log:
        asyncio.run(lose())
    assert "Task exception was never retrieved" in log.getvalue()
    assert "secret" not in log.getvalue()


def test_who_wants_the_words_has_them():
    with patch("logging.basicConfig") as configured:
        write_log(log_prompts=True)
        write_log(log_prompts=False)
    given = [call.kwargs["handlers"][0].formatter for call in configured.call_args_list]
    assert [each.quotes for each in given] == [True, False]


def test_a_log_that_nobody_reads_stops_nobody_and_says_what_it_left_out():
    may_write, written = threading.Event(), bytearray()

    def write(data: bytes) -> int:
        may_write.wait()
        written.extend(data[:1000])
        return len(data[:1000])

    writer = Writer(write)
    writer.setFormatter(OneLine("%(message)s"))
    record = logging.LogRecord("ossia", logging.INFO, "", 0, "a" * 9999, None, None)
    for _ in range(600):
        writer.emit(record)
    may_write.set()
    writer.flush()
    kept = (4 << 20) // 10_000
    assert written == (b"a" * 9999 + b"\n") * kept
    writer.emit(record)
    writer.flush()
    assert bytes(written[kept * 10_000 :]).decode().splitlines() == [
        f"{600 - kept} lines were left out: what reads the log is too slow",
        "a" * 9999,
    ]


def test_a_line_that_cannot_be_written_is_counted():
    full, written = [True], bytearray()

    def write(data: bytes) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, "no space left on device")
        written.extend(data)
        return len(data)

    writer = Writer(write)
    record = logging.LogRecord("ossia", logging.INFO, "", 0, "\ud800", None, None)
    writer.emit(record)
    writer.flush()
    full[0] = False
    writer.emit(record)
    writer.flush()
    assert written.decode().splitlines() == ["1 lines were left out: what reads the log is too slow", "\\ud800"]


FORGED = "2026-01-01 00:00:00,000 INFO answer (final): forged"
HOSTILE = {
    "a newline": "\n",
    "a carriage return": "\r",
    "a line separator": "\u2028",
    "a paragraph separator": "\u2029",
    "the next line": "\x85",
    "a vertical tab": "\x0b",
    "a form feed": "\x0c",
    "ANSI colours": "\x1b[31m",
    "ANSI that clears the screen": "\x1b[2J\x1b[H",
    "a C1 sequence": "\x9b2J",
    "a title": "\x1b]0;owned\x07",
    "backspaces": "\x08" * 9,
    "NUL": "\0",
    "bidi overrides": "\u202e\u2066",
    "a bidi mark": "\u200f",
    "nothing wide": "\u200b\ufeff",
    "tags": "\U000e0041",
    "a lone surrogate": "\ud800",
}


def is_one_plain_line(text: str) -> bool:
    return len(text.splitlines()) == 1 and text.isprintable()


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_K13_what_a_client_sent_stays_in_its_line(hostile: str):
    words = f"one{hostile}{FORGED}"
    with everything(OneLine(FORMAT, quotes=True)) as log:
        logging.getLogger("ossia.server").info("prompt: %s", words)
    assert is_one_plain_line(log.getvalue().removesuffix("\n"))
    assert FORGED in log.getvalue()


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("error", [ValueError, OSError, KeyError])
def test_K13_what_an_exception_quotes_stays_in_its_line(error: type[Exception], hostile: str):
    try:
        raise error(f"one{hostile}{FORGED}") from ValueError(f"two{hostile}{FORGED}")
    except error as caught:
        told = OneLine(quotes=True).formatException((error, caught, caught.__traceback__))
    assert all(line.isprintable() for line in told.split("\n"))
    assert not any(line.startswith("2026") for line in told.splitlines())
    assert told.count(FORGED) == 2


def test_K13_escapes_are_told_from_what_was_sent():
    assert escaped("a\nb") == "a\\nb"
    assert escaped("a\\nb") == "a\\\\nb"
    assert escaped("ラーメン 🍜 é") == "ラーメン 🍜 é"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_K13_prompts_and_answers_are_lines_of_the_log(path: str):
    words = f"one\n{FORGED}\x1b[2J\u2028{FORGED}"
    body = {"input": words} if path.endswith("responses") else {"messages": [{"role": "user", "content": words}]}
    with (
        scripted(final(words), settings=Settings(log_prompts=True)) as served,
        everything(OneLine(FORMAT, quotes=True)) as log,
    ):
        assert served.client.post(path, json=body).status_code == 200
    lines = log.getvalue().splitlines()
    assert any(" prompt: one" in line for line in lines)
    assert any(" answer (final): one" in line for line in lines)
    assert not any(line.startswith("2026-01-01") for line in lines)
    assert "\x1b" not in log.getvalue()


@pytest.mark.parametrize("filler", ["x", "\x1b", "ラ"])
def test_K13_a_long_text_is_logged_by_its_beginning_and_end(filler: str):
    with everything(OneLine(FORMAT, quotes=True)) as log:
        logging.getLogger("ossia.server").info("prompt: %s", "first" + filler * 5_000_000 + "last")
    line = log.getvalue().removesuffix("\n")
    assert "prompt: first" in line
    assert line.endswith("last")
    assert f"{5_000_000 + 9 + len('2026-01-01 00:00:00,000 INFO prompt: ') - MAX_LINE} characters left out" in line
    assert len(line) <= 8 * MAX_LINE
    try:
        raise ValueError("first" + filler * 5_000_000 + "last")
    except ValueError as error:
        told = OneLine(quotes=True).formatException((ValueError, error, error.__traceback__))
    assert len(told) <= 8 * MAX_LINE
