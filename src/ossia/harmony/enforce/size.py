"""Limits on the size of a schema, checked before any of it is read: a larger one would take long to compile.

In: a schema. Out: None, or a message about what is too large.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

VALUES = 50_000  # values of any kind, at all depths
CHARACTERS = 250_000  # characters of all names and strings
# Costs that grow with the square of a list's length, summed over the schema: about 0.3 s of work.
SQUARES = {"properties": 1200**2, "patternProperties": 300**2, "allOf": 150**2, "oneOf": 200**2, "anyOf": 1000**2,
           "prefixItems": 1000**2}  # fmt: skip
ENUM_VALUES = 10_000


def excess(schema: Mapping[str, Any], scale: int = 1) -> str | None:
    """The part that is too large, with its limit. scale: factor on all limits, for several schemas together."""
    values = characters = listed = 0
    squares: Counter[str] = Counter()
    stack: list[Any] = [schema]
    while stack:
        node = stack.pop()
        values += 1
        if isinstance(node, str):
            characters += len(node)
        elif isinstance(node, Mapping):
            for key, each in node.items():
                characters += len(str(key))
                if key in SQUARES and isinstance(each, Mapping | list | tuple):
                    squares[key] += len(each) ** 2
                elif key == "enum" and isinstance(each, list | tuple):
                    listed += len(each)
            stack.extend(node.values())
        elif isinstance(node, list | tuple):
            stack.extend(node)
        if values > VALUES or len(stack) > VALUES:
            return f"it has more than {VALUES} values"
    if characters > scale * CHARACTERS:
        return f"its names and strings have {characters} characters: {scale * CHARACTERS} at most"
    if listed > scale * ENUM_VALUES:
        return f"enum lists {listed} values: {scale * ENUM_VALUES} at most"
    for key, most in SQUARES.items():
        if squares[key] > scale * most:
            return f"{key} has too many members: {int((scale * most) ** 0.5)} at most in one place"
    return None
