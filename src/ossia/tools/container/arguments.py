"""The declaration of `container.exec`, and its arguments with the slips that models make.

In: a call's JSON. Out: `ExecCall`. Raises ArgumentsError with a message for the model.
"""

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from ossia.harmony.messages import ToolNamespace, ToolSpec
from ossia.tools.signature import ArgumentsError

_MOST_TEXT = 1 << 20
_SHELLS = ("bash", "sh", "/bin/bash", "/bin/sh", "/usr/bin/bash")
_PARAMETERS = {
    "type": "object",
    "properties": {
        "cmd": {
            "type": "array",
            "items": {"type": "string"},
            "description": 'The program and its arguments, run without a shell; for a shell: ["bash", "-lc", "ls | wc"].',
        },
        "workdir": {"type": "string", "description": "Where to run; /mnt/data by default."},
        "timeout": {"type": "number", "description": "Seconds after which the command is stopped."},
        "session_name": {
            "type": "string",
            "description": "Run in the bash session of this name, which keeps its folder and variables between calls.",
        },
    },
    "required": ["cmd"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class ExecCall:
    """A command. seconds: as the model asked, or None."""

    argv: tuple[str, ...]
    workdir: str | None
    seconds: float | None
    session: str | None


def container_namespace() -> ToolNamespace:
    """The namespace `container` with its function exec."""
    tool = ToolSpec("exec", "Runs a command in the container and returns its output.", _PARAMETERS, strict=False)
    return ToolNamespace("container", "Utilities for running commands in a Linux container.", (tool,))


def exec_call(text: str) -> ExecCall:
    """Read a call's JSON. A string as the command is run by `bash -lc`; `command` and `commands` mean `cmd`."""
    if len(text) > _MOST_TEXT:
        raise ArgumentsError(f"they are longer than {_MOST_TEXT} characters")
    try:
        values = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ArgumentsError(f"they are not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ArgumentsError('they must be an object such as {"cmd": ["ls", "-l"]}')
    return ExecCall(_argv(values), _text(values, "workdir", "cwd"), _seconds(values), _text(values, "session_name"))


def _argv(values: dict[str, Any]) -> tuple[str, ...]:
    name = next((key for key in ("cmd", "command", "commands") if values.get(key) not in (None, "", [])), None)
    if name is None:
        raise ArgumentsError('`cmd` is missing: give the program and its arguments, such as ["ls", "-l"]')
    value = values[name]
    if isinstance(value, str):
        return ("bash", "-lc", value)
    if not isinstance(value, list) or not all(isinstance(word, str | int | float) for word in value):
        raise ArgumentsError(f"`{name}` must be a list of strings")
    words = tuple(str(word) for word in value)
    if any("\0" in word for word in words):
        raise ArgumentsError(f"`{name}` holds a null character")
    if name == "commands" and words[0] not in _SHELLS and any(" " in word for word in words):
        return ("bash", "-lc", "\n".join(words))  # several commands, as OpenAI's shell tool sends them
    return words


def _text(values: dict[str, Any], *names: str) -> str | None:
    for name in names:
        value = values.get(name)
        if value not in (None, ""):
            if not isinstance(value, str) or "\0" in value or len(value) > 4096:
                raise ArgumentsError(f"`{name}` must be a short string")
            return value
    return None


def _seconds(values: dict[str, Any]) -> float | None:
    for name, unit in (("timeout", 1.0), ("timeout_ms", 0.001)):
        value = values.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise ArgumentsError(f"`{name}` must be a number above 0")
        return float(value) * unit
    return None
