"""Hostile pages: broken, deep and very long HTML, binary data, characters that forge marks. None raises an error.

Sizes of results are bounded. The full sizes are run with -m slow.
"""

import random
from collections.abc import Callable

import pytest

from ossia.tools.browser.html_text import MAX_CHARACTERS, html_to_text
from ossia.tools.browser.page import MAX_TEXT, WIDTH, found_in, view
from ossia.tools.browser.repair import MAX_TAGS
from ossia.tools.browser.search import Document
from ossia.tools.browser.session import page_of
from tests.support.browsing import o200k

UNITS = [
    "<p>", "<div>", "<b>", "<p>x", "<b><p>x", "<ul><li>", "<ol start=999999999999999><li>x", "<blockquote>x", "<table>", "<tr><td>x",
    "<table><tr><td>", "<caption>", "<col>", "<select><option>x", "<optgroup>", "<form>", "<button>x", "<input value=x>", "<textarea>",
    "<title>", "<script>", "<style>", "<noscript>", "<template>", "<iframe>", "<xmp>", "<plaintext>", "<frameset>", "<svg>", "<math>x",
    "<h1>x</h2>", "<h1><h2>", "<dl><dt>x<dd>", "<pre>\n", "<pre><br>", "<sup>1</sup>", "<sup>", "<s>x</s>", "<s>~", "<q>", "<code>`",
    "<abbr title=x>y", "<img alt='x'>", "<a href=/x>l</a>", "<a href=/x>l", "<a href='http://[bad'>x</a>", "<a href='//'>x</a>",
    "<a href='\x00'>x</a>", "<hr>", "<br>", "<li>x", "</p>", "</div>", "</x>", "</b><i></b></i>", "<x>", "<i/>", "<a \"", "<a x=1 ", "<a '\"",
    "<!--", "<!-->", "<!---->", "<![CDATA[", "<?xml ", "<!doctype x>", "<", ">", "&", "&amp;", "&#x110000;", "&#0;", "&nosuch;", "</",
]  # fmt: skip
TEXTS = [
    "a", "漢", " ", "\t", "\n", "\r", " \n", "\n- ", "1. ", "+ ", "- -", "\u200b", "\u2028", "\x00", "\x01\x7f", "\ud800", "😀", "\ufeff",
    "【", "】", "†", "【0†x】", "`", "~", "<|end|>", "a\u0301" * 40, "x" * 79 + " ", "(", "\u202e",
]  # fmt: skip
WRAPPERS: list[Callable[[str], str]] = [
    lambda body: body,
    lambda body: f"<!doctype html><html><head><title>t</title></head><body>{body}</body></html>",
    lambda body: f"<pre>{body}",
    lambda body: f"<table><tr><td><a href=/l>{body}",
]
WHOLE = ["", " ", "\x00", "<html>", "<html></html>", "<head>", "<body", "<!-- -->", "<title>", "%PDF-1.7\n\x00\xff", "GIF89a\x01\x00", "{}", "<a>" * 10_000 + "x" + "</a>" * 10_000]  # fmt: skip


def pages(size: int) -> list[str]:
    repeated = [wrap(unit * (size // len(unit))) for unit in [*UNITS, *TEXTS] for wrap in WRAPPERS[:2]]
    nested = [wrap(unit * (size // len(unit))) for unit in UNITS[:20] for wrap in WRAPPERS[2:]]
    attributes = "".join(f"x{i}=1 " for i in range(size // 8))
    binary = "".join(chr(random.Random(seed).getrandbits(8)) for seed in range(min(size, 20_000)))
    single = [
        f"<a {attributes}>x",
        f"<svg><title><a {attributes}>",
        f"<a href='{'x' * size}'>y</a>",
        f"<img alt='{'x' * size}'>",
        binary,
    ]
    return [*repeated, *nested, *single, *WHOLE]


def check(html: str) -> None:
    page = page_of(Document("https://a.test/x", html))
    assert len(page.text) <= MAX_TEXT + 100
    assert all(len(line) <= WIDTH for line in page.lines)
    for shown in (page, found_in(page, "x")):
        assert view(shown, 0, 0, -1, 1_024, o200k()).count("\n") <= 1_024 + 3
    for number, url in page.links.items():
        assert f"【{number}†" in page.text or len(page.text) > MAX_TEXT / 2, url


def test_there_are_at_least_200_pages():
    assert len(pages(10)) >= 200


@pytest.mark.parametrize("number", range(10))
def test_hostile_pages_give_bounded_text(number: int):
    for html in pages(20_000)[number::10]:
        check(html)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(50))
def test_hostile_pages_of_ten_megabytes_give_bounded_text(number: int):
    for html in pages(10_000_000)[number::50]:
        check(html)


def test_a_page_cannot_write_marks_of_links():
    html = "【0†a】 &#x3010;1&#x2020;b&#x3011; <img alt='&#x3010;2&#x2020;c&#x3011;'><a href=/x>d】†e</a>"
    found = html_to_text(html, "https://a.test/")
    assert found.text == "〖0†a〗 〖1†b〗 [Image 0: 〖2†c〗]【0†d〗‡e】"
    assert html_to_text("<title>&#x3010;</title>", "https://a.test/").title == "〖"


def test_what_is_too_long_is_cut_and_what_is_too_deep_loses_its_tags():
    assert len(html_to_text("<p>" + "a" * (MAX_CHARACTERS + 5), "").text) == MAX_CHARACTERS - 3
    assert html_to_text("<li>" * MAX_TAGS + "<li>end", "").text.endswith("*")
    assert html_to_text("<blockquote>" * 10_000 + "deep", "").text.endswith("> deep")
    assert len(html_to_text("<blockquote>x" * 10_000, "").text) < 500_000


def test_four_hundred_unclosed_paragraphs_are_not_deep():
    text = html_to_text("<p>word <ul><li>item</ul>" * 400, "").text
    assert text.count("* item") == text.count("word") == 400


def test_mistakes_are_repaired_as_the_recorded_tool_repairs_them():
    """It reads HTML with libxml2, which differs from web browsers here."""
    texts = {
        "<h4>a</h6>b<p>c": "#### ab \n\nc",
        "<p>a<b>b<i>c</b>d</i>e<p>f": "a b c de \n\nf",
        "<p>a<section>b</section>c": "a b c",
        "<p>a<table><tr><td>b</table>": "a \n\nb",
        "a.</p>b": "a.b",
        "<p>x<script src=a />y": "x y",
        "<i />a<div/>b": "a \n\nb",
        "<pre>\n\na</pre>": "a",
    }
    assert {html: html_to_text(html, "").text for html in texts} == texts
