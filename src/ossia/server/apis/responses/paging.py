"""Pages of lists.

In: all items, oldest first, and the query. Out: the page.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Raw, Struct

from ossia.server.errors import bad
from ossia.server.state.store import Item


class Page(Struct):
    data: list[Raw]
    first_id: str
    last_id: str
    has_more: bool
    object: Literal["list"] = "list"


def page(items: Sequence[Item], query: Mapping[str, str]) -> Page:
    """The page for `limit`, `order`, `after` and `before`. Raises ApiError (400) for an invalid value."""
    limit, order = query.get("limit", "20"), query.get("order", "desc")
    if not limit.isdecimal() or not 1 <= int(limit) <= 100:
        raise bad("limit", "limit must be a number from 1 to 100")
    if order not in ("asc", "desc"):
        raise bad("order", "order must be 'asc' or 'desc'")
    ordered = list(items) if order == "asc" else list(reversed(items))
    if after := query.get("after"):
        ordered = ordered[_place(ordered, after, "after") + 1 :]
    if before := query.get("before"):
        ordered = ordered[: _place(ordered, before, "before")]
    shown = ordered[: int(limit)]
    first, last = (shown[0].id, shown[-1].id) if shown else ("", "")
    return Page([Raw(item.body) for item in shown], first, last, len(ordered) > len(shown))


def _place(items: Sequence[Item], wanted: str, param: str) -> int:
    for place, item in enumerate(items):
        if item.id == wanted:
            return place
    raise bad(param, f"there is no item {wanted!r} in this list")
