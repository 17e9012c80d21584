"""Who runs in the next step: decoders first, then chunks of prompts, within one budget of tokens and the free blocks.

In: requests as they come and are cancelled; sampled tokens. Out: a plan a step.
It does not know arrays of numbers, logits or how a token is chosen.
"""

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ossia.engine.cache import Found, Holding, PagedCache
from ossia.engine.penalties import Penalties
from ossia.engine.request import Finish, Sampled, SamplingParams, TokenMask
from ossia.engine.speculative import FEW, MOST, Speculation, StepTimes
from ossia.kernels.ops import BLOCK

SCORED_ROWS, SCORED_LOGITS = 256, 8 << 20  # scored in one step, over all requests: each row takes a row of logits


@dataclass(eq=False, slots=True)
class Request:
    """Facts of one request; what it still needs is derived from them. `limit`: prompt and output together."""

    tokens: "array[int]"  # the prompt, then what was said
    params: SamplingParams
    mask: TokenMask | None
    seed: int
    limit: int
    prompt_length: int = field(init=False)
    penalties: Penalties | None = field(init=False)
    computed: int = 0
    held: Holding = field(default_factory=Holding)
    cached: int | None = None  # tokens of the prompt that the cache held when it was first admitted
    reusable: int = 0  # tokens of the prompt that the cache keeps for an equal one, once all of it is computed
    speculation: Speculation | None = None
    sampled: deque[Sampled] = field(default_factory=deque)  # not yet taken by whoever asked
    done: bool = False
    error: Exception | None = None  # what ended it, when that was neither the model nor its reader
    scores: list[Sampled] = field(default_factory=list)  # of the prompt's tokens from the second on

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
        """Whether log-probabilities of the prompt's tokens are still missing."""
        return self.params.prompt_logprobs is not None and len(self.scores) < self.prompt_length - 1

    @property
    def left(self) -> int:
        """Tokens that it may still say."""
        room, most = self.limit - self.length, self.params.max_tokens
        return room if most is None else min(room, most - self.output_length)

    def finish_with(self, token: int, ahead: int) -> Finish | None:
        """Whether this token is the last, and why, when it comes behind `ahead` others that are not noted yet."""
        if token in self.params.stop_tokens:
            return "stop"
        return "length" if ahead + 1 >= self.left else None


class Chunk(NamedTuple):
    """Tokens first..first+size of a request, to be computed in this step, and guesses that may come behind them."""

    request: Request
    first: int
    size: int
    draft: tuple[int, ...] = ()
    scores: bool = False  # the logits of every row are wanted

    @property
    def logit_rows(self) -> int:
        """Rows of logits: of each scored token, or of the newest token and the guesses after it."""
        return self.size if self.scores else 1 + len(self.draft) if self.samples else 0

    @property
    def samples(self) -> bool:
        """Whether the chunk ends at the newest token, so that the next ones can be sampled."""
        return self.first + self.size == self.request.length

    @property
    def rows(self) -> int:
        return self.size + len(self.draft)


