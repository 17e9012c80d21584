"""JSON in and out: bodies to checked values, values to bytes.

In: a request's bytes and its type. Out: a value of that type, or an `ApiError` that names the field.
"""

import json
import re
from typing import Any, TypeVar

import msgspec

from ossia.server.errors import ApiError, bad
from ossia.server.http.decoding.json_shape import DEEPEST, check_shape
from ossia.server.http.decoding.surrogates import as_utf8, check_utf8, without_halves
from ossia.server.http.decoding.token_bound import TextBound

T = TypeVar("T")
JsonDict = dict[str, Any]
# msgspec's messages end with the path: "… - at `$.messages[0].role`"
PLACE = re.compile(r" - at `(?:key in )?\$?([^`]*)`$")
STEPS = re.compile(r"\.(\w+)|\[(\d+)\]")
MAX_BLANKS = 20  # empty fields of a request that are repaired
MISSING = re.compile(r"missing required field `([^`]+)`")
SMALL = 4 << 10  # bytes: smaller bodies are only checked for nesting

MIN_LOGPROB = -9999.0  # JSON has no infinity
encode = msgspec.json.Encoder().encode


def decode(body: bytes | bytearray, type: type[T], bound: TextBound | None = None) -> T:
    """The body as a value. Unknown fields are ignored. Raises ApiError 400 with `param` and `code`.

    bound: on the text within its strings.
    """
    if not body:
        raise bad(None, "the body is empty: send a JSON object", "invalid_json")
    if len(body) > SMALL or body.count(b"[") + body.count(b"{") > DEEPEST:
        check_shape(body, bound)
    try:
        return _decoded(body, type)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except UnicodeDecodeError as error:
        raise bad(None, f"the body is not UTF-8: {error.reason} at byte {error.start}", "invalid_json") from error
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise bad(None, f"the body is not JSON: {error}", "invalid_json") from error


def _decoded(body: bytes | bytearray, type: type[T]) -> T:
    """Decode, with U+FFFD for half surrogate pairs, which some clients send."""
    try:
        check_utf8(body)
    except UnicodeDecodeError:
        check_utf8(body := as_utf8(body))
    try:
        return msgspec.json.decode(body, type=type)
    except msgspec.ValidationError as error:
        if b'""' not in body:
            raise
        return _without_blanks(msgspec.json.decode(body), type, error)
    except msgspec.DecodeError:
        if (repaired := without_halves(body)) is body:
            raise
    return _decoded(repaired, type)


def _without_blanks(value: Any, type: type[T], error: msgspec.ValidationError) -> T:
    """Decode with null for "" in fields that allow null but no text: web forms send "" for an empty number.

    Raises `error` if another value is invalid.
    """
    for _ in range(MAX_BLANKS):
        holder, key = _holder(value, str(error))
        if holder is None or holder[key] != "":
            break
        holder[key] = None
        try:
            return msgspec.convert(value, type=type)
        except msgspec.ValidationError as another:
            there, name = _holder(value, str(another))
            if there is holder and name == key:  # the field does not allow null
                break
            error = another
    raise error


def _holder(value: Any, message: str) -> tuple[Any, Any]:
    """The container and key of the value that an error message names; (None, None) if it names none."""
    found = PLACE.search(message)
    keys = STEPS.findall(found[1]) if found else []
    if not keys or "".join(f".{name}" if name else f"[{number}]" for name, number in keys) != (found and found[1]):
        return None, None
    steps: list[Any] = [name or int(number) for name, number in keys]
    for step in steps[:-1]:
        value = value[step]
    return value, steps[-1]


def loads(text: str) -> Any:
    """The value of a JSON text, with U+FFFD for half surrogate pairs, so that it can be encoded again.

    Raises ValueError or RecursionError for invalid JSON.
    """
    return json.loads(without_halves(text.encode("utf-8", "replace")))


def convert(value: Any, type: type[T], param: str) -> T:
    """A part of a body, decoded before its type was known, as a value of that type. Raises like `decode`."""
    try:
        return msgspec.convert(value, type=type)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), param) from error


def _invalid(message: str, under: str = "") -> ApiError:
    """The error of an invalid value. under: the path of the decoded part."""
    found = PLACE.search(message)
    place = under + (found[1] if found else "")
    message = PLACE.sub("", message)
    code = "invalid_type"
    if missing := MISSING.search(message):
        place, code = f"{place}.{missing[1]}", "missing_required_parameter"
        message = f"field {missing[1]!r} is missing"
    elif "Invalid" in message or ">=" in message or "<=" in message:
        code = "invalid_value"
    param = place.lstrip(".") or None
    return bad(param, f"{param}: {message}" if param else message, code)
