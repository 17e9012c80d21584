"""The conversation loop: sample, parse, run tools, repeat; and `Chat`, which keeps the history.

In: messages, tools, and `TurnOptions`. Out: a stream of events that ends with `Done`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from ossia.engine.engine import Engine
from ossia.engine.request import ContextError, Sampled, SamplingParams
from ossia.harmony.calls import declared_tools
from ossia.harmony.enforce import SchemaError
from ossia.harmony.grammar import GrammarCache, TurnGrammar
from ossia.harmony.history import drop_old_analysis
from ossia.harmony.messages import (
    Developer,
    Effort,
    JsonObject,
    Message,
    ResponseFormat,
    ToolNamespace,
    developer,
    system,
    tool,
    user,
)
from ossia.harmony.opening import OPENING, dated, opening
from ossia.harmony.parse import Delta, End, Start
from ossia.harmony.render import render
from ossia.loading import Model, load
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tools.background import BackgroundLoop
from ossia.tools.functions import Tool, ToolOutput, function_tool
from ossia.turn import FINAL, AwaitToken, Logprobs, StartSampling, Turn, TurnOptions, sample_turn

FinishReason = Literal["stop", "length", "tool_calls", "steps"]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A tool ran: its message to the model, and whether it failed."""

    message: Message
    failed: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and seconds of one answer, over all its completions.

    cached_tokens: prompt tokens found in the cache. written_tokens: prompt tokens computed and kept for later
    requests. first_token_seconds: the time to the first token of the first completion.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer.

    - finish: "stop" after a final answer; "length" when tokens or context ran out; "tool_calls" when a call is for a
      tool that is not run here; "steps" after max_steps completions.
    - stop: the stop string that ended the answer, if any.
    - fault: why the answer was cut ("length"), if its form could not be enforced any further.
    """

    finish: FinishReason
    usage: Usage
    stop: str | None = None
    fault: SchemaError | None = None


Event: TypeAlias = Start | Delta | End | Logprobs | ToolResult | Done


class CallTool(NamedTuple):
    """Request to run a tool. Reply with its `ToolOutput`."""

    tool: Tool
    text: str


Step: TypeAlias = Event | StartSampling | AwaitToken | CallTool
Steps: TypeAlias = Generator[Step, Any, None]
MIN_CALL_TOKENS, MAX_CALL_TOKENS = 64, 1024  # tokens reserved for a required call


def run_tool(called: Tool, text: str) -> ToolOutput:
    """Run a tool in this thread. An async tool runs on an event loop in another thread."""
    return called.call(text)


def converse(
    engine: Engine,
    grammars: GrammarCache,
    messages: Sequence[Message],
    how: TurnOptions,
    run: Callable[[Tool, str], ToolOutput] = run_tool,
) -> Iterator[Event]:
    """Answer a conversation. Closing the iterator stops sampling and frees the cache at once.

    Calls of the tools in `how` are run, and their results go back to the model. A call of any other declared tool ends
    the answer with "tool_calls". A message to an undeclared recipient is malformed and counts as text. Raises
    ContextError, before any work, for a prompt that does not fit.
    """
    steps, reply = run_turn(grammars, messages, how, engine.context), None
    with ExitStack() as open_stream:
        tokens: Iterator[Sampled] = iter(())
        while (step := advance(steps, reply)) is not None:
            reply = None
            match step:
                case StartSampling(prompt, params, mask):
                    open_stream.close()
                    reply = open_stream.enter_context(closing(engine.submit(prompt, params, mask)))
                    tokens = iter(reply)
                case AwaitToken():
                    reply = next(tokens, None)
                case CallTool(called, text):
                    reply = run(called, text)
                case _:
                    yield step


def advance(steps: Steps, reply: object) -> Step | None:
    """The next step of the loop; None at its end."""
    try:
        return steps.send(reply)
    except StopIteration:
        return None


def run_turn(grammars: GrammarCache, messages: Sequence[Message], how: TurnOptions, context: int) -> Steps:
    """The loop itself, without input or output. It yields events, which need no reply, and requests, which do.

    context: the maximum tokens of a prompt with its answer. The caller sends the replies, so the same loop works in a
    plain `for` and on an event loop. If a ContextError is thrown in because tool results made a prompt too long, the
    answer ends as "length".
    """
    rules = turn_grammar(grammars, messages, how)
    history, usage, started = list(messages), Usage(), time.perf_counter()
    runnable = {each.recipient: each for each in how.tools}
    declared = declared_tools(messages).channels
    for step in range(how.max_steps):
        params = how.params if how.params.seed is None else replace(how.params, seed=how.params.seed + step)
        if how.max_calls > 1:
            params = replace(params, stop_tokens=params.stop_tokens - {grammars.call})
        begun = prefilled(grammars.tokenizer, None if step else how.prefill)
        prompt = [*render(grammars.tokenizer, drop_old_analysis(history), next_role="assistant"), *begun.all]
        mask = rules.start(_room(how, context - len(prompt)), begun.text)
        try:
            turn = yield from sample_turn(StartSampling(prompt, params, mask), grammars, how, begun.all, declared)
        except ContextError:
            if not step:
                raise
            yield Done("length", usage)
            return
        history += turn.messages
        usage = _add(usage, turn, time.perf_counter() - started)
        calls = [message for message in turn.messages if message.recipient in declared]
        if not calls or turn.cut or turn.stop:
            yield Done("length" if turn.cut else "stop", usage, turn.stop, turn.fault)
            return
        if any(call.recipient not in runnable for call in calls):
            yield Done("tool_calls", usage)
            return
        for call in calls:
            result: ToolOutput = yield CallTool(runnable[str(call.recipient)], call.text)
            answer = tool(str(call.recipient), result.text, call.channel or "commentary")
            history.insert(1 + next(i for i, each in enumerate(history) if each is call), answer)
            yield ToolResult(answer, result.failed)
    yield Done("steps", usage)


class Prefilled(NamedTuple):
    """The tokens of a message that is begun: all of them, and those of its text; None if there is no prefill."""

    all: list[int]
    text: list[int] | None


def prefilled(tokenizer: Tokenizer, prefill: str | None) -> Prefilled:
    """The tokens of a begun final answer, at the end of a prompt."""
    if prefill is None:
        return Prefilled([], None)
    text = tokenizer.encode(prefill)
    return Prefilled([*tokenizer.encode_with_special(FINAL), *text], text)


def _room(how: TurnOptions, left: int) -> int | None:
    """Tokens that may come before a required call; None if none is required."""
    if how.tool_choice in ("auto", "none"):
        return None
    left = min(left, how.params.max_tokens or left)
    return max(0, left - max(MIN_CALL_TOKENS, min(left // 4, MAX_CALL_TOKENS)))


def turn_grammar(grammars: GrammarCache, messages: Sequence[Message], how: TurnOptions) -> TurnGrammar:
    """The grammar that keeps the answer well-formed: only tools that the messages declare can be called."""
    declared = declared_tools(messages)
    return TurnGrammar(
        grammars,
        tools=_allowed(declared.developer, how.allowed),
        system_tools=_allowed(declared.system, how.allowed),
        tool_choice=how.tool_choice,
        response_format=how.response_format,
        analysis_budget=how.thinking_budget,
        max_calls=how.max_calls,
    )


def _allowed(spaces: Sequence[ToolNamespace], allowed: frozenset[str] | None) -> Sequence[ToolNamespace]:
    """The declared tools that may be called."""
    if allowed is None:
        return spaces
    kept = [
        replace(space, tools=tuple(each for each in space.tools if f"{space.name}.{each.name}" in allowed))
        for space in spaces
    ]
    # a namespace without tools is itself called
    return [new for new, old in zip(kept, spaces) if new.tools or (not old.tools and old.name in allowed)]


def _add(usage: Usage, turn: Turn, seconds: float) -> Usage:
    return Usage(
        usage.prompt_tokens + turn.prompt_tokens,
        usage.output_tokens + len(turn.output),
        usage.reasoning_tokens + turn.reasoning_tokens,
        usage.cached_tokens + turn.cached_tokens,
        usage.written_tokens + turn.written_tokens,
        seconds,
        usage.first_token_seconds or turn.first_token_seconds,
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer: the final text, the reasoning, and every message of the turn."""

    text: str
    reasoning: str
    messages: tuple[Message, ...]
    finish: FinishReason
    usage: Usage

    @property
    def tool_calls(self) -> tuple[Message, ...]:
        return tuple(message for message in self.messages if message.role == "assistant" and message.recipient)


