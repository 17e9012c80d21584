"""The thread that steps the engine, and passes its tokens to the event loop.

In: samplings to begin and to stop. Out: tokens in `TokenQueue`s. All tokens of a step reach the loop in one call.
"""

import asyncio
import contextlib
import gc
import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol, TypeVar

from ossia.engine.engine import Stats
from ossia.engine.request import Sampled, SamplingParams, TokenMask

T = TypeVar("T")
log = logging.getLogger("ossia.server")
RELEASE_SECONDS = 5.0  # without requests, before the engine releases memory
IDLE_SECONDS = 0.02  # between polls of an engine that has requests but no work
UNREAD_BYTES = 8 << 20  # of one sampling's tokens that its reader has not read
TOKEN_BYTES, LIKELY_BYTES = 150, 120  # of a token in memory, and of each likely token beside it
FAILURES = 3  # failed steps in a row, each with a new engine, after which the server is unhealthy


class TokenStream(Protocol):
    """One request of an engine, read without waiting."""

    @property
    def cached_tokens(self) -> int: ...
    @property
    def written_tokens(self) -> int: ...
    @property
    def scores(self) -> list[Sampled]: ...
    @property
    def ended(self) -> bool: ...
    def ready(self) -> list[Sampled]: ...
    def close(self) -> None: ...


class TokenEngine(Protocol):
    """The part of `ossia.engine.engine.Engine` that the server uses. Only one thread calls it."""

    @property
    def cache_tokens(self) -> int: ...
    def submit(self, prompt: Sequence[int], params: SamplingParams, mask: TokenMask | None) -> TokenStream: ...
    def step(self) -> bool: ...
    def release_memory(self) -> None: ...
    def stats(self) -> Stats: ...


class EngineError(RuntimeError):
    """The engine failed during an answer. The answer is lost; the server may continue."""


class StoppedError(EngineError):
    """The worker was closed."""


class UnreadError(EngineError):
    """The reader was too slow: more tokens were unread than are kept."""


class TokenQueue:
    """The tokens of one sampling, for the event loop.

    on_end: called in the loop's thread when the sampling has ended, whether or not its tokens are read. count: tokens
    sampled so far. scores: log-probabilities of the prompt, if requested.
    """

    def __init__(self, prompt: Sequence[int], params: SamplingParams, mask: TokenMask | None) -> None:
        self.prompt, self.params, self.mask = prompt, params, mask
        self.stream: TokenStream | None = None  # the worker's own
        self.cached_tokens = self.written_tokens = self.count = 0
        self.scores: list[Sampled] = []
        self.on_end: Callable[[], None] = lambda: None
        self._unread = 0  # bytes
        self._tokens: deque[Sampled] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def next(self) -> Sampled | None:
        """The next token; None at the end. Raises the error that ended the sampling."""
        while not self._tokens:
            if self._error:
                raise self._error
            if self._ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        token = self._tokens.popleft()
        self._unread -= _bytes_of(token)
        return token

    def deliver(self, update: "StepUpdate") -> None:
        """Called in the loop's thread."""
        if not self._ended:
            self._tokens.extend(update.tokens)
            self.count += len(update.tokens)
            self._unread += sum(map(_bytes_of, update.tokens))
            self.cached_tokens, self.written_tokens = update.cached_tokens, update.written_tokens
            self._error = update.error
            self._ended = update.ended
            if self._unread > UNREAD_BYTES and not self._ended:
                self._tokens.clear()
                self._ended, self._error = True, UnreadError(f"more than {UNREAD_BYTES >> 20} MiB were left unread")
        self._wake()
        if self._ended:
            self.on_end()

    def end(self) -> None:
        """End early: unread tokens are dropped."""
        self._tokens.clear()
        self._ended = True
        self._wake()
        self.on_end()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


class StepUpdate(NamedTuple):
    """The result of a step for one sampling."""

    queue: TokenQueue
    tokens: list[Sampled]
    cached_tokens: int
    ended: bool
    error: Exception | None = None
    written_tokens: int = 0


