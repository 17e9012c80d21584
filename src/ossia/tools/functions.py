"""Python functions as tools: a signature becomes a JSON schema, and a call's JSON becomes arguments.

In: a function with annotations. Out: a `Tool`. Calling it with the model's JSON returns text for the model.
"""

import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass

import msgspec

from ossia.harmony.messages import ToolSpec
from ossia.tools.background import BackgroundLoop
from ossia.tools.signature import ArgumentsError, description_of, is_async, name_of, plain, signature_of


class ToolOutput(msgspec.Struct, frozen=True):
    """The result of a call, as text for the model. failed: the arguments or the function raised an error.

    details: the same result as a structure of the tool's own, for surfaces that show it (files, exit codes, pages).
    """

    text: str
    failed: bool = False
    details: msgspec.Struct | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that can be declared (`spec`) and run (`call`, with the arguments as JSON text).

    call_async: the same on the caller's event loop, if the tool is a coroutine function. namespace: where it is
    declared; None for a built-in tool such as python, which is called by its own name with free text.
    """

    spec: ToolSpec
    call: Callable[[str], ToolOutput]
    namespace: str | None = "functions"
    call_async: Callable[[str], Awaitable[ToolOutput]] | None = None

    @property
    def recipient(self) -> str:
        """The recipient of calls to this tool."""
        return self.spec.name if self.namespace is None else f"{self.namespace}.{self.spec.name}"


def function_tool(function: Callable[..., object], loop: BackgroundLoop | None = None) -> Tool:
    """Make a tool of a plain or async function. Its name, docstring, annotations and defaults describe it to the
    model.

    `Annotated[str, "what it means"]` describes a parameter. A result that is not a string is returned as JSON. loop:
    runs an async function for callers without an event loop; default: a new one. Raises ValueError for parameters that
    have no JSON form.
    """
    name, loop = name_of(function), loop or BackgroundLoop()
    parameters, decode = signature_of(function)

    async def call_async(text: str) -> ToolOutput:
        try:
            value = function(**decode(text))
            return _result(await value if inspect.isawaitable(value) else value)
        except Exception as error:
            return _failed(name, error)

    def call(text: str) -> ToolOutput:
        try:
            value = function(**decode(text))
            return _result(loop.run(_awaited(value)) if inspect.isawaitable(value) else value)
        except Exception as error:
            return _failed(name, error)

    # the decoded arguments are checked by the function's own types, so the grammar may be lenient
    spec = ToolSpec(name, description_of(function), parameters, strict=False)
    return Tool(spec, call, call_async=call_async if is_async(function) else None)


async def _awaited(value: Awaitable[object]) -> object:
    return await value


def _result(value: object) -> ToolOutput:
    return ToolOutput(value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=plain).decode())


def _failed(name: str, error: Exception) -> ToolOutput:
    """The error as text for the model, which may try again."""
    if isinstance(error, ArgumentsError):
        return ToolOutput(f"error: invalid arguments for {name}: {error}", failed=True)
    if isinstance(error, CancelledError):
        return ToolOutput(f"error: {name} was cancelled", failed=True)
    return ToolOutput(f"error: {type(error).__name__}: {error}", failed=True)
