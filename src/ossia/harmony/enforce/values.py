"""Checks the values of a schema's keywords: their type, and whether a grammar can write them exactly.

In: any JSON. Out: the typed value, or ValueError.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

UNWRITABLE = re.compile(r"[\0-\x07\x0b\x0e-\x1f\x7f\ud800-\udfff]")
BOUND = 2**53  # beyond it not all integers are exact in JavaScript


def short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def as_number(value: Any) -> int | float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        raise ValueError(f"it must be a number, not {short(value)}")
    return value


def as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"it must be a string, not {short(value)}")
    return value


def as_mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"it must be an object, not {short(value)}")
    return value


def as_list(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"it must be a non-empty list, not {short(value)}")
    return value


def as_names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"it must be a list of strings, not {short(value)}")
    check_value(value)
    return list(dict.fromkeys(value))


def check_value(value: Any) -> None:
    """Raise ValueError for a value that cannot be written, or not exactly."""
    match value:
        case bool():
            return
        case int() | float():
            if not abs(as_number(value)) <= BOUND:
                raise ValueError(f"{short(value)} is beyond 2^53, up to where numbers are exact")
        case str():
            if UNWRITABLE.search(value):
                raise ValueError(f"{short(value)} holds a control character, or half of a surrogate pair")
        case list():
            for each in value:
                check_value(each)
        case Mapping():
            for key, each in value.items():
                check_value(key)
                check_value(each)
