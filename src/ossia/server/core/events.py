"""An answer's events as an API's client sees them: reasoning, content, and calls, piece by piece.

In: the events of `ossia.chat`. Out: `Piece`s, the same for every API. Joined, they hold all text of the model: a
message of no known form is content. This module does not know any API's wire types.
"""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from ossia.chat import Done, Event, Logprobs
from ossia.engine.request import Sampled
from ossia.harmony.client_tools import ClientTool, Toolbox
from ossia.harmony.custom_tool_text import FreeText
from ossia.harmony.messages import Message
from ossia.harmony.parse import Delta, End, Start
from ossia.server.core.request import AnswerStart

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


JoinedPiece: TypeAlias = AnswerStart | TextDelta | ToolCallStart | ToolCallDelta | Done
Piece: TypeAlias = JoinedPiece | TextStart | MessageEnd


class EventTranslator:
    """Turns events into pieces. calls: each complete call by its id, with the messages since the call before it.

    reasoning_channels: whose messages are reasoning. A preamble (commentary without a call) is content by default.
    """

    def __init__(self, toolbox: Toolbox, reasoning_channels: Sequence[str] = ("analysis",)) -> None:
        self.calls: dict[str, Sequence[Message]] = {}
        self._toolbox = toolbox
        self._reasoning_channels = reasoning_channels
        self._kind: TextKind | None = "content"  # of the current message; None for a call
        self._call_id, self._call_count = "", 0
        self._free_text: FreeText | None = None  # of a custom tool's call
        self._scores: tuple[Sampled, ...] = ()
        self._since_call: list[Message] = []

    def translate(self, event: Event | AnswerStart) -> Iterator[Piece]:
        match event:
            case Start():
                yield self._start(event)
            case Logprobs(tokens=tokens):
                self._scores += tokens
            case Delta(text=text):
                yield from self._delta(text)
            case End(message):
                yield from self.flush()
                self._end(message)
                yield MessageEnd(message)
            case AnswerStart() | Done():
                yield event

    def flush(self) -> Iterator[Piece]:
        """The text that is held back, at the end of a call or where the answer broke off."""
        held, self._free_text = self._free_text.finish() if self._free_text else "", None
        if held:
            yield ToolCallDelta(self._call_count - 1, held)

    def _start(self, start: Start) -> Piece:
        self._scores = ()
        if tool := self._toolbox.called.get(start.recipient or ""):
            self._kind, self._free_text = None, FreeText() if tool.custom else None
            self._call_id = f"call_{secrets.token_hex(12)}"
            self._call_count += 1
            return ToolCallStart(self._call_count - 1, self._call_id, tool)
        is_plain = start.role == "assistant" and start.recipient is None
        channel = start.channel if is_plain else None
        self._kind = "reasoning" if channel in self._reasoning_channels else "content"
        return TextStart(self._kind, channel)

    def _delta(self, text: str) -> Iterator[Piece]:
        scores, self._scores = self._scores, ()
        if self._kind:
            yield TextDelta(self._kind, text, scores)
        elif free := (self._free_text.feed(text) if self._free_text else text):
            yield ToolCallDelta(self._call_count - 1, free)

    def _end(self, message: Message) -> None:
        self._since_call.append(message)
        if self._kind is None:
            self.calls[self._call_id], self._since_call = tuple(self._since_call), []
        self._kind = "content"


class TextJoiner:
    """For APIs with one text of each kind: the messages of a kind are joined by line breaks."""

    def __init__(self) -> None:
        self._separator = ""
        self._has_text: set[TextKind] = set()

    def join(self, piece: Piece) -> JoinedPiece | None:
        """The piece as part of one text; None for a piece that such an API does not show."""
        match piece:
            case TextStart(kind):
                if kind in self._has_text:
                    self._separator = "\n" if kind == "reasoning" else "\n\n"
                return None
            case MessageEnd():
                self._separator = ""
                return None
            case TextDelta(kind, text):
                separator, self._separator = self._separator, ""
                self._has_text.add(kind)
                return replace(piece, text=separator + text) if separator else piece
            case _:
                return piece
