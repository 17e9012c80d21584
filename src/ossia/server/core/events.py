"""An answer's events as an API's client sees them: reasoning, content, and calls, piece by piece.

In: the events of `ossia.chat`. Out: `Piece`s, the same for every API. Joined, they hold all text of the model: a
message of no known form is content. This module does not know any API's wire types.
"""

import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import msgspec

from ossia.chat import Done, Event, Logprobs, ToolProgressed, ToolResult
from ossia.engine.request import Sampled
from ossia.harmony.calls import DOTTED
from ossia.harmony.client_tools import ClientTool, Toolbox
from ossia.harmony.custom_tool_text import FreeText
from ossia.harmony.messages import Message
from ossia.harmony.parse import Delta, End, Start
from ossia.server.core.request import AnswerStart
from ossia.tools.browser.citations import CitationStream, Resolve, UrlCitation
from ossia.tools.session import ToolProgress

TextKind = Literal["reasoning", "content"]


@dataclass(frozen=True, slots=True)
class TextStart:
    """A message without a call begins. channel: None if the message is malformed."""

    kind: TextKind
    channel: str | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text. scores: log-probabilities of exactly the tokens that it is made of, if they were requested."""

    kind: TextKind
    text: str
    scores: tuple[Sampled, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call of a client's tool begins. index: its number among the answer's calls."""

    index: int
    id: str
    tool: ClientTool


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of the last call's arguments, or of its input if the tool is a custom one."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class MessageEnd:
    """The message or call is complete."""

    message: Message


@dataclass(frozen=True, slots=True)
class Citation:
    """The text just sent ends with a link to a source. Indices are in the text of its kind, in code points."""

    source: UrlCitation


@dataclass(frozen=True, slots=True)
class HostedCallStart:
    """A call of one of the server's own tools begins."""

    recipient: str


@dataclass(frozen=True, slots=True)
class HostedCallDelta:
    """More of its arguments, or of its code."""

    text: str


@dataclass(frozen=True, slots=True)
class HostedCallProgress:
    """The tool is running and wrote something."""

    progress: ToolProgress


@dataclass(frozen=True, slots=True)
class HostedCallEnd:
    """The tool ran. result: its message to the model. details: the result as a structure of the tool's own."""

    call: Message
    result: Message
    failed: bool
    details: msgspec.Struct | None


HostedPiece = HostedCallStart | HostedCallDelta | HostedCallProgress | HostedCallEnd
JoinedPiece: TypeAlias = AnswerStart | TextDelta | Citation | ToolCallStart | ToolCallDelta | HostedPiece | Done
Piece: TypeAlias = JoinedPiece | TextStart | MessageEnd