class Scheduler:
    """Running requests are in the order of their admission, at most `most` of them; a preempted one waits at the front."""

    def __init__(
        self, cache: PagedCache, step_tokens: int, speculate: bool, most: int | None = None, score_rows: int = 32
    ) -> None:
        self.cache, self.step_tokens, self.speculate, self.most = cache, step_tokens, speculate, most
        self.waiting: deque[Request] = deque()
        self.running: dict[Request, None] = {}
        self.times = StepTimes()
        self.score_rows = score_rows
        self._score_rows = 0  # that this step's plan has left
        self.cached_tokens = self.drafted_tokens = self.accepted_tokens = self.preemptions = 0

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def cancel(self, request: Request) -> None:
        """Forget a request and free its blocks at once; harmless when it has ended."""
        self.running.pop(request, None)
        if request in self.waiting:
            self.waiting.remove(request)
        self.cache.release(request.held)
        request.done = True

    def plan(self) -> list[Chunk]:
        """The next step's chunks; empty when nobody has anything to compute."""
        budget, chunks, before = self.step_tokens, [], self.preemptions
        self._score_rows = self.score_rows
        for request in sorted(self.running, key=lambda each: each.pending > 1):
            if budget and request in self.running:  # an earlier one may have preempted it
                chunk = self._chunk(request, budget)
                chunks += [chunk] if chunk else []
                budget -= chunk.size if chunk else 0
        # whoever just gave way must not come back in the same plan: it may have a chunk there
        while budget and self.preemptions == before and (request := self._first()) and self._admit(request):
            self.waiting.remove(request)
            chunk = self._chunk(request, budget)
            assert chunk is not None, "its blocks were counted before"
            chunks.append(chunk)
            budget -= chunk.size
        chunks = [chunk for chunk in chunks if chunk.request in self.running]
        return self._drafted(chunks, budget) if self.speculate else chunks

    def commit(self, chunk: Chunk, taken: Sequence[Sampled]) -> None:
        """The chunk is computed; `taken` are the tokens that follow it, when it reached the end: the last one is new."""
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
            if request.reusable:  # letting go of its own blocks may have pushed some out
                request.reusable = self.cache.reusable(request.held, request.prompt_length)

    def _chunk(self, request: Request, budget: int) -> Chunk | None:
        """As much of the request as budget and free blocks allow; None when it had to give way itself, or when other
        prompts are scored in this step.
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
        """The next one to admit: prompts to score that this step has no rows left for hold up no other request."""
        return next((each for each in self.waiting if self._score_rows or not each.scoring), None)

    def _admit(self, request: Request) -> bool:
        """Let a request run if all of it finds room beside what those already running still have to compute."""
        if self.most is not None and len(self.running) >= self.most:
            return False
        found = self.cache.find(request.held, request.tokens)
        if request.scoring:  # its rows are wanted, though the cache may hold their keys and values
            found = Found(0, found.branch)
        others = [(each.held, each.length) for each in self.running]
        waits = not request.scoring and self._is_coming(request, found)
        if waits or not self.cache.fits(request.held, request.length, found.hit, others):
            return False
        self.cache.attach(request.held, found, request.prompt_length)
        request.computed = found.hit * BLOCK
        self.running[request] = None
        if request.cached is None:
            request.cached = request.computed
            self.cached_tokens += request.cached
        return True

    def _is_coming(self, request: Request, found: Found) -> bool:
        """Whether a running request is about to compute more of this one's prompt than is in the cache now."""
        keys = request.held.keys
        coming = ((other.held.keys, mark) for other in self.running for mark in other.held.marks)
        return any(found.hit < mark <= len(keys) and keys[mark - 1] == others[mark - 1] for others, mark in coming)

    def _drafted(self, chunks: list[Chunk], budget: int) -> list[Chunk]:
        """The chunks with guesses behind those that decode, in what is left of the budget; nobody gives way for them."""
        decoding = [
            place for place, chunk in enumerate(chunks) if chunk.size == 1 and chunk.samples and not chunk.scores
        ]
        rows = len(decoding)
        for place in decoding if rows <= FEW else []:
            chunk = chunks[place]
            request = chunk.request
            most = min(MOST, budget, request.left - 1, self.cache.room(request.held) - request.length)
            request.speculation = request.speculation or Speculation()
            draft = request.speculation.draft(request.tokens, most, rows, self.times)
            self.cache.reserve(request.held, request.length + len(draft))
            chunks[place] = chunk._replace(draft=draft)
            budget -= len(draft)
            rows += len(draft)
        return chunks

    def _preempt(self, request: Request) -> None:
        """Give up its blocks; what it has said is kept, and computed again when there is room, but for what is cached."""
        del self.running[request]
        self.cache.release(request.held)
        request.computed = 0
        self.preemptions += 1
        self.waiting.appendleft(request)
