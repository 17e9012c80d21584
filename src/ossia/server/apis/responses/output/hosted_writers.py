"""Output items of the tools that the server runs: each knows its events and its state.

In: the pieces of a hosted call. Out: stream events of one item, not numbered yet, and the finished item.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ossia.harmony.messages import Message
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.items import new_id
from ossia.server.apis.responses.output.item_writers import ItemWriter
from ossia.server.apis.responses.output.mcp_writers import ApprovalWriter, McpCallWriter, McpTarget
from ossia.server.apis.responses.wire import hosted
from ossia.server.core.events import HostedCallEnd
from ossia.tools.browser.results import BrowserResult
from ossia.tools.container.arguments import exec_call
from ossia.tools.container.results import ShellResult
from ossia.tools.python.results import PythonResult
from ossia.tools.signature import ArgumentsError

SEARCH_RESULTS, SEARCH_SOURCES = "web_search_call.results", "web_search_call.action.sources"
CODE_OUTPUTS = "code_interpreter_call.outputs"


class OpenHostedItem(Protocol):
    """A hosted call that is not complete. `run` comes after its arguments, `end` after the tool ran."""

    @property
    def index(self) -> int: ...
    @property
    def item(self) -> wire.OutputItem: ...

    def begin(self) -> list[wire.StreamEvent]: ...
    def delta(self, text: str) -> list[wire.StreamEvent]: ...
    def run(self, call: Message) -> list[wire.StreamEvent]: ...
    def end(self, status: wire.ItemStatus, done: HostedCallEnd | None) -> list[wire.StreamEvent]: ...


class HostedItemOptions(NamedTuple):
    """container_id: of the conversation's folder and processes. include: of the request. image_url: of a saved picture."""

    container_id: str = ""
    include: Collection[str] = ()
    image_url: Callable[[str], str | None] = lambda _: None


@dataclass(slots=True)
class WebSearchItem(ItemWriter):
    """A call of the browser: a search, or a page that is opened or searched. include: of the request."""

    function: str
    include: Collection[str]
    action: hosted.SearchAction | hosted.OpenPageAction | hosted.FindAction = field(default_factory=hosted.SearchAction)

    def begin(self) -> list[wire.StreamEvent]:
        self.id = new_id("ws")
        if self.function == "open":
            self.action = hosted.OpenPageAction()
        elif self.function == "find":
            self.action = hosted.FindAction("", "")
        return [self._begun(self._made("in_progress")), self._event(hosted.SearchInProgress)]

    def delta(self, text: str) -> list[wire.StreamEvent]:
        return []

    def run(self, call: Message) -> list[wire.StreamEvent]:
        return [self._event(hosted.SearchSearching)]

    def end(self, status: wire.ItemStatus, done: HostedCallEnd | None) -> list[wire.StreamEvent]:
        result = done.details if done else None
        if isinstance(result, BrowserResult):
            self._describe(result)
        self.item = self._made("failed" if done and done.failed else status)
        if done and isinstance(result, BrowserResult) and SEARCH_RESULTS in self.include:
            self.item.results = [hosted.SearchResult(result.url or "", result.title, done.result.text)]
        return [self._event(hosted.SearchCompleted)] if status == "completed" else []

    def _describe(self, result: BrowserResult) -> None:
        match result.action:
            case "search":
                query = result.query or ""
                self.action = hosted.SearchAction(query, [query])
                if SEARCH_SOURCES in self.include:
                    self.action.sources = [hosted.SourceUrl(url) for url in result.sources]
            case "open_page":
                self.action = hosted.OpenPageAction(result.url or "")
            case "find_in_page":
                self.action = hosted.FindAction(result.pattern or "", result.url or "")

    def _made(self, status: hosted.HostedStatus) -> hosted.WebSearchCallItem:
        return hosted.WebSearchCallItem(self.id, status, self.action)


