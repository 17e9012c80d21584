"""The events of an answer to those of the Responses API, and the response that they add up to.

In: events of `ossia.chat`. Out: stream events, numbered, each item and part opened and closed; at the end the response.
It does not know HTTP or what is kept. Nothing that the model says is lost: what fits no form is an output text.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, cast

from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from ossia.chat import Done, Event, Logprobs
from ossia.chat import Usage as ChatUsage
from ossia.engine.request import Sampled
from ossia.harmony.client_tools import ClientTool, Toolbox
from ossia.harmony.messages import Message
from ossia.harmony.parse import Delta, End, Start
from ossia.server.apis.responses import wire
from ossia.server.apis.responses.custom_tool_text import FreeText
from ossia.server.apis.responses.items import new_id, phase_of
from ossia.server.core.request import Opening
from ossia.server.http.decoding.json_codec import LEAST_LOGPROB, encode
from ossia.server.state.store import Item
from ossia.tokenizer.tokenizer import Tokenizer

Summary = Literal["copied", "condensed"]
SENTENCE = re.compile(r"\s*(.+?[.!?…。！？](?=\s|$)|.+)", re.DOTALL)  # the first of a paragraph
WARNINGS = "ossia.warnings"  # the key in a response's metadata
LONGEST_WARNING = 512

E = TypeVar("E", bound=wire.StreamEvent)


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How an answer is written. seal: encrypts reasoning for the client to keep; None if it did not ask for that.

    summary: the kind of reasoning summary; None for none. tokenizer: set if log-probabilities are requested.
    hides_reasoning: no reasoning text for the client. With encrypted reasoning, items have only that.
    """

    toolbox: Toolbox
    seal: Callable[[str], str] | None = None
    summary: Summary | None = None
    tokenizer: Tokenizer | None = None
    hides_reasoning: bool = False


class ResponseBuilder:
    """Writes one response: `open`, `hear` every event, and where the answer breaks off `fail` or `cancel`."""

    def __init__(self, response: wire.Response, telling: OutputOptions) -> None:
        self.response = response
        self.made: list[Item] = []  # the output with its messages, as they are kept
        self.heard: list[Item] = []  # the same, and reasoning that is hidden
        self._telling = telling
        self._number = 0
        self._open: _Open | None = None
        self._logprobs: list[wire.Logprob] = []

    def open(self) -> list[wire.StreamEvent]:
        """The response exists: it is queued, or begun already."""
        events: list[wire.StreamEvent] = [wire.Created(response=self.response)]
        waits = self.response.status == "queued"
        events.append((wire.Queued if waits else wire.InProgress)(response=self.response))
        return self._numbered(events)

    def begin(self) -> list[wire.StreamEvent]:
        """One that was queued is begun."""
        self.response = replace(self.response, status="in_progress")
        return self._numbered([wire.InProgress(response=self.response)])

    def hear(self, event: Event | Opening) -> list[wire.StreamEvent]:
        match event:
            case Start() if self._telling.hides_reasoning and not self._telling.seal and _is_reasoning(event):
                self._open = None
            case Start():
                self._open = self._kind(event)
                return self._numbered(self._open.begin())
            case Logprobs(_, _, tokens) if self._telling.tokenizer:
                self._logprobs = [_logprob(self._telling.tokenizer, each) for each in tokens]
            case Delta(_, _, text) if self._open:
                logprobs, self._logprobs = self._logprobs, []
                return self._numbered(self._open.delta(text, logprobs))
            case End(message):
                if self._open is None and message.tokens:
                    self.heard.append(Item("", b"", message))
                return self._numbered(self._close("completed", message))
            case Done(finish, usage):
                self.response = replace(self.response, usage=_usage(usage))
                return self._end("incomplete" if finish == "length" else "completed")
        return []

    def fail(self, code: str, message: str) -> list[wire.StreamEvent]:
        """The answer broke off: what was said so far stays."""
        self.response = replace(self.response, error=wire.Failure(code, message))
        return self._end("failed")

    def cancel(self) -> list[wire.StreamEvent]:
        return self._end("cancelled")

    def warn(self, warning: str) -> None:
        """Also in the events already given, which hold this response."""
        self.response.metadata[WARNINGS] = warning[:LONGEST_WARNING]
        self.response.store = False

    def _end(self, status: wire.Status) -> list[wire.StreamEvent]:
        events = self._close("incomplete", None)
        cut = wire.Incomplete("max_output_tokens") if status == "incomplete" else None
        done = int(time.time()) if status == "completed" else None
        self.response = replace(self.response, status=status, incomplete_details=cut, completed_at=done)
        last = {"completed": wire.Completed, "failed": wire.Failed}.get(status, wire.Ended)
        return self._numbered([*events, last(response=self.response)])

    def _kind(self, start: Start) -> "_Open":
        """What a message that begins is to the client."""
        index = len(self.response.output)
        tool = self._telling.toolbox.called.get(start.recipient or "") if start.role == "assistant" else None
        if tool:
            return _Custom(index, tool) if tool.custom else _Function(index, tool)
        if _is_reasoning(start):
            return _Reasoning(index, self._telling)
        return _Text(index, phase_of(start.channel, start.recipient) if start.role == "assistant" else None)

    def _close(self, status: wire.ItemStatus, message: Message | None) -> list[wire.StreamEvent]:
        opened, self._open = self._open, None
        if opened is None:
            return []
        cut = message is not None and "unterminated" in message.flaws
        events = opened.end("incomplete" if cut else status)
        item = opened.item
        self.response = replace(self.response, output=[*self.response.output, item])
        # only what was sampled in form is shown to the model again as it was
        said = message if message and message.tokens else None
        self.made.append(Item(item.id, encode(item), said, getattr(item, "call_id", None)))
        self.heard.append(self.made[-1])
        return [*events, wire.ItemDone(output_index=opened.index, item=item)]

    def _numbered(self, events: Sequence[wire.StreamEvent]) -> list[wire.StreamEvent]:
        for event in events:
            event.sequence_number = self._number
            self._number += 1
        return list(events)


