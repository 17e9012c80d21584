"""The thread that steps the engine while anyone waits, and the hand-over of its tokens to the event loop.

In: samplings to begin and to stop. Out: `TokenQueue`s that fill with tokens, all of a step's in one call into the loop.
It does not know who asked, why, or what the tokens say.
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
RELEASE_SECONDS = 5.0  # without a request, before the engine gives memory back
IDLE_SECONDS = 0.02  # between looks at an engine that has requests, but nothing to do for them
UNREAD_BYTES = 8 << 20  # of one sampling's tokens that its reader has not taken
TOKEN_BYTES, LIKELY_BYTES = 150, 120  # of a token in memory, and of each likely token beside it
FAILURES = 3  # steps in a row that may fail, each with a fresh engine, before the server calls itself unhealthy


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
    """What the server needs of an engine: `ossia.engine.engine.Engine` is one. One thread alone calls it."""

    @property
    def cache_tokens(self) -> int: ...
    def submit(self, prompt: Sequence[int], params: SamplingParams, mask: TokenMask | None) -> TokenStream: ...
    def step(self) -> bool: ...
    def release_memory(self) -> None: ...
    def stats(self) -> Stats: ...


class EngineError(RuntimeError):
    """The engine failed in the middle of an answer: that answer is lost, the server may go on."""


class StoppedError(EngineError):
    """The worker was closed."""


class UnreadError(EngineError):
    """The reader left more tokens unread than are kept."""


class TokenQueue:
    """One sampling as the event loop sees it: tokens as they come, its end, or what ended it.

    `on_end` is called in the loop's thread when the sampling is over, whether or not its tokens are read. `count`: tokens
    sampled so far. `scores`: of the prompt, where its parameters ask for them.
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
        """The next token, None at the end. Raises what ended it, when that was a failure."""
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

    def deliver(self, news: "StepUpdate") -> None:
        """Called in the loop's thread."""
        if not self._ended:
            self._tokens.extend(news.tokens)
            self.count += len(news.tokens)
            self._unread += sum(map(_bytes_of, news.tokens))
            self.cached_tokens, self.written_tokens = news.cached_tokens, news.written_tokens
            self._error = news.error
            self._ended = news.ended
            if self._unread > UNREAD_BYTES and not self._ended:
                self._tokens.clear()
                self._ended, self._error = True, UnreadError(f"more than {UNREAD_BYTES >> 20} MiB were left unread")
        self._wake()
        if self._ended:
            self.on_end()

    def cut(self) -> None:
        """No more tokens are wanted: what was read so far is all."""
        self._tokens.clear()
        self._ended = True
        self._wake()
        self.on_end()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


class StepUpdate(NamedTuple):
    """What a step brought for one feed."""

    feed: TokenQueue
    tokens: list[Sampled]
    cached_tokens: int
    ended: bool
    error: Exception | None = None
    written_tokens: int = 0