class Worker:
    """Owns the engine. A failed step ends the running answers. Later ones get a new engine."""

    def __init__(self, make_engine: Callable[[], TokenEngine]) -> None:
        self._make_engine = make_engine
        self._engine: TokenEngine | None = (engine := make_engine())  # None if no new one could be made
        self.cache_tokens = engine.cache_tokens
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: deque[tuple[TokenQueue, bool]] = deque()  # to begin (True) or to stop
        self._jobs: deque[Callable[[], None]] = deque()
        self._wakeup = threading.Event()
        self._active: set[TokenQueue] = set()
        self._closing = False
        self._failures = 0
        self._thread: threading.Thread | None = None

    @property
    def healthy(self) -> bool:
        return self._failures < FAILURES

    def stats(self) -> Stats:
        engine = self._engine
        return engine.stats() if engine else Stats(*[0] * len(Stats._fields))

    def start(self) -> None:
        """Start the thread, for the running event loop. Further calls do nothing."""
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name="ossia-engine", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread after its current step. Requests that still run end in StoppedError."""
        self._closing = True
        self._wakeup.set()
        if self._thread:
            self._thread.join()

    def begin(self, queue: TokenQueue) -> None:
        self._post(queue, True)

    def stop(self, queue: TokenQueue) -> None:
        """Stop a sampling. Its cache is freed before the next step."""
        self._post(queue, False)

    def call(self, work: Callable[[], T]) -> "Future[T]":
        """Run `work` between two steps: the kernels allow one caller at a time."""
        done: Future[T] = Future()
        self._jobs.append(lambda: _settle(done, work))
        self._wakeup.set()
        return done

    def warm(self, prompt: Sequence[int]) -> "Future[None]":
        """Generate one token to warm up."""

        def generate() -> None:
            engine = self._current()
            stream = engine.submit(prompt, SamplingParams(max_tokens=1), None)
            while not stream.ended:
                engine.step()
            stream.close()

        return self.call(generate)

    def _post(self, queue: TokenQueue, begin: bool) -> None:
        self._inbox.append((queue, begin))
        self._wakeup.set()

    def _run(self) -> None:
        while not self._closing:
            if not self._active:
                self._wait_for_work()
            self._wakeup.clear()
            while self._jobs:
                self._jobs.popleft()()
            updates = self._read_inbox()
            stepped = False
            if self._active:
                try:
                    stepped = self._current().step()
                    updates += [each for queue in self._active if (each := _update_of(queue))]
                    self._failures = 0 if stepped else self._failures
                except Exception as error:
                    updates += self._failed(error)
            self._active -= {each.queue for each in updates if each.ended}
            self._send(updates)
            if self._active and not stepped and not updates:
                self._wakeup.wait(IDLE_SECONDS)
        waiting = {queue for queue, begin in self._inbox if begin}
        self._send([StepUpdate(queue, [], 0, True, StoppedError()) for queue in self._active | waiting])

    def _wait_for_work(self) -> None:
        """Wait for work. After a pause, return the cache of past requests to the system."""
        if not self._wakeup.wait(RELEASE_SECONDS) and self._engine:
            try:
                self._engine.release_memory()
            except Exception:
                log.exception("the memory of free cache blocks could not be given back")
        self._wakeup.wait()

    def _current(self) -> TokenEngine:
        if self._engine is None:
            raise EngineError("there is no engine")
        return self._engine

    def _read_inbox(self) -> list[StepUpdate]:
        refused: list[StepUpdate] = []
        while self._inbox:
            queue, begin = self._inbox.popleft()
            if begin:
                try:
                    queue.stream = self._current().submit(queue.prompt, queue.params, queue.mask)
                    self._active.add(queue)
                except Exception as error:
                    refused.append(StepUpdate(queue, [], 0, True, error))
            elif queue.stream:
                queue.stream.close()
                self._active.discard(queue)
                queue.stream = None
        return refused

    def _failed(self, error: Exception) -> list[StepUpdate]:
        """The engine failed: end all running requests with an error, and make a new engine."""
        log.error("the engine failed, %d answers are lost", len(self._active), exc_info=error)
        self._failures += 1
        lost = [
            StepUpdate(queue, [], 0, True, EngineError("the engine failed: the server's log says why"))
            for queue in self._active
        ]
        for queue in self._active:
            queue.stream = None
        # free the old engine first: memory may not suffice for two
        self._engine = None
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        try:
            self._engine = self._make_engine()
        except Exception:
            log.exception("no new engine could be made")
            self._failures = FAILURES
        return lost

    def _send(self, updates: list[StepUpdate]) -> None:
        if updates and self._loop:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: there is no client left
                self._loop.call_soon_threadsafe(_deliver, updates)


def _update_of(queue: TokenQueue) -> StepUpdate | None:
    stream = queue.stream
    assert stream is not None, "an active sampling has a stream"
    ended = stream.ended
    try:
        tokens = stream.ready()
    except Exception as error:  # of this request only, such as a mask or a bias
        return StepUpdate(queue, [], 0, True, error)
    if ended and queue.params.prompt_logprobs is not None:
        queue.scores = stream.scores
    if not (tokens or ended):
        return None
    return StepUpdate(queue, tokens, stream.cached_tokens, ended, written_tokens=stream.written_tokens)


def _bytes_of(sampled: Sampled) -> int:
    """Approximate bytes in memory."""
    return TOKEN_BYTES + LIKELY_BYTES * len(sampled.top)


def _deliver(updates: list[StepUpdate]) -> None:
    for each in updates:
        each.queue.deliver(each)


def _settle(done: "Future[T]", work: Callable[[], T]) -> None:
    if done.set_running_or_notify_cancel():
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)
