"""The log tells what happened and where, and nobody's words or keys: at every level, and when something fails."""

import asyncio
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from starlette.testclient import TestClient

from ossia.server.logs import Discreet, Forgotten, write_log
from ossia.server.settings import Settings
from tests.server.responses.world import FINAL, Script
from tests.server.scripted import scripted

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
    engines = [Script([FINAL.format(ANSWER)] * 9, fail=failure if fails else None) for _ in range(4)]
    with scripted(engines=engines, settings=Settings(api_keys=(KEY,))) as served, everything(Discreet()) as log:
        ask_in_every_way(served.client)
    assert "/v1/chat/completions" in log.getvalue()
    assert ("RuntimeError" in log.getvalue()) == fails
    for secret in (KEY, "secret"):
        assert secret not in log.getvalue()


def test_what_nobody_foresaw_is_told_by_its_place():
    def broken(*_: object) -> None:
        raise KeyError(WORDS) from ValueError(ANSWER)

    with scripted(FINAL.format(ANSWER)) as served, everything(Discreet()) as log:
        with patch("ossia.server.chat.chat_ask", broken):
            answer = served.client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": WORDS}]})
        assert answer.status_code == 500
        with patch("ossia.server.speech.Speech.tell", broken):
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
            return Discreet().formatException((type(caught), caught, caught.__traceback__))

    told = fall(OSError(28, "No space left on device"))
    assert "ValueError: (what it says may quote a request: --log-prompts shows it)" in told
    assert "in fall" in told
    assert told.endswith("OSError: [Errno 28] No space left on device")


def test_a_failure_that_nobody_waits_for_is_logged_without_its_words():
    async def lose() -> None:
        asyncio.get_running_loop().set_exception_handler(Forgotten())

        async def fail() -> None:
            raise ValueError(WORDS)

        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task

    with everything(Discreet()) as log:
        asyncio.run(lose())
    assert "Task exception was never retrieved" in log.getvalue()
    assert "secret" not in log.getvalue()


def test_who_wants_the_words_has_them():
    with patch("logging.basicConfig") as configured:
        write_log(log_prompts=True)
        write_log(log_prompts=False)
    given = [call.kwargs["handlers"][0].formatter for call in configured.call_args_list]
    assert [isinstance(each, Discreet) for each in given] == [False, True]
