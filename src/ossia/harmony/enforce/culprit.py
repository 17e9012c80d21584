"""Where in a schema lies what a compiler refuses: it says what, but not where.

In: a schema that is refused, and a function that compiles one. Out: the place and the keyword without which it would
not be. It does not know what the compiler is.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

SECONDS = 0.5  # for the search, which compiles each part on its own: a fraction of a millisecond for most


class Culprit(NamedTuple):
    """A schema within the given one, where it stands from its definition on, and its keyword that is refused."""

    within: str
    steps: tuple[str, ...]
    node: dict[str, Any]
    keyword: str


def culprit(schema: Mapping[str, Any], refusal: Callable[[Mapping[str, Any]], str | None]) -> Culprit | None:
    """The innermost place that is refused for the same reason as the whole. `refusal` says why, or None.

    The schema is one reference, and definitions below "$defs".
    """
    reason, deadline = refusal(schema), time.monotonic() + SECONDS
    for name, definition in schema["$defs"].items():
        for steps, node in _inner_first(definition, ()):
            if time.monotonic() > deadline:
                return None
            if refusal({**node, "$defs": schema["$defs"]}) != reason:
                continue
            for keyword in node:
                rest = {key: value for key, value in node.items() if key != keyword}
                if refusal({**rest, "$defs": schema["$defs"]}) != reason:
                    return Culprit(name, steps, node, keyword)
    return None


def _inner_first(node: Any, steps: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in ("properties", "patternProperties"):
            for name, each in value.items():
                yield from _inner_first(each, (*steps, key, name))
        elif key in ("allOf", "anyOf", "oneOf", "prefixItems"):
            for number, each in enumerate(value):
                yield from _inner_first(each, (*steps, key, str(number)))
        elif key in ("items", "additionalProperties"):
            yield from _inner_first(value, (*steps, key))
    yield steps, node
