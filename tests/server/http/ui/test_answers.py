"""Answers in the web chat: streaming, thinking, tools, stopping, editing, and ossia-mini."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ossia.loading import load
from tests.server.http.ui.page import Enter, Visit, calculates, echo, says
from tests.support.live import live
from tests.support.turns import last_user

pytestmark = pytest.mark.browser


def test_an_answer_streams_and_its_thinking_is_folded_but_can_be_opened_meanwhile(enter: Enter):
    long = " ".join(f"word{i}" for i in range(60))
    with enter(says("The answer.", long), seconds=0.02) as (visit, _):
        visit.send("Hello")
        thinking = visit.last.locator("details.aside")
        thinking.locator("summary", has_text="Thinking").wait_for()
        assert not thinking.locator(".thought").is_visible()
        thinking.locator("summary").click()
        thinking.locator(".thought", has_text="word9").wait_for()
        assert visit.last.get_attribute("aria-busy") == "true"
        assert visit.button("Stop").is_visible()
        assert visit.settled() == "The answer."
        assert thinking.locator(".thought").inner_text() == long
        assert "Thought for" in thinking.locator("summary").inner_text()
        assert visit.button("Send").is_disabled()
        assert "Answer: The answer." in visit.page.locator("#said").inner_text()


def test_the_effort_is_asked_for_and_kept(enter: Enter):
    with enter(echo) as (visit, actor):
        for effort in ("High", "Low", "Medium"):
            visit.page.get_by_role("radio", name=effort).check(force=True)
            visit.ask("Hello")
            assert f"Reasoning: {effort.lower()}" in actor.prompts[-1]
        visit.page.get_by_role("radio", name="High").check(force=True)
        visit.page.reload()
        assert visit.page.get_by_role("radio", name="High").is_checked()


def test_a_tool_runs_in_the_page_and_shows_what_it_was_given_and_gave(enter: Enter):
    with enter(calculates) as (visit, actor):
        assert visit.ask("17*23") == '{"result": 391}'
        tool = visit.last.locator("details.tool")
        assert "Calculator" in tool.inner_text()
        assert tool.locator(".brief").inner_text() == "17*23 → 391"
        tool.locator("summary").click()
        assert json.loads(tool.locator("pre").nth(0).inner_text()) == {"expression": "17*23"}
        assert json.loads(tool.locator("pre").nth(1).inner_text()) == {"result": 391}
        # the thinking before the call went back as it came
        assert "<|channel|>analysis<|message|>I calculate it.<|end|>" in actor.prompts[-1]
        (turn,) = visit.stored()[0]["turns"]
        assert [entry["item"]["type"] for entry in turn["entries"]] == [
            "reasoning",
            "function_call",
            "function_call_output",
            "message",
        ]


CALCULATIONS = {
    "1+2*3": "7", "(1+2)*3": "9", "2^10": "1024", "2**3**2": "512", "-2^2": "-4", "10/4": "2.5", "1/3+1/6": "0.5", "0.1+0.2": "0.3",
    "123456789012345678*987654321": str(123456789012345678 * 987654321), "7 % 3": "1", "-7 % 3": "2", "20% of 50": "10", "200+10%": "200.1",
    "sqrt(16)": "4", "sqrt(2)^2": "2", "5!": "120", "max(3, 7, 5)": "7", "gcd(12, 18)": "6", "round(2.5)": "3", "floor(-2.5)": "-3", "2(3+4)": "14",
    "sin(pi/2)": "1", "1,234,567+1": "1234568", "６×７": "42", "12 ÷ 5": "2.4", "1e3": "1000", "abs(-3)": "3", "ln(e)": "1",
}  # fmt: skip


MISTAKES = {
    "1/0": "division by zero", "2+": "ends too early", "(1": "missing at the end", "1 2": "not expected", "foo(1)": "not known",
    "9^99999": "too large", "5000!": "0 to 1000", "(" * 300 + "1": "nested too deep", "sqrt(-1)": "not a finite", "constructor(1)": "not known",
    "alert(1)": "not known", "1e999999": "too large", "gcd(1)": "takes 2",
}  # fmt: skip


def test_the_calculator_is_exact_and_says_what_it_does_not_understand(enter: Enter):
    with enter(calculates) as (visit, _):
        found = {text: visit.ask(text) for text in CALCULATIONS}
        assert found == {text: f'{{"result": {value}}}' for text, value in CALCULATIONS.items()}
        wrong = {text: visit.ask(text) for text in MISTAKES}
        assert [text for text, part in MISTAKES.items() if part not in wrong[text]] == [], wrong
        assert visit.last.locator("details.tool.failed").count() == 1


def test_a_tool_that_was_switched_off_is_not_offered(enter: Enter):
    with enter(echo) as (visit, actor):
        visit.button("Tools 2").click()
        visit.page.get_by_role("menuitemcheckbox", name="Calculator").click()
        visit.page.keyboard.press("Escape")
        visit.ask("Hello")
        assert "type get_time" in actor.prompts[-1]
        assert "type calculator" not in actor.prompts[-1]
        assert visit.button("Tools 1").is_visible()


def test_escape_stops_an_answer_which_is_kept_and_can_be_asked_for_again(enter: Enter):
    words = " ".join(f"w{i}" for i in range(200))
    with enter(says(words), seconds=0.02) as (visit, actor):
        visit.send("Count")
        visit.last.locator(".answer", has_text="w3").wait_for()
        visit.page.keyboard.press("Escape")
        kept = visit.settled()
        assert kept.startswith("w0 w1")
        assert "w199" not in kept
        assert "Stopped." in visit.last.inner_text()
        actor.seconds, actor.turns = 0.0, echo
        visit.button("Answer again").click()
        visit.last.locator(".answer", has_text="You said Count").wait_for()
        assert visit.page.locator(".turn").count() == 1
        visit.ask("And now?")
        assert [turn["state"] for turn in visit.stored()[0]["turns"]] == ["done", "done"]


def test_the_words_of_a_stopped_answer_go_back_to_the_model(enter: Enter):
    with enter(says("one two three " * 50), seconds=0.02) as (visit, actor):
        visit.send("Count")
        visit.last.locator(".answer", has_text="three").wait_for()
        visit.button("Stop").click()
        visit.settled()
        actor.seconds = 0.0
        visit.ask("Go on")
        assert "<|channel|>final<|message|>one two three" in actor.prompts[-1]


def test_the_last_message_can_be_edited(enter: Enter):
    with enter(echo) as (visit, actor):
        visit.ask("First")
        visit.ask("Secnod")
        visit.last.hover()
        visit.last.get_by_role("button", name="Edit").click()
        area = visit.page.get_by_role("textbox", name="Edit your message")
        assert area.input_value() == "Secnod"
        area.fill("Second")
        area.press("Enter")
        visit.last.locator(".answer", has_text="You said Second").wait_for()
        assert visit.page.locator(".turn").count() == 2
        assert "Secnod" not in actor.prompts[-1]
        assert visit.page.get_by_role("button", name="Edit").count() == 1  # only the last


def test_the_end_is_followed_unless_one_has_scrolled_away(enter: Enter):
    at_end = "() => { const s = document.querySelector('#scroll'); return s.scrollHeight - s.scrollTop - s.clientHeight < 5 }"
    with enter(says("\n\n".join(f"Line {i}" for i in range(80))), seconds=0.01) as (visit, _):
        visit.send("Go")
        visit.last.locator("p", has_text="Line 30").wait_for()
        assert visit.page.evaluate(at_end)
        visit.page.locator("#scroll").hover()
        visit.page.mouse.wheel(0, -2000)
        visit.button("To the latest").wait_for()
        visit.settled()
        assert not visit.page.evaluate(at_end)
        visit.button("To the latest").click()
        assert visit.page.evaluate(at_end)


def test_two_conversations_at_once(enter: Enter):
    def part(prompt: str) -> str:
        return says("slow " * 60)(prompt) if "slow" in last_user(prompt) else echo(prompt)

    with enter(part, seconds=0.01) as (visit, _):
        visit.send("slow one")
        visit.last.locator(".answer").wait_for()
        visit.button("New conversation").click()
        assert visit.ask("quick one") == "You said quick one"
        visit.page.locator("#list .open", has_text="slow one").click()
        assert visit.settled() == ("slow " * 60).strip()


@pytest.fixture(scope="module")
def mini_url() -> Iterator[str]:
    with live(load("ossia-mini")) as url:
        yield url


def test_ossia_mini_answers(chromium: Any, mini_url: str):
    visit = Visit(chromium, mini_url)
    visit.page.locator("#model span", has_text="ossia-mini").wait_for()  # one model, whatever other names it has
    assert "42" in visit.ask("What is 12 + 30?")
    assert visit.last.locator("details.aside").count() == 1
    assert visit.faults == []
    visit.context.close()


def test_ossia_mini_looks_at_the_clock(chromium: Any, mini_url: str):
    visit = Visit(chromium, mini_url)
    visit.button("Tools 2").click()
    visit.page.get_by_role("menuitemcheckbox", name="Calculator").click()
    visit.page.keyboard.press("Escape")
    visit.ask("What is the time in Tokyo?")
    tool = visit.last.locator("details.tool").first
    assert "Tokyo" in tool.locator(".brief").inner_text()
    assert "Asia/Tokyo" in tool.locator(".outcome").inner_text()
    visit.context.close()
