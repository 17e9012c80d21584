"""Tools of OpenAI's types that the client runs: apply_patch, local_shell, and shell in a local environment.

In: the tools and the tool choice of a request. Out: the same with these tools as functions, as the model sees them, and
which function is which tool.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ossia.tools.patch.call import DESCRIPTION, FORMAT

ClientKind = Literal["apply_patch", "local_shell", "shell"]
KINDS: dict[str, ClientKind] = {"apply_patch": "apply_patch", "local_shell": "local_shell", "shell": "shell"}
TEXT, NUMBER, TEXTS = {"type": "string"}, {"type": "integer"}, {"type": "array", "items": {"type": "string"}}


def _function(name: str, description: str, required: str, **properties: Mapping[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": [required], "additionalProperties": False}
    return {"type": "function", "name": name, "description": description, "parameters": schema}


FUNCTIONS: dict[ClientKind, dict[str, Any]] = {
    "apply_patch": _function("apply_patch", DESCRIPTION, "input", input={**TEXT, "description": FORMAT}),
    "local_shell": _function(
        "local_shell",
        'Run a command on the user\'s machine. It is not given to a shell: for that, call ["bash", "-lc", "..."].',
        "command",
        command=TEXTS,
        working_directory=TEXT,
        timeout_ms=NUMBER,
    ),
    "shell": _function(
        "shell",
        "Run commands in a shell on the user's machine, one after another. Each gives its output and exit code.",
        "commands",
        commands=TEXTS,
        timeout_ms=NUMBER,
        max_output_length=NUMBER,
    ),
}


class ClientRunTools(NamedTuple):
    """tools and tool_choice: with functions in the place of these tools. kinds: by the function's name."""

    tools: list[Mapping[str, Any]] | None
    tool_choice: Any
    kinds: Mapping[str, ClientKind]

    def name_of(self, kind: ClientKind) -> str:
        """The function of a tool, whether the request has it or not: the history may have its calls."""
        return next((name for name, each in self.kinds.items() if each == kind), FUNCTIONS[kind]["name"])


def client_kind(tool: Mapping[str, Any]) -> ClientKind | None:
    """The kind of a tool that the client runs; None for any other. A shell in a container is not one."""
    kind, environment = tool.get("type"), tool.get("environment")
    if kind == "shell" and isinstance(environment, Mapping) and environment.get("type") != "local":
        return None
    return KINDS.get(kind) if isinstance(kind, str) else None


def client_run_tools(tools: Sequence[Mapping[str, Any]] | None, tool_choice: Any) -> ClientRunTools:
    """Put functions in the place of tools that the client runs. A name that another function has gets a suffix."""
    if tools is None:
        return ClientRunTools(None, tool_choice, {})
    taken = {tool.get("name") for tool in tools}
    kinds: dict[str, ClientKind] = {}
    made: list[Mapping[str, Any]] = []
    for tool in tools:
        if (kind := client_kind(tool)) is None:
            made.append(tool)
            continue
        name = kind if kind not in taken else f"{kind}_tool"
        if name not in kinds:
            made.append({**FUNCTIONS[kind], "name": name})
        kinds[name] = kind
    return ClientRunTools(made, _choice(tool_choice, kinds), kinds)


def _choice(choice: Any, kinds: Mapping[str, ClientKind]) -> Any:
    """The choice, with the functions in the place of these tools, also in a list of allowed tools."""
    if not isinstance(choice, Mapping):
        return choice
    if isinstance(listed := choice.get("tools"), list):
        return {**choice, "tools": [_choice(each, kinds) for each in listed]}
    name = next((name for name, kind in kinds.items() if kind == choice.get("type")), None)
    return choice if name is None else {"type": "function", "name": name}
