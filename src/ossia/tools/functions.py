"""Python functions as tools: a signature becomes a JSON schema, a call's JSON becomes arguments.

In: a function with annotations. Out: a `Tool`; calling it with the model's JSON gives text for the model.
It does not know models, channels or how a call was sampled.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from ossia.harmony.messages import ToolSpec


class ToolResult(msgspec.Struct, frozen=True):
    """What a call gave, as the model reads it; `failed` when the arguments or the function were at fault."""

    text: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that can be declared (`spec`) and run (`call`, from the arguments' JSON text).

    namespace: where it is declared; None for a built-in one, such as python, which is itself called, with free text.
    """

    spec: ToolSpec
    call: Callable[[str], ToolResult]
    namespace: str | None = "functions"

    @property
    def recipient(self) -> str:
        """Whom a call is addressed to."""
        return self.spec.name if self.namespace is None else f"{self.namespace}.{self.spec.name}"


def function_tool(function: Callable[..., object]) -> Tool:
    """A tool of a plain function. Its name, docstring, annotations and defaults tell the model how to call it.

    `Annotated[str, "what it means"]` describes a parameter. A result that is no string is given as JSON.
    Raises ValueError for parameters that have no JSON form.
    """
    name = function.__name__
    description = inspect.cleandoc(function.__doc__ or "")
    try:
        arguments = _arguments(function)
        parameters = _object_schema(arguments)
    except TypeError as error:
        raise ValueError(f"function {name!r} cannot be a tool: {error}") from error

    def call(text: str) -> ToolResult:
        try:
            given = msgspec.json.decode(text.strip() or "{}", type=arguments)
        except msgspec.MsgspecError as error:
            return ToolResult(f"error: invalid arguments for {name}: {error}", failed=True)
        try:
            value = function(**{field: getattr(given, field) for field in arguments.__struct_fields__})
            return ToolResult(value if isinstance(value, str) else msgspec.json.encode(value).decode())
        except Exception as error:  # the model hears of it and may try again; the program goes on
            return ToolResult(f"error: {type(error).__name__}: {error}", failed=True)

    return Tool(ToolSpec(name, description, parameters), call)


def _arguments(function: Callable[..., object]) -> type[msgspec.Struct]:
    """A struct with the function's parameters as fields; unknown ones are refused when decoding."""
    hints = get_type_hints(function, include_extras=True)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ValueError(
                f"function {function.__name__!r} cannot be a tool: parameter {parameter} has no name to call it by"
            )
        kind = _described(hints.get(parameter.name, Any))
        required = parameter.default is parameter.empty
        fields.append((parameter.name, kind) if required else (parameter.name, kind, parameter.default))
    return msgspec.defstruct(function.__name__, fields, kw_only=True, forbid_unknown_fields=True)


def _described(hint: Any) -> Any:
    """`Annotated[T, "text"]` with the text as the schema's description."""
    if get_origin(hint) is not Annotated:
        return hint
    kind, *extras = get_args(hint)
    metas = [msgspec.Meta(description=extra) if isinstance(extra, str) else extra for extra in extras]
    return Annotated[(kind, *metas)]


def _object_schema(arguments: type[msgspec.Struct]) -> dict[str, Any]:
    """The struct's schema, its own definition inlined and the nested ones beside it."""
    _, components = msgspec.json.schema_components((arguments,), ref_template="#/$defs/{name}")
    schema = dict(components.pop(arguments.__name__))
    schema.pop("title", None)
    return {**schema, "$defs": components} if components else schema
