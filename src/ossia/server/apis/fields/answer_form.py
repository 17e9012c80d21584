"""The form of an answer, from response_format, text.format, or the fields of other servers.

In: the fields of a request. Out: one form, its schema for the prompt, and warnings about parts that are not enforced.
The form is compiled and enforced in `harmony`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ossia.harmony.json_answer import json_answer, schema_of
from ossia.harmony.messages import AnswerForm, ResponseFormat, TextGrammar
from ossia.harmony.openai_chat import ANY_OBJECT
from ossia.server.apis.fields.extensions import FormExtensions
from ossia.server.errors import bad, input_errors

KINDS = ("json", "json_object", "regex", "choice", "grammar")
IGNORED = ("disable_fallback", "disable_any_whitespace", "disable_additional_properties", "whitespace_pattern")


class RequestedForm(NamedTuple):
    """enforced: None for a free answer. shown: the formats in the prompt. param: the field that sets the form."""

    enforced: AnswerForm | None = None
    shown: tuple[ResponseFormat, ...] = ()
    param: str = "response_format"


@input_errors()
def form_of(
    declared: Mapping[str, Any] | None,
    request: FormExtensions,
    warnings: list[str],
    *,
    param: str = "response_format",
    shows_object: bool = True,
) -> RequestedForm:
    """The form of a request. declared: its response_format, or text.format. shows_object: whether `json_object` is shown.

    Raises ApiError (400) for two different forms, or an invalid one.
    """
    found = [*_declared(declared, param, warnings, shows_object), *_extensions(request, warnings)]
    given = [each for i, each in enumerate(found) if not _is_less(each, found[:i] + found[i + 1 :])]
    different = [each for i, each in enumerate(given) if not any(_is_same(each, other) for other in given[:i])]
    if len(different) > 1:
        names = " and ".join(each.param for each in different)
        raise bad(different[1].param, f"{names} give different forms of the answer: give one")
    return different[0] if different else RequestedForm(param=param)


def _is_less(one: RequestedForm, others: list[RequestedForm]) -> bool:
    """Whether it only requires an object, and another form has a schema."""
    return one.enforced == ANY_OBJECT and any(isinstance(each.enforced, Mapping) and each != one for each in others)


def _is_same(one: RequestedForm, other: RequestedForm) -> bool:
    """Whether both are the same form, strict or not."""
    plain = [
        {**each.enforced, "x-guidance": None} if isinstance(each.enforced, Mapping) else each.enforced
        for each in (one, other)
    ]
    return plain[0] == plain[1]


def _declared(
    given: Mapping[str, Any] | None, param: str, warnings: list[str], shows_object: bool
) -> list[RequestedForm]:
    if given is None:
        return []
    match kind := given.get("type", "text"):
        case "text":
            return []
        case "json_object" | "json" | "json_schema":
            return [RequestedForm(*json_answer({**given, "type": kind}, param, shows_object=shows_object), param)]
        case "regex":
            return [_text("regex", given, ("regex", "pattern", "value"), param)]
        case "choice":
            return [_text("choice", given, ("choice", "choices", "value"), param)]
        case "grammar" | "ebnf" | "gbnf" | "lark":
            if given.get("syntax") == "regex":
                return [_text("regex", given, ("definition",), param)]
            return [_text("grammar", given, ("grammar", "definition", "value", "ebnf", "gbnf", "lark"), param)]
        case "structural_tag":
            warnings.append(f"{param}: a structural_tag is not enforced")
            return []
    raise bad(
        f"{param}.type", f"{param}.type {str(kind)[:40]!r} is none of text, json_object, json_schema, {_listed()}"
    )


def _listed() -> str:
    return "regex, choice, grammar"


def _text(kind: Any, given: Mapping[str, Any], keys: tuple[str, ...], param: str) -> RequestedForm:
    key = next((key for key in keys if given.get(key) is not None), None)
    if key is None:
        raise bad(f"{param}.{keys[0]}", f"{param} has no {keys[0]}", "missing_required_parameter")
    return _grammar(kind, given[key], f"{param}.{key}")


def _grammar(kind: Any, value: Any, at: str) -> RequestedForm:
    if kind == "choice":
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise bad(at, f"{at} must be a list of texts", "invalid_type")
        return RequestedForm(TextGrammar("choice", tuple(value)), (), at)
    if not isinstance(value, str):
        raise bad(at, f"{at} must be a string", "invalid_type")
    return RequestedForm(TextGrammar(kind, (value,)), (), at)


def _json(value: Any, at: str) -> RequestedForm:
    schema = schema_of(value, at)
    return RequestedForm(schema, (ResponseFormat("answer", schema),), at)


def _extensions(request: FormExtensions, warnings: list[str]) -> list[RequestedForm]:
    found: list[RequestedForm] = []
    for name in ("guided_json", "json_schema"):
        if (value := getattr(request, name)) not in (None, ""):
            found.append(_json(value, name))
    if request.guided_json_object:
        found.append(RequestedForm(ANY_OBJECT, (ResponseFormat("json_object", ANY_OBJECT),), "guided_json_object"))
    texts = {
        "guided_regex": "regex",
        "regex": "regex",
        "guided_choice": "choice",
        "guided_grammar": "grammar",
        "ebnf": "grammar",
    }
    for name, kind in texts.items():
        if value := getattr(request, name):
            found.append(_grammar(kind, value, name))
    if isinstance(request.grammar, str) and request.grammar:
        found.append(_grammar("grammar", request.grammar, "grammar"))
    elif isinstance(request.grammar, dict):
        found += _declared(request.grammar, "grammar", warnings, True)
    if isinstance(request.format, dict) and request.format:
        found.append(_json(request.format, "format"))
    elif request.format == "json":
        found.append(RequestedForm(ANY_OBJECT, (ResponseFormat("json_object", ANY_OBJECT),), "format"))
    elif request.format:
        raise bad("format", f"format is {str(request.format)[:40]!r}: want 'json' or a JSON schema")
    return [*found, *_structured(request.structured_outputs or {}, warnings)]


def _structured(given: Mapping[str, Any], warnings: list[str]) -> list[RequestedForm]:
    """vLLM's structured_outputs: one field for several kinds."""
    found: list[RequestedForm] = []
    for name, value in given.items():
        at = f"structured_outputs.{name}"
        if value in (None, "", False) or name in IGNORED:
            continue
        match name:
            case "json":
                found.append(_json(value, at))
            case "json_object":
                found.append(RequestedForm(ANY_OBJECT, (ResponseFormat("json_object", ANY_OBJECT),), at))
            case "regex" | "choice" | "grammar":
                found.append(_grammar(name, value, at))
            case _:
                warnings.append(f"structured_outputs: {name[:40]!r} is not enforced")
    return found
