"""The service: one model, its engine in a thread of its own, and answers as streams of events for many clients.

In: `AnswerRequest`s. Out: the events of `ossia.chat`, or an `ApiError` before the first of them.
It does not know HTTP routes or any API's wire types.
"""

import asyncio
import functools
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
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
from ossia.engine.blocks import blocks_for
from ossia.engine.engine import Engine
from ossia.engine.host_plan import MIN_CACHE_BYTES, host_cache_room
from ossia.engine.plan import card_cache_room
from ossia.engine.request import ContextError, DamagedModelError, Sampled, SamplingParams, TokenMask
from ossia.harmony.enforce import SchemaError
from ossia.harmony.errors import InputError
from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import Developer, Message, ToolSpec
from ossia.harmony.parse import End
from ossia.harmony.render import render
from ossia.loading import Model
from ossia.server.core.admission import AdmissionQueue, FullError, Ticket
from ossia.server.core.request import AnswerRequest, Opening
from ossia.server.core.worker import EngineError, StoppedError, TokenEngine, TokenQueue, UnreadError, Worker
from ossia.server.errors import ApiError, bad, invalid_input, too_long
from ossia.server.http.decoding.token_bound import Shares
from ossia.server.http.metrics import ServerMetrics
from ossia.server.settings import Settings

