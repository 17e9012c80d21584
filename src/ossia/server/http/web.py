"""The web chat: one file, and its security headers.

Out: the page's bytes, with its Content-Security-Policy and other headers. The page uses the API from the browser.
"""

import base64
import hashlib
import re
from importlib.resources import files
from typing import NamedTuple


class WebPage(NamedTuple):
    body: bytes
    headers: dict[str, str]


def page() -> WebPage:
    """The page and its headers. The policy allows only the script and style in the file, by their hashes."""
    body = (files("ossia") / "server" / "http" / "ui" / "index.html").read_bytes()
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": _policy(body),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return WebPage(body, headers)


def _policy(body: bytes) -> str:
    """Nothing is loaded except from the API on the same origin, and no string becomes HTML or a script."""
    rules = (
        "default-src 'none'",
        f"script-src {_hash(body, b'script')}",
        f"style-src {_hash(body, b'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return "; ".join(rules)


def _hash(body: bytes, tag: bytes) -> str:
    """The source expression of the only element with this tag."""
    (text,) = re.findall(rb"<%b(?:\s[^>]*)?>(.*?)</%b>" % (tag, tag), body, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
