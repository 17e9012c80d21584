"""A browser at the web chat, with a scripted engine behind it."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import ScriptedEngine
from tests.support.turns import call, final, last_tool, last_user, think
from tests.support.vocabularies import o200k

CHROMIUM = Path("/usr/bin/chromium")
REMEDY = "the browser tests need Chromium at /usr/bin/chromium (Debian: apt-get install chromium) and Playwright (pip install playwright)"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
).split()
QUIET = {"log_requests": False}


@contextmanager
def running_chromium() -> Iterator[Any]:
    """A browser, closed at the end. Without Chromium or Playwright the test fails, and says what to install."""
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
    """A browser tab at the page, as a person uses it."""

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
