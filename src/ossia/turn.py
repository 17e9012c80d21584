"""One completion of the model: its tokens as events, up to the end of the turn.

In: a prompt with a mask, and sampled tokens one at a time. Out: events, and the resulting `Turn`. It is a generator
without input or output: the caller starts the sampling and sends the tokens. `chat.py` runs tools.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

from ossia.engine.request import Sampled, SamplingParams
from ossia.harmony.enforce import SchemaError
from ossia.harmony.grammar import Constraint, GrammarCache
from ossia.harmony.messages import AnswerForm, Message
from ossia.harmony.openai_chat import same_json
from ossia.harmony.parse import Delta, End, Parser, Start, parse
from ossia.harmony.stops import StopText
from ossia.tools.functions import Tool
from ossia.tools.toolset import ToolSet

STEPS, TOOLSET_STEPS = 16, 100  # completions of an answer; a hard question takes dozens of built-in calls
FINAL = "<|channel|>final<|message|>"


@dataclass(frozen=True, slots=True)
class Logprobs:
    """The tokens of the next `Delta`, with log-probabilities. Only if `logprobs` was requested."""

    channel: str | None
    recipient: str | None
    tokens: tuple[Sampled, ...]


TurnEvent: TypeAlias = Logprobs | Start | Delta | End


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """How to answer: sampling, tools, the form of the final answer, the thinking budget.

    - thinking_budget: analysis tokens per completion; then the answer begins.
    - tools: functions to run. toolset: built-in tools to run; it must be open, and its namespaces declared.
    - tool_choice: "auto", "none", "required", or the name of a tool or of a built-in namespace. A required call is
      required once. Before it, text is closed while a quarter of the tokens is left (64 to 1024).
    - max_tool_calls: calls of the tool set. The next one is answered "tool call limit reached", and then its tools
      cannot be called.
    - needs_approval: recipients of the tool set whose calls are not run: they end the answer with "tool_calls", so that
      the caller can ask the user and run them.
    - tool_seconds: time limit of a call. Plain functions have none. tool_tokens: maximum tokens of a result; longer
      ones are cut in the middle.
    - allowed: recipients that may be called ("functions.f"); None for all declared tools.
    - stop: strings that end the final answer; they are not part of it.
    - response_format: a JSON schema or grammar for the final answer.
    - max_steps: completions, with tools run between them. None: 16, or 100 with a tool set.
    - max_calls: calls in one completion. Default 1: the model was trained to end its turn at a call.
    - prefill: the beginning of the final answer. Events hold only the continuation.
    """

    params: SamplingParams = field(default_factory=SamplingParams)
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    allowed: frozenset[str] | None = None
    response_format: AnswerForm | None = None
    thinking_budget: int | None = None
    stop: tuple[str, ...] = ()
    max_steps: int | None = None
    max_calls: int = 1
    prefill: str | None = None
    toolset: ToolSet | None = None
    max_tool_calls: int | None = None
    needs_approval: frozenset[str] = frozenset()
    tool_seconds: float | None = 600.0
    tool_tokens: int = 16_384

    @property
    def steps(self) -> int:
        if self.max_steps is not None:
            return self.max_steps
        return STEPS if self.toolset is None else TOOLSET_STEPS


class StartSampling(NamedTuple):
    """Request to start sampling. Reply with the token source."""

    prompt: list[int]
    params: SamplingParams
    mask: Constraint


class AwaitToken(NamedTuple):
    """Request for the next token of the sampling. Reply with it, or with None at its end."""


NEXT_TOKEN = AwaitToken()


class TokenSource(Protocol):
    """A sampling's token source, as far as the loop needs it."""

    @property
    def cached_tokens(self) -> int: ...
    @property
    def written_tokens(self) -> int: ...


class Turn(NamedTuple):
    """One completion: its messages, its tokens, whether it was cut before its end, and by which stop string.

    fault: why it was cut, if its form could not be enforced any further.
    """

    messages: list[Message]
    prompt_tokens: int
    output: list[Sampled]
    reasoning_tokens: int
    cached_tokens: int
    written_tokens: int
    first_token_seconds: float
    cut: bool
    stop: str | None
    fault: SchemaError | None = None


