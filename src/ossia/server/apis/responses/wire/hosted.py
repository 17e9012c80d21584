"""Items and events of the tools that the server runs: web search, code, shell.

In and out: only these types, as OpenAI's API has them.
"""

from typing import Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from ossia.server.apis.responses.wire.base import Event, ItemEvent
from ossia.server.http.decoding.json_codec import JsonDict

ItemStatus = Literal["in_progress", "completed", "incomplete"]
HostedStatus = Literal["in_progress", "searching", "interpreting", "completed", "incomplete", "failed"]


class SourceUrl(Struct, tag_field="type", tag="url"):
    url: str


class SearchAction(Struct, tag_field="type", tag="search"):
    query: str = ""
    queries: list[str] = []
    sources: list[SourceUrl] | UnsetType = UNSET


class OpenPageAction(Struct, tag_field="type", tag="open_page"):
    url: str | None = None


class FindAction(Struct, tag_field="type", tag="find_in_page"):
    pattern: str
    url: str


class SearchResult(Struct):
    """With include "web_search_call.results"."""

    url: str
    title: str = ""
    text: str = ""


class WebSearchCallItem(Struct, tag_field="type", tag="web_search_call"):
    id: str
    status: HostedStatus
    action: SearchAction | OpenPageAction | FindAction
    results: list[SearchResult] | UnsetType = UNSET


class LogsOutput(Struct, tag_field="type", tag="logs"):
    logs: str


class ImageOutput(Struct, tag_field="type", tag="image"):
    url: str


class CodeCallItem(Struct, tag_field="type", tag="code_interpreter_call"):
    id: str
    status: HostedStatus
    code: str
    container_id: str
    outputs: list[LogsOutput | ImageOutput] | None = None


class ShellAction(Struct):
    commands: list[str]
    timeout_ms: int | None = None
    max_output_length: int | None = None


class ContainerReference(Struct, tag_field="type", tag="container_reference"):
    container_id: str


class ShellCallItem(Struct, tag_field="type", tag="shell_call"):
    id: str
    call_id: str
    status: ItemStatus
    action: ShellAction
    environment: ContainerReference | None = None


class ExitOutcome(Struct, tag_field="type", tag="exit"):
    exit_code: int


class TimeoutOutcome(Struct, tag_field="type", tag="timeout"):
    pass


class ShellOutput(Struct):
    stdout: str
    stderr: str
    outcome: ExitOutcome | TimeoutOutcome


class ShellOutputItem(Struct, tag_field="type", tag="shell_call_output"):
    id: str
    call_id: str
    status: ItemStatus
    output: list[ShellOutput]
    max_output_length: int | None = None


HostedItem: TypeAlias = WebSearchCallItem | CodeCallItem | ShellCallItem | ShellOutputItem


# events


class SearchInProgress(ItemEvent, tag="response.web_search_call.in_progress"):
    pass


class SearchSearching(ItemEvent, tag="response.web_search_call.searching"):
    pass


class SearchCompleted(ItemEvent, tag="response.web_search_call.completed"):
    pass


class CodeInProgress(ItemEvent, tag="response.code_interpreter_call.in_progress"):
    pass


class CodeDelta(ItemEvent, tag="response.code_interpreter_call_code.delta"):
    delta: str


class CodeDone(ItemEvent, tag="response.code_interpreter_call_code.done"):
    code: str


class CodeInterpreting(ItemEvent, tag="response.code_interpreter_call.interpreting"):
    pass


class CodeCompleted(ItemEvent, tag="response.code_interpreter_call.completed"):
    pass


class _ShellEvent(Event):
    """Shell events name no item, only its place in the output."""

    output_index: int
    command_index: int


class ShellCommandAdded(_ShellEvent, tag="response.shell_call_command.added"):
    command: str


class ShellCommandDelta(_ShellEvent, tag="response.shell_call_command.delta"):
    delta: str


class ShellCommandDone(_ShellEvent, tag="response.shell_call_command.done"):
    command: str


class ShellOutputDelta(_ShellEvent, tag="response.shell_call_output_content.delta"):
    item_id: str
    delta: JsonDict


class ShellOutputDone(_ShellEvent, tag="response.shell_call_output_content.done"):
    item_id: str
    output: list[ShellOutput]


HostedEvent: TypeAlias = (
    SearchInProgress
    | SearchSearching
    | SearchCompleted
    | CodeInProgress
    | CodeDelta
    | CodeDone
    | CodeInterpreting
    | CodeCompleted
    | ShellCommandAdded
    | ShellCommandDelta
    | ShellCommandDone
    | ShellOutputDelta
    | ShellOutputDone
)