class Chat:
    """A conversation with a model that keeps its history.

    - model: a `Model`, or an argument for `ossia.load`.
    - tools: Python functions, or `Tool`s.
    - instructions: the developer message. response_format: a JSON schema for the final answer.
    - identity, knowledge_cutoff (YYYY-MM) and date (YYYY-MM-DD or "today"): lines of the system message; "none" omits
      one.
    - other settings: see `TurnOptions`.
    """

    def __init__(
        self,
        model: Model | str = "ossia-mini",
        *,
        instructions: str | None = None,
        effort: Effort = "medium",
        tools: Sequence[Tool | Callable[..., object]] = (),
        response_format: JsonObject | None = None,
        thinking_budget: int | None = None,
        params: SamplingParams | None = None,
        tool_choice: str = "auto",
        identity: str | None = None,
        knowledge_cutoff: str | None = None,
        date: str | None = None,
    ) -> None:
        self.model = load(model) if isinstance(model, str) else model
        if self.model.tokenizer is None:
            raise ValueError(f"model {self.model.name!r} has no tokenizer.json, so it cannot chat: put one beside it")
        self.grammars = GrammarCache(self.model.tokenizer, self.model.config.vocab)
        self.engine = self.model.engine()
        self.instructions = instructions
        self.effort: Effort = effort
        self.opening = opening(OPENING, identity, knowledge_cutoff, date)
        self.response_format = response_format
        given = params or SamplingParams()
        self.how = TurnOptions(
            params=replace(given, stop_tokens=given.stop_tokens | self.model.stop_tokens),
            tool_choice=tool_choice,
            response_format=response_format,
            thinking_budget=thinking_budget,
        )
        self._loop = BackgroundLoop()
        self.use_tools(tools)
        self.history: list[Message] = []

    def use_tools(self, tools: Sequence[Tool | Callable[..., object]]) -> None:
        """Offer exactly these tools from the next answer on."""
        made = tuple(each if isinstance(each, Tool) else function_tool(each, self._loop) for each in tools)
        self.how = replace(self.how, tools=made)

    def stream(self, text: str) -> Generator[Event, None, None]:
        """Send `text` and stream the answer's events. If closed early, the text so far stays in the history.

        Raises ContextError, and drops `text`, if the conversation does not fit the context.
        """
        return self._stream(text, run_tool)

    def _stream(self, text: str, run: Callable[[Tool, str], ToolOutput]) -> Generator[Event, None, None]:
        self.history.append(user(text))
        pieces: list[str] = []
        finished = False
        try:
            for event in converse(self.engine, self.grammars, [*self.preamble(), *self.history], self.how, run):
                match event:
                    case End(message) | ToolResult(message, _):
                        self.history.append(message)
                        pieces.clear()
                    case Delta(channel="final", text=piece):
                        pieces.append(piece)
                    case Done():
                        finished = True
                yield event
        except ContextError:
            self.history.pop()
            raise
        finally:
            if not finished and pieces:
                self.history.append(Message("assistant", ("".join(pieces),), channel="final", flaws=("stopped",)))

    async def stream_async(self, text: str) -> AsyncIterator[Event]:
        """`stream` for asyncio. The model and plain tools run in a thread, async tools on the caller's event loop.

        Leaving the loop early, or cancelling the task, stops the answer and cancels an async tool.
        """
        runner = _AsyncToolRunner(asyncio.get_running_loop())
        events = self._stream(text, runner.run)
        step: asyncio.Future[Event | None] | None = None
        try:
            while True:
                step = asyncio.ensure_future(asyncio.to_thread(next, events, None))
                if (event := await asyncio.shield(step)) is None:
                    break
                yield event
        finally:
            runner.cancel()
            if step is not None and not step.done():  # the thread must leave the generator before it is closed
                await asyncio.wait([step])
            await asyncio.to_thread(events.close)

    def ask(self, text: str) -> Answer:
        """Send `text` and wait for the whole answer."""
        return gather(self.stream(text))

    async def ask_async(self, text: str) -> Answer:
        return gather([event async for event in self.stream_async(text)])

    def preamble(self) -> list[Message]:
        """The system message with the date, and a developer message if there is anything to declare."""
        specs = tuple(each.spec for each in self.how.tools)
        declared = Developer(
            self.instructions,
            (ToolNamespace("functions", None, specs),) if specs else (),
            (ResponseFormat("answer", self.response_format),) if self.response_format else (),
        )
        first = system(replace(dated(self.opening), effort=self.effort))
        return [first] if declared == Developer() else [first, developer(declared)]


