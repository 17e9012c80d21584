"""What the engine is asked and what it answers: values only.

In: token ids with sampling parameters. Out: sampled tokens with their log-probabilities.
It does not know text, messages or channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal, NamedTuple, Protocol

Finish = Literal["stop", "length"]


class ContextError(ValueError):
    """The prompt, with the answer asked for, does not fit the model's context."""


class DamagedModelError(ValueError):
    """The model computed what is no number: its weights are damaged, and no request is at fault."""


class TokenMask(Protocol):
    """Which tokens may come next. The engine calls `mask`, samples, then `accept`s what it sampled.

    `mask` gives one bit a token, little-endian, ceil(V/8) bytes or more; None allows every token and costs nothing.
    """

    def mask(self) -> bytes | None: ...
    def accept(self, token: int) -> None: ...


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens. The defaults are the model's own: temperature 1, nothing cut off.

    temperature 0 is greedy. top_k 0, top_p 1 and min_p 0 cut nothing. logprobs: None for none, n for the n likeliest
    tokens beside the sampled one. max_tokens None: to the end of the context. prompt_logprobs: the same for the prompt's
    own tokens; such a prompt is computed anew, whatever the cache holds.

    repetition_penalty, over prompt and output, and frequency_penalty and presence_penalty, over the output, are vLLM's and
    OpenAI's. min_tokens: no stop token is sampled before this many tokens, unless the mask leaves nothing else.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    stop_tokens: frozenset[int] = frozenset()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    min_tokens: int = 0

    @property
    def penalizes(self) -> bool:
        """Whether the tokens so far change what comes next."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0

    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        checks = {
            "temperature": 0.0 <= self.temperature <= 100.0,
            "top_p": 0.0 < self.top_p <= 1.0,
            "top_k": self.top_k >= 0,
            "min_p": 0.0 <= self.min_p <= 1.0,
            "max_tokens": self.max_tokens is None or self.max_tokens >= 1,
            "logit_bias": all(bias < inf for bias in self.logit_bias.values()),  # -inf forbids a token
            "repetition_penalty": 0.01 <= self.repetition_penalty <= 100.0,
            "frequency_penalty": -100.0 <= self.frequency_penalty <= 100.0,
            "presence_penalty": -100.0 <= self.presence_penalty <= 100.0,
            "min_tokens": self.min_tokens >= 0,
            "logprobs": self.logprobs is None or self.logprobs >= 0,
            "prompt_logprobs": self.prompt_logprobs is None or self.prompt_logprobs >= 0,
        }
        if bad := [name for name, good in checks.items() if not good]:
            values = ", ".join(f"{name}={getattr(self, name)!r}" for name in bad)
            raise ValueError(f"sampling parameters out of range: {values}")


class Sampled(NamedTuple):
    """One token of an answer. `logprob` is under the model's own distribution, before penalties, temperature and cuts.

    `top` holds the likeliest tokens with their log-probabilities, when asked for; `finish` is set on the last token.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    finish: Finish | None = None