log = logging.getLogger("ossia.server")
USUAL_CACHE = 2 << 30
WARMING, WARMING_MOST = (1, 48, 512), 1 << 18  # tokens of prompts, and of their products with the hidden width
LONG_TEXT = 64 << 10  # characters: shorter texts are tokenized quickly, so errors give their exact token count
LEAST_MESSAGE = 4  # tokens: <|start|>, a role, <|message|>, <|end|>


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
        tokens = [data for data, _ in model.tokenizer.text_tokens()]
        self.longest_token, self.shares = max(map(len, tokens)), Shares(tokens)
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
        self.check_tokens(messages)
        prompt = render(self.tokenizer, messages, next_role="assistant")
        return len(prompt) + len(prefilled(self.tokenizer, prefill).all)

    async def prompt(self, ask: AnswerRequest) -> list[int]:
        """The prompt that `answer` would begin with. Raises ApiError as it does, before any sampling."""
        self._refuse_when_closed()
        steps = self._steps(ask)
        first = await self._open(steps, ask.messages)
        steps.close()
        assert isinstance(first, StartSampling), "an exchange begins with a sampling"
        self.check_length(first.prompt, "messages")
        return first.prompt

    def check_length(self, prompt: Sequence[int], param: str) -> None:
        """Raises ApiError (400) for a prompt that leaves no room for an answer."""
        if len(prompt) + 1 > self.context:
            raise too_long(len(prompt), self.context, param)

    def _steps(self, ask: AnswerRequest) -> Steps:
        self.check_messages(ask.messages)
        how = replace(ask.how, stop=ask.stop or ask.how.stop)
        return run_turn(self.grammars, ask.messages, how, self.context)

    async def answer(self, ask: AnswerRequest) -> AsyncGenerator[Event | Opening, None]:
        """The events of one answer, `Opening` first. Closing it stops the sampling, and its cache is free before the next step.

        Raises ApiError before its first event: 400 for a prompt too long, a schema or a choice that cannot be; 429 when
        too many wait; 503 while the server stops. In the middle, ApiError 500 when the engine fails, 503 when it is closed.
        """
        self._refuse_when_closed()
        steps = self._steps(ask)
        run: _Run | None = None
        began = False
        self._answers += 1
        if self.settings.log_prompts:
            log.info("asked: %s", "".join(message.text for message in ask.messages[-1:]))
        try:
            step, reply = await self._open(steps, ask.messages), None
            while step is not None:
                match step:
                    case StartSampling():
                        if run:
                            self._end(run)
                        run = None
                        run = reply = await self.begin_sampling(ask.client, *step)
                    case AwaitToken():
                        assert run is not None, "a sampling was begun"
                        reply = await run.next()
                        if not began:
                            began = True
                            yield Opening(run.prompt_usage)
                    case CallTool(tool, text):
                        reply = await asyncio.to_thread(tool.call, text)
                    case Done(fault=SchemaError() as fault):
                        raise invalid_input(fault)
                    case _:
                        if self.settings.log_prompts:
                            _log_words(step)
                        yield step
                        reply = None
                step = advance(steps, reply)
        except (GeneratorExit, asyncio.CancelledError):
            self.metrics.cancelled.inc()
            raise
        finally:
            self._answers -= 1
            if run:
                self._end(run)

    async def continuation(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        client: str = "",
        enough: Callable[[], bool] = lambda: False,
        mask: TokenMask | None = None,
    ) -> AsyncGenerator[Sampled | Usage, None]:
        """What the model says after these very tokens, as the mask has it, and at the end what it took; otherwise as `answer`.

        enough: whether the reader wants no more. Who closes it instead has left.
        """
        self._refuse_when_closed()
        self._answers += 1
        run: _Run | None = None
        try:
            run = await self.begin_sampling(client, list(prompt), params, mask, "prompt")
            while (sampled := await run.next()) is not None:
                yield sampled
                if enough():
                    break
            yield replace(run.prompt_usage, output_tokens=run.tokens)
        except (GeneratorExit, asyncio.CancelledError):
            self.metrics.cancelled.inc()
            raise
        finally:
            self._answers -= 1
            if run:
                self._end(run)

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
        last = _Only(tokens[-1])
        run: _Run | None = None
        self._answers += 1
        try:
            run = await self.begin_sampling(client, list(tokens[:-1]), params, last, "prompt")
            end = await run.next()
            if end is None:
                raise ApiError(503, "the time for scoring the prompt was over", code="too_slow")
            return [first, *run.feed.scores, end]
        except asyncio.CancelledError:
            self.metrics.cancelled.inc()
            raise
        finally:
            self._answers -= 1
            if run:
                self._end(run)

    def least_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens that these messages have at least, by their lengths alone."""
        return LEAST_MESSAGE * len(messages) + sum(map(_length, messages)) // self.longest_token

    def check_messages(self, messages: Sequence[Message], param: str = "messages") -> None:
        """Refuse what cannot fit the context before it is tokenized. Raises ApiError 400."""
        if (least := self.least_tokens(messages)) > self.context:
            raise too_long(least, self.context, param, at_least=True)

    def check_text(self, characters: int, param: str, tokens: int = 0) -> None:
        """The same for a text of `characters` characters and at least `tokens` tokens beside it."""
        if (least := tokens + characters // self.longest_token) > self.context:
            raise too_long(least, self.context, param, at_least=True)

    def check_tokens(self, messages: Sequence[Message], param: str = "messages") -> None:
        """As `check_messages`, by each byte of long texts. For any thread but the event loop's."""
        texts = [part for message in messages for part in message.content if isinstance(part, str)]
        self.check_bytes(texts, param, LEAST_MESSAGE * len(messages))

    def check_bytes(self, texts: Sequence[str], param: str, tokens: int = 0) -> None:
        """As `check_text`, by each byte of long texts. For any thread but the event loop's."""
        if sum(map(len, texts)) <= LONG_TEXT:
            return
        least = tokens + sum(map(self.shares.least_tokens, texts))
        if least > self.context:
            raise too_long(least, self.context, param, at_least=True)

    def check_choices(self, count: int, param: str = "n") -> None:
        """Raises ApiError 400 for more answers in one request than could ever run and wait."""
        running, waiting = self.settings.max_num_seqs, self.settings.max_queued
        if count > running + waiting:
            limits = f"--max-num-seqs is {running}, --max-queued {waiting}"
            raise bad(param, f"the request asks for {count} answers, but {limits}: ask for fewer at a time")

    @property
    def at_once(self) -> int:
        """Answers of one request to make at a time: it leaves places in the queue to others."""
        return self.queue.share + self.settings.max_queued // 4

    async def _open(self, steps: Steps, messages: Sequence[Message]) -> Step | None:
        """The first step: rendering a long prompt or compiling a schema must not hold up the loop."""

        def first() -> Step | None:
            self.check_tokens(messages)
            return advance(steps, None)

        try:
            return await asyncio.to_thread(first)
        except InputError as error:
            raise invalid_input(error) from error
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid_value") from error

    async def begin_sampling(
        self, client: str, prompt: list[int], params: SamplingParams, mask: TokenMask | None, param: str = "messages"
    ) -> "_Run":
        self.check_length(prompt, param)
        asked = time.perf_counter()
        need = self.queue.need(len(prompt), params.max_tokens, self.context)
        try:
            place = await self.queue.enter(client, need, self.settings.queue_timeout)
        except FullError as error:
            raise self._full(error) from error
        except TimeoutError as error:
            self.metrics.refused.labels("waited too long").inc()
            raise busy("the server is too busy: the request waited too long", self.queue.seconds_to_wait()) from error
        if self._closed:
            self.queue.leave(place, 0, 0.0)
            raise stopping()
        run = _Run(TokenQueue(prompt, params, mask), place, self.metrics, asked)
        run.feed.on_end = functools.partial(self._end, run)  # whether or not the client reads
        self.metrics.queued.observe(run.started - asked)
        run.timer = asyncio.get_running_loop().call_later(self.settings.request_timeout, self._expire, run)
        self.worker.begin(run.feed)
        return run

    def _expire(self, run: "_Run") -> None:
        """The time is over: the answer ends as one does that ran out of tokens."""
        run.feed.cut()

    def _end(self, run: "_Run") -> None:
        """Its place is free for the next. Harmless when it has ended."""
        if run.ended:
            return
        run.ended = True
        if run.timer:
            run.timer.cancel()
        self.worker.stop(run.feed)
        self.queue.leave(run.place, run.feed.count, time.perf_counter() - run.started)

    def refuse_when_full(self, client: str = "") -> None:
        """For what is promised before it runs: ApiError 429 or 503 where an answer would be refused now."""
        self._refuse_when_closed()
        try:
            self.queue.refuse_when_full(client, self.queue.need(0, None, self.context))
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


