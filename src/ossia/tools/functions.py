"""Python functions as tools: a signature becomes a JSON schema, a call's JSON becomes arguments.

In: a function with annotations. Out: a `Tool`; calling it with the model's JSON gives text for the model.
It does not know models, channels or how a call was sampled.
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
    """What a call gave, as the model reads it; `failed` when the arguments or the function were at fault."""

    text: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that can be declared (`spec`) and run (`call`, from the arguments' JSON text).

    call_async: the same on the caller's event loop, where the tool is a coroutine function.
    namespace: where it is declared; None for a built-in one, such as python, which is itself called, with free text.
    """

    spec: ToolSpec
    call: Callable[[str], ToolOutput]
    namespace: str | None = "functions"
    call_async: Callable[[str], Awaitable[ToolOutput]] | None = None

    @property
    def recipient(self) -> str:
        """Whom a call is addressed to."""
        return self.spec.name if self.namespace is None else f"{self.namespace}.{self.spec.name}"


def function_tool(function: Callable[..., object], loop: BackgroundLoop | None = None) -> Tool:
    """A tool of a plain or an async function. Its name, docstring, annotations and defaults tell the model how to call it.

    `Annotated[str, "what it means"]` describes a parameter. A result that is no string is given as JSON.
    loop: where an async function runs for callers without an event loop; one of its own unless given.
    Raises ValueError for parameters that have no JSON form.
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

    # the result is checked again by the function's own types, so what a grammar cannot enforce may be left out
    spec = ToolSpec(name, description_of(function), parameters, strict=False)
    return Tool(spec, call, call_async=call_async if is_async(function) else None)


async def _awaited(value: Awaitable[object]) -> object:
    return await value


def _result(value: object) -> ToolOutput:
    return ToolOutput(value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=plain).decode())


def _failed(name: str, error: Exception) -> ToolOutput:
    """What went wrong, for the model: it may try again, and the program goes on."""
    if isinstance(error, ArgumentsError):
        return ToolOutput(f"error: invalid arguments for {name}: {error}", failed=True)
    if isinstance(error, CancelledError):
        return ToolOutput(f"error: {name} was cancelled", failed=True)
    return ToolOutput(f"error: {type(error).__name__}: {error}", failed=True)
