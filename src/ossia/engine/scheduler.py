"""Who runs in the next step: decoders first, then chunks of prompts, within one budget of tokens and the free blocks.

In: requests as they come and are cancelled; sampled tokens. Out: a plan a step.
It does not know arrays, logits or how a token is chosen.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from ossia.engine.blocks import BlockPool, blocks_for
from ossia.engine.request import Finish, Sampled, SamplingParams, TokenMask


@dataclass(eq=False, slots=True)
class Request:
    """Facts of one request; what it still needs is derived from them. `limit`: prompt and output together."""

    prompt: list[int]
    params: SamplingParams
    mask: TokenMask | None
    seed: int
    limit: int
    output: list[int] = field(default_factory=list)
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    sampled: deque[Sampled] = field(default_factory=deque)  # not yet taken by whoever asked
    done: bool = False
    error: Exception | None = None  # what ended it, when that was neither the model nor its reader

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.output)

    @property
    def pending(self) -> int:
        """Tokens whose keys and values are not in the cache yet."""
        return self.length - self.computed

    def tokens(self, first: int, count: int) -> list[int]:
        return (
            (self.prompt + self.output)[first : first + count]
            if first < len(self.prompt)
            else (self.output[first - len(self.prompt) :][:count])
        )

    def finish_with(self, token: int) -> Finish | None:
        """Whether this token, the next of the output, is the last, and why."""
        if token in self.params.stop_tokens:
            return "stop"
        spent = self.params.max_tokens is not None and len(self.output) + 1 >= self.params.max_tokens
        return "length" if spent or self.length + 1 >= self.limit else None


class Chunk(NamedTuple):
    """Tokens first..first+size of a request, to be computed in this step."""

    request: Request
    first: int
    size: int

    @property
    def samples(self) -> bool:
        """Whether the chunk ends at the newest token, so that the next one can be sampled."""
        return self.first + self.size == self.request.length


class Scheduler:
    """Running requests are in the order of their admission; a preempted one waits at the front."""

    def __init__(self, pool: BlockPool, step_tokens: int) -> None:
        self.pool, self.step_tokens = pool, step_tokens
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def cancel(self, request: Request) -> None:
        """Forget a request and free its blocks at once; harmless when it has ended."""
        if request in self.running:
            self.running.remove(request)
        if request in self.waiting:
            self.waiting.remove(request)
        self._release(request)
        request.done = True

    def plan(self) -> list[Chunk]:
        """The next step's chunks; empty when nobody has anything to compute."""
        budget, chunks = self.step_tokens, []
        for request in sorted(self.running, key=lambda each: each.pending > 1):
            if budget and request in self.running:  # an earlier one may have preempted it
                chunk = self._chunk(request, budget)
                chunks += [chunk] if chunk else []
                budget -= chunk.size if chunk else 0
        while budget and self.waiting and self._fits(self.waiting[0]):
            request = self.waiting.popleft()
            self.running.append(request)
            chunk = self._chunk(request, budget)
            assert chunk is not None, "its blocks were counted before"
            chunks.append(chunk)
            budget -= chunk.size
        return [chunk for chunk in chunks if chunk.request in self.running]

    def commit(self, chunk: Chunk, sampled: Sampled | None) -> None:
        """The chunk is computed; `sampled` is its next token, when it reached the end."""
        request = chunk.request
        if request.done:  # cancelled while the model computed
            return
        request.computed = chunk.first + chunk.size
        if sampled:
            request.output.append(sampled.token)
            request.sampled.append(sampled)
        if request.error or (sampled and sampled.finish):
            self.cancel(request)

    def _chunk(self, request: Request, budget: int) -> Chunk | None:
        """As much of the request as the budget allows, its blocks taken; None when it had to give way itself."""
        count = min(request.pending, budget)
        needed = blocks_for(request.computed + count) - len(request.blocks)
        while needed > self.pool.free:
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is request:
                return None
        request.blocks += self.pool.take(needed)
        return Chunk(request, request.computed, count)

    def _fits(self, request: Request) -> bool:
        """Whether all of it finds room beside what those already running still have to compute."""
        promised = sum(blocks_for(each.length) - len(each.blocks) for each in self.running)
        return blocks_for(request.length) + promised <= self.pool.free

    def _preempt(self, request: Request) -> None:
        """Give up its cache; what it has said is kept, and computed again when there is room."""
        self.running.remove(request)
        self._release(request)
        request.computed = 0
        self.waiting.appendleft(request)

    def _release(self, request: Request) -> None:
        self.pool.give_back(request.blocks)
        request.blocks = []