@dataclass(slots=True)
class CodeItem(ItemWriter):
    """Code that the python tool runs. Its outputs are in the item only if the request includes them."""

    options: HostedItemOptions

    def begin(self) -> list[wire.StreamEvent]:
        self.id = new_id("ci")
        return [self._begun(self._made("in_progress")), self._event(hosted.CodeInProgress)]

    def delta(self, text: str) -> list[wire.StreamEvent]:
        self.text.append(text)
        return [self._event(hosted.CodeDelta, delta=text)]

    def run(self, call: Message) -> list[wire.StreamEvent]:
        return [self._event(hosted.CodeDone, code="".join(self.text)), self._event(hosted.CodeInterpreting)]

    def end(self, status: wire.ItemStatus, done: HostedCallEnd | None) -> list[wire.StreamEvent]:
        self.item = self._made(status)
        if done and CODE_OUTPUTS in self.options.include:
            names = done.details.images if isinstance(done.details, PythonResult) else ()
            images = [hosted.ImageOutput(url) for name in names if (url := self.options.image_url(name))]
            self.item.outputs = [hosted.LogsOutput(done.result.text), *images]
        return [self._event(hosted.CodeCompleted)] if status == "completed" else []

    def _made(self, status: hosted.HostedStatus) -> hosted.CodeCallItem:
        return hosted.CodeCallItem(self.id, status, "".join(self.text), self.options.container_id)


@dataclass(slots=True)
class ShellWriter(ItemWriter):
    """Commands that the container runs. Their output is an item of its own."""

    options: HostedItemOptions
    call_id: str = field(default_factory=lambda: new_id("call"))

    def begin(self) -> list[wire.StreamEvent]:
        self.id = new_id("sh")
        return [self._begun(self._made("in_progress", []))]

    def delta(self, text: str) -> list[wire.StreamEvent]:
        self.text.append(text)  # JSON: the command is known at its end
        return []

    def run(self, call: Message) -> list[wire.StreamEvent]:
        events: list[wire.StreamEvent] = []
        for number, command in enumerate(commands_of(call.text)):
            place = {"output_index": self.index, "command_index": number}
            events.append(hosted.ShellCommandAdded(**place, command=""))
            events.append(hosted.ShellCommandDelta(**place, delta=command))
            events.append(hosted.ShellCommandDone(**place, command=command))
        return events

    def end(self, status: wire.ItemStatus, done: HostedCallEnd | None) -> list[wire.StreamEvent]:
        self.item = self._made(status, commands_of("".join(self.text)))
        return []

    def _made(self, status: wire.ItemStatus, commands: list[str]) -> hosted.ShellCallItem:
        action = hosted.ShellAction(commands)
        environment = hosted.ContainerReference(self.options.container_id)
        return hosted.ShellCallItem(self.id, self.call_id, status, action, environment)


@dataclass(slots=True)
class ShellOutputWriter(ItemWriter):
    """What the commands of a shell call wrote."""

    call_id: str
    done: HostedCallEnd

    def events(self) -> list[wire.StreamEvent]:
        self.id = new_id("sho")
        added = self._begun(hosted.ShellOutputItem(self.id, self.call_id, "in_progress", []))
        output = [self._output()]
        self.item = hosted.ShellOutputItem(self.id, self.call_id, "completed", output)
        place: dict[str, Any] = {"output_index": self.index, "command_index": 0, "item_id": self.id}
        delta = {"stdout": output[0].stdout, "stderr": output[0].stderr}
        return [added, hosted.ShellOutputDelta(**place, delta=delta), hosted.ShellOutputDone(**place, output=output)]

    def _output(self) -> hosted.ShellOutput:
        result = self.done.details
        if not isinstance(result, ShellResult):
            return hosted.ShellOutput(self.done.result.text, "", hosted.ExitOutcome(1 if self.done.failed else 0))
        outcome = hosted.TimeoutOutcome() if result.timed_out else hosted.ExitOutcome(result.exit_code)
        return hosted.ShellOutput(result.stdout, result.stderr, outcome)


def hosted_item(
    recipient: str, index: int, options: HostedItemOptions, target: McpTarget | None = None
) -> OpenHostedItem | None:
    """The item of a call; None for a tool that has no item, such as one that does not exist."""
    if target is not None:
        return ApprovalWriter(index, target) if target.needs_approval else McpCallWriter(index, target)
    space, _, function = recipient.partition(".")
    match space:
        case "browser" if function in ("search", "open", "find"):
            return WebSearchItem(index, function, options.include)
        case "python" if not function:
            return CodeItem(index, options)
        case "container" if function == "exec":
            return ShellWriter(index, options)
    return None


def commands_of(arguments: str) -> list[str]:
    """The commands of a shell call, as the container reads its arguments; the text itself if it cannot."""
    try:
        words = exec_call(arguments).argv
    except ArgumentsError:
        return [arguments]
    return [words[-1] if len(words) == 3 and words[1] == "-lc" else " ".join(words)]
