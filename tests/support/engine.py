"""A scripted engine: what it says is written by the test. Everything around it is real.

In: turns of harmony text, in order or as a function of the prompt. Out: their tokens, one a step for each request.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from ossia.engine.engine import Stats
from ossia.engine.request import ContextError, Finish, Sampled, SamplingParams, TokenMask
from ossia.loading import Model
from ossia.model.config import ModelConfig
from ossia.tokenizer.tokenizer import Tokenizer
from tests.support.vocabularies import small

Turn = str | list[int]


@dataclass(eq=False)
class ScriptedEngine:
    """A `TokenEngine`, and an engine for `Chat`.

    turns: in order, or a function from the prompt's text. A mask is told of each token, but obeyed only with `obeys`: then
    a token that the grammar forbids is an error of that request. seconds: of a step. held: no step while set.
    fail: raised by step `fail_at`, and by those after it. cached, written: tokens that each request reports of its cache.
    strayed: tokens after which a mask had given up. closed: requests that were closed.
    """

    turns: list[str] | Callable[[str], Turn] = field(default_factory=list[str])
    tokenizer: Tokenizer = field(default_factory=small)
    obeys: bool = False
    seconds: float = 0.0
    held: bool = False
    fail: Exception | None = None
    fail_at: int = 1
    cached: int = 0
    written: int = 0
    cache_tokens: int = 3000
    context: int = 4000
    prompts: list[str] = field(default_factory=list)
    prompt_tokens: list[list[int]] = field(default_factory=list)
    params: list[SamplingParams] = field(default_factory=list)
    masks: list[TokenMask | None] = field(default_factory=list)
    requests: list["ScriptedRequest"] = field(default_factory=list)  # those that are not closed
    closed: int = 0
    strayed: int = 0
    steps: int = 0
    output_tokens: int = 0

    def submit(self, prompt: Sequence[int], params: SamplingParams, mask: TokenMask | None = None) -> "ScriptedRequest":
        if len(prompt) > self.context:
            raise ContextError("too long")
        self.prompts.append(self.tokenizer.decode(prompt))
        self.prompt_tokens.append(list(prompt))
        self.params.append(params)
        self.masks.append(mask)
        request = ScriptedRequest(self, self.next_turn(prompt), params, mask)
        self.requests.append(request)
        return request

    def next_turn(self, prompt: Sequence[int]) -> list[int]:
        turn = self.turns(self.prompts[-1]) if callable(self.turns) else self.turns.pop(0)
        return self.tokenizer.encode_with_special(turn) if isinstance(turn, str) else turn

    def step(self) -> bool:
        running = [request for request in self.requests if not request.ended]
        if self.held or not (running or self.fail):
            return False
        time.sleep(self.seconds)
        self.steps += 1
        if self.fail and self.steps >= self.fail_at:
            raise self.fail
        for request in running:
            request.advance()
        return bool(running)

    def release_memory(self) -> None:
        pass

    def stats(self) -> Stats:
        running = sum(not request.ended for request in self.requests)
        return Stats(self.steps, 0, self.output_tokens, 0, 0, 0, 0, running, 0, 1, 1, 0, 0)


class ScriptedRequest:
    """One turn that is being said. Cut at `max_tokens`, or without a stop token at its end, its finish is "length"."""

    def __init__(
        self, engine: ScriptedEngine, tokens: list[int], params: SamplingParams, mask: TokenMask | None
    ) -> None:
        self.engine, self.params, self.mask = engine, params, mask
        self.tokens = tokens[: params.max_tokens]
        stops = {engine.tokenizer.special["<|return|>"], engine.tokenizer.special["<|call|>"]}
        self.finish: Finish = "stop" if self.tokens and self.tokens == tokens and tokens[-1] in stops else "length"
        self.scores: list[Sampled] = []
        self.error: ValueError | None = None
        self.said = 0
        self._unread: list[Sampled] = []

    @property
    def cached_tokens(self) -> int:
        return self.engine.cached

    @property
    def written_tokens(self) -> int:
        return self.engine.written

    @property
    def ended(self) -> bool:
        return self.error is not None or self.said == len(self.tokens)

    def advance(self) -> None:
        token = self.tokens[self.said]
        if self.mask:
            if self.engine.obeys and not self._allows(token):
                return
            self.mask.accept(token)
            self.engine.strayed += bool(getattr(self.mask, "strayed", False))
        self.said += 1
        self.engine.output_tokens += 1
        top = ((token, -0.5), (65, -1.5))
        self._unread.append(Sampled(token, -0.5, top, self.finish if self.ended else None))

    def _allows(self, token: int) -> bool:
        allowed = self.mask.mask() if self.mask else None
        if allowed is None or allowed[token // 8] >> token % 8 & 1:
            return True
        decode = self.engine.tokenizer.decode
        before = decode(self.tokens[max(0, self.said - 20) : self.said])
        self.error = ValueError(f"{decode([token])!r} is not allowed after {before!r}")
        return False

    def ready(self) -> list[Sampled]:
        if self.error:
            raise self.error
        taken, self._unread = self._unread, []
        return taken

    def __iter__(self) -> Iterator[Sampled]:
        """As the engine's own requests: whoever reads steps the engine."""
        while not self.ended:
            self.engine.step()
            yield from self.ready()
        yield from self.ready()

    def close(self) -> None:
        self.engine.closed += 1
        if self in self.engine.requests:
            self.engine.requests.remove(self)


@dataclass(frozen=True)
class ScriptedModel(Model):
    """A model without weights. `scripted`: the engine that it makes."""

    scripted: Any = None

    def engine(self) -> Any:
        return self.scripted


def scripted_model(
    tokenizer: Tokenizer | None = None, name: str = "script", context: int = 4000, engine: Any = None
) -> ScriptedModel:
    tokenizer = tokenizer or small()
    stops = frozenset(tokenizer.special[each] for each in ("<|return|>", "<|call|>", "<|endoftext|>"))
    ids = {"eos_token": None, "pad_token": None}
    config = replace(
        ModelConfig.preset("gpt-oss-20b"),
        vocab=tokenizer.size,
        max_context=context,
        initial_context=min(context, 4096),
        **ids,
    )
    transformer: Any = SimpleNamespace(config=config)
    return ScriptedModel(name, transformer, tokenizer, stops, scripted=engine)
