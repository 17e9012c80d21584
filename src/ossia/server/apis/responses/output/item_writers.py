"""Output items while they are written: each knows its events and its state.

In: pieces of text. Out: stream events of one item, not numbered yet, and the finished item.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ossia.harmony.client_tools import ClientTool
from ossia.server.apis.fields.client_run_tools import ClientKind
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.client_calls import CallItemType, items_of_call
from ossia.server.apis.responses.items import new_id
from ossia.server.apis.responses.wire import hosted
from ossia.server.http.decoding.json_codec import JsonDict
from ossia.tools.browser.citations import UrlCitation

Summary = Literal["copied", "condensed"]
SENTENCE = re.compile(r"\s*(.+?[.!?…。！？](?=\s|$)|.+)", re.DOTALL)  # the first of a paragraph

E = TypeVar("E", bound=wire.StreamEvent)


@dataclass(frozen=True, slots=True)
class ReasoningForm:
    """How reasoning is written.

    encrypt: for the client to keep; None if it did not ask for that. summary: its kind; None for none. hidden: no
    reasoning text for the client. With encrypted reasoning, items have only that.
    """

    encrypt: Callable[[str], str] | None = None
    summary: Summary | None = None
    hidden: bool = False


class OpenItem(Protocol):
    """An item of the output that is not complete. item: the state that was last sent."""

    @property
    def index(self) -> int: ...
    @property
    def item(self) -> wire.OutputItem: ...

    def begin(self) -> list[wire.StreamEvent]: ...
    def delta(self, text: str, logprobs: list[wire.Logprob]) -> list[wire.StreamEvent]: ...
    def end(self, status: wire.ItemStatus) -> list[wire.StreamEvent]: ...


@dataclass(slots=True)
class ItemWriter:
    """What all items share: their place in the output, an id, and the text so far."""

    index: int
    id: str = field(init=False)
    text: list[str] = field(default_factory=list, init=False)
    item: wire.OutputItem = field(init=False)

    def _begun(self, item: wire.OutputItem) -> wire.StreamEvent:
        self.item = item
        return wire.ItemAdded(output_index=self.index, item=item)

    def _event(self, kind: Callable[..., E], **fields: object) -> E:
        return kind(item_id=self.id, output_index=self.index, **fields)


@dataclass(slots=True)
class MessageItem(ItemWriter):
    """A message to the user."""

    phase: wire.Phase | None
    logprobs: list[wire.Logprob] = field(default_factory=list)
    annotations: list[JsonDict] = field(default_factory=list)

    def begin(self) -> list[wire.StreamEvent]:
        self.id = new_id("msg")
        added = self._begun(self._item("in_progress", []))
        return [added, self._event(wire.PartAdded, content_index=0, part=wire.OutputText(""))]

    def delta(self, text: str, logprobs: list[wire.Logprob]) -> list[wire.StreamEvent]:
        self.text.append(text)
        self.logprobs += logprobs
        return [self._event(wire.OutputTextDelta, content_index=0, delta=text, logprobs=logprobs)]

    def cite(self, source: UrlCitation) -> list[wire.StreamEvent]:
        """The text just sent ends with a link to a source."""
        self.annotations.append({"type": "url_citation", **source._asdict()})
        number, last = len(self.annotations) - 1, self.annotations[-1]
        return [self._event(wire.AnnotationAdded, content_index=0, annotation_index=number, annotation=last)]

    def end(self, status: wire.ItemStatus) -> list[wire.StreamEvent]:
        part = wire.OutputText("".join(self.text), self.annotations, self.logprobs)
        self.item = self._item(status, [part])
        return [
            self._event(wire.OutputTextDone, content_index=0, text=part.text, logprobs=self.logprobs),
            self._event(wire.PartDone, content_index=0, part=part),
        ]

    def _item(self, status: wire.ItemStatus, content: list[wire.OutputText]) -> wire.OutputMessage:
        return wire.OutputMessage(self.id, status, content, phase=self.phase or UNSET)


@dataclass(slots=True)
class ReasoningOutput(ItemWriter):
    """Reasoning, with its summary and its encrypted form if they were requested."""

    options: ReasoningForm

    def begin(self) -> list[wire.StreamEvent]:
        self.id = new_id("rs")
        events = [self._begun(wire.ReasoningItem(self.id, "in_progress", [], []))]
        if self.options.hidden:
            return events
        events.append(self._event(wire.PartAdded, content_index=0, part=wire.ReasoningText("")))
        if self.options.summary:
            events.append(self._event(wire.SummaryPartAdded, summary_index=0, part=wire.SummaryText("")))
        return events

    def delta(self, text: str, logprobs: list[wire.Logprob]) -> list[wire.StreamEvent]:
        self.text.append(text)
        if self.options.hidden:
            return []
        events: list[wire.StreamEvent] = [self._event(wire.ReasoningDelta, content_index=0, delta=text)]
        if self.options.summary == "copied":
            events.append(self._event(wire.SummaryDelta, summary_index=0, delta=text))
        return events

    def end(self, status: wire.ItemStatus) -> list[wire.StreamEvent]:
        part = wire.ReasoningText("".join(self.text))
        encrypted: str | UnsetType = self.options.encrypt(part.text) if self.options.encrypt else UNSET
        if self.options.hidden:
            self.item = wire.ReasoningItem(self.id, status, [], [], encrypted)
            return []
        events: list[wire.StreamEvent] = [
            self._event(wire.ReasoningDone, content_index=0, text=part.text),
            self._event(wire.PartDone, content_index=0, part=part),
        ]
        summary: list[wire.SummaryText] = []
        if self.options.summary:
            summary = [wire.SummaryText(part.text if self.options.summary == "copied" else condensed(part.text))]
            events += self._summarized(summary[0])
        self.item = wire.ReasoningItem(self.id, status, summary, [part], encrypted)
        return events

    def _summarized(self, summary: wire.SummaryText) -> list[wire.StreamEvent]:
        events: list[wire.StreamEvent] = []
        if self.options.summary == "condensed" and summary.text:
            events.append(self._event(wire.SummaryDelta, summary_index=0, delta=summary.text))
        events.append(self._event(wire.SummaryDone, summary_index=0, text=summary.text))
        events.append(self._event(wire.SummaryPartDone, summary_index=0, part=summary))
        return events


@dataclass(slots=True)
class CallItem(ItemWriter):
    """A call of a client's tool: a function's arguments are JSON, a custom tool's input is free text."""

    tool: ClientTool
    call_id: str

    def begin(self) -> list[wire.StreamEvent]:
        self.id = new_id("ctc" if self.tool.custom else "fc")
        return [self._begun(self._item("in_progress"))]

    def delta(self, text: str, logprobs: list[wire.Logprob]) -> list[wire.StreamEvent]:
        self.text.append(text)
        return [self._event(wire.CustomDelta if self.tool.custom else wire.ArgumentsDelta, delta=text)]

    def end(self, status: wire.ItemStatus) -> list[wire.StreamEvent]:
        self.item = self._item(status)
        text = "".join(self.text)
        if self.tool.custom:
            return [self._event(wire.CustomDone, input=text)]
        return [self._event(wire.ArgumentsDone, name=self.tool.name, arguments=text)]

    def _item(self, status: wire.ItemStatus) -> wire.FunctionCallItem | wire.CustomCallItem:
        kind = wire.CustomCallItem if self.tool.custom else wire.FunctionCallItem
        return kind(self.id, status, self.call_id, self.tool.name, "".join(self.text), self.tool.namespace or UNSET)


