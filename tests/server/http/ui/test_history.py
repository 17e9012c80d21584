"""Conversations in the web chat: kept in the browser, renamed, exported, in tabs, with drafts."""

import json
from pathlib import Path

import pytest

from tests.server.http.ui.page import Enter, Visit, echo

pytestmark = pytest.mark.browser


def test_history_is_kept_in_the_browser(enter: Enter):
    with enter(echo) as (visit, _):
        visit.ask("About apples")
        visit.button("New conversation").click()
        visit.ask("About pears")
        visit.page.reload()
        names = visit.page.locator("#list .open")
        names.nth(1).wait_for()
        assert names.all_inner_texts() == ["About pears", "About apples"]
        names.nth(1).click()
        assert visit.page.locator(".answer").inner_text() == "You said About apples"
        assert visit.ask("More") == "You said More"


def menu(visit: Visit, title: str, choice: str) -> None:
    visit.page.get_by_role("button", name=f"Options of “{title}”").click()
    visit.page.get_by_role("menuitem", name=choice).click()


def test_conversations_are_renamed_deleted_and_brought_back(enter: Enter):
    with enter(echo) as (visit, _):
        visit.ask("Old name")
        menu(visit, "Old name", "Rename")
        visit.page.keyboard.type("New name")
        visit.page.keyboard.press("Enter")
        assert visit.page.locator("#list .open").all_inner_texts() == ["New name"]
        menu(visit, "New name", "Delete")
        assert visit.page.locator("#list .open").count() == 0
        assert visit.page.locator(".turn").count() == 0
        assert visit.stored() == []
        visit.button("Undo").click()
        assert visit.page.locator(".answer").inner_text() == "You said Old name"
        visit.page.reload()
        visit.page.locator("#list .open", has_text="New name").wait_for()


def test_a_conversation_is_exported_as_json(enter: Enter):
    with enter(echo) as (visit, _):
        visit.ask("Keep this")
        with visit.page.expect_download() as download:
            menu(visit, "Keep this", "Export as JSON")
        assert download.value.suggested_filename == "Keep-this.json"
        data = json.loads(Path(download.value.path()).read_text("utf-8"))
        assert data["format"] == "ossia-conversations"
        (conversation,) = data["conversations"]
        assert conversation["turns"][0]["text"] == "Keep this"
        assert conversation["turns"][0]["entries"][-1]["item"]["content"][0]["text"] == "You said Keep this"


def test_what_is_written_before_the_history_is_read_is_sent(enter: Enter):
    with enter(echo) as (visit, _):
        visit.ask("Earlier")
        visit.page.add_init_script(
            """const open = indexedDB.open.bind(indexedDB); indexedDB.open = (...all) => { const late = {}; setTimeout(() => {
            const asked = open(...all); for (const name of ["onsuccess", "onerror", "onupgradeneeded"]) asked[name] = event => {
            Object.defineProperty(late, "result", { get: () => asked.result, configurable: true }); late[name]?.(event); }; }, 500); return late; };"""
        )
        visit.page.reload()
        visit.send("At once")
        assert visit.settled() == "You said At once"
        visit.page.locator("#list .open", has_text="Earlier").wait_for()
        assert visit.page.locator("#list .open").count() == 2


def test_a_browser_that_keeps_nothing_is_told_so_and_works(enter: Enter):
    with enter(echo) as (visit, _):
        visit.page.add_init_script(
            "Object.defineProperty(window, 'indexedDB', { get() { throw new Error('forbidden') } })"
        )
        visit.page.reload()
        visit.page.get_by_text("This browser keeps no history here").wait_for()
        assert visit.ask("Hello") == "You said Hello"
        assert visit.page.locator("#list .open").all_inner_texts() == ["Hello"]


def test_C8_a_reload_shows_the_same_conversation_and_what_was_not_yet_sent(enter: Enter):
    with enter(echo) as (visit, _):
        assert "#" not in visit.page.url
        visit.ask("About apples")
        apples = visit.page.url
        assert "#c=" in apples
        visit.page.locator("#prompt").fill("and half a question")
        visit.page.reload()
        visit.page.locator(".answer", has_text="You said About apples").wait_for()
        assert visit.page.locator("#prompt").input_value() == "and half a question"
        assert visit.page.title() == "About apples · Ossia"
        visit.button("New conversation").click()
        assert "#" not in visit.page.url
        assert visit.page.locator("#prompt").input_value() == ""
        visit.page.locator("#prompt").fill("a new one")
        visit.page.reload()
        assert visit.page.locator("#prompt").input_value() == "a new one"
        visit.page.locator("#list .open", has_text="About apples").click()
        assert visit.page.url == apples
        assert visit.page.locator("#prompt").input_value() == "and half a question"
        visit.ask("and half a question")
        visit.page.reload()
        visit.page.locator(".turn").nth(1).wait_for()
        assert visit.page.locator("#prompt").input_value() == ""


