"""The service: one model, its engine in a thread of its own, and answers as streams of events for many clients.

In: `AnswerRequest`s. Out: the events of `ossia.chat`, or an `ApiError` before the first of them.
It does not know HTTP routes or any API's wire types.
"""

import asyncio
import functools
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path, PurePath

from ossia.chat import (
    AwaitToken,
    CallTool,
    Done,
    Event,
    StartSampling,
    Step,
    Steps,
    ToolResult,
    Usage,
    advance,
    prefilled,
    run_turn,
)
from ossia.engine.engine import Engine
from ossia.engine.request import ContextError, Sampled, SamplingParams, TokenMask
from ossia.harmony.enforce import SchemaError
from ossia.harmony.errors import InputError
from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import Message
from ossia.harmony.parse import End
from ossia.harmony.render import render
from ossia.loading import Model, usual_cache
from ossia.server.core.admission import AdmissionQueue, FullError
from ossia.server.core.limits import LengthLimits
from ossia.server.core.request import AnswerRequest, AnswerStart
from ossia.server.core.sampling import Sampling, busy, stopping
from ossia.server.core.worker import TokenEngine, TokenQueue, Worker
from ossia.server.errors import ApiError, bad, invalid_input, too_long
from ossia.server.http.metrics import ServerMetrics
from ossia.server.settings import Settings
from ossia.tools.functions import ToolOutput
from ossia.tools.runner import Ran, run_async
from ossia.tools.session import ToolUnavailableError

log = logging.getLogger("ossia.server")
_HEAVY = (CallTool, ToolResult)  # a tuple: a union would be built anew for each token
WARMING, WARMING_MOST = (1, 48, 512), 1 << 18  # tokens of prompts, and of their products with the hidden width


