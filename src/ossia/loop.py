"""The conversation loop: sample, parse, run tools, repeat.

In: messages, and `TurnOptions` with the tools to run. Out: a stream of events that ends with `Done`. `run_turn` is a
generator without input or output; `converse` drives it from a plain `for`. `chat.py` keeps a history.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from ossia.engine.engine import Engine
from ossia.engine.request import ContextError, Sampled
from ossia.harmony.calls import DOTTED, declared_tools
from ossia.harmony.enforce import SchemaError
from ossia.harmony.grammar import GrammarCache, TurnGrammar
from ossia.harmony.history import drop_old_analysis
from ossia.harmony.messages import Message, ToolNamespace, tool
from ossia.harmony.parse import Delta, End, Start
from ossia.harmony.render import render
from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tools.background import BackgroundLoop
from ossia.tools.functions import ToolOutput
from ossia.tools.result_text import bounded, without_old_results
from ossia.tools.runner import CallTool, Ran, ToolProgressed, run_on
from ossia.turn import FINAL, AwaitToken, Logprobs, StartSampling, Turn, TurnOptions, sample_turn

FinishReason = Literal["stop", "length", "tool_calls", "steps"]


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A call is about to run. `ToolProgressed` may follow, and `ToolResult` does unless the answer is stopped."""

    call: Message


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A tool ran: its message to the model, and whether it failed.

    details: the result as a structure of the tool's own. call: the call that it answers.
    """

    message: Message
    failed: bool
    details: msgspec.Struct | None = None
    call: Message | None = None


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


Event: TypeAlias = Start | Delta | End | Logprobs | ToolStarted | ToolProgressed | ToolResult | Done
Step: TypeAlias = Event | StartSampling | AwaitToken | CallTool
Steps: TypeAlias = Generator[Step, Any, None]
ToolRunner: TypeAlias = Callable[[CallTool], Generator[Ran, None, None]]
MIN_CALL_TOKENS, MAX_CALL_TOKENS = 64, 1024  # tokens reserved for a required call
FULL = 0.75  # the share of the context above which old results of built-in tools are removed
MIN_RESULT_TOKENS = 64  # of a tool's result, however full the context is
LIMIT_REACHED = "tool call limit reached"


def converse(
    engine: Engine,
    grammars: GrammarCache,
    messages: Sequence[Message],
    how: TurnOptions,
    run: ToolRunner | None = None,
) -> Iterator[Event]:
    """Answer a conversation. Closing the iterator stops sampling, or ends the running tool, and frees the cache.

    Calls of the tools in `how` are run, and their results go back to the model. A call of any other declared tool ends
    the answer with "tool_calls". run: runs a call; by default, on an event loop in another thread. Raises ContextError,
    before any work, for a prompt that does not fit, and ToolUnavailableError if a built-in tool broke: its own failure
    is never shown to the model as a result.
    """
    steps, reply = run_turn(grammars, messages, how, engine.context), None
    run = run or tool_runner(BackgroundLoop())
    with ExitStack() as open_stream:
        tokens: Iterator[Sampled] = iter(())
        step = advance(steps, None)
        while step is not None:
            reply = None
            match step:
                case StartSampling(prompt, params, mask):
                    open_stream.close()
                    try:
                        sampling = engine.submit(prompt, params, mask)
                    except ContextError as error:
                        step = steps.throw(error)  # the loop decides whether the answer can end here
                        continue
                    reply = open_stream.enter_context(closing(sampling))
                    tokens = iter(reply)
                case AwaitToken():
                    reply = next(tokens, None)
                case CallTool():
                    with closing(run(step)) as running:
                        for each in running:
                            if isinstance(each, ToolOutput):
                                reply = each
                            else:
                                yield each
                case _:
                    yield step
            step = advance(steps, reply)


def tool_runner(loop: BackgroundLoop) -> ToolRunner:
    """Runs calls of plain functions in the caller's thread, and other calls on `loop`."""
    return lambda call: run_on(call, loop.started)


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
    answer ends as "length". The tool sets in `how` must be open.
    """
    rules = turn_grammar(grammars, messages, how)
    history, usage, started = list(messages), Usage(), time.perf_counter()
    calls = _Calls(how, messages)
    for step in range(how.steps):
        params = how.params if how.params.seed is None else replace(how.params, seed=how.params.seed + step)
        if how.max_calls > 1:
            params = replace(params, stop_tokens=params.stop_tokens - {grammars.call})
        begun = prefilled(grammars.tokenizer, None if step else how.prefill)
        history, prompt = _fitted(grammars.tokenizer, history, calls.built_in, int(context * FULL))
        prompt += begun.all
        mask = rules.start(_room(how, context - len(prompt)), begun.text)
        try:
            sampling = StartSampling(prompt, params, mask)
            turn = yield from sample_turn(sampling, grammars, how, begun.all, calls.channels)
        except ContextError:
            if not step:
                raise
            yield Done("length", usage)
            return
        history += turn.messages
        usage = _add(usage, turn, time.perf_counter() - started)
        called = calls.in_turn(turn.messages)
        if not called or turn.cut or turn.stop:
            yield Done("length" if turn.cut else "stop", usage, turn.stop, turn.fault)
            return
        left = context - len(prompt) - len(turn.output)
        for call in (here := calls.run_here(called)):
            output: ToolOutput = yield from calls.run(call)
            text = bounded(grammars.tokenizer, output.text, max(MIN_RESULT_TOKENS, min(how.tool_tokens, left * 3 // 4)))
            answer = tool(str(call.recipient), text, call.channel or "commentary")
            history.insert(1 + next(i for i, each in enumerate(history) if each is call), answer)
            yield ToolResult(answer, output.failed, output.details, call)
        if len(here) < len(called):
            yield Done("tool_calls", usage)
            return
        how = _after_a_call(how)
        rules = turn_grammar(grammars, messages, how, calls.masked)
    yield Done("steps", usage)


class _Calls:
    """The calls of one answer: which are run here, and how many are left.

    channels: of all declared recipients. built_in: the recipients of the tool set. masked: those that may not be called
    any more.
    """

    def __init__(self, how: TurnOptions, messages: Sequence[Message]) -> None:
        self._how = how
        self._functions = {each.recipient: each for each in how.tools}
        self.channels = declared_tools(messages).channels
        self.built_in = how.toolset.recipients if how.toolset else frozenset[str]()
        self.masked: frozenset[str] = frozenset()
        self._count = 0

    def in_turn(self, messages: Sequence[Message]) -> list[Message]:
        """The calls among a completion's messages.

        An undeclared recipient makes a call only where tools are run here, and if it looks like a tool's name.
        """
        return [
            each for each in messages if each.recipient and (each.recipient in self.channels or self._unknown(each))
        ]

    def _unknown(self, message: Message) -> bool:
        runs_tools = bool(self._functions or self.built_in)
        is_name = DOTTED.fullmatch(message.recipient or "") is not None
        return runs_tools and is_name and message.role == "assistant" and message.recipient not in self.channels

    def run_here(self, calls: Sequence[Message]) -> list[Message]:
        """The calls to run here. If another side must run one of them, only built-in tools are run."""
        if any(each.recipient in self.channels and not self._is_here(each) for each in calls):
            return [each for each in calls if each.recipient in self.built_in and self._is_here(each)]
        return list(calls)

    def _is_here(self, call: Message) -> bool:
        if call.recipient in self.built_in:
            return call.recipient not in self._how.needs_approval
        return call.recipient in self._functions

    def run(self, call: Message) -> Generator[ToolStarted | CallTool, Any, ToolOutput]:
        recipient, toolset, most = str(call.recipient), self._how.toolset, self._how.max_tool_calls
        tool = self._functions.get(recipient)
        if recipient in self.built_in:
            tool = toolset
            if most is not None and self._count >= most:
                self.masked = self.built_in
                return ToolOutput(LIMIT_REACHED, failed=True)
            self._count += 1
        if tool is None:
            names = ", ".join(self.channels) or "none"
            return ToolOutput(f"unknown tool {recipient}; the tools are: {names}", failed=True)
        yield ToolStarted(call)
        return (yield CallTool(tool, recipient, call.text, self._how.tool_seconds))


def _after_a_call(how: TurnOptions) -> TurnOptions:
    """The options of the next completion: a forced choice holds until the first call only."""
    return how if how.tool_choice in ("auto", "none") else replace(how, tool_choice="auto")


def _fitted(
    tokenizer: Tokenizer, history: list[Message], names: frozenset[str], limit: int
) -> tuple[list[Message], list[int]]:
    """The history and its prompt. Above the limit of tokens, old results of these tools are removed."""
    prompt = render(tokenizer, drop_old_analysis(history), next_role="assistant")
    if not names or len(prompt) <= limit:
        return history, prompt
    history = without_old_results(tokenizer, history, names, len(prompt) - limit)
    return history, render(tokenizer, drop_old_analysis(history), next_role="assistant")


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


def turn_grammar(
    grammars: GrammarCache, messages: Sequence[Message], how: TurnOptions, masked: frozenset[str] = frozenset()
) -> TurnGrammar:
    """The grammar that keeps the answer well-formed: only tools that the messages declare can be called.

    masked: recipients that may not be called.
    """
    declared = declared_tools(messages)

    def may_call(recipient: str) -> bool:
        return recipient not in masked and (how.allowed is None or recipient in how.allowed)

    return TurnGrammar(
        grammars,
        tools=_callable(declared.developer, may_call),
        system_tools=_callable(declared.system, may_call),
        tool_choice=how.tool_choice,
        response_format=how.response_format,
        analysis_budget=how.thinking_budget,
        max_calls=how.max_calls,
    )


def _callable(spaces: Sequence[ToolNamespace], may_call: Callable[[str], bool]) -> Sequence[ToolNamespace]:
    """The declared tools that may be called."""
    kept = [
        replace(space, tools=tuple(each for each in space.tools if may_call(f"{space.name}.{each.name}")))
        for space in spaces
    ]
    # a namespace without tools is itself called
    return [new for new, old in zip(kept, spaces) if new.tools or (not old.tools and may_call(old.name))]


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
