"""Asks a model in this process: many asks at once, batched in the same steps of one engine.

In: a loaded model. Out: `Reply`s. Prompts are made as the server's Chat API makes them, so answers are equal.
Only one thread uses the engine; tools run on the caller's event loop.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec

from ossia.chat import ToolResult, TurnOptions
from ossia.engine.engine import Engine
from ossia.engine.request import ContextError, SamplingParams
from ossia.evals.core.benchmark import Ask, CallRequest, Finish, Reply, TestedModel, TokenCounts
from ossia.evals.core.solver import SamplingSettings, TryKey, ask_seed
from ossia.evals.solvers.wire_forms import assistant_message
from ossia.harmony.client_tools import Toolbox, toolbox
from ossia.harmony.errors import InputError
from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import JsonObject, Message, System
from ossia.harmony.openai_chat import ChatMessage, conversation, read_history
from ossia.harmony.opening import OPENING, dated
from ossia.loading import Model
from ossia.rollout import Episode, Rollout, RolloutRequest
from ossia.tools.functions import ToolOutput
from ossia.tools.runner import CallTool, Ran, ToolProgressed, run_async
from ossia.tools.session import ToolUnavailableError
from ossia.tools.toolset import ToolSet

MakeToolSet = Callable[[], ToolSet | None]
FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "steps": "length"}


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the solver uses its engine.

    - toolset: makes the built-in tools of one try; None for a model without tools.
    - opening: the first lines of the system message.
    - cache_bytes: of keys and values; None for the usual amount.
    """

    toolset: MakeToolSet = lambda: None
    opening: System = OPENING
    cache_bytes: int | None = None
    make_engine: Callable[[], Engine] | None = None


class InProcess:
    """A `Solver` over an engine of its own. Close it when all asks are answered."""

    def __init__(self, model: Model, settings: EngineSettings | None = None) -> None:
        if model.tokenizer is None:
            raise ValueError(f"model {model.name!r} has no tokenizer.json, so it cannot be asked: put one beside it")
        self._model, self.settings = model, settings or EngineSettings()
        self.grammars = GrammarCache(model.tokenizer, model.config.vocab)
        make = self.settings.make_engine or (
            lambda: Engine(model.transformer, cache_bytes=self.settings.cache_bytes, max_batched_tokens=1024)
        )
        self._batch = _EngineThread(make, self.grammars)

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def stop_tokens(self) -> frozenset[int]:
        return self._model.stop_tokens

    def facts(self) -> dict[str, Any]:
        backend = self._model.backend.name
        return {"solver": "in process", "model": self.name, "backend": backend, "reasoning": "as sampled"}

    def model(self, key: TryKey, seed: int, sampling: SamplingSettings) -> TestedModel:
        return _TryModel(self, self._batch, key, seed, sampling)

    async def close(self) -> None:
        await self._batch.close()


@dataclass
class _TryModel:
    """The model of one try. It keeps the calls as they were sampled, for the next prompt."""

    solver: InProcess
    batch: "_EngineThread"
    key: TryKey
    seed: int
    sampling: SamplingSettings
    asks: int = 0
    earlier: dict[str, Sequence[Message]] = field(default_factory=dict[str, Sequence[Message]])

    async def __call__(self, ask: Ask) -> Reply:
        toolset = self.solver.settings.toolset()
        seed = ask_seed(self.seed, self.key, self.asks)
        self.asks += 1
        try:
            if toolset:
                await toolset.open()
            prompt = self._prompt(ask, toolset, seed)
            rollout = await self.batch.answer(RolloutRequest(prompt.messages, prompt.how))
        except (InputError, ContextError, ToolUnavailableError, ValueError) as error:
            return Reply(None, {"role": "assistant", "content": None}, finish="error", error=str(error))
        finally:
            if toolset:
                await toolset.close()
        return self._reply(rollout, prompt.box)

    def _prompt(self, ask: Ask, toolset: ToolSet | None, seed: int) -> "_Prompt":
        given = msgspec.convert(list(ask.messages), list[ChatMessage])
        box = toolbox(ask.tools)
        history = read_history(given, box, self.earlier)
        opening = dated(self.solver.settings.opening)
        spaces = box.spaces
        if toolset:
            opening = replace(opening, tools=(*opening.tools, *toolset.system_namespaces))
            spaces = (*spaces, *toolset.developer_namespaces)
        limit = min(each for each in (ask.max_tokens, self.sampling.max_tokens) if each is not None)
        params = SamplingParams(
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            seed=seed,
            max_tokens=limit,
            stop_tokens=self.solver.stop_tokens,
        )
        how = TurnOptions(params=params, tool_choice=box.choice, allowed=None, toolset=toolset, stop=tuple(ask.stop))
        return _Prompt(conversation(self.key.effort, history.messages, spaces, opening=opening), how, box)

    def _reply(self, rollout: Rollout, box: Toolbox) -> Reply:
        calls: list[CallRequest] = []
        since: list[Message] = []
        texts: dict[str, list[str]] = {"analysis": [], "commentary": [], "final": []}
        for message in rollout.turn:
            since.append(message)
            if tool := box.called.get(message.recipient or ""):
                calls.append(CallRequest(f"call_{secrets.token_hex(12)}", tool.name, message.text))
                self.earlier[calls[-1].id], since = tuple(since), []
            elif message.role == "assistant" and message.recipient is None:
                texts.get(message.channel or "", texts["commentary"]).append(message.text)
        usage, thought = rollout.usage, "\n".join(texts["analysis"])
        message = assistant_message("\n\n".join([*texts["commentary"], *texts["final"]]), thought, calls)
        if ran := _executed(rollout):
            message["executed_tools"] = ran
        return Reply(
            "\n\n".join(texts["final"]) if texts["final"] and not calls else None,
            message,
            tuple(calls),
            thought,
            FINISHES[rollout.finish],
            TokenCounts(usage.prompt_tokens, usage.output_tokens, usage.reasoning_tokens),
            _flaws(rollout),
        )


