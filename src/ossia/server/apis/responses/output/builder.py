"""An answer as the Responses API tells it: stream events, and the response that they add up to.

In: events of `ossia.chat`. Out: numbered stream events, each item and part opened and closed; at the end the response.
This module does not know HTTP or the store. No text of the model is lost: what has no known form is output text.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from msgspec import Raw
from msgspec.structs import replace

from ossia.chat import Done, Event
from ossia.chat import Usage as ChatUsage
from ossia.engine.request import Sampled
from ossia.harmony.client_tools import Toolbox
from ossia.harmony.messages import Message
from ossia.server.apis.fields.client_run_tools import ClientKind
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.client_calls import CallItemType
from ossia.server.apis.responses.items import phase_of
from ossia.server.apis.responses.output.hosted_writers import (
    HostedItemOptions,
    OpenHostedItem,
    ShellOutputWriter,
    ShellWriter,
    hosted_item,
)
from ossia.server.apis.responses.output.item_writers import (
    CallItem,
    ClientCallWriter,
    MessageItem,
    OpenItem,
    ReasoningForm,
    ReasoningOutput,
    written_at_once,
)
from ossia.server.apis.responses.output.mcp_writers import (
    ApprovalWriter,
    McpCallWriter,
    McpListItem,
    McpOutput,
    McpTarget,
)
from ossia.server.core.events import (
    Citation,
    EventTranslator,
    HostedCallDelta,
    HostedCallEnd,
    HostedCallStart,
    MessageEnd,
    Piece,
    TextDelta,
    TextStart,
    ToolCallDelta,
    ToolCallStart,
)
from ossia.server.core.request import AnswerStart
from ossia.server.http.decoding.json_codec import MIN_LOGPROB, encode
from ossia.server.state.store import Item
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tools.browser.citations import Resolve

WARNINGS = "ossia.warnings"  # the key in a response's metadata
MAX_WARNING = 512
NO_SERVERS = McpOutput()


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How an answer is written. tokenizer: set if log-probabilities are requested.

    hosted: recipients of the server's own tools. resolve: finds the sources of citations. items: how their calls are
    shown. mcp: what is shown of MCP servers.
    """

    toolbox: Toolbox
    reasoning: ReasoningForm = field(default_factory=ReasoningForm)
    tokenizer: Tokenizer | None = None
    hosted: frozenset[str] = frozenset()
    resolve: Resolve | None = None
    items: HostedItemOptions = HostedItemOptions()  # noqa: RUF009  (immutable)
    mcp: McpOutput = NO_SERVERS
    client_kinds: Mapping[str, ClientKind] = field(default_factory=dict)  # of functions that stand for a client's tool


