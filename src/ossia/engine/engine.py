"""The engine: token ids in, a stream of sampled tokens out, many requests at once.

In: prompts with sampling parameters and masks. Out: `Stream`s; whoever reads one drives the steps for all.
It does not know text, channels or tools.
"""

import asyncio
import secrets
import threading
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

from ossia.engine.cache import PagedCache
from ossia.engine.drawing import LogitRows, SampleRequest
from ossia.engine.host_plan import LEAST_CACHE, host_room
from ossia.engine.plan import most_running, room_for_cache, usual_step
from ossia.engine.request import ContextError, Sampled, SamplingParams, TokenMask
from ossia.engine.runner import RunnableModel, Runner
from ossia.engine.scheduler import SCORED_LOGITS, SCORED_ROWS, Chunk, Request, Scheduler


class Stats(NamedTuple):
    """Counters since the engine was made, and what it holds now. Blocks are counted over both pools.

    cached_tokens: of prompts, found in the cache. drafted_tokens: guesses tried, of which `accepted_tokens` held.
    free_blocks: not held by a request; of these, `idle_blocks` are kept for prompts that begin alike.
    """

    steps: int
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    preemptions: int
    running: int
    waiting: int
    blocks: int
    free_blocks: int
    idle_blocks: int
    idle_bytes: int