def _flaws(rollout: Rollout) -> tuple[str, ...]:
    """What was malformed. A last message that was cut is no flaw of the model's."""
    messages = rollout.turn[:-1] if rollout.finish == "length" else rollout.turn
    return tuple(dict.fromkeys(flaw for message in messages for flaw in message.flaws))


def _executed(rollout: Rollout) -> list[JsonObject]:
    """The calls of built-in tools, in the form of the server's Chat API."""
    return [
        {"type": event.call.recipient, "arguments": event.call.text, "output": event.message.text}
        for event in rollout.events
        if isinstance(event, ToolResult) and event.call
    ]


class _Prompt(NamedTuple):
    messages: tuple[Message, ...]
    how: TurnOptions
    box: Toolbox


class _Waiting(NamedTuple):
    """An answer that someone awaits: what is asked, and where its rollout goes."""

    request: RolloutRequest
    future: asyncio.Future[Rollout]


class _Active(NamedTuple):
    episode: Episode
    future: asyncio.Future[Rollout]


class _Round(NamedTuple):
    """What a step gave: answers that ended, answers that failed, and calls to run."""

    ended: list[_Active]
    failed: list[tuple[asyncio.Future[Rollout], Exception]]
    calls: list[tuple[_Active, CallTool]]


class _EngineThread:
    """Steps the engine in one thread while there are answers to compute."""

    def __init__(self, make: Callable[[], Engine], grammars: GrammarCache) -> None:
        self._make, self._grammars = make, grammars
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ossia-eval")
        self._engine: Engine | None = None
        self._new: list[_Waiting] = []
        self._resumed: list[_Active] = []
        self._active: list[_Active] = []
        self._tools: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._driver: asyncio.Task[None] | None = None

    async def answer(self, request: RolloutRequest) -> Rollout:
        future: asyncio.Future[Rollout] = asyncio.get_running_loop().create_future()
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        self._new.append(_Waiting(request, future))
        self._wake.set()
        return await future

    async def close(self) -> None:
        for task in (self._driver, *self._tools):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await asyncio.to_thread(self._thread.shutdown)

    async def _drive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not (self._new or self._resumed or self._active):
                self._wake.clear()
                await self._wake.wait()
            new, resumed = self._new, self._resumed
            self._new, self._resumed = [], []
            try:
                result = await loop.run_in_executor(self._thread, self._round, new, resumed)
            except Exception as error:  # the engine itself failed: every answer ends with its error
                broken = [each.future for each in (*new, *resumed, *self._active)]
                self._active, self._engine = [], None
                result = _Round([], [(future, error) for future in broken], [])
            self._deliver(result)

    def _deliver(self, result: _Round) -> None:
        for active in result.ended:
            if not active.future.done():
                active.future.set_result(active.episode.rollout)
        for future, error in result.failed:
            if not future.done():
                future.set_exception(error)
        for active, call in result.calls:
            task = asyncio.create_task(self._run_tool(active, call))
            self._tools.add(task)
            task.add_done_callback(self._tools.discard)

    async def _run_tool(self, active: _Active, call: CallTool) -> None:
        ran: list[Ran] = []
        try:
            async with aclosing(run_async(call)) as running:
                ran = [each async for each in running]
        except Exception as error:  # the tool itself broke: the try ends with its error
            if not active.future.done():
                active.future.set_exception(error)
            return
        output = ran[-1]
        assert isinstance(output, ToolOutput), "a call ends with its output"
        active.episode.finish_call(output, [each for each in ran if isinstance(each, ToolProgressed)])
        self._resumed.append(active)
        self._wake.set()

    def _round(self, new: list[_Waiting], resumed: list[_Active]) -> _Round:
        """One step of the engine, in its thread: begin what is new, step, and continue every answer."""
        if self._engine is None:
            self._engine = self._make()
        result = _Round([], [], [])
        waiting: list[_Active] = []
        for each in new:
            try:
                waiting.append(_Active(Episode(self._engine, self._grammars, each.request), each.future))
            except Exception as error:  # a prompt that cannot be rendered, or does not fit: that answer's own
                result.failed.append((each.future, error))
        self._active = self._continued([*self._active, *resumed, *waiting], result)
        if self._active:
            self._engine.step()
            self._active = self._continued(self._active, result)
        return result

    def _continued(self, answers: list[_Active], result: _Round) -> list[_Active]:
        """Advance each answer; those that still wait for tokens."""
        left: list[_Active] = []
        for active in answers:
            if active.future.cancelled():
                active.episode.close()
                continue
            try:
                call = active.episode.advance()
            except Exception as error:  # this answer's own: others go on
                active.episode.close()
                result.failed.append((active.future, error))
                continue
            if call:
                result.calls.append((active, call))
            elif active.episode.ended:
                result.ended.append(active)
            else:
                left.append(active)
        return left
