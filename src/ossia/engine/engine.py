"""The engine: token ids in, a stream of sampled tokens out, for many requests at once.

In: prompts with sampling parameters and token masks. Out: one `Stream` per request. The thread that reads a stream
steps the engine for all requests.
"""

import asyncio
import secrets
import threading
import warnings
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

from ossia.engine.cache import PagedCache
from ossia.engine.host_plan import MIN_CACHE_BYTES, host_cache_room
from ossia.engine.plan import card_cache_room, default_max_batched_tokens, max_num_seqs
from ossia.engine.request import ContextError, Sampled, SamplingParams, TokenMask
from ossia.engine.runner import RunnableModel, Runner
from ossia.engine.scheduler import SCORED_LOGITS, SCORED_ROWS, Chunk, Request, Scheduler
from ossia.engine.step_sampler import SampleRequest, StepLogits

_RENAMED = "step_tokens is now max_batched_tokens; the old name will be an error in the next release"


class Stats(NamedTuple):
    """Counters since the engine was made, and its current state. Blocks are counted over both pools.

    - cached_tokens: prompt tokens found in the cache.
    - drafted_tokens: draft tokens that were verified; `accepted_tokens` of them were accepted.
    - free_blocks: blocks that no request holds. `idle_blocks` of them are kept for prompts with the same beginning.
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
    """Runs requests over one model, with at most `max_batched_tokens` rows per step (default: by backend).

    - cache_bytes: for all keys and values. Default: the model's whole context. A CPU allocates it as it fills. A GPU
      takes as much of it as fits beside the weights.
    - prefix_bytes: the part of the cache that may keep prefixes of earlier prompts; 0 keeps none.
    - speculate: verify draft tokens where that is faster. Does not change any answer.
    - step_tokens: deprecated name of `max_batched_tokens`.

    Any thread may submit, read and close. One thread at a time steps for all; the others wait for their tokens.
    """

    def __init__(
        self,
        model: RunnableModel,
        *,
        cache_bytes: int | None = None,
        prefix_bytes: int = 1 << 30,
        max_batched_tokens: int | None = None,
        speculate: bool = True,
        step_tokens: int | None = None,
    ) -> None:
        if step_tokens is not None:
            warnings.warn(_RENAMED, FutureWarning, stacklevel=2)
            max_batched_tokens = step_tokens if max_batched_tokens is None else max_batched_tokens
        max_batched_tokens = default_max_batched_tokens(model.ops) if max_batched_tokens is None else max_batched_tokens
        if max_batched_tokens < 1 or prefix_bytes < 0:
            raise ValueError("max_batched_tokens must be at least 1 and prefix_bytes at least 0")
        c = self._config = model.config
        room = card_cache_room(c, model.ops.free_bytes(), max_batched_tokens)
        if room is None and cache_bytes is None:
            room = max(host_cache_room(c), MIN_CACHE_BYTES)  # limits the default below the whole context
        self._cache = PagedCache.sized(
            model.cache_bytes, c.window, c.max_context, max_batched_tokens, cache_bytes, prefix_bytes, room
        )
        self._scheduler = Scheduler(
            self._cache, max_batched_tokens, speculate, max_num_seqs(model.ops), max_score_rows(c.vocab)
        )
        self._runner = Runner(model, self._cache.full.count, self._cache.window.count)
        self._changed = threading.Condition()  # its lock guards all state; it is free while the model computes
        self._stepper: int | None = None  # the id of the thread that runs a step
        self._broken: Exception | None = None
        self._dropped: deque[Request] = deque()
        self._steps = self._prompt_tokens = self._output_tokens = 0

    def submit(self, prompt: Sequence[int], params: SamplingParams, mask: TokenMask | None = None) -> "Stream":
        """Queue a prompt. Raises ContextError at once if the prompt plus one token does not fit."""
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
        """Run one step: schedule, forward, sample, commit. False if there was nothing to do."""
        return self._step_once(lambda: False)

    def await_token(self, request: Request) -> None:
        """Step the engine, or wait while another thread does, until the request has a token or has ended."""
        while not (request.sampled or request.done):
            self._step_once(lambda: bool(request.sampled) or request.done)

    def take(self, request: Request) -> Sampled | None:
        """The request's next token; None at its end. Raises the error that ended the request, if there was one."""
        with self._changed:
            if request.sampled:
                return request.sampled.popleft()
            if request.error:
                raise request.error
            return None

    def take_all(self, request: Request) -> list[Sampled]:
        """All tokens that the request has now. Raises like `take` once there are none."""
        with self._changed:
            if request.error and not request.sampled:
                raise request.error
            taken = list(request.sampled)
            request.sampled.clear()
            return taken

    def cancel(self, request: Request) -> None:
        """Drop a request and its unread tokens, and free its cache at once. No effect after its end."""
        with self._changed:
            self._scheduler.cancel(request)
            request.sampled.clear()
            self._changed.notify_all()

    def drop(self, request: Request) -> None:
        """`cancel` for finalizers, which may run at any point in this class: it takes effect at the next call."""
        self._dropped.append(request)

    def release_memory(self) -> None:
        """Return the memory of free cache blocks to the system. For an idle engine: no effect during a step."""
        with self._changed:
            if self._stepper is None:
                self._cancel_dropped()
                self._runner.discard(*self._cache.discard())

    @property
    def cache_tokens(self) -> int:
        """Tokens that the cache can hold for all requests together."""
        return self._cache.tokens

    @property
    def context(self) -> int:
        """The maximum length of one request: prompt and answer together."""
        return min(self._config.max_context, self._cache.tokens)

    def stats(self) -> Stats:
        with self._changed:
            self._cancel_dropped()
            s, c = self._scheduler, self._cache
            return Stats(
                self._steps, self._prompt_tokens, self._output_tokens, s.cached_tokens, s.drafted_tokens,
                s.accepted_tokens, s.preemptions, len(s.running), len(s.waiting), c.blocks, c.free_blocks, c.idle_blocks,
                c.idle_bytes,
            )  # fmt: skip

    def _step_once(self, is_served: Callable[[], bool]) -> bool:
        """Run a step once no other thread is in one. False if there was nothing to do, or `is_served` became true."""
        try:
            with self._changed:
                self._changed.wait_for(lambda: is_served() or self._stepper is None)
                if is_served():
                    return False
                self._raise_if_broken()
                self._stepper = threading.get_ident()
                self._cancel_dropped()
                chunks = self._scheduler.plan()
            if chunks:
                self._run(chunks)
            return bool(chunks)
        finally:  # Ctrl-C may come at any point: the other threads must not wait for this one
            with self._changed:
                if self._stepper == threading.get_ident():
                    self._stepper = None
                    self._changed.notify_all()

    def _run(self, chunks: list[Chunk]) -> None:
        """Forward, sample, commit. If interrupted, uncommitted work is planned again."""
        try:
            started = perf_counter()
            logits = self._runner.forward(chunks)
            # a device still computes while the masks are made
            rows = StepLogits(self._runner.model.ops, logits, sample_requests(chunks))
            seconds, first = perf_counter() - started, 0
            for chunk in chunks:
                scores = prompt_scores(chunk, first, rows) if chunk.scores else []
                drawn = first + chunk.size - 1 if chunk.scores else first
                taken = sample_chunk(chunk, drawn, rows) if chunk.samples else []
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

    def _cancel_dropped(self) -> None:
        while self._dropped:
            self._scheduler.cancel(self._dropped.popleft())

    def _limit(self, prompt: Sequence[int], params: SamplingParams) -> int:
        if not prompt:
            raise ValueError("the prompt is empty: give at least one token")
        vocab = self._config.vocab
        if outside := [token for token in (*prompt, *params.logit_bias) if not 0 <= token < vocab]:
            raise ValueError(f"token id {outside[0]} is outside the vocabulary of {vocab}")
        context, cache = self._config.max_context, self._cache.tokens
        if len(prompt) + 1 > context:
            raise ContextError(f"the prompt has {len(prompt)} tokens, the model's context {context}: shorten it")
        if len(prompt) + 1 > cache:
            raise ContextError(
                f"the prompt has {len(prompt)} tokens, the engine's cache holds {cache}: raise cache_bytes"
            )
        return self.context

    def _raise_if_broken(self) -> None:
        if self._broken:
            raise RuntimeError(f"the engine stopped: {self._broken}") from self._broken


