"""JSON in and out: bodies to checked values, values to bytes.

In: a request's bytes and the type they should be. Out: a value of that type, or an `ApiError` that names the field.
It does not know what any field means.
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
# msgspec ends what it says with where it was: "… - at `$.messages[0].role`"
PLACE = re.compile(r" - at `(?:key in )?\$?([^`]*)`$")
STEPS = re.compile(r"\.(\w+)|\[(\d+)\]")
MAX_BLANKS = 20  # fields of a request that are mended
MISSING = re.compile(r"missing required field `([^`]+)`")
SMALL = 4 << 10  # bytes that cannot hold too much, but may nest too deep

MIN_LOGPROB = -9999.0  # JSON has no infinity
encode = msgspec.json.Encoder().encode


def decode(body: bytes | bytearray, type: type[T], bound: TextBound | None = None) -> T:
    """The body as a value; fields that are not known are ignored. Raises ApiError 400 with `param` and `code`.

    bound: of the text within its strings.
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
    """Half a surrogate pair, which some clients send, is read as U+FFFD."""
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
        if (mended := without_halves(body)) is body:
            raise
    return _decoded(mended, type)


def _without_blanks(value: Any, type: type[T], error: msgspec.ValidationError) -> T:
    """A form sends "" for a number that was left empty: where null can be and no text can, it is null.

    Raises `error` where another value is wrong.
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
            if there is holder and name == key:  # null cannot be there
                break
            error = another
    raise error


def _holder(value: Any, said: str) -> tuple[Any, Any]:
    """The object or array with the value that an error is about, and the value's key there; (None, None) for none."""
    found = PLACE.search(said)
    keys = STEPS.findall(found[1]) if found else []
    if not keys or "".join(f".{name}" if name else f"[{number}]" for name, number in keys) != (found and found[1]):
        return None, None
    steps: list[Any] = [name or int(number) for name, number in keys]
    for step in steps[:-1]:
        value = value[step]
    return value, steps[-1]


def loads(text: str) -> Any:
    """The value of a JSON text, with U+FFFD for halves of surrogate pairs: it can be encoded again.

    Raises ValueError, or RecursionError, for what is no JSON.
    """
    return json.loads(without_halves(text.encode("utf-8", "replace")))


def convert(value: Any, type: type[T], param: str) -> T:
    """A part of a body, kept as plain JSON until its kind is known, as a value. Raises as `decode` does."""
    try:
        return msgspec.convert(value, type=type)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), param) from error


def _invalid(said: str, under: str = "") -> ApiError:
    found = PLACE.search(said)
    place = under + (found[1] if found else "")
    message = PLACE.sub("", said)
    code = "invalid_type"
    if missing := MISSING.search(message):
        place, code = f"{place}.{missing[1]}", "missing_required_parameter"
        message = f"field {missing[1]!r} is missing"
    elif "Invalid" in message or ">=" in message or "<=" in message:
        code = "invalid_value"
    param = place.lstrip(".") or None
    return bad(param, f"{param}: {message}" if param else message, code)
