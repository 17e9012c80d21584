"""The look of the web chat: languages, colours, contrast, keyboard, phones, narrow windows."""

import re

import pytest

from tests.server.http.ui.page import MARKDOWN, Enter, Visit, calculates, echo, says

pytestmark = pytest.mark.browser


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
