"""Converts a JSON schema to a grammar in three steps: read, work out, write.

In: a schema, and a function that decides whether a language is empty. Out: a `SchemaGrammar`, or SchemaError for a
part that cannot be enforced. In a lenient schema such parts are left out and listed.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ossia.harmony.enforce.errors import SchemaError
from ossia.harmony.enforce.language import Language
from ossia.harmony.enforce.lark import Lark
from ossia.harmony.enforce.reader import enforceable_schema, is_any_order, is_lenient
from ossia.harmony.enforce.shapes import PLACE, ShapeError, Shapes
from ossia.harmony.messages import JsonObject

ROUNDS = 20  # the most attempts, each with another part left out


class SchemaGrammar(NamedTuple):
    """The text of a grammar, and the parts of a lenient schema that it does not enforce."""

    text: str
    dropped: tuple[str, ...]


def grammar_of(
    schema: JsonObject, space: str, is_empty: Callable[[Language], bool], refusal: Callable[[str], str | None]
) -> SchemaGrammar:
    """The grammar of a schema. space: the regular expression allowed between tokens. refusal: why a grammar cannot be
    used, or None.
    """
    result = enforceable_schema(schema)
    dropped, current = list(result.dropped), result.schema
    for _ in range(ROUNDS):
        try:
            text = _written(current, space, is_any_order(schema), is_empty, refusal)
            return SchemaGrammar(text, tuple(dict.fromkeys(dropped)))
        except SchemaError as error:
            if not is_lenient(schema):
                raise
            dropped.append(str(error))
            current = _without(current, error, schema)
    raise SchemaError("", "#", "too much of it cannot be enforced")


def _written(
    schema: Mapping[str, Any],
    space: str,
    any_order: bool,
    is_empty: Callable[[Language], bool],
    refusal: Callable[[str], str | None],
) -> str:
    try:
        shapes = Shapes(schema, is_empty)
        if not shapes.fits_something(shapes.root):
            raise ShapeError("", "no value fits it", shapes.unfit_place())
        text = Lark(shapes, space, any_order).text()
    except ShapeError as error:
        raise SchemaError(error.keyword, error.path or "#", str(error)) from error
    except ValueError as error:
        raise SchemaError("", "#", str(error)) from error
    except RecursionError:
        raise SchemaError("", "#", "the schema is nested too deep") from None
    if why := refusal(text):
        raise SchemaError("", "#", why)
    return text


def _without(schema: Mapping[str, Any], error: SchemaError, given: JsonObject) -> Mapping[str, Any]:
    """The schema without the failing keyword: at its place, or everywhere if the place is unknown.

    Without a keyword, only the type of the whole is left.
    """
    found = False

    def cut(node: Any, everywhere: bool) -> Any:
        nonlocal found
        if isinstance(node, list | tuple):
            return type(node)(cut(each, everywhere) for each in node)
        if not isinstance(node, dict):
            return node
        here = PLACE in node and (everywhere or node[PLACE] == error.path)
        if here and error.keyword not in node and not error.keyword:
            found = True
            return {}
        found |= here and error.keyword in node
        return {key: cut(value, everywhere) for key, value in node.items() if not (here and key == error.keyword)}

    for everywhere in (False, True):
        less = cut(schema, everywhere) if error.keyword or (error.path != "#" and not everywhere) else schema
        if found:
            return less
    return {"$ref": "#/$defs/0", "$defs": {"0": {"type": "object"} if given.get("type") == "object" else True}}