@dataclass(slots=True)
class _Text:
    """A message to the user. `item` is the state that was last sent."""

    index: int
    phase: wire.Phase | None
    id: str = field(default_factory=lambda: new_id("msg"))
    text: list[str] = field(default_factory=list)
    logprobs: list[wire.Logprob] = field(default_factory=list)
    item: wire.OutputItem = field(init=False)

    def begin(self) -> list[wire.StreamEvent]:
        self.item = wire.OutputMessage(self.id, "in_progress", [], phase=self.phase or UNSET)
        return [
            wire.ItemAdded(output_index=self.index, item=self.item),
            self._about(wire.PartAdded, content_index=0, part=wire.OutputText("")),
        ]

    def delta(self, text: str, logprobs: list[wire.Logprob]) -> list[wire.StreamEvent]:
        self.text.append(text)
        self.logprobs += logprobs
        return [self._about(wire.OutputTextDelta, content_index=0, delta=text, logprobs=logprobs)]

    def end(self, status: wire.ItemStatus) -> list[wire.StreamEvent]:
        part = wire.OutputText("".join(self.text), logprobs=self.logprobs)
        self.item = wire.OutputMessage(self.id, status, [part], phase=self.phase or UNSET)
        return [
            self._about(wire.OutputTextDone, content_index=0, text=part.text, logprobs=self.logprobs),
            self._about(wire.PartDone, content_index=0, part=part),
        ]

    def _about(self, kind: Callable[..., E], **fields: object) -> E:
        return kind(item_id=self.id, output_index=self.index, **fields)


@dataclass(slots=True)
class _Reasoning:
    """Thinking, with its summary and its sealed form where they were asked for."""

    index: int
    telling: OutputOptions
    id: str = field(default_factory=lambda: new_id("rs"))
    text: list[str] = field(default_factory=list)
    item: wire.OutputItem = field(init=False)

    def begin(self) -> list[wire.StreamEvent]:
        self.item = wire.ReasoningItem(self.id, "in_progress", [], [])
        events: list[wire.StreamEvent] = [wire.ItemAdded(output_index=self.index, item=self.item)]
        if self.telling.hides_reasoning:
            return events
        events.append(self._about(wire.PartAdded, content_index=0, part=wire.ReasoningText("")))
        if self.telling.summary:
            events.append(self._about(wire.SummaryPartAdded, summary_index=0, part=wire.SummaryText("")))
        return events

    def delta(self, text: str, logprobs: list[wire.Logprob]) -> list[wire.StreamEvent]:
        self.text.append(text)
        if self.telling.hides_reasoning:
            return []
        events: list[wire.StreamEvent] = [self._about(wire.ReasoningDelta, content_index=0, delta=text)]
        if self.telling.summary == "copied":
            events.append(self._about(wire.SummaryDelta, summary_index=0, delta=text))
        return events

    def end(self, status: wire.ItemStatus) -> list[wire.StreamEvent]:
        part = wire.ReasoningText("".join(self.text))
        sealed: str | UnsetType = self.telling.seal(part.text) if self.telling.seal else UNSET
        if self.telling.hides_reasoning:
            self.item = wire.ReasoningItem(self.id, status, [], [], sealed)
            return []
        events: list[wire.StreamEvent] = [
            self._about(wire.ReasoningDone, content_index=0, text=part.text),
            self._about(wire.PartDone, content_index=0, part=part),
        ]
        summary: list[wire.SummaryText] = []
        if self.telling.summary:
            summary = [wire.SummaryText(part.text if self.telling.summary == "copied" else condensed(part.text))]
            events += self._summarized(summary[0])
        self.item = wire.ReasoningItem(self.id, status, summary, [part], sealed)
        return events

    def _summarized(self, summary: wire.SummaryText) -> list[wire.StreamEvent]:
        events: list[wire.StreamEvent] = []
        if self.telling.summary == "condensed" and summary.text:
            events.append(self._about(wire.SummaryDelta, summary_index=0, delta=summary.text))
        events.append(self._about(wire.SummaryDone, summary_index=0, text=summary.text))
        events.append(self._about(wire.SummaryPartDone, summary_index=0, part=summary))
        return events

    def _about(self, kind: Callable[..., E], **fields: object) -> E:
        return kind(item_id=self.id, output_index=self.index, **fields)