@dataclass(eq=False, slots=True)
class _Run:
    """One sampling that was let in."""

    feed: TokenQueue
    place: Ticket
    metrics: ServerMetrics
    asked: float
    started: float = field(default_factory=time.perf_counter)
    timer: asyncio.TimerHandle | None = None
    tokens: int = 0
    last: float = 0.0
    ended: bool = False

    @property
    def cached_tokens(self) -> int:
        return self.feed.cached_tokens

    @property
    def written_tokens(self) -> int:
        return self.feed.written_tokens

    @property
    def prompt_usage(self) -> Usage:
        """What the prompt took; known from the first token on."""
        cached, written = self.cached_tokens, self.written_tokens
        return Usage(len(self.feed.prompt), cached_tokens=cached, written_tokens=written)

    async def next(self) -> Sampled | None:
        try:
            sampled = await self.feed.next()
        except ContextError as error:
            raise bad("messages", str(error), "context_length_exceeded") from error
        except StoppedError as error:
            raise stopping() from error
        except UnreadError as error:
            raise ApiError(408, f"the answer was not read: {error}", code="too_slow") from error
        except EngineError as error:
            raise ApiError(500, str(error), code="engine_failed") from error
        except DamagedModelError as error:
            raise ApiError(500, str(error), code="model_damaged", retry=False) from error
        except ValueError as error:  # a bias outside the vocabulary, a mask that leaves nothing
            raise ApiError(400, str(error), code="invalid_value") from error
        now = time.perf_counter()
        if sampled is not None:
            if self.tokens:
                self.metrics.between.observe(now - self.last)
            else:
                self.metrics.first_token.observe(now - self.asked)
            self.tokens, self.last = self.tokens + 1, now
        return sampled


def names_of(model: str) -> tuple[str, ...]:
    """What clients may call a model: its name on the hub or its folder's, and Ollama's tag where it is a gpt-oss."""
    short = PurePath(model).name
    own = model if model.count("/") == 1 and not Path(model).is_dir() else short
    tag = re.sub(r"^gpt-oss-(\d+b)$", r"gpt-oss:\1", short)
    return tuple(dict.fromkeys((own, short, tag)))


def _log_words(event: Event) -> None:
    if isinstance(event, End | ToolResult):
        log.info("said (%s): %s", event.message.recipient or event.message.channel, event.message.text)


def usual_cache(model: Model) -> int:
    """Cache bytes by default. On a CPU: one whole context, or a quarter of the free memory up to `USUAL_CACHE`, if that is
    more; memory is used only as it fills. On a GPU: all memory that the weights leave.
    """
    room = card_cache_room(model.config, model.transformer.ops.free_bytes())
    if room is not None:
        return room
    block = model.transformer.cache_bytes
    whole = blocks_for(model.config.max_context) * (block.full + block.window)
    left = host_cache_room(model.config)
    return min(max(whole, min(left // 4, USUAL_CACHE)), max(left, MIN_CACHE_BYTES))


class _Only:
    """A mask that leaves one token: its log-probability is the model's own all the same."""

    def __init__(self, token: int) -> None:
        self._bits = bytes(token >> 3) + bytes([1 << (token & 7)])

    def mask(self) -> bytes:
        return self._bits

    def accept(self, token: int) -> None:
        pass


def _length(message: Message) -> int:
    """Characters that a message is rendered from, at least."""
    length = 0
    for part in message.content:
        match part:
            case str():
                length += len(part)
            case Developer(instructions, spaces, formats):
                length += len(instructions or "") + sum(len(form.description or "") for form in formats)
                length += sum(map(_length_of_tool, (tool for space in spaces for tool in space.tools)))
            case _:
                pass
    return length


def _length_of_tool(tool: ToolSpec) -> int:
    """Of its name and description, and of "type NAME = () => any;" around them."""
    return len(tool.name) + len(tool.description or "") + 18


def busy(message: str, seconds: int) -> ApiError:
    return ApiError(429, message, code="rate_limit_exceeded", headers={"retry-after": str(seconds)})


def stopping() -> ApiError:
    return ApiError(503, "the server is stopping", code="stopping", headers={"retry-after": "5"})
