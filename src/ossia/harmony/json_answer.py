"""Reads the JSON form of an answer, as declared by clients and training rows.

In: a response_format, or text.format, of a JSON type. Out: the schema and what the model is shown of it, or an
InputError that names the field. `grammar.py` enforces it.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ossia.harmony.enforce import leniently
from ossia.harmony.errors import InputError
from ossia.harmony.messages import JsonObject, ResponseFormat
from ossia.harmony.openai_chat import ANY_OBJECT

MAX_SCHEMA_TEXT = 1 << 20  # characters of a schema that is sent as a string
JSON_KINDS = ("json_object", "json", "json_schema")


class JsonAnswer(NamedTuple):
    """schema: the schema of the answer; lenient unless strict. shown: the form that the prompt declares."""

    schema: JsonObject
    shown: tuple[ResponseFormat, ...]


def json_answer(given: Mapping[str, Any], param: str = "response_format", *, shows_object: bool = True) -> JsonAnswer:
    """Read a JSON form. OpenAI nests the schema in json_schema; others give it as schema or value beside the type.

    shows_object: whether the prompt shows a `json_object` without a schema.
    """
    kind = given.get("type")
    nested = given.get("json_schema")
    inner = nested if isinstance(nested, Mapping) and kind == "json_schema" else given
    at = f"{param}.json_schema" if inner is nested else param
    key = next((key for key in ("schema", "value", "schema_definition") if inner.get(key) is not None), None)
    if key is None and inner is not nested and kind != "json_object":
        missing = "schema" if param != "response_format" else "json_schema"
        raise InputError(f"{param}.{missing}", f"{param} has no {missing}", "missing_required_parameter")
    if key is None:
        name = "json_object" if kind == "json_object" else _text(inner, "name", at) or "answer"
        shown = ResponseFormat(name, ANY_OBJECT, _text(inner, "description", at))
        return JsonAnswer(ANY_OBJECT, (shown,) if shows_object or kind != "json_object" else ())
    schema = schema_of(inner[key], f"{at}.{key}")
    name = _text(inner, "name", at) or ("json_object" if kind == "json_object" else "answer")
    strict = inner.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise InputError(f"{at}.strict", f"{at}.strict must be true or false", "invalid_type")
    shown = ResponseFormat(name, schema, _text(inner, "description", at))
    return JsonAnswer(schema if strict else leniently(schema), (shown,))


def schema_of(value: Any, at: str) -> JsonObject:
    """A schema, which some clients send as a string."""
    if isinstance(value, str):
        if len(value) > MAX_SCHEMA_TEXT:
            raise InputError(at, f"{at} has more than {MAX_SCHEMA_TEXT} characters")
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InputError(at, f"{at} is a text that is no JSON schema: {error}") from error
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(at, f"{at} must be a JSON schema, as an object or its text", "invalid_type")
    return value


def _text(given: Mapping[str, Any], key: str, at: str) -> str | None:
    text = given.get(key)
    if text is not None and not isinstance(text, str):
        raise InputError(f"{at}.{key}", f"{at}.{key} must be a string", "invalid_type")
    return text