@dataclass(slots=True)
class _Function:
    """A call of a function: its arguments are JSON."""

    index: int
    tool: ClientTool
    id: str = field(default_factory=lambda: new_id("fc"))
    call_id: str = field(default_factory=lambda: new_id("call"))
    text: list[str] = field(default_factory=list)
    item: wire.OutputItem = field(init=False)

    def begin(self) -> list[wire.StreamEvent]:
        self.item = self._item("in_progress")
        return [wire.ItemAdded(output_index=self.index, item=self.item)]

    def delta(self, text: str, logprobs: list[wire.Logprob]) -> list[wire.StreamEvent]:
        self.text.append(text)
        return [wire.ArgumentsDelta(item_id=self.id, output_index=self.index, delta=text)]

    def end(self, status: wire.ItemStatus) -> list[wire.StreamEvent]:
        self.item = item = self._item(status)
        return [
            wire.ArgumentsDone(item_id=self.id, output_index=self.index, name=self.tool.name, arguments=item.arguments)
        ]

    def _item(self, status: wire.ItemStatus) -> wire.FunctionCallItem:
        space = self.tool.namespace or UNSET
        return wire.FunctionCallItem(self.id, status, self.call_id, self.tool.name, "".join(self.text), space)


@dataclass(slots=True)
class _Custom:
    """A call of a custom tool: the client sees the free text, not the JSON around it."""

    index: int
    tool: ClientTool
    id: str = field(default_factory=lambda: new_id("ctc"))
    call_id: str = field(default_factory=lambda: new_id("call"))
    text: list[str] = field(default_factory=list)
    free: FreeText = field(default_factory=FreeText)
    item: wire.OutputItem = field(init=False)

    def begin(self) -> list[wire.StreamEvent]:
        self.item = self._item("in_progress")
        return [wire.ItemAdded(output_index=self.index, item=self.item)]

    def delta(self, text: str, logprobs: list[wire.Logprob]) -> list[wire.StreamEvent]:
        return self._given(self.free.feed(text))

    def end(self, status: wire.ItemStatus) -> list[wire.StreamEvent]:
        events = self._given(self.free.finish())
        self.item = item = self._item(status)
        return [*events, wire.CustomDone(item_id=self.id, output_index=self.index, input=item.input)]

    def _given(self, text: str) -> list[wire.StreamEvent]:
        if not text:
            return []
        self.text.append(text)
        return [wire.CustomDelta(item_id=self.id, output_index=self.index, delta=text)]

    def _item(self, status: wire.ItemStatus) -> wire.CustomCallItem:
        space = self.tool.namespace or UNSET
        return wire.CustomCallItem(self.id, status, self.call_id, self.tool.name, "".join(self.text), space)


_Open = _Text | _Reasoning | _Function | _Custom


def _is_reasoning(start: Start) -> bool:
    return start.channel == "analysis" and start.recipient is None and start.role == "assistant"


def condensed(thought: str) -> str:
    """The first sentence of each paragraph."""
    paragraphs = (SENTENCE.match(each) for each in re.split(r"\n\s*\n", thought))
    return "\n".join(found[1].strip() for found in paragraphs if found)


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
    return cast(
        wire.Logprob, Raw(encode(whole))
    )  # it is sent several times; encoded at once, a long answer's took long


def _scored(tokenizer: Tokenizer, token: int, logprob: float) -> wire.ResponseTopLogprob:
    data = tokenizer.token_bytes(token)
    return wire.ResponseTopLogprob(data.decode("utf-8", "replace"), list(data), max(logprob, LEAST_LOGPROB))
