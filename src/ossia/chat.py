"""A conversation that keeps its history (`Chat`), and answers as one value (`Answer`).

In: what the user says, and tools. Out: the events of the loop in `loop.py`, whose names this module offers too.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ossia.engine.request import ContextError, SamplingParams
from ossia.harmony.grammar import GrammarCache
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
from ossia.loading import Model, load
from ossia.loop import (
    CallTool,
    Done,
    Event,
    FinishReason,
    Step,
    Steps,
    ToolResult,
    ToolRunner,
    ToolStarted,
    Usage,
    advance,
    converse,
    prefilled,
    run_turn,
    tool_runner,
    turn_grammar,
)
from ossia.tools.background import BackgroundLoop
from ossia.tools.functions import Tool, ToolOutput, function_tool
from ossia.tools.runner import Ran, RunningCall, ToolProgressed, is_plain
from ossia.tools.session import ToolSession
from ossia.tools.toolset import ToolSet
from ossia.turn import AwaitToken, Logprobs, StartSampling, TurnOptions

AnyTool: TypeAlias = Tool | ToolSession | ToolSet | Callable[..., object]

__all__ = [
    "Answer", "AnyTool", "AwaitToken", "CallTool", "Chat", "Delta", "Done", "End", "Event", "FinishReason", "Logprobs", "Start",
    "StartSampling", "Step", "Steps", "ToolProgressed", "ToolResult", "ToolStarted", "TurnOptions", "Usage", "advance",
    "converse", "gather", "prefilled", "run_turn", "turn_grammar",
]  # fmt: skip


DECLINED = "The user declined this call."
STOPPED_CALL = "The call was stopped before it ended."


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
    - tools: Python functions, `Tool`s, and built-in tools (`ToolSession`s or one `ToolSet`), which are opened at the
      first answer.
    - approve: asked before each call, in the thread of the answer; False declines the call, and the model reads so.
    - instructions: the developer message. response_format: a JSON schema for the final answer.
    - identity, knowledge_cutoff (YYYY-MM) and date (YYYY-MM-DD or "today"): lines of the system message; "none" omits
      one.
    - other settings: see `TurnOptions`.

    `close` it, or use it in a `with` block, if it has built-in tools: their processes run until then.
    """

    def __init__(
        self,
        model: Model | str = "ossia-mini",
        *,
        instructions: str | None = None,
        effort: Effort = "medium",
        tools: Sequence[AnyTool] = (),
        response_format: JsonObject | None = None,
        thinking_budget: int | None = None,
        params: SamplingParams | None = None,
        tool_choice: str = "auto",
        max_tool_calls: int | None = None,
        approve: Callable[[CallTool], bool] | None = None,
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
            max_tool_calls=max_tool_calls,
        )
        self._loop = BackgroundLoop()
        self.approve = approve
        self._closer: weakref.finalize[..., Any] | None = None
        self.use_tools(tools)
        self.history: list[Message] = []

    def use_tools(self, tools: Sequence[AnyTool]) -> None:
        """Offer exactly these tools from the next answer on. Built-in tools that were offered before are closed."""
        self.close()
        sets = [each for each in tools if isinstance(each, ToolSet)]
        sessions = [each for each in tools if not isinstance(each, Tool | ToolSet) and not callable(each)]
        if len(sets) + bool(sessions) > 1:
            raise ValueError("give built-in tools as sessions, or as one ToolSet, not both")
        functions = [each for each in tools if isinstance(each, Tool) or callable(each)]
        made = tuple(each if isinstance(each, Tool) else function_tool(each, self._loop) for each in functions)
        self.how = replace(self.how, tools=made, toolset=sets[0] if sets else ToolSet(sessions) if sessions else None)

    def close(self) -> None:
        """End the processes and connections of built-in tools. Safe to call twice."""
        if self._closer:
            self._closer()
            self._closer = None

    def __enter__(self) -> "Chat":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_tools(self) -> ToolSet | None:
        """The open tool set. Raises ToolUnavailableError if a tool cannot start."""
        if self.how.toolset and self._closer is None:
            self._loop.run(self.how.toolset.open())
            # after the loop has started, so that at exit it runs before the loop is stopped
            self._closer = weakref.finalize(self, _close, self._loop, self.how.toolset)
        return self.how.toolset

    def stream(self, text: str) -> Generator[Event, None, None]:
        """Send `text` and stream the answer's events. If closed early, the text so far stays in the history.

        Raises ContextError, and drops `text`, if the conversation does not fit the context. Raises ToolUnavailableError
        if a built-in tool cannot start or broke.
        """
        return self._stream(text, tool_runner(self._loop))

    def _stream(self, text: str, run: Callable[[CallTool], Generator[Ran, None, None]]) -> Generator[Event, None, None]:
        if toolset := self._open_tools():
            toolset.begin_response()
            self._loop.run(toolset.refresh())
        self.history.append(user(text))
        pieces: list[str] = []
        finished = False
        try:
            for event in converse(
                self.engine, self.grammars, [*self.preamble(), *self.history], self.how, self._approved(run)
            ):
                match event:
                    case End(message) | ToolResult(message):
                        self.history.append(message)
                        pieces.clear()
                    case Delta(channel="final", text=piece):
                        pieces.append(piece)
                    case Done():
                        finished = True
                yield event
        except ContextError:
            self.history.pop()
            finished = True
            raise
        finally:
            if not finished:
                self._keep_stopped("".join(pieces))

    def _approved(self, run: ToolRunner) -> ToolRunner:
        """Runs calls that are approved."""

        def ask(call: CallTool) -> Generator[Ran, None, None]:
            if self.approve and not self.approve(call):
                yield ToolOutput(DECLINED, failed=True)
            else:
                yield from run(call._replace(approved=self.approve is not None))

        return ask

    def _keep_stopped(self, text: str) -> None:
        """Complete the history of an answer that was stopped: its text so far, or a result for its call."""
        last = self.history[-1] if self.history else None
        if text:
            self.history.append(Message("assistant", (text,), channel="final", flaws=("stopped",)))
        elif last and last.role == "assistant" and last.recipient:
            self.history.append(tool(last.recipient, STOPPED_CALL, last.channel or "commentary"))

    async def stream_async(self, text: str) -> AsyncIterator[Event]:
        """`stream` for asyncio. The model and plain tools run in a thread, async tools on the caller's event loop,
        built-in tools on an event loop of their own.

        Leaving the loop early, or cancelling the task, stops the answer and cancels an async tool.
        """
        runner = _AsyncToolRunner(asyncio.get_running_loop(), self._loop)
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
        toolset = self._open_tools()
        specs = tuple(each.spec for each in self.how.tools)
        declared = Developer(
            self.instructions,
            (ToolNamespace("functions", None, specs),) if specs else (),
            (ResponseFormat("answer", self.response_format),) if self.response_format else (),
        )
        built_in = toolset.system_namespaces if toolset else ()
        first = system(replace(dated(self.opening), effort=self.effort, tools=built_in))
        return [first] if declared == Developer() else [first, developer(declared)]