class Engine:
    """Runs requests over one model, at most `step_tokens` rows a step; None for what suits the backend.

    cache_bytes: of all keys and values; None for what the model's whole context takes (on a CPU, memory is used only as
    it fills; on a card, as much of it as fits beside the weights). prefix_bytes: how much of that may be kept for prompts
    that begin as earlier ones did; 0 keeps nothing.
    speculate: guess ahead where that is faster; it changes no answer.
    Any thread may submit, read and close. One thread at a time steps, for all; the others wait for their tokens.
    """

    def __init__(
        self,
        model: RunnableModel,
        *,
        cache_bytes: int | None = None,
        prefix_bytes: int = 1 << 30,
        step_tokens: int | None = None,
        speculate: bool = True,
    ) -> None:
        step_tokens = usual_step(model.ops) if step_tokens is None else step_tokens
        if step_tokens < 1 or prefix_bytes < 0:
            raise ValueError("want step_tokens of at least 1 and prefix_bytes of at least 0")
        c = self._config = model.config
        room = room_for_cache(c, model.ops.free_bytes(), step_tokens)
        if room is None and cache_bytes is None:
            room = max(host_room(c), LEAST_CACHE)  # the whole context where it fits, as on a card
        self._cache = PagedCache.sized(
            model.cache_bytes, c.window, c.max_context, step_tokens, cache_bytes, prefix_bytes, room
        )
        self._scheduler = Scheduler(
            self._cache, step_tokens, speculate, most_running(model.ops), score_rows_of(c.vocab)
        )
        self._runner = Runner(model, self._cache.full.count, self._cache.window.count)
        self._changed = threading.Condition()  # its lock guards everything here, and is free while the model computes
        self._stepper: int | None = None  # the thread that computes
        self._broken: Exception | None = None
        self._dropped: deque[Request] = deque()
        self._steps = self._prompt_tokens = self._output_tokens = 0

    def submit(self, prompt: Sequence[int], params: SamplingParams, mask: TokenMask | None = None) -> "Stream":
        """Queue a prompt. Raises ContextError before any work when prompt and one token more do not fit."""
        limit = self._limit(prompt, params)
        seed = secrets.randbits(64) if params.seed is None else params.seed % 2**64
        request = Request(array("i", prompt), params, mask, seed, limit)
        with self._changed:
            self._raise_if_broken()
            self._scheduler.add(request)
            self._prompt_tokens += len(prompt)
        return Stream(self, request)

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[list[Sampled]]:
        """The answers to several prompts, computed together."""
        streams = [self.submit(prompt, params) for prompt in prompts]
        return [list(stream) for stream in streams]

    def step(self) -> bool:
        """Plan, forward, sample, commit. False when there was nothing to do."""
        return self._turn(lambda: False)

    def await_token(self, request: Request) -> None:
        """Step for all, or wait while another thread does, until the request has a token to take or has ended."""
        while not (request.sampled or request.done):
            self._turn(lambda: bool(request.sampled) or request.done)

    def take(self, request: Request) -> Sampled | None:
        """The request's next token; None at its end. Raises what ended it, when that was a failure of its own."""
        with self._changed:
            if request.sampled:
                return request.sampled.popleft()
            if request.error:
                raise request.error
            return None

    def take_all(self, request: Request) -> list[Sampled]:
        """Every token that the request has now. Raises as `take` does, once there is none."""
        with self._changed:
            if request.error and not request.sampled:
                raise request.error
            taken = list(request.sampled)
            request.sampled.clear()
            return taken

    def cancel(self, request: Request) -> None:
        """Forget a request and its unread tokens, and free its cache at once; harmless when it has ended."""
        with self._changed:
            self._scheduler.cancel(request)
            request.sampled.clear()
            self._changed.notify_all()

    def drop(self, request: Request) -> None:
        """`cancel` for finalizers: they may run in the middle of anything here, so it is only noted until the next call."""
        self._dropped.append(request)

    def release_memory(self) -> None:
        """Give the memory of free cache blocks back to the system. For an idle engine: while a step runs it does nothing."""
        with self._changed:
            if self._stepper is None:
                self._sweep()
                self._runner.discard(*self._cache.discard())

    @property
    def cache_tokens(self) -> int:
        """Tokens that the cache can hold, all requests together."""
        return self._cache.tokens

    @property
    def context(self) -> int:
        """Tokens that one request can have, prompt and answer together."""
        return min(self._config.max_context, self._cache.tokens)

    def stats(self) -> Stats:
        with self._changed:
            self._sweep()
            s, c = self._scheduler, self._cache
            return Stats(
                self._steps, self._prompt_tokens, self._output_tokens, s.cached_tokens, s.drafted_tokens,
                s.accepted_tokens, s.preemptions, len(s.running), len(s.waiting), c.blocks, c.free_blocks, c.idle_blocks,
                c.idle_bytes,
            )  # fmt: skip

    def _turn(self, is_served: Callable[[], bool]) -> bool:
        """A step, once no other thread is in one; False when there was nothing to do, or by then `is_served`."""
        try:
            with self._changed:
                self._changed.wait_for(lambda: is_served() or self._stepper is None)
                if is_served():
                    return False
                self._raise_if_broken()
                self._stepper = threading.get_ident()
                self._sweep()
                chunks = self._scheduler.plan()
            if chunks:
                self._run(chunks)
            return bool(chunks)
        finally:  # Ctrl-C may come between planning and computing too: the others must not wait for this thread
            with self._changed:
                if self._stepper == threading.get_ident():
                    self._stepper = None
                    self._changed.notify_all()

    def _run(self, chunks: list[Chunk]) -> None:
        """Forward, sample, commit. Interrupted on the way, what is not committed yet is simply planned again."""
        try:
            started = perf_counter()
            logits = self._runner.forward(chunks)
            rows = LogitRows(self._runner.model.ops, logits, asks_of(chunks))  # masks are made while a device computes
            seconds, first = perf_counter() - started, 0
            for chunk in chunks:
                scores = scores_of(chunk, first, rows) if chunk.scores else []
                drawn = first + chunk.size - 1 if chunk.scores else first
                taken = choose(chunk, drawn, rows) if chunk.samples else []
                first += chunk.logit_rows
                with self._changed:
                    chunk.request.scores += scores
                    self._scheduler.commit(chunk, taken)
                    self._output_tokens += len(taken)
            with self._changed:
                self._steps += 1
                if all(chunk.size == 1 for chunk in chunks):
                    self._scheduler.times.note(sum(chunk.rows for chunk in chunks), seconds)
        except Exception as error:
            self._broken = error
            raise

    def _sweep(self) -> None:
        while self._dropped:
            self._scheduler.cancel(self._dropped.popleft())

    def _limit(self, prompt: Sequence[int], params: SamplingParams) -> int:
        if not prompt:
            raise ValueError("an empty prompt has nothing to go on from")
        vocab = self._config.vocab
        if outside := [token for token in (*prompt, *params.logit_bias) if not 0 <= token < vocab]:
            raise ValueError(f"token id {outside[0]} is outside the vocabulary of {vocab}")
        context, cache = self._config.max_context, self._cache.tokens
        if len(prompt) + 1 > context:
            raise ContextError(f"the prompt has {len(prompt)} tokens, the model's context {context}: shorten it")
        if len(prompt) + 1 > cache:
            raise ContextError(f"the prompt has {len(prompt)} tokens, the engine's cache {cache}: give it a larger one")
        return self.context

    def _raise_if_broken(self) -> None:
        if self._broken:
            raise RuntimeError(f"the engine stopped: {self._broken}") from self._broken


