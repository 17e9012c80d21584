"""Answers many conversations together on one engine, for evaluations and RL.

In: an engine, and prompts with options. Out: `Rollout`s: events, and every sampled token with its log-probability and,
if requested, its mask.
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
from ossia.tools.background import BackgroundLoop
from ossia.tools.functions import ToolOutput
from ossia.tools.runner import ToolProgressed, run_on


class RolloutRequest(NamedTuple):
    """A conversation to answer; it ends before the model's turn."""

    messages: Sequence[Message]
    how: TurnOptions


@dataclass(slots=True)
class Completion:
    """One completion: its prompt, its tokens, and the mask of each token (None: all tokens were allowed)."""

    prompt: list[int]
    output: list[Sampled] = field(default_factory=list)
    masks: list[bytes | None] = field(default_factory=list)


@dataclass(slots=True)
class Rollout:
    """One answer: its events up to `Done`, and its completions, with tools run between them."""

    completions: list[Completion] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def turn(self) -> list[Message]:
        """All messages after the prompt, tool results included."""
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
        assert isinstance(last, Done), "the last event of an answer is Done"
        return last


def roll_out(
    engine: Engine, grammars: GrammarCache, requests: Sequence[RolloutRequest], *, masks: bool = False
) -> list[Rollout]:
    """Answer all requests, batched in the same steps. The engine must not be used by another thread.

    masks: keep the masks: one byte per eight vocabulary entries for every token. An answer that outgrows the context
    through tool results ends as "length". Raises ContextError for a prompt that does not fit.
    """
    loop = BackgroundLoop()
    episodes = [Episode(engine, grammars, request, masks=masks) for request in requests]
    active = list(episodes)
    while active:
        active = [episode for episode in active if episode.advance_on(loop)]
        if active and not engine.step():
            raise RuntimeError("the engine has no work, but answers still wait for tokens")
    return [episode.rollout for episode in episodes]


class _Recorder:
    """A mask that records what it allowed for each token."""

    def __init__(self, mask: TokenMask, kept: list[bytes | None]) -> None:
        self._mask, self._kept = mask, kept
        self._now: bytes | None = None

    def mask(self) -> bytes | None:
        self._now = self._mask.mask()
        return self._now

    def accept(self, token: int) -> None:
        self._kept.append(self._now)
        self._mask.accept(token)


class Episode:
    """One answer in progress, on an engine that no other thread uses."""

    def __init__(self, engine: Engine, grammars: GrammarCache, request: RolloutRequest, *, masks: bool = False) -> None:
        self._engine, self._masks = engine, masks
        self._steps = run_turn(grammars, request.messages, request.how, engine.context)
        self._step = advance(self._steps, None)
        self._stream: Stream | None = None
        self._ready: deque[Sampled] = deque()
        self.rollout = Rollout()

    @property
    def ended(self) -> bool:
        return self._step is None

    def advance(self) -> CallTool | None:
        """Run until a token is missing, a tool must run, or the answer ends. Returns the call to run, if any."""
        while self._step is not None:
            reply: object = None
            match self._step:
                case StartSampling():
                    self._step = self._begin(self._step)
                    continue
                case AwaitToken():
                    if not self._has_token():
                        return None
                    reply = self._next()
                case CallTool():
                    return self._step
                case event:
                    self.rollout.events.append(event)
            self._step = advance(self._steps, reply)
        return None

    def finish_call(self, output: ToolOutput, progress: Sequence[ToolProgressed] = ()) -> None:
        """Continue after the call that `advance` returned."""
        self.rollout.events += progress
        self._step = advance(self._steps, output)

    def advance_on(self, loop: BackgroundLoop) -> bool:
        """`advance`, with calls run at once on this loop. False at the end of the answer."""
        while call := self.advance():
            ran = list(run_on(call, loop.started))
            output = ran[-1]
            assert isinstance(output, ToolOutput), "a call ends with its output"
            self.finish_call(output, [each for each in ran if isinstance(each, ToolProgressed)])
        return not self.ended

    def close(self) -> None:
        """Stop sampling and free the cache."""
        self._steps.close()
        self._step = None
        if self._stream is not None:
            self._stream.close()

    def _begin(self, wanted: StartSampling) -> Step | None:
        completions = Completion(wanted.prompt)
        mask = _Recorder(wanted.mask, completions.masks) if self._masks else wanted.mask
        try:
            self._stream = self._engine.submit(wanted.prompt, wanted.params, mask)
        except ContextError as error:
            return self._steps.throw(error)  # the loop decides whether the answer can end here
        self.rollout.completions.append(completions)
        return advance(self._steps, self._stream)

    def _has_token(self) -> bool:
        """Whether a token is ready, or the sampling has ended."""
        assert self._stream is not None, "sampling was started"
        if not self._ready:
            ended = self._stream.ended  # read before `ready`: sampling may end in between
            self._ready.extend(self._stream.ready())
            return bool(self._ready) or ended
        return True

    def _next(self) -> Sampled | None:
        if not self._ready:
            return None
        self.rollout.completions[-1].output.append(self._ready.popleft())
        return self.rollout.completions[-1].output[-1]
