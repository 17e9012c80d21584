"""Parses token ids to messages, one id at a time, for well-formed and malformed output.

In: a tokenizer and ids. Out: events; together they hold every word. Never raises: a malformed message has flaws.

Where OpenAI's strict parser succeeds, the messages are the same. Where it raises, docs/harmony.md describes the
result.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ossia.harmony.calls import corrected
from ossia.harmony.header import Header, HeaderError, doubled_channel, read_header, salvage
from ossia.harmony.messages import Message, Role
from ossia.tokenizer.tokenizer import TextStream, Tokenizer

STOPS = ("<|end|>", "<|return|>", "<|call|>")


@dataclass(frozen=True, slots=True)
class Start:
    """A message begins; its header is complete."""

    role: Role
    channel: str | None
    recipient: str | None
    content_type: str | None


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of the current message."""

    channel: str | None
    recipient: str | None
    text: str


@dataclass(frozen=True, slots=True)
class End:
    """A message is complete."""

    message: Message


Event: TypeAlias = Start | Delta | End


class Parser:
    """Feed ids and collect events. Call `finish` at the end of the stream. flaws: everything that was malformed.

    role: the author of the message that the ids continue, if the prompt ended in its opening. None: ids begin with
    <|start|>. channels: the declared recipients with the channels of their calls (`DeclaredTools.channels`). They
    help to recover malformed headers, and slips such as `functions.browser.search` become the declared name.
    """

    def __init__(
        self, tokenizer: Tokenizer, role: Role | None = "assistant", channels: Mapping[str, str] | None = None
    ) -> None:
        self._tokenizer, self._channels = tokenizer, channels or {}
        self._start, self._message = tokenizer.special["<|start|>"], tokenizer.special["<|message|>"]
        self._stops = {tokenizer.special[name] for name in STOPS}
        self._role: Role | None = role
        self._state: Literal["between", "header", "content"] = "between" if role is None else "header"
        self._refused = False  # the reference has raised: from there on there is nothing to compare with
        self._ids: list[int] = []  # ids of the current message, after <|start|>
        self._header = Header("assistant")
        self._text = TextStream(tokenizer)
        self._parts: list[str] = []
        self._own_flaws: list[str] = []  # flaws of the current message
        self.flaws: list[str] = []

    @property
    def channel(self) -> str | None:
        """The channel of the current message's text; None in a header and between messages."""
        return self._header.channel if self._state == "content" else None

    @property
    def inside(self) -> bool:
        """Whether the current position is in a message's text."""
        return self._state == "content"

    def feed(self, token: int) -> list[Event]:
        """The events caused by this id."""
        match self._state:
            case "between":
                return self._between(token)
            case "header":
                return self._in_header(token)
            case "content":
                return self._in_content(token)

    def finish(self) -> list[Event]:
        """End of the stream: the current message ends with the flaw "unterminated"."""
        match self._state:
            case "between":
                return []
            case "header":
                self._state = "between"
                self._flaw("the stream ended in a header")
                return [event for text, role in self._pieces() for event in self._saved(text, role)]
            case "content":
                self._flaw("unterminated")
                return self._close()

    def _between(self, token: int) -> list[Event]:
        if token == self._start:
            self._open(None)
            return []
        self._refused = True
        if token in self._stops:
            self.flaws.append("an end without a message")
            return []
        self._open("assistant")
        self._flaw("no <|start|> before a message")
        return self._in_header(token)

    def _open(self, role: Role | None) -> None:
        self._state, self._role, self._ids = "header", role, []

    def _in_header(self, token: int) -> list[Event]:
        """Ends and starts inside a header are kept until <|message|>, as in the reference."""
        if token != self._message:
            self._ids.append(token)
            return []
        events = self._read_header()
        if any("<|" in (field or "") for field in (self._header.recipient, self._header.name)):
            self._flaw("control tokens in a header")
        self._correct_recipient()
        self._ids.append(token)
        self._state = "content"
        return [*events, Start(self._header.role, *self._header[2:])]

    def _read_header(self) -> list[Event]:
        """Read the header of this message. Returns the messages that were lost in it."""
        text = self._tokenizer.decode(self._ids)
        if "\ufffd" in text:
            self._refused = True
            self._flaw("a header that is not UTF-8")
        if not self._refused:
            try:
                self._header = self._header_of(text, self._role)
                return []
            except HeaderError as error:
                self._refused = True
                self._flaw(str(error))
        return self._recover()

    def _header_of(self, text: str, role: Role | None) -> Header:
        if (found := doubled_channel(text, role, self._channels)) is None:
            return read_header(text, role)
        self._flaw("a second <|channel|> in a header")
        return found

    def _correct_recipient(self) -> None:
        """Replace a recipient that is not declared by the tool that it means, with a flaw."""
        to = self._header.recipient
        if not to or self._header.role != "assistant":
            return
        if to not in self._channels and (name := corrected(to, self._channels)):
            self._flaw(f"the recipient {to!r} is not declared; read as {name!r}")
            self._header = self._header._replace(recipient=name)
        elif self._channels.get(to) == "analysis" and self._header.channel == "commentary":
            self._flaw(f"{to} is called on the analysis channel, not on commentary")

    def _recover(self) -> list[Event]:
        """Earlier pieces of a header become separate messages. The last piece is the header of this message."""
        *earlier, (text, role) = self._pieces()
        events = [event for piece, piece_role in earlier for event in self._saved(piece, piece_role)]
        try:
            self._header, left = self._header_of(text, role), ""
        except HeaderError as error:
            self._flaw(str(error))
            self._header, left = salvage(text, role)
        return [*events, *self._whole(Header(self._header.role), left)] if left else events

    def _pieces(self) -> list[tuple[str, Role | None]]:
        """The header's text, cut at ends and starts. Each piece has its role, if known."""
        pieces: list[tuple[list[int], Role | None]] = [([], self._role)]
        for token in self._ids:
            if token == self._start:
                pieces.append(([], None))
            elif token in self._stops:
                pieces.append(([], "assistant"))
            else:
                pieces[-1][0].append(token)
        if len(pieces) > 1:
            self._flaw("a start or an end in a header")
        held = [piece for piece in pieces[:-1] if piece[0]] + pieces[-1:]
        return [(self._tokenizer.decode(ids), role) for ids, role in held]

    def _saved(self, text: str, role: Role | None) -> list[Event]:
        header, left = salvage(text, role)
        return self._whole(header, left) if left or header.recipient or header.content_type else []

    def _whole(self, header: Header, text: str) -> list[Event]:
        """A message without a proper start, as complete events."""
        start = Start(header.role, *header[2:])
        return [start, Delta(header.channel, header.recipient, text), End(self._made(header, text))]

    def _in_content(self, token: int) -> list[Event]:
        self._ids.append(token)
        if token in self._stops:
            return self._close()
        if self._tokenizer.is_special(token):
            self._flaw("a control token in the text")
        return self._delta(self._text.feed(token))

    def _delta(self, text: str) -> list[Event]:
        if not text:
            return []
        self._parts.append(text)
        return [Delta(self._header.channel, self._header.recipient, text)]

    def _close(self) -> list[Event]:
        events = self._delta(self._text.flush())
        message = self._made(self._header, "".join(self._parts))
        self._parts, self._own_flaws, self._role, self._state = [], [], None, "between"
        return [*events, End(message)]

    def _made(self, header: Header, text: str) -> Message:
        """The finished message. Only a well-formed one keeps its ids: others would teach the model its flaws."""
        tokens = None if self._own_flaws else self._sampled_ids()
        return Message(header.role, (text,), *header[1:], tokens=tokens, flaws=tuple(self._own_flaws))

    def _sampled_ids(self) -> tuple[int, ...] | None:
        """The ids after the role, for replay; None if the role was not written in its usual ids."""
        if self._header.role != "assistant":
            return None
        if self._role is not None:
            return tuple(self._ids)
        role = self._tokenizer.encode("assistant")
        return tuple(self._ids[len(role) :]) if self._ids[: len(role)] == role else None

    def _flaw(self, text: str) -> None:
        if text not in self._own_flaws:
            self._own_flaws.append(text)
            self.flaws.append(text)


def parse(tokenizer: Tokenizer, tokens: list[int], role: Role | None = "assistant") -> list[Message]:
    """All messages of a completion."""
    parser = Parser(tokenizer, role)
    events = [event for token in tokens for event in parser.feed(token)] + parser.finish()
    return [event.message for event in events if isinstance(event, End)]
