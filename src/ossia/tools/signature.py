"""A function's parameters: their JSON schema, and a call's JSON as Python values.

In: a function with annotations. Out: a `Signature`. pydantic reads pydantic types and is imported only for them.
msgspec reads all others.
"""

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

REQUIRED = inspect.Parameter.empty
PYDANTIC = frozenset({"pydantic", "pydantic_core", "annotated_types"})
ERRORS = 8  # argument errors that are reported at once


class ArgumentsError(ValueError):
    """A call's JSON does not fit the parameters. The message is for the model."""


class Signature(NamedTuple):
    """A function's parameters as a JSON schema, and the decoder of a call's JSON to keyword arguments.

    decode: raises ArgumentsError for JSON that does not fit.
    """

    schema: dict[str, Any]
    decode: Callable[[str], dict[str, Any]]


class _Field(NamedTuple):
    name: str
    hint: Any
    default: Any


def name_of(function: Callable[..., object]) -> str:
    inner = _inner(function)
    return getattr(inner, "__name__", type(inner).__name__)


def description_of(function: Callable[..., object]) -> str:
    return inspect.getdoc(_inner(function)) or ""


def _inner(function: Callable[..., object]) -> Callable[..., object]:
    """The function inside a functools.partial."""
    return _inner(function.func) if isinstance(function, functools.partial) else function


def is_async(function: Callable[..., object]) -> bool:
    """Whether a call returns a coroutine. Objects with an async `__call__` count."""
    inner = _inner(function)
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004


def signature_of(function: Callable[..., object]) -> Signature:
    """The signature. Raises ValueError for parameters that have no JSON form."""
    fields = list(_fields(function))
    try:
        if any(_is_pydantic(each.hint) or _is_pydantic(each.default) for each in fields):
            return _read_by_pydantic(fields)
        try:
            return _read_by_msgspec(fields)
        except TypeError:
            if "pydantic" not in sys.modules:
                raise
            return _read_by_pydantic(fields)  # its types may be nested in others
    except TypeError as error:
        raise ValueError(f"function {name_of(function)!r} cannot be a tool: {error}") from error


def _fields(function: Callable[..., object]) -> Iterator[_Field]:
    inner = _inner(function)
    annotated = inner if inspect.isroutine(inner) else type(inner).__call__
    try:
        hints = get_type_hints(annotated, include_extras=True)
    except NameError as error:
        raise ValueError(
            f"function {name_of(function)!r} cannot be a tool: {error}; define the types of its parameters in its module"
        ) from error
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ValueError(
                f"function {name_of(function)!r} cannot be a tool: parameter {parameter} cannot be passed by name"
            )
        yield _Field(parameter.name, hints.get(parameter.name, Any), parameter.default)


def _metas(hint: Any) -> tuple[Any, list[Any]]:
    """A hint without its `Annotated`, and the metadata. A bare string or `Doc` there is a description."""
    if get_origin(hint) is not Annotated:
        return hint, []
    kind, *metas = get_args(hint)
    return kind, [meta if isinstance(meta, str) else getattr(meta, "documentation", meta) for meta in metas]


# msgspec


def _read_by_msgspec(fields: list[_Field]) -> Signature:
    made: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for name, hint, default in fields:
        kind, metas = _metas(hint)
        metas = [msgspec.Meta(description=meta) if isinstance(meta, str) else meta for meta in metas]
        kind = Annotated[(kind, *metas)] if metas else kind
        if default is REQUIRED:
            made.append((name, kind))
        elif isinstance(default, list | dict | set | bytearray):
            made.append((name, kind, msgspec.field(default_factory=functools.partial(copy.deepcopy, default))))
        else:
            made.append((name, kind, default))
    arguments = msgspec.defstruct("Arguments", made, kw_only=True, forbid_unknown_fields=True, module=__name__)
    schema, components = msgspec.json.schema_components((arguments,), ref_template="#/$defs/{name}")
    own = dict(components.pop(schema[0]["$ref"].removeprefix("#/$defs/")))
    own.pop("title", None)
    for name, _, default in fields:
        if isinstance(default, list | dict | set):
            own["properties"][name] = {**own["properties"][name], "default": msgspec.to_builtins(default)}

    def decode(text: str) -> dict[str, Any]:
        try:
            given = msgspec.json.decode(text.strip() or "{}", type=arguments)
        except msgspec.MsgspecError as error:
            raise ArgumentsError(str(error)) from error
        return {name: getattr(given, name) for name in arguments.__struct_fields__}

    return Signature({**own, "$defs": components} if components else own, decode)