class EventTranslator:
    """Turns events into pieces. calls: each complete call by its id, with the messages since the call before it.

    reasoning_channels: whose messages are reasoning. A preamble (commentary without a call) is content by default.
    hosted: recipients of the server's own tools. resolve: finds the sources of citations; None leaves the text as it is.
    """

    def __init__(
        self,
        toolbox: Toolbox,
        reasoning_channels: Sequence[str] = ("analysis",),
        hosted: Collection[str] = (),
        resolve: Resolve | None = None,
    ) -> None:
        self.calls: dict[str, Sequence[Message]] = {}
        self._toolbox = toolbox
        self._hosted, self._resolve = hosted, resolve
        self._is_hosted_call = False  # the current message
        self._citations: CitationStream | None = None  # of the current message
        self._reasoning_channels = reasoning_channels
        self._kind: TextKind | None = "content"  # of the current message; None for a call
        self._call_id, self._call_count = "", 0
        self._free_text: FreeText | None = None  # of a custom tool's call
        self._scores: tuple[Sampled, ...] = ()
        self._since_call: list[Message] = []

    def translate(self, event: Event | AnswerStart) -> Iterator[Piece]:
        match event:
            case Delta(text=text):  # first, because most events are these
                yield from self._delta(text)
            case Start():
                yield self._start(event)
            case Logprobs(tokens=tokens):
                self._scores += tokens
            case End(message):
                yield from self.flush()
                self._end(message)
                yield MessageEnd(message)
            case ToolProgressed(_, progress):
                yield HostedCallProgress(progress)
            case ToolResult(result, failed, details, Message() as call):
                self._since_call.append(result)
                yield HostedCallEnd(call, result, failed, details)
            case AnswerStart() | Done():
                yield event

    def flush(self) -> Iterator[Piece]:
        """The text that is held back, at the end of a call or where the answer broke off."""
        held, self._free_text = self._free_text.finish() if self._free_text else "", None
        if held:
            yield ToolCallDelta(self._call_count - 1, held)
        if self._citations:
            yield from self._cited(self._citations.flush(), ())
            self._citations = None

    def _start(self, start: Start) -> Piece:
        self._scores, self._is_hosted_call = (), False
        if tool := self._toolbox.called.get(start.recipient or ""):
            self._kind, self._free_text = None, FreeText() if tool.custom else None
            self._call_id = f"call_{secrets.token_hex(12)}"
            self._call_count += 1
            return ToolCallStart(self._call_count - 1, self._call_id, tool)
        self._is_hosted_call = self._is_hosted(start)
        if self._is_hosted_call:
            return HostedCallStart(start.recipient or "")
        is_plain = start.role == "assistant" and start.recipient is None
        channel = start.channel if is_plain else None
        self._kind = "reasoning" if channel in self._reasoning_channels else "content"
        if self._resolve and self._kind == "content":
            self._citations = CitationStream(self._resolve)
        return TextStart(self._kind, channel)

    def _is_hosted(self, start: Start) -> bool:
        """Whether this is a call of the server's tools, or of a tool that does not exist beside them."""
        if not self._hosted or start.role != "assistant" or start.recipient is None:
            return False
        return start.recipient in self._hosted or DOTTED.fullmatch(start.recipient) is not None

    def _delta(self, text: str) -> Iterator[Piece]:
        scores, self._scores = self._scores, ()
        if self._is_hosted_call:
            yield HostedCallDelta(text)
        elif self._citations:
            yield from self._cited(self._citations.feed(text), scores)
        elif self._kind:
            yield TextDelta(self._kind, text, scores)
        elif free := (self._free_text.feed(text) if self._free_text else text):
            yield ToolCallDelta(self._call_count - 1, free)

    def _cited(self, pieces: Sequence[str | UrlCitation], scores: tuple[Sampled, ...]) -> Iterator[Piece]:
        """Text in which citations became links. Scores go with the first text that is sent after their tokens."""
        for piece in pieces:
            if isinstance(piece, UrlCitation):
                yield Citation(piece)
            else:
                yield TextDelta("content", piece, scores)
                scores = ()
        self._scores = scores + self._scores

    def _end(self, message: Message) -> None:
        self._since_call.append(message)
        self._is_hosted_call = False
        if self._kind is None:
            self.calls[self._call_id], self._since_call = tuple(self._since_call), []
        self._kind = "content"


class TextJoiner:
    """For APIs with one text of each kind: the messages of a kind are joined by line breaks."""

    def __init__(self) -> None:
        self._separator = ""
        self._has_text: set[TextKind] = set()
        self._content = self._before = 0  # characters of content: all, and before the current message

    def join(self, piece: Piece) -> JoinedPiece | None:
        """The piece as part of one text; None for a piece that such an API does not show."""
        match piece:
            case TextDelta(kind, text):
                separator, self._separator = self._separator, ""
                self._has_text.add(kind)
                self._content += len(separator) + len(text) if kind == "content" else 0
                return replace(piece, text=separator + text) if separator else piece
            case TextStart(kind):
                if kind in self._has_text:
                    self._separator = "\n" if kind == "reasoning" else "\n\n"
                self._before = self._content + len(self._separator)
                return None
            case MessageEnd():
                self._separator = ""
                return None
            case Citation(source):
                first, last = source.start_index + self._before, source.end_index + self._before
                return Citation(source._replace(start_index=first, end_index=last))
            case _:
                return piece