@dataclass(slots=True)
class ClientCallWriter(ItemWriter):
    """A call that the client runs, in a type of its own. Its items are written when it is complete: `finished`."""

    kind: ClientKind
    call_id: str
    finished: list[CallItemType] = field(default_factory=list)

    def begin(self) -> list[wire.StreamEvent]:
        return []

    def delta(self, text: str, logprobs: list[wire.Logprob]) -> list[wire.StreamEvent]:
        self.text.append(text)
        return []

    def end(self, status: wire.ItemStatus) -> list[wire.StreamEvent]:
        self.finished = items_of_call(self.kind, self.call_id, "".join(self.text), status)
        return []


def written_at_once(index: int, item: CallItemType) -> list[wire.StreamEvent]:
    """The events of an item that is complete."""
    events: list[wire.StreamEvent] = [wire.ItemAdded(output_index=index, item=replace(item, status="in_progress"))]
    if isinstance(item, hosted.ShellCallItem):
        for number, command in enumerate(item.action.commands):
            place = {"output_index": index, "command_index": number}
            events.append(hosted.ShellCommandAdded(command=command, **place))
            events.append(hosted.ShellCommandDone(command=command, **place))
    return [*events, wire.ItemDone(output_index=index, item=item)]


def condensed(thought: str) -> str:
    """The first sentence of each paragraph."""
    paragraphs = (SENTENCE.match(each) for each in re.split(r"\n\s*\n", thought))
    return "\n".join(found[1].strip() for found in paragraphs if found)
