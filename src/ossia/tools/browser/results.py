"""What a browser may do in a response, and what one of its calls did.

These types are apart from the browser, so that others can use them without loading it.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec


@dataclass(frozen=True, slots=True)
class BrowserLimits:
    """max_calls and max_tokens: of one response. view_tokens: of one view. allowed_domains: all if empty."""

    view_tokens: int = 1_024
    max_view_tokens: int = 16_384  # of a view with num_lines
    max_calls: int = 30
    max_tokens: int = 64_000
    allowed_domains: tuple[str, ...] = ()


class BrowserResult(msgspec.Struct, frozen=True):
    """What a call did, in the words of the Responses API. Without a URL (a results page) url is empty.

    sources: URLs of the results of a search, or of the opened page. cursor: of the page that is shown.
    """

    action: Literal["search", "open_page", "find_in_page"]
    query: str | None = None
    url: str | None = None
    pattern: str | None = None
    title: str = ""
    sources: list[str] = []
    cursor: int | None = None
