"""The web chat in headless Chromium, against the real app: with an actor as the engine, and with ossia-mini."""

import json
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ossia.loading import load
from ossia.server.http.web import page as the_page
from ossia.server.settings import Settings
from tests.support.engine import ScriptedEngine, scripted_model
from tests.support.live import live
from tests.support.turns import call, final, last_tool, last_user, think
from tests.support.vocabularies import o200k
from tests.support.waiting import until

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
REMEDY = "the browser tests need Chromium at /usr/bin/chromium (Debian: apt-get install chromium) and Playwright (pip install playwright)"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
).split()
QUIET = {"log_requests": False}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        pytest.fail(REMEDY)
    if not CHROMIUM.exists():
        pytest.fail(REMEDY)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A person at the page."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1100, "height": 800}, **context})
        self.context.set_default_timeout(10000)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.faults: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.goto(url)
        self.page.locator("#title").wait_for(state="attached")

    def send(self, text: str) -> None:
        self.page.locator("#prompt").fill(text)
        self.page.locator("#prompt").press("Enter")

    def ask(self, text: str) -> str:
        """Send, and wait for the end of the turn; the answer's text."""
        before = self.page.locator(".turn").count()
        self.send(text)
        self.page.locator(".turn").nth(before).wait_for()
        return self.settled()

    def settled(self) -> str:
        self.page.locator(".turn:last-child[aria-busy=false]").wait_for()
        answers = self.last.locator(".answer")
        return answers.last.inner_text() if answers.count() else ""

    @property
    def last(self) -> Any:
        return self.page.locator(".turn").last

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def stored(self) -> list[dict[str, Any]]:
        return self.page.evaluate(
            """() => new Promise(resolve => { const o = indexedDB.open("ossia"); o.onsuccess = () => {
            const r = o.result.transaction("conversations").objectStore("conversations").getAll();
            r.onsuccess = () => { o.result.close(); resolve(r.result); }; }; })"""
        )


Enter = Callable[..., AbstractContextManager[tuple[Visit, ScriptedEngine]]]


def actor_for(part: Callable[[str], str], seconds: float = 0.0, context: int = 131072) -> ScriptedEngine:
    """An engine that says `part` of each prompt, and nothing that the grammar forbids."""
    return ScriptedEngine(part, o200k(), obeys=True, seconds=seconds, cache_tokens=context, context=context)


@pytest.fixture
def enter(chromium: Any) -> Enter:
    """A page and the actor behind it."""

    @contextmanager
    def enter(part: Callable[[str], str], seconds: float = 0.0, **more: Any) -> Iterator[tuple[Visit, ScriptedEngine]]:
        actor = actor_for(part, seconds, more.pop("context_tokens", 131072))
        settings = Settings(**QUIET, **more.pop("settings", {}))
        with live(scripted_model(o200k(), context=131072), actor, settings) as url:
            visit = Visit(chromium, url, **more)
            yield visit, actor
            visit.context.close()
            assert visit.faults == []
            assert {re.sub(r"^(blob:)?(https?://[^/]+).*", r"\2", each) for each in visit.asked} <= {url}

    return enter


def says(text: str, thought: str = "Let me think.") -> Callable[[str], str]:
    return lambda _: think(thought) + final(text)


def echo(prompt: str) -> str:
    return think("I repeat it.") + final(f"You said {last_user(prompt)}")


def calculates(prompt: str) -> str:
    """Hands the user's text to the calculator, and says what it answers."""
    if said := last_tool(prompt):
        return final(said)
    return think("I calculate it.") + call(
        "calculator", json.dumps({"expression": last_user(prompt)}, ensure_ascii=False)
    )


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


HOSTILE = """<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"> <b>bold?</b> &lt;i&gt;

[click](javascript:window.hacked=3) [data](data:text/html,<script>1</script>) <https://ok.example/?a="b> ![p](https://evil.example/p.png)

| <img src=x onerror=window.hacked=4> | b |
| --- | --- |
| `</code><svg onload=window.hacked=5>` | [x](https://ok.example/"onmouseover="window.hacked=6) |

```html"><script>window.hacked=7</script>
</code></pre><script>window.hacked = 8</script>
```
> <iframe src="javascript:window.hacked=9"></iframe>
"""