class Worker:
    """Owns the engine. A step that fails ends the answers under way; the next ones get a fresh engine."""

    def __init__(self, make_engine: Callable[[], TokenEngine], heard: Callable[[int], None] = lambda _: None) -> None:
        self._make_engine, self._heard = make_engine, heard
        self._engine: TokenEngine | None = (engine := make_engine())  # None while, or where, no fresh one can be made
        self.cache_tokens = engine.cache_tokens
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: deque[tuple[TokenQueue, bool]] = deque()  # to begin (True) or to stop
        self._jobs: deque[Callable[[], None]] = deque()
        self._called = threading.Event()
        self._live: set[TokenQueue] = set()
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
        """Begin to serve the running loop. Once a worker."""
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name="ossia-engine", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread after its current step. Requests that still run end in StoppedError."""
        self._closing = True
        self._called.set()
        if self._thread:
            self._thread.join()

    def begin(self, feed: TokenQueue) -> None:
        self._tell(feed, True)

    def stop(self, feed: TokenQueue) -> None:
        """Its cache is free before the next step."""
        self._tell(feed, False)

    def call(self, work: Callable[[], T]) -> "Future[T]":
        """Do something with the model between two steps: its kernels want one caller at a time."""
        done: Future[T] = Future()
        self._jobs.append(lambda: _settle(done, work))
        self._called.set()
        return done

    def warm(self, prompt: Sequence[int]) -> "Future[None]":
        """Generate one token to warm up."""

        def say() -> None:
            engine = self._current()
            stream = engine.submit(prompt, SamplingParams(max_tokens=1), None)
            while not stream.ended:
                engine.step()
            stream.close()

        return self.call(say)

    def _tell(self, feed: TokenQueue, begin: bool) -> None:
        self._inbox.append((feed, begin))
        self._called.set()

    def _run(self) -> None:
        while not self._closing:
            if not self._live:
                self._rest()
            self._called.clear()
            while self._jobs:
                self._jobs.popleft()()
            news = self._read_inbox()
            stepped = False
            if self._live:
                try:
                    stepped = self._current().step()
                    news += [each for feed in self._live if (each := _news(feed))]
                    self._failures = 0 if stepped else self._failures
                except Exception as error:
                    news += self._failed(error)
            self._live -= {each.feed for each in news if each.ended}
            self._send(news)
            if self._live and not stepped and not news:
                self._called.wait(IDLE_SECONDS)
        waiting = {feed for feed, begin in self._inbox if begin}
        self._send([StepUpdate(feed, [], 0, True, StoppedError()) for feed in self._live | waiting])

    def _rest(self) -> None:
        """Wait for something to do. A pause gives the cache of past requests back to the system."""
        if not self._called.wait(RELEASE_SECONDS) and self._engine:
            try:
                self._engine.release_memory()
            except Exception:
                log.exception("the memory of free cache blocks could not be given back")
        self._called.wait()

    def _current(self) -> TokenEngine:
        if self._engine is None:
            raise EngineError("there is no engine")
        return self._engine

    def _read_inbox(self) -> list[StepUpdate]:
        refused: list[StepUpdate] = []
        while self._inbox:
            feed, begin = self._inbox.popleft()
            if begin:
                try:
                    feed.stream = self._current().submit(feed.prompt, feed.params, feed.mask)
                    self._live.add(feed)
                except Exception as error:
                    refused.append(StepUpdate(feed, [], 0, True, error))
            elif feed.stream:
                feed.stream.close()
                self._live.discard(feed)
                feed.stream = None
        return refused

    def _failed(self, error: Exception) -> list[StepUpdate]:
        """The engine failed: end all running requests with an error, and make a new engine."""
        log.error("the engine failed, %d answers are lost", len(self._live), exc_info=error)
        self._failures += 1
        lost = [
            StepUpdate(feed, [], 0, True, EngineError("the engine failed: the server's log says why"))
            for feed in self._live
        ]
        for feed in self._live:
            feed.stream = None
        # the old one's memory first: there may be none for two
        self._engine = None
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        try:
            self._engine = self._make_engine()
        except Exception:
            log.exception("no fresh engine could be made")
            self._failures = FAILURES
        return lost

    def _send(self, news: list[StepUpdate]) -> None:
        if news and self._loop:
            self._heard(sum(len(each.tokens) for each in news))
            with contextlib.suppress(RuntimeError):  # the event loop is closed: there is no client left
                self._loop.call_soon_threadsafe(_deliver, news)


def _news(feed: TokenQueue) -> StepUpdate | None:
    stream = feed.stream
    assert stream is not None, "a live feed has a stream"
    ended = stream.ended
    try:
        tokens = stream.ready()
    except Exception as error:  # of this request alone: a mask, a bias
        return StepUpdate(feed, [], 0, True, error)
    if ended and feed.params.prompt_logprobs is not None:
        feed.scores = stream.scores
    if not (tokens or ended):
        return None
    return StepUpdate(feed, tokens, stream.cached_tokens, ended, written_tokens=stream.written_tokens)


def _bytes_of(sampled: Sampled) -> int:
    """In memory, about."""
    return TOKEN_BYTES + LIKELY_BYTES * len(sampled.top)


def _deliver(news: list[StepUpdate]) -> None:
    for each in news:
        each.feed.deliver(each)


def _settle(done: "Future[T]", work: Callable[[], T]) -> None:
    if done.set_running_or_notify_cancel():
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)
