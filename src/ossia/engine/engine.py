"""The engine: token ids in, a stream of sampled tokens out, many requests at once.

In: prompts with sampling parameters and masks. Out: `Stream`s; whoever reads one drives the steps for all.
It does not know text, channels or tools.
"""

import asyncio
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ossia.engine.blocks import BlockPool, blocks_for
from ossia.engine.request import ContextError, Sampled, SamplingParams, TokenMask
from ossia.engine.runner import Model, Runner
from ossia.engine.sampler import Row, sample
from ossia.engine.scheduler import Chunk, Request, Scheduler
from ossia.kernels import BLOCK

DEFAULT_CACHE_TOKENS = 131_072  # gpt-oss's whole context; a CPU's cache takes memory only as it fills


class Stats(NamedTuple):
    """Counters since the engine was made, and what it holds now."""

    steps: int
    prompt_tokens: int
    output_tokens: int
    running: int
    waiting: int
    blocks: int
    free_blocks: int


class Engine:
    """Runs requests over one model with a cache of `cache_tokens`, at most `step_tokens` rows a step.

    Any thread may submit, read and close. One thread at a time steps, for all; the others wait for their tokens.
    """

    def __init__(self, model: Model, *, cache_tokens: int = DEFAULT_CACHE_TOKENS, step_tokens: int = 512) -> None:
        if cache_tokens < BLOCK or step_tokens < 1:
            raise ValueError(f"want cache_tokens of at least {BLOCK} and step_tokens of at least 1")
        self._config = model.config
        self._pool = BlockPool(blocks_for(cache_tokens))
        self._scheduler = Scheduler(self._pool, step_tokens)
        self._runner = Runner(model, self._pool.count)
        self._changed = threading.Condition()  # its lock guards everything here, and is free while the model computes
        self._stepper: int | None = None  # the thread that computes
        self._broken: Exception | None = None
        self._dropped: deque[Request] = deque()
        self._steps = self._prompt_tokens = self._output_tokens = 0

    def submit(self, prompt: Sequence[int], params: SamplingParams, mask: TokenMask | None = None) -> "Stream":
        """Queue a prompt. Raises ContextError before any work when prompt and one token more do not fit."""
        limit = self._limit(prompt, params)
        seed = secrets.randbits(64) if params.seed is None else params.seed % 2**64
        request = Request(list(prompt), params, mask, seed, limit)
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

    def cancel(self, request: Request) -> None:
        """Forget a request and its unread tokens, and free its cache at once; harmless when it has ended."""
        with self._changed:
            self._scheduler.cancel(request)
            request.sampled.clear()
            self._changed.notify_all()

    def drop(self, request: Request) -> None:
        """`cancel` for finalizers: they may run in the middle of anything here, so it is only noted until the next call."""
        self._dropped.append(request)

    def stats(self) -> Stats:
        with self._changed:
            self._sweep()
            held = (len(self._scheduler.running), len(self._scheduler.waiting), self._pool.count, self._pool.free)
            return Stats(self._steps, self._prompt_tokens, self._output_tokens, *held)

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
        """Forward, sample, commit. Interrupted before the commit, the same step is simply planned again."""
        try:
            rows = iter(self._runner.forward(chunks))
            drawn = [choose(chunk.request, next(rows)) if chunk.samples else None for chunk in chunks]
            with self._changed:
                for chunk, sampled in zip(chunks, drawn):
                    self._scheduler.commit(chunk, sampled)
                self._steps += 1
                self._output_tokens += sum(sampled is not None for sampled in drawn)
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
        context, cache = self._config.max_context, self._pool.count * BLOCK
        if len(prompt) + 1 > context:
            raise ContextError(f"the prompt has {len(prompt)} tokens, the model's context {context}: shorten it")
        if len(prompt) + 1 > cache:
            raise ContextError(f"the prompt has {len(prompt)} tokens, the engine's cache {cache}: give it a larger one")
        return min(context, cache)

    def _raise_if_broken(self) -> None:
        if self._broken:
            raise RuntimeError(f"the engine stopped: {self._broken}") from self._broken


def choose(request: Request, logits_V: Row) -> Sampled | None:
    """The request's next token. A mask or bias that leaves none, or fails, ends its own request and no other."""
    try:
        mask = request.mask.mask() if request.mask else None
        sampled = sample(logits_V, request.params, mask, request.seed, len(request.output))
        if request.mask:
            request.mask.accept(sampled.token)
    except Exception as error:
        request.error = error
        return None
    return sampled._replace(finish=request.finish_with(sampled.token))


class Stream:
    """The tokens of one request, for `for` and `async for`. Closing it, or dropping it, stops the request."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine, self._request = engine, request

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