class Service:
    """Answers for many at once. `start` it inside a running loop; `drain` and `close` it there, too."""

    def __init__(
        self,
        model: Model,
        settings: Settings | None = None,
        *,
        make_engine: Callable[[], TokenEngine] | None = None,
        metrics: ServerMetrics | None = None,
    ) -> None:
        if model.tokenizer is None:
            raise ValueError(f"model {model.name!r} has no tokenizer.json, so it cannot chat: put one beside it")
        self.settings = settings or Settings()
        self.names = names_of(model.name)
        self.name, self.model, self.tokenizer = self.names[0], model, model.tokenizer
        self.grammars = GrammarCache(model.tokenizer, model.config.vocab)
        self.metrics = metrics or ServerMetrics()
        self.worker = Worker(make_engine or self._engine)
        self.context = min(model.config.max_context, self.worker.cache_tokens)
        self.queue = AdmissionQueue(self.worker.cache_tokens, self.settings.max_num_seqs, self.settings.max_queued)
        self.limits = LengthLimits(model.tokenizer, self.context)
        self._draining = self._closed = False
        self._answers = 0
        self.metrics.watch(self.worker.stats, lambda: (self.queue.waiting, self.queue.running))

    def _engine(self) -> Engine:
        given = self.settings.kv_cache_bytes
        size = usual_cache(self.model) if given is None else given
        return Engine(
            self.model.transformer, cache_bytes=size, prefix_bytes=min(self.settings.prefix_cache_bytes, size)
        )

    def start(self) -> None:
        self.worker.start()

    @property
    def state(self) -> str:
        """ "ok", "draining", or "unhealthy" when the engine failed again and again."""
        if not self.worker.healthy:
            return "unhealthy"
        return "draining" if self._draining else "ok"

    async def drain(self, seconds: float) -> bool:
        """Refuse new answers and wait for those under way; False when the time was too short for some."""
        self._draining = True
        end = time.monotonic() + seconds
        while self._answers and time.monotonic() < end:
            await asyncio.sleep(0.02)
        return not self._answers

    async def close(self) -> None:
        """Answers that are still under way, or wait to be let in, end in 503."""
        self._draining = self._closed = True
        await asyncio.to_thread(self.worker.close)

    def count(self, messages: Sequence[Message], prefill: str | None = None) -> int:
        """Tokens of the prompt that these messages make. For any thread but the event loop's: it may take seconds."""
        self.limits.check_tokens(messages)
        prompt = render(self.tokenizer, messages, next_role="assistant")
        return len(prompt) + len(prefilled(self.tokenizer, prefill).all)

    async def prompt(self, request: AnswerRequest) -> list[int]:
        """The prompt that `answer` would begin with. Raises ApiError as it does, before any sampling."""
        self._refuse_when_closed()
        steps = self._steps(request)
        first = await self._open(steps, request.messages)
        steps.close()
        assert isinstance(first, StartSampling), "an exchange begins with a sampling"
        self.limits.check_length(first.prompt, "messages")
        return first.prompt

    def _steps(self, request: AnswerRequest) -> Steps:
        self.limits.check_messages(request.messages)
        options = replace(request.options, stop=request.stop or request.options.stop)
        return run_turn(self.grammars, request.messages, options, self.context)

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[Event | AnswerStart, None]:
        """The events of one answer, `AnswerStart` first. Closing it stops the sampling and frees its cache before the next step.

        Raises ApiError before its first event: 400 for a prompt that is too long, or a schema or choice that is invalid;
        429 if too many requests wait; 503 while the server stops. Later: 500 if the engine fails, 503 if it is closed.
        """
        with self._admitted(request.client) as current:
            steps = self._steps(request)
            if self.settings.log_prompts:
                log.info("prompt: %s", "".join(message.text for message in request.messages[-1:]))
            step, reply, began = await self._open(steps, request.messages), None, False
            while step is not None:
                match step:
                    case AwaitToken():
                        reply = await current.sampling.next()
                        if not began:
                            began = True
                            yield AnswerStart(current.sampling.prompt_usage)
                    case StartSampling(prompt) if began and len(prompt) >= self.context:
                        step = steps.throw(ContextError("the results of tools fill the context"))
                        continue
                    case StartSampling():
                        reply = await current.begin(*step)
                    case CallTool():
                        async with aclosing(self._run_tool(step)) as running:
                            async for each in running:
                                if isinstance(each, ToolOutput):
                                    reply = each
                                else:
                                    yield each
                    case Done(fault=SchemaError() as fault):
                        raise invalid_input(fault)
                    case _:
                        if self.settings.log_prompts:
                            _log_message(step)
                        yield step
                        reply = None
                # after a call, results and the next prompt are tokenized
                heavy = isinstance(step, _HEAVY)
                step = await asyncio.to_thread(advance, steps, reply) if heavy else advance(steps, reply)

    async def continuation(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        client: str = "",
        enough: Callable[[], bool] = lambda: False,
        mask: TokenMask | None = None,
    ) -> AsyncGenerator[Sampled | Usage, None]:
        """The tokens that the model samples after exactly these, and at the end the usage; otherwise like `answer`.

        enough: whether the reader has all that it needs. Closing the generator instead counts as cancelled.
        """
        with self._admitted(client) as current:
            sampling = await current.begin(list(prompt), params, mask, "prompt")
            while (sampled := await sampling.next()) is not None:
                yield sampled
                if enough():
                    break
            yield replace(sampling.prompt_usage, output_tokens=sampling.tokens)

    async def warm(self) -> None:
        """Compile the kernels before anybody waits for them: each is made for few rows, for more, for many."""
        hidden, context = self.model.config.hidden, self.context
        lengths = [rows for rows in WARMING if rows * hidden <= WARMING_MOST and rows < context]
        try:
            for length in lengths:
                await asyncio.wrap_future(self.worker.warm([min(self.model.stop_tokens)] * length))
        except Exception:
            log.exception("the first step failed")

    async def score(self, tokens: Sequence[int], top: int, client: str = "") -> list[Sampled]:
        """Each token with its log-probability after those before it; the first one's means nothing.

        Admitted as an answer is; the engine scores a few tokens in each step. Cancel it to stop the work.
        """
        self._refuse_when_closed()
        if len(tokens) > self.context:
            raise too_long(len(tokens), self.context, "prompt")
        first = Sampled(tokens[0], 0.0)
        if len(tokens) == 1:
            return [first]
        params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=top, prompt_logprobs=top)
        with self._admitted(client) as current:
            sampling = await current.begin(list(tokens[:-1]), params, _OneTokenMask(tokens[-1]), "prompt")
            end = await sampling.next()
            if end is None:
                raise ApiError(503, "the time for scoring the prompt was over", code="too_slow")
            return [first, *sampling.queue.scores, end]

    def check_choices(self, count: int, param: str = "n") -> None:
        """Raises ApiError 400 for more answers in one request than could ever run and wait."""
        running, waiting = self.settings.max_num_seqs, self.settings.max_queued
        if count > running + waiting:
            limits = f"--max-num-seqs is {running}, --max-queued {waiting}"
            raise bad(param, f"the request asks for {count} answers, but {limits}: ask for fewer at a time")

    @property
    def parallel_choices(self) -> int:
        """Answers of one request to make at a time: it leaves places in the queue to others."""
        return self.queue.max_per_client + self.settings.max_queued // 4

    async def _open(self, steps: Steps, messages: Sequence[Message]) -> Step | None:
        """The first step: rendering a long prompt or compiling a schema must not hold up the loop."""

        def first() -> Step | None:
            self.limits.check_tokens(messages)
            return advance(steps, None)

        try:
            return await asyncio.to_thread(first)
        except InputError as error:
            raise invalid_input(error) from error
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid_value") from error

    async def _run_tool(self, call: CallTool) -> AsyncGenerator[Ran, None]:
        """Run a call. A tool that broke is an error of the server, not a result for the model."""
        outcome, began = "stopped", time.perf_counter()
        try:
            async with aclosing(run_async(call)) as running:
                async for each in running:
                    if isinstance(each, ToolOutput):
                        outcome = "failed" if each.failed else "ok"
                    yield each
        except ToolUnavailableError as error:
            outcome = "unavailable"
            raise ApiError(503, str(error), code="tool_unavailable") from error
        finally:
            seconds = time.perf_counter() - began
            self.metrics.tool_calls.labels(call.recipient, outcome).inc()
            self.metrics.tool_seconds.labels(call.recipient).observe(seconds)
            if self.settings.log_requests:
                log.info("tool %s %s %.3f s", call.recipient, outcome, seconds)

    @contextmanager
    def _admitted(self, client: str) -> Generator["_CurrentSampling"]:
        """Count a request while it is answered. Its last sampling ends with it. Raises ApiError if the server is closed."""
        self._refuse_when_closed()
        current = _CurrentSampling(self, client)
        self._answers += 1
        try:
            yield current
        except (GeneratorExit, asyncio.CancelledError):
            self.metrics.cancelled.inc()
            raise
        finally:
            self._answers -= 1
            current.end()

    async def begin_sampling(
        self, client: str, prompt: list[int], params: SamplingParams, mask: TokenMask | None, param: str = "messages"
    ) -> Sampling:
        """Wait for a place in the queue and start. Raises ApiError: 400 too long, 429 too many wait, 503 stopping."""
        self.limits.check_length(prompt, param)
        requested_at = time.perf_counter()
        tokens = self.queue.tokens_needed(len(prompt), params.max_tokens, self.context)
        try:
            ticket = await self.queue.enter(client, tokens, self.settings.queue_timeout)
        except FullError as error:
            raise self._full(error) from error
        except TimeoutError as error:
            self.metrics.refused.labels("waited too long").inc()
            raise busy("the server is too busy: the request waited too long", self.queue.seconds_to_wait()) from error
        if self._closed:
            self.queue.leave(ticket, 0, 0.0)
            raise stopping()
        sampling = Sampling(TokenQueue(prompt, params, mask), ticket, self.metrics, requested_at)
        sampling.queue.on_end = functools.partial(self.end_sampling, sampling)  # whether or not the client reads
        self.metrics.queued.observe(sampling.started_at - requested_at)
        # out of time, an answer ends like one that ran out of tokens
        timeout = self.settings.request_timeout
        sampling.timer = asyncio.get_running_loop().call_later(timeout, sampling.queue.end)
        self.worker.begin(sampling.queue)
        return sampling

    def end_sampling(self, sampling: Sampling) -> None:
        """Free its place for the next. Safe to call twice."""
        if sampling.ended:
            return
        sampling.ended = True
        if sampling.timer:
            sampling.timer.cancel()
        self.worker.stop(sampling.queue)
        self.queue.leave(sampling.ticket, sampling.queue.count, time.perf_counter() - sampling.started_at)

    def refuse_when_full(self, client: str = "") -> None:
        """For what is promised before it runs: ApiError 429 or 503 where an answer would be refused now."""
        self._refuse_when_closed()
        try:
            self.queue.refuse_when_full(client, self.queue.tokens_needed(0, None, self.context))
        except FullError as error:
            raise self._full(error) from error

    def _full(self, error: FullError) -> ApiError:
        self.metrics.refused.labels("full").inc()
        return busy(str(error), error.seconds)

    def _refuse_when_closed(self) -> None:
        if self.state == "unhealthy":
            raise ApiError(503, "the engine failed: restart the server", code="engine_failed", retry=False)
        if self._draining:
            raise stopping()