class _AsyncToolRunner:
    """Runs tools for a thread that waits for their results: async functions on the caller's event loop."""

    def __init__(self, callers: asyncio.AbstractEventLoop, own: BackgroundLoop) -> None:
        self._callers, self._own = callers, own
        self._running: RunningCall | None = None

    def run(self, call: CallTool) -> Generator[Ran, None, None]:
        if is_plain(call):
            yield from tool_runner(self._own)(call)
            return
        self._running = RunningCall(call, self._own.started() if isinstance(call.tool, ToolSet) else self._callers)
        try:
            yield from self._running.events()
        finally:
            self._running.cancel()

    def cancel(self) -> None:
        if self._running:
            self._running.stop()


def _close(loop: BackgroundLoop, toolset: ToolSet) -> None:
    loop.run(toolset.close())


def gather(events: Iterator[Event] | Sequence[Event]) -> Answer:
    """Combine an answer's events into an `Answer`."""
    messages: list[Message] = []
    answered: list[Message] = []
    for event in events:
        match event:
            case End(message):
                messages.append(message)
            case ToolResult(message, call=call):
                messages.append(message)
                answered += [call] if call else []
            case Done(finish, usage):
                # a malformed header can give an answer an undeclared recipient: it still counts as text
                own = [m for m in messages if m.role == "assistant" and (m.flaws or not m.recipient)]
                own = [m for m in own if not any(m is call for call in answered)]
                thought = [message.text for message in own if message.channel == "analysis"]
                other = [message.text for message in own if message.channel != "analysis"]
                final = [message.text for message in own if message.channel == "final"]
                return Answer("".join(final or other), "\n".join(thought), tuple(messages), finish, usage)
    raise ValueError("the answer was stopped before its end")
