"""Many conversations answered together by one engine: for evals, which want what was said, and for RL, which wants tokens.

In: an engine, and prompts with how to answer them. Out: `Rollout`s: events, and every sampled token with its
log-probability and, if wanted, the mask it was drawn under.
It does not know tasks, grades, rewards or gradients.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ossia.chat import (
    AwaitToken,
    CallTool,
    Done,
    Event,
    FinishReason,
    StartSampling,
    Step,
    ToolResult,
    TurnOptions,
    Usage,
    advance,
    run_turn,
)
from ossia.engine.engine import Engine, Stream
from ossia.engine.request import ContextError, Sampled, TokenMask
from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import Message
from ossia.harmony.parse import End


class RolloutRequest(NamedTuple):
    """A conversation to answer, ending before the model's turn."""

    messages: Sequence[Message]
    how: TurnOptions


@dataclass(slots=True)
class Completion:
    """One sampling: its prompt, its tokens, and beside each the mask it was drawn under (None: all were allowed)."""

    prompt: list[int]
    output: list[Sampled] = field(default_factory=list)
    masks: list[bytes | None] = field(default_factory=list)


@dataclass(slots=True)
class Rollout:
    """One answer: its events up to `Done`, and its samplings, between which tools were run."""

    spoken: list[Completion] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def turn(self) -> list[Message]:
        """All messages after the prompt, tools' among them."""
        return [event.message for event in self.events if isinstance(event, End | ToolResult)]

    @property
    def finish(self) -> FinishReason:
        return self._done.finish

    @property
    def usage(self) -> Usage:
        return self._done.usage

    @property
    def _done(self) -> Done:
        last = self.events[-1]
        assert isinstance(last, Done), "an exchange ends with it"
        return last


def roll_out(
    engine: Engine, grammars: GrammarCache, asks: Sequence[RolloutRequest], *, masks: bool = False
) -> list[Rollout]:
    """Answer all, together: whatever can be sampled is, in the same steps. The engine is this thread's alone.

    masks: keep them: a byte for eight words of the vocabulary at every token.
    An answer that outgrows the context by what its tools say ends as "length". ContextError for a prompt that does not fit.
    """
    talks = [_Episode(engine, grammars, ask, masks) for ask in asks]
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


class _Episode:
    """One exchange under way."""

    def __init__(self, engine: Engine, grammars: GrammarCache, ask: RolloutRequest, masks: bool) -> None:
        self._engine, self._masks = engine, masks
        self._steps = run_turn(grammars, ask.messages, ask.how, engine.context)
        self._step = advance(self._steps, None)
        self._stream: Stream | None = None
        self._ready: deque[Sampled] = deque()
        self.rollout = Rollout()

    def go_on(self) -> bool:
        """Go as far as the tokens there are allow. False when the exchange is over."""
        while self._step is not None:
            reply: object = None
            match self._step:
                case StartSampling():
                    self._step = self._begin(self._step)
                    continue
                case AwaitToken():
                    if not self._has_token():
                        return True
                    reply = self._next()
                case CallTool(tool, text):
                    reply = tool.call(text)
                case event:
                    self.rollout.events.append(event)
            self._step = advance(self._steps, reply)
        return False

    def _begin(self, wanted: StartSampling) -> Step | None:
        spoken = Completion(wanted.prompt)
        mask = _Recorder(wanted.mask, spoken.masks) if self._masks else wanted.mask
        try:
            self._stream = self._engine.submit(wanted.prompt, wanted.params, mask)
        except ContextError as error:
            return self._steps.throw(error)  # the exchange knows whether it can end here
        self.rollout.spoken.append(spoken)
        return advance(self._steps, self._stream)

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