class _AsyncToolRunner:
    """Runs async tools on an event loop, for a thread that waits for their results."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running: Future[ToolOutput] | None = None

    def run(self, called: Tool, text: str) -> ToolOutput:
        if called.call_async is None:
            return called.call(text)
        self._running = asyncio.run_coroutine_threadsafe(_result_of(called.call_async(text)), self._loop)
        try:
            return self._running.result()
        except CancelledError:
            return ToolOutput(f"error: {called.spec.name} was cancelled", failed=True)

    def cancel(self) -> None:
        if self._running:
            self._running.cancel()


async def _result_of(result: Awaitable[ToolOutput]) -> ToolOutput:
    return await result


def gather(events: Iterator[Event] | Sequence[Event]) -> Answer:
    """Combine an answer's events into an `Answer`."""
    messages: list[Message] = []
    for event in events:
        match event:
            case End(message) | ToolResult(message, _):
                messages.append(message)
            case Done(finish, usage):
                # a malformed header can give an answer an undeclared recipient: it still counts as text
                own = [m for m in messages if m.role == "assistant" and (m.flaws or not m.recipient)]
                thought = [message.text for message in own if message.channel == "analysis"]
                other = [message.text for message in own if message.channel != "analysis"]
                final = [message.text for message in own if message.channel == "final"]
                return Answer("".join(final or other), "\n".join(thought), tuple(messages), finish, usage)
    raise ValueError("the answer was stopped before its end")
