"""Model output in the web chat: never HTML or script, and Markdown."""

import re
import urllib.request

import pytest

from ossia.server.http.web import page as the_page
from tests.server.http.ui.page import MARKDOWN, Enter, echo, says

pytestmark = pytest.mark.browser


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