class _CurrentSampling:
    """The samplings of one request, one after another: the next begins when the one before has ended."""

    def __init__(self, service: Service, client: str) -> None:
        self._service, self._client = service, client
        self._sampling: Sampling | None = None

    @property
    def sampling(self) -> Sampling:
        assert self._sampling is not None, "a sampling was begun"
        return self._sampling

    async def begin(
        self, prompt: list[int], params: SamplingParams, mask: TokenMask | None, param: str = "messages"
    ) -> Sampling:
        self.end()
        self._sampling = await self._service.begin_sampling(self._client, prompt, params, mask, param)
        return self._sampling

    def end(self) -> None:
        if self._sampling:
            self._service.end_sampling(self._sampling)
        self._sampling = None


def names_of(model: str) -> tuple[str, ...]:
    """What clients may call a model: its name on the hub or its folder's, and Ollama's tag where it is a gpt-oss."""
    short = PurePath(model).name
    own = model if model.count("/") == 1 and not Path(model).is_dir() else short
    tag = re.sub(r"^gpt-oss-(\d+b)$", r"gpt-oss:\1", short)
    return tuple(dict.fromkeys((own, short, tag)))


def _log_message(event: Event) -> None:
    if isinstance(event, End | ToolResult):
        log.info("answer (%s): %s", event.message.recipient or event.message.channel, event.message.text)


class _OneTokenMask:
    """A mask that leaves one token: its log-probability is the model's own all the same."""

    def __init__(self, token: int) -> None:
        self._bits = bytes(token >> 3) + bytes([1 << (token & 7)])

    def mask(self) -> bytes:
        return self._bits

    def accept(self, token: int) -> None:
        pass