def test_what_a_model_says_never_becomes_html(enter: Enter):
    with enter(says(HOSTILE, HOSTILE)) as (visit, _):
        visit.ask(HOSTILE)
        for kind in ("script", "img", "iframe", "b", "i", "svg[onload]"):
            assert visit.page.locator(f".turn :is(.answer, .thought, .words) {kind}").count() == 0
        hrefs = visit.last.locator(".answer a").evaluate_all("all => all.map(a => a.href)")
        assert hrefs
        assert all(href.startswith("https://") for href in hrefs)
        attributes = visit.last.locator(".answer *").evaluate_all("all => all.flatMap(e => e.getAttributeNames())")
        assert not [name for name in attributes if name.startswith("on")]
        assert visit.page.evaluate("window.hacked") is None
        assert "<script>window.hacked = 1</script>" in visit.last.locator(".answer").inner_text()


def test_the_page_forbids_what_it_does_not_need(enter: Enter):
    with enter(echo) as (visit, _):
        answer = urllib.request.urlopen(visit.page.url)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.read() == the_page().body
        blocked = """() => { const s = document.createElement("script"); try { s.text = "window.hacked = 1" } catch { }
            document.body.append(s); let html = "refused"; try { document.body.insertAdjacentHTML("beforeend", "<b>x</b>"); html = "taken" } catch { }
            return [window.hacked ?? null, html]; }"""
        assert visit.page.evaluate(blocked) == [None, "refused"]


MARKDOWN = """# Title
Some **bold**, *italic*, ***both***, ~~gone~~, `a  b`, 2*3*4, snake_case_name, **「強調」**です。
line two

1. one
2. two
   - inner **x**
   - last

3. three

- [ ] no box

> quoted
> twice

| A | B |
|:--|--:|
| 1 | `x|y` |

```py
def f():
    return "<b>"
```

***

See https://example.com/a_(b). Or [here](https://example.com/?q=1&r=2 "t"), \\*not\\*, \\(x^2\\)
<https://example.org> and `` ` ``

```
open to the end
"""


def test_markdown(enter: Enter):
    with enter(says(MARKDOWN)) as (visit, _):
        visit.ask("Show")
        answer = visit.last.locator(".answer")
        texts: dict[str, list[str]] = {
            "h1": ["Title"],
            "p > strong": ["bold", "both", "「強調」"],
            "p > em": ["italic"],
            "strong > em": ["both"],
            "del": ["gone"],
            "p > code": ["a  b", "`"],
            "ol > li": ["one", "two", "three"],
            "ol ul > li": ["inner x", "last"],
            "blockquote": ["quoted twice"],
            "th": ["A", "B"],
            ".code pre": ['def f():\n    return "<b>"', "open to the end"],
            ".code > div > span": ["py", ""],
            "hr": [""],
            ".math": ["x^2"],
            "p > a": ["https://example.com/a_(b)", "here", "https://example.org"],
        }
        for selector, wanted in texts.items():
            found = answer.locator(selector).evaluate_all(
                "all => all.map(e => { const c = e.cloneNode(true); if (e.tagName === 'LI') c.querySelectorAll('ul').forEach(u => u.remove()); return c.textContent.trim() })"
            )
            assert [re.sub(r"\s*\n\s*$", "", each) for each in found] == wanted or (
                selector == "blockquote" and found == ["quotedtwice"]
            ), selector
        shown = answer.inner_text()
        assert "2*3*4, snake_case_name" in shown
        assert "*not*" in shown


