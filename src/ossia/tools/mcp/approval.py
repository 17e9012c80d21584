"""Which tools of an MCP server may be called, and which calls a user must approve first.

In: `allowed_tools` and `require_approval` in the form of the Responses API. Out: a `ToolFilter`, an `ApprovalPolicy`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ossia.tools.mcp.results import McpTool

MAX_NAMES = 1_000


@dataclass(frozen=True, slots=True)
class ToolFilter:
    """Tools by name, by whether they only read, or both. A filter that says nothing matches no tool.

    names: the server's own names. read_only: True for tools that say they only read, False for all others.
    """

    names: frozenset[str] | None = None
    read_only: bool | None = None

    def matches(self, tool: McpTool) -> bool:
        if self.names is None and self.read_only is None:
            return False
        by_name = self.names is None or tool.name in self.names
        return by_name and (self.read_only is None or tool.read_only == self.read_only)


@dataclass(frozen=True, slots=True)
class ApprovalPolicy:
    """Which calls need the user's approval. If both filters match a tool, its calls need it."""

    default: Literal["always", "never"] = "always"
    always: ToolFilter = ToolFilter()
    never: ToolFilter = ToolFilter()

    def needs_approval(self, tool: McpTool) -> bool:
        if self.always.matches(tool):
            return True
        return self.default == "always" and not self.never.matches(tool)


def read_filter(value: object, field: str) -> ToolFilter:
    """A filter from a list of names or `{"tool_names": [...], "read_only": true}`. Raises ValueError for another form."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return ToolFilter(names=_names(value, field))
    if not isinstance(value, Mapping) or value.keys() - {"tool_names", "read_only"}:
        raise ValueError(f"{field} must be a list of names, or an object with tool_names and read_only")
    names, read_only = value.get("tool_names"), value.get("read_only")
    if read_only is not None and not isinstance(read_only, bool):
        raise ValueError(f"{field}.read_only must be true or false")
    return ToolFilter(None if names is None else _names(names, f"{field}.tool_names"), read_only)


def read_policy(value: object, field: str = "require_approval") -> ApprovalPolicy:
    """A policy from "always", "never" or `{"always": filter, "never": filter}`; None is "always".

    Raises ValueError for another form.
    """
    if value is None or value == "always":
        return ApprovalPolicy()
    if value == "never":
        return ApprovalPolicy("never")
    if not isinstance(value, Mapping) or value.keys() - {"always", "never"}:
        raise ValueError(f'{field} must be "always", "never", or an object with the filters always and never')
    filters = {name: read_filter(each, f"{field}.{name}") for name, each in value.items() if each is not None}
    return ApprovalPolicy(always=filters.get("always", ToolFilter()), never=filters.get("never", ToolFilter()))


def _names(value: object, field: str) -> frozenset[str]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) > MAX_NAMES:
        raise ValueError(f"{field} must be a list of at most {MAX_NAMES} names")
    if not all(isinstance(name, str) for name in value):
        raise ValueError(f"{field} must be a list of strings")
    return frozenset(str(name) for name in value)
