"""Errors in the web chat: keys, a busy server, a full context, a server that is gone."""

import json
import re
import threading
import urllib.request
from typing import Any

import pytest

from tests.server.http.ui.page import Enter, Visit, actor_for, echo, says
from tests.support.engine import scripted_model
from tests.support.live import live
from tests.support.vocabularies import o200k
from tests.support.waiting import until

pytestmark = pytest.mark.browser


def test_a_server_with_keys_is_given_one(enter: Enter):
    with enter(echo, settings={"api_keys": ("the-right-key",)}) as (visit, _):
        field = visit.page.get_by_label("API key", exact=True)
        field.wait_for()
        field.fill("the-wrong-key")
        field.press("Enter")
        field.wait_for()  # asked again
        visit.page.keyboard.press("Escape")
        visit.send("Hello")
        field.wait_for()
        field.fill("the-right-key")
        visit.button("Use the key").click()
        visit.last.locator(".answer").wait_for()
        assert visit.settled() == "You said Hello"
        assert visit.page.evaluate("[sessionStorage.getItem('ossia.key'), localStorage.getItem('ossia.key')]") == [
            "the-right-key",
            None,
        ]


def test_a_busy_server_is_asked_again(enter: Enter):
    with enter(says("slow " * 400), seconds=0.02, settings={"max_num_seqs": 1, "max_queued": 0}) as (visit, actor):
        body = json.dumps({"input": "Hold the place", "store": False}).encode()
        request = urllib.request.Request(f"{visit.page.url}v1/responses", body, {"content-type": "application/json"})
        other = threading.Thread(target=lambda: urllib.request.urlopen(request).read())
        other.start()
        until(lambda: actor.prompts, "the first request is under way")
        visit.ask("Hello")
        assert "The server is busy" in visit.last.get_by_role("alert").inner_text()
        actor.seconds = 0.0
        other.join()
        actor.turns = echo
        visit.button("Try again").click()
        visit.last.locator(".answer", has_text="You said Hello").wait_for()


def test_a_conversation_that_grew_too_long_is_said_to_be(enter: Enter):
    with enter(echo, context_tokens=1024) as (visit, _):
        visit.ask("word " * 2000)
        alert = visit.last.get_by_role("alert")
        assert "longer than the model can read" in alert.inner_text()
        alert.get_by_role("button", name="New conversation").click()
        assert visit.ask("Hello") == "You said Hello"


def test_a_server_that_is_gone_is_named_and_found_again(chromium: Any):
    with live(scripted_model(o200k(), context=131072), actor_for(says("slow " * 400), 0.02)) as url:
        visit = Visit(chromium, url)
        visit.send("Hello")
        visit.last.locator(".answer", has_text="slow").wait_for()
    visit.settled()
    assert re.search("broke off|went wrong", visit.last.get_by_role("alert").inner_text())
    visit.button("Try again").click()
    visit.page.get_by_text("Is ossia serve still running?").wait_for()
    with live(scripted_model(o200k(), context=131072), actor_for(echo), port=int(url.rsplit(":", 1)[1])):
        visit.button("Try again").click()
        visit.last.locator(".answer", has_text="You said Hello").wait_for()
    visit.context.close()