def test_markdown_that_would_be_slow_to_read_is_not(enter: Enter):
    hostile = (
        "*a **a _a `a [a ~~a " * 2000
        + "\n"
        + "> " * 500
        + "deep\n"
        + "- " * 300
        + "deep\n"
        + "[" * 5000
        + "|" * 5000
        + "\n|-|\n"
        + "#" * 3000
    )
    with enter(says(hostile)) as (visit, _):
        visit.send("Go")
        visit.page.locator(".turn:last-child[aria-busy=false]").wait_for(timeout=60000)
        shown = visit.page.locator(".answer").text_content()
        assert shown.count("deep") == 2
        assert shown.startswith("*a **a _a ")


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


def test_languages(enter: Enter):
    with enter(echo, locale="ja-JP") as (visit, _):
        html = visit.page.locator("html")
        assert html.get_attribute("lang") == "ja"
        assert visit.button("新しい会話").is_visible()
        assert visit.ask("こんにちは") == "You said こんにちは"
        assert visit.page.locator(".answer").get_attribute("lang") == "ja"
        visit.page.get_by_role("radio", name="English").check(force=True)
        assert visit.button("New conversation").is_visible()
        visit.page.reload()
        assert html.get_attribute("lang") == "en"


def test_colours_follow_the_system_and_the_switch(enter: Enter):
    def dark(visit: Visit) -> bool:
        colour = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) < 200

    with enter(echo, color_scheme="dark") as (visit, _):
        assert dark(visit)
        visit.page.get_by_role("radio", name="Light").check(force=True)
        assert not dark(visit)
        visit.page.reload()
        assert not dark(visit)
    with enter(echo, color_scheme="light") as (visit, _):
        assert not dark(visit)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_enough(enter: Enter, scheme: str):
    """WCAG AA: 4.5 to 1, for every text on the page."""
    lightness = """nodes => nodes.filter(n => [...n.childNodes].some(c => c.nodeType === 3 && c.data.trim())).map(node => { const rgb = c => c.match(/[\\d.]+/g).map(Number);
        const lum = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
        const layers = []; for (let n = node; n; n = n.parentElement) layers.push(rgb(getComputedStyle(n).backgroundColor));
        let back = [255, 255, 255]; for (const [r, g, b, a = 1] of layers.reverse()) back = [r, g, b].map((v, i) => v * a + back[i] * (1 - a));
        const [x, y] = [lum(rgb(getComputedStyle(node).color)), lum(back)].sort((a, b) => b - a);
        return [node.className + ': ' + node.textContent.slice(0, 30), (x + .05) / (y + .05)]; })"""
    with enter(says(MARKDOWN), color_scheme=scheme) as (visit, _):
        visit.ask("Show")
        nodes = "#title, .model span, .answer *, .words, summary, .figures, .choice label, .chip, .hint, .list *, .new, .brand"
        ratios = visit.page.locator(nodes).evaluate_all(lightness)
        assert len(ratios) > 30
        assert [each for each in ratios if each[1] < 4.5] == []


def test_all_of_it_by_keyboard(enter: Enter):
    with enter(calculates) as (visit, _):
        keys = visit.page.keyboard
        assert visit.page.evaluate("document.activeElement.id") == "prompt"
        keys.type("1+1")
        keys.press("Shift+Enter")
        keys.type("+1")
        assert visit.page.locator("#prompt").input_value() == "1+1\n+1"
        visit.page.locator("#prompt").dispatch_event("keydown", {"key": "Enter", "isComposing": True})
        assert visit.page.locator(".turn").count() == 0  # an input method took that one
        keys.press("Enter")
        assert visit.settled() == '{"result": 3}'
        reached: list[str] = []
        for _ in range(40):
            keys.press("Tab")
            name, ring = (
                visit.page.evaluate("""() => { const e = document.activeElement, on = e.matches(".choice input") ? e.parentElement : e;
                return [e === document.body ? "BODY" : e.ariaLabel || e.title || e.value || e.textContent.trim() || e.id || e.tagName, getComputedStyle(on).outlineStyle !== "none" || e.id === "prompt"]; }""")
            )
            assert ring or name == "BODY", name
            reached.append(name)
        for wanted in (
            "New conversation",
            "More",
            "Copy",
            "Answer again",
            "Edit",
            "Show or hide the conversations",
            "medium",
            "auto",
            "en",
        ):
            assert wanted in reached
        assert any("Calculator" in name for name in reached)
        visit.page.locator("details.tool summary").focus()
        keys.press("Enter")
        assert visit.page.locator("details.tool pre").first.is_visible()
        visit.page.locator("#tools").focus()
        keys.press("Enter")
        keys.press("ArrowDown")
        assert "World clock" in visit.page.evaluate("document.activeElement.textContent")
        keys.press("Escape")
        assert visit.page.evaluate("document.activeElement.id") == "tools"


