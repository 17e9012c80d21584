"""The repo_browser of one conversation: runs the model's calls on the files of one folder.

In: a function's name and its arguments as JSON. Out: text for the model, with a `RepoBrowserResult` or `PatchResult`.
Files are read and written in another thread; a cancelled call ends before it writes, or after all is written.
"""

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from ossia.harmony.messages import ToolNamespace
from ossia.tools.functions import ToolOutput
from ossia.tools.patch.lines import text_file
from ossia.tools.patch.parse import PatchError
from ossia.tools.patch.paths import WorkspaceError, shortened
from ossia.tools.patch.run import run_patch
from ossia.tools.patch.workspace import Workspace
from ossia.tools.repo_browser.declaration import FUNCTION_ALIASES, PARAMETER_ALIASES, repo_browser_namespace
from ossia.tools.repo_browser.files import MAX_DEPTH, Cut, listing, tree
from ossia.tools.repo_browser.search import search
from ossia.tools.session import Report, ToolUnavailableError, ignore

MAX_OUTPUT = 20_000  # characters of a result
MAX_LINES = 500  # of a file that are shown at once, unless the call names its last line
MAX_ARGUMENTS = 1_200_000  # characters
Action = Literal["print_tree", "search", "open_file", "list_dir", "apply_patch"]


class RepoBrowserResult(msgspec.Struct, frozen=True):
    """What a call did. count: entries, matches or lines that are shown. first_line: of a file, from 1."""

    action: Action
    path: str
    query: str | None = None
    count: int = 0
    first_line: int | None = None


class RepoBrowserSession:
    """A `ToolSession`. root: the folder, the same as the container's. writable: whether patches may be applied."""

    def __init__(self, root: str | Path, writable: bool = True, max_output: int = MAX_OUTPUT) -> None:
        self._root, self._writable, self._max_output = Path(root), writable, max_output
        self._workspace: Workspace | None = None
        self._patching = asyncio.Lock()

    @property
    def namespace(self) -> ToolNamespace:
        return repo_browser_namespace(self._writable)

    async def open(self) -> None:
        """Check that the folder exists. Raises ToolUnavailableError."""
        try:
            self._workspace = await asyncio.to_thread(Workspace, self._root)
        except (WorkspaceError, OSError) as error:
            raise ToolUnavailableError(f"repo_browser cannot start: {error}") from error

    async def close(self) -> None:
        """Nothing is kept. The files belong to the caller."""
        self._workspace = None

    async def run(self, name: str, text: str, report: Report = ignore) -> ToolOutput:
        """Run one call. Whatever the arguments are, the result is text for the model."""
        if self._workspace is None:
            await self.open()
        workspace = self._workspace
        assert workspace is not None
        action = FUNCTION_ALIASES.get(name, name)
        if action == "apply_patch" and self._writable:
            async with self._patching:
                return await _in_thread(lambda stop: run_patch(text, workspace, stop))
        run = _ACTIONS.get(action)
        if run is None:
            known = ", ".join(each.name for each in self.namespace.tools)
            return ToolOutput(f"error: repo_browser has no function {shortened(name)}; it has {known}", failed=True)
        return await _in_thread(lambda stop: self._ran(run, workspace, action, text, stop))

    def _ran(self, run: "_Run", workspace: Workspace, action: str, text: str, stop: threading.Event) -> ToolOutput:
        try:
            shown, result = run(workspace, _Arguments(text), stop)
        except (WorkspaceError, PatchError) as error:
            return ToolOutput(f"error: {action}: {error}", failed=True)
        if len(shown) > self._max_output:
            cut = shown[: self._max_output]
            shown = f"{cut}\n[{len(shown) - len(cut)} more characters; ask for a smaller part]"
        return ToolOutput(shown, details=result)


async def _in_thread(work: Callable[[threading.Event], ToolOutput]) -> ToolOutput:
    """Run work in a thread. If this task is cancelled, the work is asked to stop and waited for."""
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([running])
        raise