def score_rows_of(vocab: int) -> int:
    """Rows of prompts that one step may score."""
    return max(1, min(SCORED_ROWS, SCORED_LOGITS // vocab))


def asks_of(chunks: Sequence[Chunk]) -> list[SampleRequest | None]:
    """How each sampled row is drawn, as far as it is known before any is: of a guess's mask nothing is. A mask that fails ends
    its own request and no other; its rows are not drawn.
    """
    asks: list[SampleRequest | None] = []
    for chunk in chunks:
        if chunk.scores:
            asks += [None] * (chunk.size - 1 if chunk.samples else chunk.size)
        if chunk.samples:
            request = chunk.request
            try:
                first = _ask(request, 0, request.mask.mask() if request.mask else None)
                asks += [first, *(_ask(request, 1 + behind, None) for behind in range(len(chunk.draft)))]
            except Exception as error:
                request.error = error
                asks += [None] * (1 + len(chunk.draft))
    return asks


def scores_of(chunk: Chunk, first: int, rows: LogitRows) -> list[Sampled]:
    """The prompt's tokens after each of the chunk's rows, but for those that were scored before a preemption."""
    request = chunk.request
    known = max(0, len(request.scores) - chunk.first)
    tokens = request.tokens[chunk.first + known + 1 : min(chunk.first + chunk.size + 1, request.prompt_length)]
    return rows.scores(first + known, tokens, request.params.prompt_logprobs or 0) if tokens else []


def choose(chunk: Chunk, first: int, rows: LogitRows) -> list[Sampled]:
    """The chunk's next tokens: from each row one, as long as it is the token guessed, and so the next row's.

    A mask or bias that leaves none, or fails, ends its own request and no other.
    """
    request, taken = chunk.request, []
    if request.penalties:
        request.penalties.follow(request.tokens)
    for behind, guess in enumerate((*chunk.draft, None)):
        if request.error:
            break
        try:
            ask = rows.ask(first) if not behind else None
            ask = ask or _ask(request, behind, request.mask.mask() if request.mask else None)
            sampled = rows.take(first + behind, ask)
            if request.mask:
                request.mask.accept(sampled.token)
            if request.penalties:
                request.penalties.note(sampled.token)
        except Exception as error:
            request.error = error
            break
        taken.append(sampled._replace(finish=request.finish_with(sampled.token, len(taken))))
        if taken[-1].finish or sampled.token != guess:
            break
    return taken


def _ask(request: Request, behind: int, mask: bytes | None) -> SampleRequest:
    return SampleRequest(request.params, mask, request.seed, request.output_length + behind, request.penalties)


class Stream:
    """The tokens of one request, for `for` and `async for`. Closing it, or dropping it, stops the request."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine, self._request = engine, request

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were not computed again: the cache held them from earlier requests."""
        return self._request.cached or 0

    @property
    def written_tokens(self) -> int:
        """Tokens of the prompt that were computed and are kept for later requests; known from the first token on.

        At the end it is less where the cache could not keep them beside the answer.
        """
        return max(0, self._request.reusable - self.cached_tokens)

    @property
    def scores(self) -> list[Sampled]:
        """The prompt's tokens from the second on, where `prompt_logprobs` was asked for; whole with the first token."""
        return self._request.scores

    @property
    def ended(self) -> bool:
        """Whether all of it has been sampled; what is `ready` may still be unread."""
        return self._request.done

    def ready(self) -> list[Sampled]:
        """What can be read without waiting, for whoever steps the engine itself. Raises what ended it, as reading does."""
        return self._engine.take_all(self._request)

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Sampled:
        self._engine.await_token(self._request)
        sampled = self._engine.take(self._request)
        if sampled is None:
            raise StopIteration
        return sampled

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Sampled:
        await asyncio.to_thread(self._engine.await_token, self._request)  # cancelled here, no token is lost
        sampled = self._engine.take(self._request)
        if sampled is None:
            raise StopAsyncIteration
        return sampled

    def close(self) -> None:
        """Stop, and free the cache at once."""
        self._engine.cancel(self._request)

    def __del__(self) -> None:
        self._engine.drop(self._request)