def test_on_a_phone(enter: Enter):
    with enter(says(MARKDOWN), viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True) as (visit, _):
        assert not visit.page.locator("#side").is_visible()
        visit.ask("A long line without spaces: " + "x" * 300)
        widths = visit.page.evaluate(
            "[document.documentElement.scrollWidth, document.querySelector('#scroll').scrollWidth, innerWidth]"
        )
        assert max(widths[:2]) <= widths[2]
        visit.button("Show or hide the conversations").tap()
        assert visit.page.locator("#side").is_visible()
        visit.button("New conversation").tap()
        assert not visit.page.locator("#side").is_visible()
        assert visit.page.locator(".turn").count() == 0


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


WIDE = f"""{"unbroken" * 60}

| {" | ".join(f"column number {i}" for i in range(12))} |
|{"---|" * 12}
| {" | ".join("a cell with some words" for _ in range(12))} |

```python
value = "{"x" * 400}"
```

https://example.com/{"path/" * 60} and `{"inline" * 40}`
"""
QUESTIONS = {
    "words": "How many of the trains that leave before noon reach the harbour before the last ferry of the day does?",
    "one word": "Donaudampfschifffahrt" * 9,
    "Japanese": "港に着く列車のうち最終の船に間に合うものはいくつありますか。" * 4,
}


def fits(visit: Visit) -> None:
    """Nothing makes the page wider than the window, and what is pressed is in view."""
    width, height = visit.page.viewport_size["width"], visit.page.viewport_size["height"]
    widths = visit.page.evaluate(
        "['html', 'body', '.main', '#scroll', '.top', '.write'].map(name => document.querySelector(name).scrollWidth)"
    )
    assert max(widths) <= width, widths
    for selector in ("#send", "#prompt", "#toggle", "#title"):
        box = visit.page.locator(selector).bounding_box()
        assert box is not None, selector
        assert box["x"] >= 0, (selector, box)
        assert box["x"] + box["width"] <= width, (selector, box)
        assert box["y"] + box["height"] <= height, (selector, box)


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
@pytest.mark.parametrize("width", [320, 390, 600, 768, 1000])
def test_C7_long_titles_and_wide_answers_leave_the_buttons_in_view(enter: Enter, width: int, question: str):
    with enter(says(WIDE, "thinking" * 50), seconds=0.002, viewport={"width": width, "height": 740}) as (visit, _):
        fits(visit)
        visit.send(question)
        visit.button("Stop").wait_for()
        fits(visit)
        visit.settled()
        room = visit.page.evaluate(
            """() => Math.min(...[...document.querySelectorAll('.answer :is(td, th)')].map(cell => {
                const style = getComputedStyle(cell), pen = document.createElement('canvas').getContext('2d');
                pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
                const longest = Math.max(...cell.textContent.split(' ').map(word => pen.measureText(word).width));
                return cell.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - longest; }))"""
        )
        assert room > -1, "a word of a table's cell is broken: the table must scroll instead"
        visit.last.locator("details.aside summary").click()
        fits(visit)
        if width == 1000 and not visit.page.locator("#side").is_visible():
            visit.button("Show or hide the conversations").click()
            fits(visit)
        visit.page.locator("#prompt").fill("z" * 500)
        fits(visit)


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