def max_score_rows(vocab: int) -> int:
    """Prompt rows that one step may score."""
    return max(1, min(SCORED_ROWS, SCORED_LOGITS // vocab))


def sample_requests(chunks: Sequence[Chunk]) -> list[SampleRequest | None]:
    """How to sample each row, as far as known before sampling. The masks after draft tokens are not known yet.

    A mask that fails ends its own request only; the request's rows are not sampled.
    """
    requests: list[SampleRequest | None] = []
    for chunk in chunks:
        if chunk.scores:
            requests += [None] * (chunk.size - 1 if chunk.samples else chunk.size)
        if chunk.samples:
            request = chunk.request
            try:
                first = _sample_request(request, 0, request.mask.mask() if request.mask else None)
                requests += [first, *(_sample_request(request, 1 + offset, None) for offset in range(len(chunk.draft)))]
            except Exception as error:
                request.error = error
                requests += [None] * (1 + len(chunk.draft))
    return requests


def prompt_scores(chunk: Chunk, first: int, rows: StepLogits) -> list[Sampled]:
    """The prompt's tokens after the chunk's rows, with log-probabilities, except those scored before a preemption."""
    request = chunk.request
    known = max(0, len(request.scores) - chunk.first)
    tokens = request.tokens[chunk.first + known + 1 : min(chunk.first + chunk.size + 1, request.prompt_length)]
    return rows.scores(first + known, tokens, request.params.prompt_logprobs or 0) if tokens else []


def sample_chunk(chunk: Chunk, first: int, rows: StepLogits) -> list[Sampled]:
    """The chunk's next tokens: one per row, as long as the sampled token equals the draft token.

    A mask or bias that allows no token, or fails, ends its own request only.
    """
    request, taken = chunk.request, []
    if request.penalties:
        request.penalties.follow(request.tokens)
    for offset, draft in enumerate((*chunk.draft, None)):
        if request.error:
            break
        try:
            known = rows.request(first) if not offset else None
            known = known or _sample_request(request, offset, request.mask.mask() if request.mask else None)
            sampled = rows.take(first + offset, known)
            if request.mask:
                request.mask.accept(sampled.token)
            if request.penalties:
                request.penalties.note(sampled.token)
        except Exception as error:
            request.error = error
            break
        taken.append(sampled._replace(finish=request.finish_with(sampled.token, len(taken))))
        if taken[-1].finish or sampled.token != draft:
            break
    return taken


def _sample_request(request: Request, offset: int, mask: bytes | None) -> SampleRequest:
    return SampleRequest(request.params, mask, request.seed, request.output_length + offset, request.penalties)


class Stream:
    """The tokens of one request, for `for` and `async for`. Closing or deleting it cancels the request."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine, self._request = engine, request

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were found in the cache and not computed again."""
        return self._request.cached or 0

    @property
    def written_tokens(self) -> int:
        """Prompt tokens that were computed and are kept for later requests. Known from the first token on.

        It may be smaller at the end, if the cache could not keep them beside the answer.
        """
        return max(0, self._request.reusable - self.cached_tokens)

    @property
    def scores(self) -> list[Sampled]:
        """The prompt's tokens from the second on, if `prompt_logprobs` was set. Complete with the first sampled token."""
        return self._request.scores

    @property
    def ended(self) -> bool:
        """Whether sampling has ended. `ready` may still have unread tokens."""
        return self._request.done

    def ready(self) -> list[Sampled]:
        """The tokens that are available now, for a caller that steps the engine itself. Raises like reading."""
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
        await asyncio.to_thread(self._engine.await_token, self._request)  # a cancellation here loses no token
        sampled = self._engine.take(self._request)
        if sampled is None:
            raise StopAsyncIteration
        return sampled

    def close(self) -> None:
        """Cancel the request and free its cache at once."""
        self._engine.cancel(self._request)

    def __del__(self) -> None:
        self._engine.drop(self._request)
