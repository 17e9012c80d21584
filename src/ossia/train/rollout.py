"""Answers sampled for training: the very loop that serves a conversation, many at once on one engine, all remembered.

In: an engine, and prompts with how to answer them. Out: `Rollout`s: messages, and every sampled token with its
log-probability and the mask it was drawn under.
It does not know tasks, rewards or gradients.
"""

from collections import deque
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from typing import NamedTuple

from ossia.chat import Answering, Calling, Done, FinishReason, NextToken, Sampling, ToolAnswer, Usage, advance, exchange
from ossia.engine.engine import Engine, Stream
from ossia.engine.request import ContextError, Sampled, TokenMask
from ossia.harmony.constrain import Grammars
from ossia.harmony.messages import Message
from ossia.harmony.parse import End


class Ask(NamedTuple):
    """A conversation to answer, ending before the model's turn."""

    messages: Several[Message]
    how: Answering


@dataclass(slots=True)
class Spoken:
    """One sampling: its prompt, its tokens, and beside each the mask it was drawn under (None: all were allowed)."""

    prompt: list[int]
    output: list[Sampled] = field(default_factory=list)
    masks: list[bytes | None] = field(default_factory=list)


@dataclass(slots=True)
class Rollout:
    """One answer. turn: all messages after the prompt, tools' among them. usage: its tokens."""

    spoken: list[Spoken] = field(default_factory=list)
    turn: list[Message] = field(default_factory=list)
    finish: FinishReason = "length"
    usage: Usage = field(default_factory=Usage)


def roll_out(engine: Engine, grammars: Grammars, asks: Several[Ask]) -> list[Rollout]:
    """Answer all, together. The engine is this thread's alone.

    An answer that outgrows the context by what its tools say ends as "length". ContextError for a prompt that does not fit.
    """
    talks = [_Talk(engine, grammars, ask) for ask in asks]
    active = list(talks)
    while active:
        active = [talk for talk in active if talk.go_on()]
        if active and not engine.step():
            raise RuntimeError("the engine has nothing to do, and answers wait for their tokens")
    return [talk.rollout for talk in talks]


class _Recorder:
    """A mask that keeps what it allowed at every token."""

    def __init__(self, mask: TokenMask, kept: list[bytes | None]) -> None:
        self._mask, self._kept = mask, kept
        self._now: bytes | None = None

    def mask(self) -> bytes | None:
        self._now = self._mask.mask()
        return self._now

    def accept(self, token: int) -> None:
        self._kept.append(self._now)
        self._mask.accept(token)


class _Talk:
    """One exchange under way."""

    def __init__(self, engine: Engine, grammars: Grammars, ask: Ask) -> None:
        self._engine = engine
        self._steps = exchange(grammars, ask.messages, ask.how, engine.context)
        self._step = advance(self._steps, None)
        self._stream: Stream | None = None
        self._ready: deque[Sampled] = deque()
        self.rollout = Rollout()

    def go_on(self) -> bool:
        """Go as far as the tokens there are allow. False when the exchange is over."""
        try:
            return self._go_on()
        except ContextError:
            if not any(spoken.output for spoken in self.rollout.spoken):
                raise
            return False

    def _go_on(self) -> bool:
        while self._step is not None:
            reply: object = None
            match self._step:
                case Sampling(prompt, params, mask):
                    self.rollout.spoken.append(spoken := Spoken(prompt))
                    reply = self._stream = self._engine.submit(prompt, params, _Recorder(mask, spoken.masks))
                case NextToken():
                    if not self._has_token():
                        return True
                    reply = self._next()
                case Calling(tool, text):
                    reply = tool.call(text)
                case End(message) | ToolAnswer(message):
                    self.rollout.turn.append(message)
                case Done(finish, usage):
                    self.rollout.finish, self.rollout.usage = finish, usage
            self._step = advance(self._steps, reply)
        return False

    def _has_token(self) -> bool:
        """Whether there is one, or it is known that none comes."""
        assert self._stream is not None, "a token is wanted of a sampling"
        if not self._ready:
            ended = self._stream.ended  # before the look at what is ready: it may end in between
            self._ready.extend(self._stream.ready())
            return bool(self._ready) or ended
        return True

    def _next(self) -> Sampled | None:
        if not self._ready:
            return None
        self.rollout.spoken[-1].output.append(self._ready.popleft())
        return self.rollout.spoken[-1].output[-1]