class _Arguments:
    """The arguments of a call. Other names of parameters, numbers as texts, and text after the JSON are accepted."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_ARGUMENTS:
            raise WorkspaceError(f"the arguments are longer than {MAX_ARGUMENTS} characters")
        self._values: dict[str, Any] = {}
        if not text.strip():
            return
        try:
            value, _ = json.JSONDecoder().raw_decode(text.lstrip())
        except (ValueError, RecursionError) as error:
            raise WorkspaceError(f"the arguments are not valid JSON ({shortened(str(error))})") from error
        if not isinstance(value, dict):
            raise WorkspaceError("the arguments are not a JSON object")
        given: dict[str, Any] = value
        self._values = {PARAMETER_ALIASES.get(name, name): each for name, each in given.items()} | given

    def text(self, name: str, default: str | None = None) -> str:
        value = self._values.get(name, default)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise WorkspaceError(f"the parameter {name} is missing or not a string")
        return value

    def number(self, name: str, default: int, least: int, most: int) -> int:
        value = self._values.get(name)
        if value is None:
            return default
        try:
            number = value if isinstance(value, int) else float(value)
        except (TypeError, ValueError, OverflowError):
            raise WorkspaceError(f"the parameter {name} is not a number") from None
        if number != number:  # not a number
            raise WorkspaceError(f"the parameter {name} is not a number")
        return int(max(least, min(most, number)))

    def flag(self, name: str) -> bool:
        value = self._values.get(name, False)
        return value.strip().lower() == "true" if isinstance(value, str) else bool(value)


_Shown = tuple[str, RepoBrowserResult]
_Run = Callable[[Workspace, _Arguments, threading.Event], _Shown]


def _print_tree(workspace: Workspace, arguments: _Arguments, stop: threading.Event) -> _Shown:
    path, depth = arguments.text("path", ""), arguments.number("depth", 2, 1, MAX_DEPTH)
    return _listed("print_tree", path, tree(workspace, path, depth, stop.is_set))


def _list_dir(workspace: Workspace, arguments: _Arguments, stop: threading.Event) -> _Shown:
    path, depth = arguments.text("path", ""), arguments.number("depth", 1, 1, MAX_DEPTH)
    return _listed("list_dir", path, listing(workspace, path, depth, stop.is_set))


def _listed(action: Action, path: str, cut: Cut) -> _Shown:
    return cut.text, RepoBrowserResult(action, path, count=cut.found)


def _search(workspace: Workspace, arguments: _Arguments, stop: threading.Event) -> _Shown:
    path, query = arguments.text("path", ""), arguments.text("query")
    found = search(workspace, path, query, arguments.number("max_results", 50, 1, 10_000), stop)
    return found.text, RepoBrowserResult("search", path, query, found.found)


def _open_file(workspace: Workspace, arguments: _Arguments, stop: threading.Event) -> _Shown:
    path = arguments.text("path")
    data = workspace.read(path.strip())
    if data is None:
        raise WorkspaceError(f"there is no file {shortened(path)}; print_tree and search find files")
    lines = text_file(data, path).lines
    most = max(1, len(lines))
    first = arguments.number("line_start", 1, 1, 10**9)
    if first > most:
        raise WorkspaceError(f"line_start is {first}, but {shortened(path)} has {len(lines)} lines")
    last = arguments.number("line_end", min(most, first + MAX_LINES - 1), 1, most)
    if last < first:
        raise WorkspaceError(f"line_end {last} comes before line_start {first}")
    shown = lines[first - 1 : last]
    if arguments.flag("line_numbers"):
        shown = [f"{number}\t{line}" for number, line in enumerate(shown, first)]
    rest = [f"[lines {first} to {last} of {len(lines)}]"] if first > 1 or last < len(lines) else []
    text = "\n".join([*shown, *rest]) if lines else "[empty file]"
    return text, RepoBrowserResult("open_file", path, count=len(lines[first - 1 : last]), first_line=first)


_ACTIONS: dict[str, _Run] = {
    "print_tree": _print_tree,
    "list_dir": _list_dir,
    "search": _search,
    "open_file": _open_file,
}
