"""An answer's events as an API's client sees them: reasoning, content, and calls, piece by piece.

In: the events of `ossia.chat`. Out: `Piece`s. Joined, they hold every word that the model said: what is in no form known
is content. It does not know any API's wire types.
"""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ossia.chat import Done, Event, Logprobs
from ossia.engine.request import Sampled
from ossia.harmony.client_tools import ClientTool, Toolbox
from ossia.harmony.messages import Message
from ossia.harmony.parse import Delta, End, Start
from ossia.server.core.request import Opening
from ossia.server.http.decoding.json_codec import loads

Kind = Literal["reasoning", "content"]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text. scores: of the tokens that it, and nothing before it, is made of, where they were asked for."""

    kind: Kind
    text: str
    scores: tuple[Sampled, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call begins."""

    index: int
    id: str
    tool: ClientTool


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of the last call's arguments, or of its input where the tool is a custom one."""

    index: int
    text: str


Piece: TypeAlias = Opening | TextDelta | ToolCallStart | ToolCallDelta | Done


class EventTranslator:
    """Turns events into pieces. `calls` are those that are whole, with all the messages that led to each.

    A preamble, a word to the user before a call, is content, but not where the content has a form to keep.
    """

    def __init__(self, box: Toolbox, has_form: bool = False) -> None:
        self.box = box
        self._thoughts = ("analysis", "commentary") if has_form else ("analysis",)
        self.calls: dict[str, Sequence[Message]] = {}
        self._kind: Kind | None = "content"  # of the message under way; None for a call
        self._tool, self._call_id, self._count = ClientTool(""), "", 0
        self._spoke: set[Kind] = set()
        self._begins = False  # nothing of the message under way was given yet
        self._scores: tuple[Sampled, ...] = ()
        self._messages: list[Message] = []  # since the last call

    def tell(self, event: Event | Opening) -> Iterator[Piece]:
        match event:
            case Start():
                yield from self._start(event)
            case Logprobs(tokens=tokens):
                self._scores += tokens
            case Delta(text=text):
                yield from self._delta(text)
            case End(message):
                yield from self._end(message)
            case Opening() | Done():
                yield event

    def _start(self, event: Start) -> Iterator[Piece]:
        tool = self.box.called.get(event.recipient or "")
        self._begins, self._scores = True, ()
        if tool:
            self._kind, self._tool = None, tool
            self._call_id = f"call_{secrets.token_hex(12)}"
            yield ToolCallStart(self._count, self._call_id, tool)
            self._count += 1
        elif event.recipient is None and event.channel in self._thoughts:
            self._kind = "reasoning"
        else:
            self._kind = "content"

    def _delta(self, text: str) -> Iterator[Piece]:
        scores, self._scores = self._scores, ()
        if self._kind is None:
            if not self._tool.custom:
                yield ToolCallDelta(self._count - 1, text)
            return
        if self._begins and self._kind in self._spoke:
            text = f"\n{text}" if self._kind == "reasoning" else f"\n\n{text}"
        self._begins = False
        self._spoke.add(self._kind)
        yield TextDelta(self._kind, text, scores)

    def _end(self, message: Message) -> Iterator[Piece]:
        self._messages.append(message)
        if self._kind is None:
            if self._tool.custom:
                yield ToolCallDelta(self._count - 1, input_of(message.text))
            self.calls[self._call_id], self._messages = tuple(self._messages), []
        self._kind = "content"


def input_of(arguments: str) -> str:
    """A custom tool's input, which the model gives as the argument `input`; what is no such JSON is itself the input."""
    try:
        given = loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    value = given.get("input") if isinstance(given, dict) else None
    return value if isinstance(value, str) else arguments
