"""Arguments of the browser's functions: a call's JSON, with the slips that models make.

In: the text of a call. Out: values of the right type. Raises ArgumentsError with a message for the model.
"""

import math
from typing import Any

import msgspec

from ossia.tools.signature import ArgumentsError

MAX_ARGUMENTS = 100_000  # characters
INVALID = "Invalid function arguments"


class CallArguments:
    """The arguments of one call, in any order. Unknown ones are ignored; null means that an argument is missing."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_ARGUMENTS:
            raise ArgumentsError(f"{INVALID}: they are longer than {MAX_ARGUMENTS} characters")
        try:
            values = msgspec.json.decode(text.strip() or "{}")
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise ArgumentsError(INVALID) from error
        if not isinstance(values, dict):
            raise ArgumentsError(INVALID)
        self._values: dict[str, Any] = values

    def text(self, name: str, limit: int) -> str:
        """A required string, not empty."""
        value = self._values.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = f"{value:g}" if isinstance(value, float) else str(value)
        if not isinstance(value, str) or not value.strip():
            raise ArgumentsError(f"{INVALID}: `{name}` must be a string that is not empty")
        if len(value) > limit:
            raise ArgumentsError(f"{INVALID}: `{name}` is longer than {limit} characters")
        return value.encode("utf-8", "replace").decode()

    def number(self, name: str, default: int = -1) -> int:
        """A whole number, also as a string or a float."""
        value = self._values.get(name)
        if value is None or value == "":
            return default
        if (found := _whole(value)) is None:
            raise ArgumentsError(f"{INVALID}: `{name}` must be a whole number")
        return found

    def number_or_text(self, name: str, limit: int) -> int | str:
        """A whole number, or a string that is none; -1 if it is missing."""
        value = self._values.get(name)
        if value is None or value == "":
            return -1
        if (found := _whole(value)) is not None:
            return found
        return self.text(name, limit)

    def flag(self, name: str) -> bool:
        """Whether an argument is true."""
        value = self._values.get(name)
        return value is True or (isinstance(value, str) and value.strip().lower() == "true")


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if math.isfinite(number) and number == int(number) and abs(number) < 2**53 else None