class ResponseBuilder:
    """Writes one response: `open`, `add` every event, and where the answer breaks off `fail` or `cancel`.

    items: the output with the messages that it shows, as they are stored.
    """

    def __init__(self, response: wire.Response, options: OutputOptions) -> None:
        self.response = response
        self.items: list[Item] = []
        self._options = options
        self._translator = EventTranslator(options.toolbox, hosted=options.hosted, resolve=options.resolve)
        self._count = 0  # of events
        self._open: OpenItem | None = None
        self._hosted: OpenHostedItem | None = None
        self._before: McpOutput | None = options.mcp  # written with the first event

    @property
    def calls(self) -> dict[str, Sequence[Message]]:
        """For each call, the reasoning that led to it, and the call: what a client may fail to send back."""
        return self._translator.calls

    def open(self) -> list[wire.StreamEvent]:
        """The response exists: it is queued or in progress."""
        kind = wire.Queued if self.response.status == "queued" else wire.InProgress
        return self._numbered([wire.Created(response=self.response), kind(response=self.response)])

    def begin(self) -> list[wire.StreamEvent]:
        """A queued response is in progress now."""
        self.response = replace(self.response, status="in_progress")
        return self._numbered([wire.InProgress(response=self.response)])

    def add(self, event: Event | AnswerStart) -> list[wire.StreamEvent]:
        before, self._before = self._before, None
        events = self._written_before(before) if before else []
        events += [made for piece in self._translator.translate(event) for made in self._written(piece)]
        return self._numbered(events)

    def fail(self, code: str, message: str) -> list[wire.StreamEvent]:
        """The answer broke off. The output so far stays."""
        self.response = replace(self.response, error=wire.Failure(code, message))
        return self._numbered(self._end("failed"))

    def cancel(self) -> list[wire.StreamEvent]:
        return self._numbered(self._end("cancelled"))

    def warn(self, warning: str) -> None:
        """Also in the events already returned, which hold this response."""
        self.response.metadata[WARNINGS] = warning[:MAX_WARNING]
        self.response.store = False

    def _written(self, piece: Piece) -> Sequence[wire.StreamEvent]:
        match piece:
            case TextStart() | ToolCallStart():
                self._open = self._opened(piece)
                return self._open.begin() if self._open else ()
            case TextDelta(text=text, scores=scores) if self._open:
                tokenizer = self._options.tokenizer
                return self._open.delta(text, [_logprob(tokenizer, each) for each in scores] if tokenizer else [])
            case ToolCallDelta(text=text) if self._open:
                return self._open.delta(text, [])
            case Citation(source) if isinstance(self._open, MessageItem):
                return self._open.cite(source)
            case HostedCallStart(recipient):
                index, target = len(self.response.output), self._options.mcp.targets.get(recipient)
                self._hosted = hosted_item(recipient, index, self._options.items, target)
                return self._hosted.begin() if self._hosted else ()
            case HostedCallDelta(text) if self._hosted:
                return self._hosted.delta(text)
            case HostedCallEnd():
                return self._close_hosted("completed", piece)
            case MessageEnd(message):
                return self._hosted.run(message) if self._hosted else self._close("completed", message)
            case Done(finish, usage):
                self.response = replace(self.response, usage=_usage(usage))
                return self._end("incomplete" if finish == "length" else "completed")
        return ()

    def _opened(self, start: TextStart | ToolCallStart) -> OpenItem | None:
        """The item that a message is to the client; None if it is hidden."""
        index, reasoning = len(self.response.output), self._options.reasoning
        match start:
            case ToolCallStart(id=call_id, tool=tool):
                kind = self._options.client_kinds.get(tool.name) if tool.namespace is None else None
                return ClientCallWriter(index, kind, call_id) if kind else CallItem(index, tool, call_id)
            case TextStart("reasoning"):
                return None if reasoning.hidden and not reasoning.encrypt else ReasoningOutput(index, reasoning)
            case TextStart(channel=channel):
                return MessageItem(index, phase_of(channel, None))

    def _end(self, status: wire.Status) -> list[wire.StreamEvent]:
        events = [made for piece in self._translator.flush() for made in self._written(piece)]
        events += [*self._close("incomplete", None), *self._close_hosted("incomplete", None)]
        cut = wire.Incomplete("max_output_tokens") if status == "incomplete" else None
        done = int(time.time()) if status == "completed" else None
        self.response = replace(self.response, status=status, incomplete_details=cut, completed_at=done)
        last = {"completed": wire.Completed, "failed": wire.Failed}.get(status, wire.Ended)
        return [*events, last(response=self.response)]

    def _close(self, status: wire.ItemStatus, message: Message | None) -> list[wire.StreamEvent]:
        opened, self._open = self._open, None
        if opened is None:
            return []
        cut = message is not None and "unterminated" in message.flaws
        events = opened.end("incomplete" if cut else status)
        # only a well-formed message is shown to the model again as it was sampled
        sampled = message if message and message.tokens else None
        if isinstance(opened, ClientCallWriter):
            return [*events, *self._write_at_once(opened.finished, sampled)]
        item = opened.item
        self.response = replace(self.response, output=[*self.response.output, item])
        self.items.append(Item(item.id, encode(item), sampled, getattr(item, "call_id", None)))
        return [*events, wire.ItemDone(output_index=opened.index, item=item)]

    def _write_at_once(self, items: Sequence[CallItemType], sampled: Message | None) -> list[wire.StreamEvent]:
        """Items of one call. The first has the message that the model sampled."""
        events: list[wire.StreamEvent] = []
        for number, item in enumerate(items):
            events += written_at_once(len(self.response.output), item)
            self.response = replace(self.response, output=[*self.response.output, item])
            self.items.append(Item(item.id, encode(item), sampled if number == 0 else None, item.call_id))
        return events

    def _close_hosted(self, status: wire.ItemStatus, done: HostedCallEnd | None) -> list[wire.StreamEvent]:
        opened, self._hosted = self._hosted, None
        if opened is None:
            return []
        events = opened.end(status, done)
        self.response = replace(self.response, output=[*self.response.output, opened.item])
        call = done.call if done else opened.call if isinstance(opened, ApprovalWriter) else None
        events.append(self._finished(opened.index, opened.item, call, done.result if done else None))
        if isinstance(opened, ShellWriter) and done:
            shown = ShellOutputWriter(len(self.response.output), opened.call_id, done)
            events += shown.events()
            self.response = replace(self.response, output=[*self.response.output, shown.item])
            events.append(self._finished(shown.index, shown.item))
        return events

    def _finished(
        self, index: int, item: wire.OutputItem, call: Message | None = None, result: Message | None = None
    ) -> wire.StreamEvent:
        self.items.append(Item(item.id, encode(item), call, result=result))
        return wire.ItemDone(output_index=index, item=item)

    def _written_before(self, given: McpOutput) -> list[wire.StreamEvent]:
        """Listings of MCP servers, and calls that the user approved: they come before the model's own output."""
        events: list[wire.StreamEvent] = []
        for listing in given.listings:
            listed = McpListItem(len(self.response.output), listing)
            events += listed.events()
            self.response = replace(self.response, output=[*self.response.output, listed.item])
            events.append(self._finished(listed.index, listed.item))
        for each in given.approved:
            target = McpTarget(each.result.server_label, each.result.name, False)
            writer = McpCallWriter(len(self.response.output), target, each.request_id)
            events += [*writer.begin(), *writer.delta(each.result.arguments), *writer.run(each.call)]
            events += writer.finish(each.result, each.failed, each.message.text)
            self.response = replace(self.response, output=[*self.response.output, writer.item])
            events.append(self._finished(writer.index, writer.item, each.call, each.message))
        return events

    def _numbered(self, events: Sequence[wire.StreamEvent]) -> list[wire.StreamEvent]:
        for event in events:
            event.sequence_number = self._count
            self._count += 1
        return list(events)


def _usage(usage: ChatUsage) -> wire.ResponseUsage:
    prompt, output = usage.prompt_tokens, usage.output_tokens
    return wire.ResponseUsage(
        prompt,
        wire.InputDetails(usage.cached_tokens, usage.written_tokens),
        output,
        wire.OutputDetails(usage.reasoning_tokens),
        prompt + output,
    )


def _logprob(tokenizer: Tokenizer, sampled: Sampled) -> wire.Logprob:
    chosen = _scored(tokenizer, sampled.token, sampled.logprob)
    top = [_scored(tokenizer, token, logprob) for token, logprob in sampled.top]
    whole = wire.Logprob(chosen.token, chosen.bytes, chosen.logprob, top)
    return cast(wire.Logprob, Raw(encode(whole)))  # encoded once, sent several times


def _scored(tokenizer: Tokenizer, token: int, logprob: float) -> wire.ResponseTopLogprob:
    data = tokenizer.token_bytes(token)
    return wire.ResponseTopLogprob(data.decode("utf-8", "replace"), list(data), max(logprob, MIN_LOGPROB))
