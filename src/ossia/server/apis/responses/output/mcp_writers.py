"""Output items of MCP servers while they are written: a listing, a call, and a call that waits for an approval.

In: listings and results of `ossia.tools.mcp`, and pieces of a call. Out: stream events, and the finished items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec import UNSET

from ossia.harmony.messages import Message
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.items import new_id
from ossia.server.apis.responses.output.item_writers import ItemWriter
from ossia.server.apis.responses.wire import mcp
from ossia.server.core.events import HostedCallEnd
from ossia.tools.mcp.results import McpFailure, McpListing, McpResult
from ossia.tools.mcp.session import McpSession
from ossia.tools.toolset import ToolSet


class McpTarget(NamedTuple):
    """What a recipient is to the client. name: the server's own name of the tool."""

    server_label: str
    name: str
    needs_approval: bool


class ApprovedCall(NamedTuple):
    """A call that ran because the user approved it. call and message: as the model reads them."""

    request_id: str
    result: McpResult
    failed: bool
    call: Message
    message: Message


class McpOutput(NamedTuple):
    """What a response shows of MCP servers. listings and approved: before the model's own output."""

    targets: Mapping[str, McpTarget] = {}
    listings: Sequence[McpListing] = ()
    approved: Sequence[ApprovedCall] = ()


def mcp_targets(toolset: ToolSet | None) -> dict[str, McpTarget]:
    """Each recipient of the open MCP servers."""
    sessions = (*toolset.sessions, *toolset.developer) if toolset else ()
    return {
        f"{session.namespace.name}.{declared}": McpTarget(
            session.server.label, tool.name, session.needs_approval(declared)
        )
        for session in sessions
        if isinstance(session, McpSession)
        for declared, tool in session.tools.items()
    }


@dataclass(slots=True)
class McpListItem(ItemWriter):
    """The tools of a server, or why they could not be listed."""

    listing: McpListing

    def events(self) -> list[wire.StreamEvent]:
        """All events but the item's end."""
        self.id = new_id("mcpl")
        label, error = self.listing.server_label, self.listing.error
        events = [self._begun(mcp.McpListToolsItem(self.id, label)), self._event(mcp.McpListInProgress)]
        tools = [
            mcp.ListedTool(tool.name, tool.input_schema, tool.description or None, tool.annotations)
            for tool in self.listing.tools
        ]
        self.item = mcp.McpListToolsItem(self.id, label, tools, error or UNSET)
        return [*events, self._event(mcp.McpListFailed if error else mcp.McpListCompleted)]


@dataclass(slots=True)
class McpCallWriter(ItemWriter):
    """A call of a server's tool. request_id: of the approval that let it run."""

    target: McpTarget
    request_id: str | None = None

    def begin(self) -> list[wire.StreamEvent]:
        self.id = new_id("mcp")
        return [self._begun(self._made("in_progress")), self._event(mcp.McpCallInProgress)]

    def delta(self, text: str) -> list[wire.StreamEvent]:
        self.text.append(text)
        return [self._event(mcp.McpArgumentsDelta, delta=text)] if text else []

    def run(self, call: Message) -> list[wire.StreamEvent]:
        return [self._event(mcp.McpArgumentsDone, arguments="".join(self.text))]

    def end(self, status: wire.ItemStatus, done: HostedCallEnd | None) -> list[wire.StreamEvent]:
        if done is None:
            self.item = self._made(status)
            return []
        return self.finish(done.details, done.failed, done.result.text)

    def finish(self, details: object, failed: bool, text: str) -> list[wire.StreamEvent]:
        """The result of the call. details: None if the call never reached the server."""
        result = details if isinstance(details, McpResult) else None
        self.item = self._made("failed" if failed else "completed")
        self.item.output = result.output if result else None if failed else text
        if failed:
            failure = result.error if result and result.error else McpFailure("mcp_protocol_error", text)
            self.item.error = _shown(failure)
        return [self._event(mcp.McpCallFailed if failed else mcp.McpCallCompleted)]

    def _made(self, status: mcp.McpStatus) -> mcp.McpCallItem:
        label, name = self.target.server_label, self.target.name
        arguments = "".join(self.text)
        return mcp.McpCallItem(self.id, status, label, name, arguments, approval_request_id=self.request_id)


@dataclass(slots=True)
class ApprovalWriter(ItemWriter):
    """A call that a user must approve first. It is shown when its arguments are complete. call: the call itself."""

    target: McpTarget
    call: Message | None = None

    def begin(self) -> list[wire.StreamEvent]:
        return []

    def delta(self, text: str) -> list[wire.StreamEvent]:
        self.text.append(text)
        return []

    def run(self, call: Message) -> list[wire.StreamEvent]:
        self.call = None if "unterminated" in call.flaws else call
        return []

    def end(self, status: wire.ItemStatus, done: HostedCallEnd | None) -> list[wire.StreamEvent]:
        label, name, text = self.target.server_label, self.target.name, "".join(self.text)
        if self.call is None or done is not None:  # cut, or not run for another reason
            writer = McpCallWriter(self.index, self.target)
            events = [*writer.begin(), *writer.delta(text), *writer.end(status, done)]
            self.id, self.item = writer.id, writer.item
            return events
        self.id = new_id("mcpr")
        return [self._begun(mcp.McpApprovalRequestItem(self.id, label, name, text))]


def _shown(failure: McpFailure) -> mcp.McpProtocolError | mcp.McpExecutionError | mcp.McpHttpError:
    match failure.kind:
        case "mcp_tool_execution_error":
            return mcp.McpExecutionError([{"type": "text", "text": failure.message}])
        case "http_error":
            return mcp.McpHttpError(failure.code, failure.message)
        case _:
            return mcp.McpProtocolError(failure.code, failure.message)