def test_C8_back_and_forward_go_through_the_conversations(enter: Enter):
    with enter(echo) as (visit, _):
        visit.ask("About apples")
        visit.button("New conversation").click()
        visit.ask("About pears")
        visit.page.go_back()
        visit.page.locator(".answer", has_text="apples").wait_for()
        visit.page.go_forward()
        visit.page.locator(".answer", has_text="pears").wait_for()
        assert visit.page.locator(".turn").count() == 1
        visit.page.evaluate("location.hash = location.hash")
        assert visit.page.locator(".answer").inner_text() == "You said About pears"


@pytest.mark.parametrize("name", ["nothing-of-ours", "%E0%A4%A", "", "<img src=x>"])
def test_C8_an_address_of_no_conversation_is_an_empty_one(enter: Enter, name: str):
    with enter(echo) as (visit, _):
        visit.page.goto(f"{visit.page.url}#c={name}")
        visit.page.reload()
        visit.page.locator(".empty").wait_for()
        assert visit.page.get_by_text("This conversation is not in this browser").count() == (1 if name else 0)
        assert visit.ask("Hello") == "You said Hello"
        visit.page.reload()
        visit.page.locator(".answer", has_text="You said Hello").wait_for()


def test_C8_a_deleted_conversation_is_an_empty_one_by_its_address(enter: Enter):
    with enter(echo) as (visit, _):
        visit.ask("About apples")
        address = visit.page.url
        menu(visit, "About apples", "Delete")
        visit.page.goto(address)
        visit.page.get_by_text("This conversation is not in this browser").wait_for()
        assert visit.page.locator(".turn").count() == 0


def test_C8_drafts_are_bounded(enter: Enter):
    with enter(echo) as (visit, _):
        visit.page.locator("#prompt").fill("x" * 100_000)
        for number in range(30):
            visit.page.evaluate(
                f"localStorage['ossia.drafts'] = JSON.stringify({{...JSON.parse(localStorage['ossia.drafts']), d{number}: 'a'}})"
            )
        visit.page.locator("#prompt").press("y")
        drafts = json.loads(visit.page.evaluate("localStorage['ossia.drafts']"))
        assert len(drafts) == 20
        assert len(drafts["new"]) == 20_000
        for broken in ("null", "[1]", "{", '{"new": 5}', '"text"'):
            visit.page.evaluate(f"localStorage['ossia.drafts'] = {json.dumps(broken)}")
            visit.page.reload()
            assert visit.page.locator("#prompt").input_value() == ""
            visit.page.locator("#prompt").fill("still works")


def another(visit: Visit) -> Visit:
    """A second tab of the same browser."""
    tab = object.__new__(Visit)
    tab.context, tab.page, tab.asked, tab.faults = visit.context, visit.context.new_page(), visit.asked, visit.faults
    tab.page.on("pageerror", lambda error: tab.faults.append(str(error)))
    tab.page.goto(visit.page.url)
    tab.page.locator("#title").wait_for(state="attached")
    return tab


def test_C8_what_one_tab_writes_the_other_shows(enter: Enter):
    with enter(echo) as (visit, _):
        visit.ask("About apples")
        tab = another(visit)
        tab.page.locator(".answer", has_text="apples").wait_for()
        tab.ask("About plums")
        visit.page.locator(".answer", has_text="plums").wait_for()
        assert visit.ask("About figs") == "You said About figs"
        tab.page.locator(".answer", has_text="figs").wait_for()
        assert [len(each["turns"]) for each in visit.stored()] == [3]
        menu(visit, "About apples", "Delete")
        tab.page.get_by_text("This conversation is not in this browser").wait_for()


def test_C8_two_tabs_that_answer_at_once_lose_nothing(enter: Enter):
    with enter(echo, seconds=0.03) as (visit, _):
        visit.ask("About apples")
        tab = another(visit)
        tab.page.locator(".answer", has_text="apples").wait_for()
        visit.send("From the first tab")
        tab.send("From the second tab")
        assert visit.settled() == "You said From the first tab"
        assert tab.settled() == "You said From the second tab"
        kept = [[turn["text"] for turn in each["turns"]] for each in visit.stored()]
        assert len(kept) == 2
        assert all(texts[0] == "About apples" for texts in kept)
        assert {texts[-1] for texts in kept} == {"From the first tab", "From the second tab"}
        assert visit.page.url != tab.page.url
        for each, words in ((visit, "first"), (tab, "second")):
            each.page.reload()
            each.page.locator(".answer", has_text=words).wait_for()
