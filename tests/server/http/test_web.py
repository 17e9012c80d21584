"""The web chat's file and its headers: what can be said without a browser (`ui/` has one)."""

import base64
import hashlib
import re
from html.parser import HTMLParser

from ossia.server.http.web import page

TEXT = page().body.decode("utf-8")


class Reader(HTMLParser):
    """Collects elements with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag


def elements() -> list[tuple[str, dict[str, str | None]]]:
    reader = Reader()
    reader.feed(TEXT)
    return reader.found


def inside(tag: str) -> str:
    (text,) = re.findall(rf"<{tag}(?: [^>]*)?>(.*?)</{tag}>", TEXT, re.DOTALL)
    return text


def test_only_the_script_and_the_style_in_the_file_may_run():
    policy = dict(rule.split(" ", 1) for rule in page().headers["Content-Security-Policy"].split("; "))
    for rule, tag in (("script-src", "script"), ("style-src", "style")):
        digest = base64.b64encode(hashlib.sha256(inside(tag).encode()).digest()).decode()
        assert policy[rule] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"


def test_nothing_comes_from_elsewhere():
    for tag, attributes in elements():
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "action", "srcset"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:image/svg+xml,")) or not value, (tag, value)
    assert "url(" not in inside("style")
    assert "@import" not in inside("style")


def test_no_text_is_ever_read_as_html():
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "srcdoc",
        "DOMParser",
    ):
        assert sink not in inside("script")


def test_both_languages_say_the_same_things():
    words = re.search(r"const WORDS = (\{.*?\n\});", inside("script"), re.DOTALL)
    assert words
    english, japanese = (re.sub(r'"[^"]*"', '""', half) for half in words[1].split("\n  ja: {"))
    keys = [re.findall(r"([a-zA-Z_]\w*): [\"\[{]", half) for half in (english, japanese)]
    assert [key for key in keys[0] if key != "en"] == keys[1]
    assert len(keys[1]) > 60
    used = set(re.findall(r"\bt\(\"(\w+)[\".]", inside("script")))
    used |= {
        value
        for _, attributes in elements()
        for name in ("data-t", "data-label", "data-hint")
        if (value := attributes.get(name))
    }
    assert used <= set(keys[1]), used - set(keys[1])


def test_every_control_has_a_name():
    named = ("data-t", "data-label", "aria-label", "aria-labelledby")
    for tag, attributes in elements():
        if tag == "button" and not any(name in attributes for name in named):
            assert attributes.get("id") in ("send", "tools", "new"), (
                attributes
            )  # the script names these, or their text does
