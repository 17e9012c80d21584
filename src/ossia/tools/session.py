"""Built-in tools with state: what a browser, a Python process or an MCP server offers to the loop.

In: a call's name and text. Out: a `ToolOutput`, and `ToolProgress` while the call runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ossia.harmony.messages import ToolNamespace
from ossia.tools.errors import ToolUnavailableError
from ossia.tools.functions import ToolOutput

__all__ = ["Report", "ToolProgress", "ToolSession", "ToolUnavailableError", "ignore"]


@dataclass(frozen=True, slots=True)
class ToolProgress:
    """What a running call has written so far, piece by piece."""

    text: str
    stream: Literal["stdout", "stderr", "status"] = "stdout"


Report: TypeAlias = Callable[[ToolProgress], None]


def ignore(progress: ToolProgress) -> None:
    """A `Report` for callers that do not show progress."""


class ToolSession(Protocol):
    """One built-in tool in one conversation. Its state lasts from `open` to `close`.

    namespace: the declaration, known after `open`; without tools, the name itself is called with free text (python).
    """

    @property
    def namespace(self) -> ToolNamespace: ...

    async def open(self) -> None:
        """Connect or check what the tool needs. Slow parts may wait for the first call. Raises ToolUnavailableError."""
        ...

    async def run(self, name: str, text: str, report: Report = ignore) -> ToolOutput:
        """Run one call. name: the tool inside the namespace, "" for the namespace itself.

        Invalid arguments and errors of the program are a `ToolOutput` with failed=True. Raises ToolUnavailableError if
        the tool itself broke. If the task is cancelled, the call ends at once and leaves nothing running.
        """
        ...

    async def close(self) -> None:
        """End all processes and connections, and remove all files of the session. Safe to call twice."""
        ...