def sample_turn(
    wanted: StartSampling,
    grammars: GrammarCache,
    how: TurnOptions,
    begun: Sequence[int],
    channels: Mapping[str, str],
) -> Generator[TurnEvent | StartSampling | AwaitToken, Any, Turn]:
    """Sample one completion. begun: the tokens of the unfinished message at the end of the prompt. channels: of the
    declared recipients.
    """
    tokenizer = grammars.tokenizer
    parser = Parser(tokenizer, role="assistant", channels=channels)
    opened = [event for token in begun for event in parser.feed(token) if isinstance(event, Start)]
    transcript = _Transcript(parser, how.stop, wanted.params.logprobs is not None, how.prefill if begun else None)
    calls = _CallLimiter(grammars, how.max_calls)
    started, first = time.perf_counter(), 0.0
    output: list[Sampled] = []
    thinking = 0
    source: TokenSource = yield wanted
    fault: SchemaError | None = None
    while not (transcript.stop or calls.over or (fault := wanted.mask.failure(len(output)))):
        if (sampled := (yield NEXT_TOKEN)) is None:
            break
        first = first or time.perf_counter() - started
        yield from opened
        opened = []
        output.append(sampled)
        thinking += parser.channel == "analysis"
        # a request's own stop token is not text
        if sampled.finish == "stop" and not tokenizer.is_special(sampled.token):
            sampled = sampled._replace(token=grammars.ret)
        for each in calls.passed(sampled):
            yield from transcript.feed(each)
    if not transcript.stop:
        yield from transcript.keep(parser.finish())
    ended = output and output[-1].finish == "stop"
    cut = fault is not None or not (transcript.stop or calls.complete or ended)
    cached, written = source.cached_tokens, source.written_tokens
    return Turn(
        transcript.messages, len(wanted.prompt), output, thinking, cached, written, first, cut, transcript.stop, fault
    )


class _CallLimiter:
    """Passes on the tokens of a completion with several calls, up to its end: max_calls, or a tool's message.

    Calls after the first are held back until they are complete. A repeated call ends the turn and is dropped: the
    model was not trained to call several tools in one turn, and may repeat the same call.

    over: the turn ended before its tokens did. complete: it may end here, because all its calls are complete.
    """

    def __init__(self, grammars: GrammarCache, most: int) -> None:
        self._grammars, self._left = grammars, most
        self._several = most > 1
        self._assistant = grammars.tokenizer.encode("assistant")[0]
        self._passed: list[Sampled] = []
        self._held: list[Sampled] | None = None  # tokens since the end of the last passed call
        self.over = False

    @property
    def complete(self) -> bool:
        return self.over or self._held is not None

    def passed(self, sampled: Sampled) -> list[Sampled]:
        """The tokens that are passed on, after this one was sampled."""
        if not self._several:
            return [sampled]
        fresh = [*(self._held or ()), sampled]
        if self._held is not None and not self._is_call(fresh):
            return []
        self._passed += fresh
        self._held = None
        if sampled.token == self._grammars.call:
            self._left -= 1
            self.over = not self._left
            self._held = []
        return fresh

    def _is_call(self, fresh: list[Sampled]) -> bool:
        """Whether the tokens after a call are another complete call. If not, they are held, or the turn ends."""
        opening = (self._grammars.start, self._assistant)
        if any(each.token != token for each, token in zip(fresh, opening)):
            self.over = True
            return False
        self._held = fresh
        return fresh[-1].token == self._grammars.call and not self._repeats(fresh)

    def _repeats(self, fresh: list[Sampled]) -> bool:
        messages = parse(self._grammars.tokenizer, [each.token for each in (*self._passed, *fresh)])
        calls = [message for message in messages if message.recipient]
        last = calls[-1] if calls else None
        same = (each for each in calls[:-1] if last and each.recipient == last.recipient)
        self.over = any(same_json(each.text, last.text) for each in same if last)
        return self.over


class _Transcript:
    """The messages of one completion, with the stop strings applied, and with log-probabilities if requested."""

    def __init__(self, parser: Parser, stops: Sequence[str], scored: bool, prefill: str | None = None) -> None:
        self._parser, self._stops, self._scored = parser, stops, scored
        self._unscored: list[Sampled] = []  # tokens whose text is not complete yet
        self._final, self._given = StopText(stops), prefill or ""  # of the current final answer
        self.messages: list[Message] = []
        self.stop: str | None = None

    def feed(self, sampled: Sampled) -> Iterator[TurnEvent]:
        if not self._scored:
            yield from self.keep(self._parser.feed(sampled.token))
            return
        inside, events = self._parser.inside, self._parser.feed(sampled.token)
        if inside and not any(isinstance(event, End) for event in events):
            self._unscored.append(sampled)
        delta = next((event for event in events if isinstance(event, Delta)), None)
        if delta and self._unscored:
            yield Logprobs(delta.channel, delta.recipient, tuple(self._unscored))
            self._unscored.clear()
        yield from self.keep(events)

    def keep(self, events: Sequence[Start | Delta | End]) -> Iterator[TurnEvent]:
        for event in events:
            match event:
                case Delta(channel="final", recipient=None, text=text) if self._stops:
                    yield from self._until_stop(text)
                    if self.stop:
                        return
                    continue
                case End(message):
                    if held := self._final.flush():
                        yield Delta("final", None, held)
                    self._given = ""
                    self.messages.append(message)
            yield event

    def _until_stop(self, text: str) -> Iterator[TurnEvent]:
        known = self._final.feed(text)
        self._given += known
        if known:
            yield Delta("final", None, known)
        self.stop = self._final.stopped_by
        if self.stop:
            self.messages.append(Message("assistant", (self._given,), channel="final"))
            yield End(self.messages[-1])