# pydantic


def _is_pydantic(hint: Any) -> bool:
    """Whether a hint, or a default, is a pydantic type."""
    if get_origin(hint) is Annotated:
        kind, *metas = get_args(hint)
        return _is_pydantic(kind) or any(type(meta).__module__.partition(".")[0] in PYDANTIC for meta in metas)
    if isinstance(hint, type) and hasattr(hint, "__get_pydantic_core_schema__"):
        return True
    ours = type(hint).__module__.partition(".")[0] in PYDANTIC
    return (ours and not isinstance(hint, type)) or any(_is_pydantic(each) for each in get_args(hint))


def _read_by_pydantic(fields: list[_Field]) -> Signature:
    import pydantic
    from pydantic.json_schema import GenerateJsonSchema
    from pydantic_core import SchemaError

    if pydantic.VERSION.startswith("1."):
        raise TypeError(f"its types need pydantic 2, and pydantic {pydantic.VERSION} is installed")

    class _Untitled(GenerateJsonSchema):
        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

    # numbered, because pydantic refuses some parameter names
    made = {f"p{number}": _pydantic_field(each) for number, each in enumerate(fields)}
    names = {f"p{number}": each.name for number, each in enumerate(fields)}
    try:
        model = pydantic.create_model("Arguments", __config__=pydantic.ConfigDict(extra="forbid"), **made)
        schema = model.model_json_schema(schema_generator=_Untitled)
    except (pydantic.errors.PydanticUserError, SchemaError) as error:
        raise TypeError(str(error)) from error
    schema.pop("title", None)

    def decode(text: str) -> dict[str, Any]:
        try:
            given = model.model_validate_json(text.strip() or "{}")
        except pydantic.ValidationError as error:
            raise ArgumentsError(_pydantic_errors(error.errors(include_url=False))) from error
        return {name: getattr(given, field) for field, name in names.items()}

    return Signature(schema, decode)


def _pydantic_field(field: _Field) -> Any:
    """The type and settings of a field under the parameter's name."""
    from pydantic import Field
    from pydantic.fields import FieldInfo

    kind, metas = _metas(field.hint)
    metas = [Field(description=meta) if isinstance(meta, str) else meta for meta in metas]
    default = field.default
    settings: dict[str, Any] = {"alias": field.name}
    if isinstance(default, FieldInfo):
        metas.append(default)
        if default.default_factory is not None:
            settings["default_factory"] = default.default_factory
        elif not default.is_required():
            settings["default"] = default.default
    elif default is not REQUIRED:
        settings["default"] = default
    return (Annotated[(kind, *metas)] if metas else kind), Field(**settings)


def _pydantic_errors(errors: list[Any]) -> str:
    """pydantic's errors, each with its place."""
    lines = [
        f"{'.'.join(map(str, each['loc']))}: {each['msg']}" if each["loc"] else each["msg"] for each in errors[:ERRORS]
    ]
    more = [f"and {len(errors) - ERRORS} more"] if len(errors) > ERRORS else []
    return "; ".join([*lines, *more])


def plain(value: object) -> object:
    """For msgspec: convert a result that it cannot write as JSON. Raises TypeError if it has no JSON form."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        dumped = dump(mode="json")
        return dict(dumped) if isinstance(dumped, Mapping) else dumped
    raise TypeError(f"a result of type {type(value).__name__} has no JSON form")
