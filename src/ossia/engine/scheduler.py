"""Decides which requests run in the next step: decodes first, then prompt chunks, within a token budget and the free
blocks.

In: new and cancelled requests; sampled tokens. Out: one list of chunks per step.
"""

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ossia.engine.cache import PagedCache, PrefixMatch, SequenceCache
from ossia.engine.penalties import Penalties
from ossia.engine.request import Finish, Sampled, SamplingParams, TokenMask
from ossia.engine.speculative import MAX_DRAFT_TOKENS, MAX_DRAFTING_REQUESTS, Speculation, StepTimes
from ossia.kernels.ops import BLOCK

SCORED_ROWS, SCORED_LOGITS = 256, 8 << 20  # limits of prompt scoring in one step, over all requests


@dataclass(eq=False, slots=True)
class Request:
    """The state of one request. limit: maximum tokens of prompt and output together."""

    tokens: "array[int]"  # the prompt, then the output
    params: SamplingParams
    mask: TokenMask | None
    seed: int
    limit: int
    prompt_length: int = field(init=False)
    penalties: Penalties | None = field(init=False)
    computed: int = 0
    held: SequenceCache = field(default_factory=SequenceCache)
    cached: int | None = None  # prompt tokens found in the cache at the first admission
    reusable: int = 0  # prompt tokens that an equal prompt would find in the cache
    speculation: Speculation | None = None
    sampled: deque[Sampled] = field(default_factory=deque)  # unread tokens
    done: bool = False
    error: Exception | None = None  # the request's own error that ended it, such as an empty mask
    scores: list[Sampled] = field(default_factory=list)  # the prompt's tokens from the second on

    def __post_init__(self) -> None:
        self.prompt_length = len(self.tokens)
        self.penalties = Penalties(self.params, self.tokens) if self.params.penalizes else None

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def output_length(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def pending(self) -> int:
        """Tokens whose keys and values are not in the cache yet."""
        return len(self.tokens) - self.computed

    @property
    def scoring(self) -> bool:
        """Whether log-probabilities of prompt tokens are still missing."""
        return self.params.prompt_logprobs is not None and len(self.scores) < self.prompt_length - 1

    @property
    def left(self) -> int:
        """Tokens that it may still sample."""
        room, max_tokens = self.limit - self.length, self.params.max_tokens
        return room if max_tokens is None else min(room, max_tokens - self.output_length)

    def finish_with(self, token: int, uncommitted: int) -> Finish | None:
        """The finish reason if this token is the last one, else None. uncommitted: tokens before it in this step."""
        if token in self.params.stop_tokens:
            return "stop"
        return "length" if uncommitted + 1 >= self.left else None


class Chunk(NamedTuple):
    """Tokens first..first+size of a request, computed in this step, plus draft tokens after them."""

    request: Request
    first: int
    size: int
    draft: tuple[int, ...] = ()
    scores: bool = False  # compute the logits of every row

    @property
    def logit_rows(self) -> int:
        """Rows of logits: one for each scored token, or for the newest token and each draft token."""
        return self.size if self.scores else 1 + len(self.draft) if self.samples else 0

    @property
    def samples(self) -> bool:
        """Whether the chunk ends at the newest token, so that the next one can be sampled."""
        return self.first + self.size == self.request.length

    @property
    def rows(self) -> int:
        return self.size + len(self.draft)


class Scheduler:
    """Running requests, in the order of their admission, at most `max_num_seqs`; and waiting ones. A preempted one
    waits first.
    """

    def __init__(
        self,
        cache: PagedCache,
        max_batched_tokens: int,
        speculate: bool,
        max_num_seqs: int | None = None,
        score_rows: int = 32,
    ) -> None:
        self.cache, self.max_batched_tokens, self.speculate = cache, max_batched_tokens, speculate
        self.max_num_seqs = max_num_seqs
        self.waiting: deque[Request] = deque()
        self.running: dict[Request, None] = {}
        self.times = StepTimes()
        self.score_rows = score_rows
        self._score_rows = 0  # score rows left in this step
        self.cached_tokens = self.drafted_tokens = self.accepted_tokens = self.preemptions = 0

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def cancel(self, request: Request) -> None:
        """Drop a request and free its blocks at once. No effect after its end."""
        self.running.pop(request, None)
        if request in self.waiting:
            self.waiting.remove(request)
        self.cache.release(request.held)
        request.done = True

    def plan(self) -> list[Chunk]:
        """The next step's chunks; empty if no request has anything to compute."""
        budget, chunks, before = self.max_batched_tokens, [], self.preemptions
        self._score_rows = self.score_rows
        for request in sorted(self.running, key=lambda each: each.pending > 1):
            if budget and request in self.running:  # an earlier request may have preempted it
                chunk = self._chunk(request, budget)
                chunks += [chunk] if chunk else []
                budget -= chunk.size if chunk else 0
        # a request preempted in this plan must not be admitted again: it may have a chunk in it
        while budget and self.preemptions == before and (request := self._first()) and self._admit(request):
            self.waiting.remove(request)
            chunk = self._chunk(request, budget)
            assert chunk is not None, "admission checked that its blocks are free"
            chunks.append(chunk)
            budget -= chunk.size
        chunks = [chunk for chunk in chunks if chunk.request in self.running]
        return self._with_drafts(chunks, budget) if self.speculate else chunks

    def commit(self, chunk: Chunk, taken: Sequence[Sampled]) -> None:
        """Record that the chunk is computed. taken: the sampled tokens after it, if it reached the request's end."""
        request = chunk.request
        if request.done:  # cancelled while the model computed
            return
        request.tokens.extend(sampled.token for sampled in taken)
        request.sampled.extend(taken)
        request.computed = chunk.first + chunk.size + max(0, len(taken) - 1)
        if request.speculation:
            request.speculation.learn([sampled.token for sampled in taken])
        self.drafted_tokens += len(chunk.draft)
        self.accepted_tokens += max(0, len(taken) - 1)
        self.cache.advance(request.held, request.tokens, request.computed)
        if taken and request.output_length == len(taken):
            request.reusable = self.cache.reusable(request.held, request.prompt_length)
        if request.error or (taken and taken[-1].finish):
            self.cancel(request)
            if request.reusable:  # freeing the request's blocks may have evicted some
                request.reusable = self.cache.reusable(request.held, request.prompt_length)

    def _chunk(self, request: Request, budget: int) -> Chunk | None:
        """As much of the request as budget and free blocks allow. None if it was preempted, or must wait for score
        rows.
        """
        if request.scoring:
            budget = min(budget, self._score_rows)
            if not budget:
                return None
        while (room := self.cache.room(request.held) - request.computed) < 1:
            youngest = next(reversed(self.running))
            self._preempt(youngest)
            if youngest is request:
                return None
        count = min(request.pending, budget, room)
        self.cache.reserve(request.held, request.computed + count)
        self._score_rows -= count if request.scoring else 0
        return Chunk(request, request.computed, count, scores=request.scoring)

    def _first(self) -> Request | None:
        """The next request to admit. One that waits for score rows does not block the others."""
        return next((each for each in self.waiting if self._score_rows or not each.scoring), None)

    def _admit(self, request: Request) -> bool:
        """Start a request if all of it fits beside the remaining needs of the running requests."""
        if self.max_num_seqs is not None and len(self.running) >= self.max_num_seqs:
            return False
        found = self.cache.find(request.held, request.tokens)
        if request.scoring:  # its rows must be computed, even if the cache holds their keys and values
            found = PrefixMatch(0, found.branch)
        others = [(each.held, each.length) for each in self.running]
        waits = not request.scoring and self._is_being_computed(request, found)
        if waits or not self.cache.fits(request.held, request.length, found.hit, others):
            return False
        self.cache.attach(request.held, found, request.prompt_length)
        request.computed = found.hit * BLOCK
        self.running[request] = None
        if request.cached is None:
            request.cached = request.computed
            self.cached_tokens += request.cached
        return True

    def _is_being_computed(self, request: Request, found: PrefixMatch) -> bool:
        """Whether a running request is about to compute more of this prompt than the cache holds now."""
        keys = request.held.keys
        coming = ((other.held.keys, mark) for other in self.running for mark in other.held.marks)
        return any(found.hit < mark <= len(keys) and keys[mark - 1] == others[mark - 1] for others, mark in coming)

    def _with_drafts(self, chunks: list[Chunk], budget: int) -> list[Chunk]:
        """The chunks with draft tokens after decodes, in the rest of the budget. Drafts never preempt a request."""
        decoding = [
            index for index, chunk in enumerate(chunks) if chunk.size == 1 and chunk.samples and not chunk.scores
        ]
        rows = len(decoding)
        for index in decoding if rows <= MAX_DRAFTING_REQUESTS else []:
            chunk = chunks[index]
            request = chunk.request
            max_draft = min(MAX_DRAFT_TOKENS, budget, request.left - 1, self.cache.room(request.held) - request.length)
            request.speculation = request.speculation or Speculation()
            draft = request.speculation.draft(request.tokens, max_draft, rows, self.times)
            self.cache.reserve(request.held, request.length + len(draft))
            chunks[index] = chunk._replace(draft=draft)
            budget -= len(draft)
            rows += len(draft)
        return chunks

    def _preempt(self, request: Request) -> None:
        """Free a request's blocks. Its tokens are kept; it is computed again when it fits, except for cached blocks."""
        del self.running[request]
        self.cache.release(request.held)
        request.computed = 0
        self.preemptions += 1
        self.waiting.appendleft(request)
