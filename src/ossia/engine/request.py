"""The engine's inputs and outputs as plain values.

In: token ids and sampling parameters. Out: sampled tokens with log-probabilities.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal, NamedTuple, Protocol

Finish = Literal["stop", "length"]


class ContextError(ValueError):
    """The prompt, with the requested output, does not fit the model's context."""


class DamagedModelError(ValueError):
    """The model computed NaN or infinity. Its weights are damaged; the request is not at fault."""


class TokenMask(Protocol):
    """Which tokens may come next. The engine calls `mask`, samples, and then calls `accept` with the sampled token.

    `mask` returns one bit per token, little-endian, at least ceil(V/8) bytes; None allows every token.
    """

    def mask(self) -> bytes | None: ...
    def accept(self, token: int) -> None: ...


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens. Defaults are the model's own: temperature 1, no filters.

    - temperature 0 is greedy. top_k 0, top_p 1 and min_p 0 are off.
    - max_tokens: None for the rest of the context. min_tokens: no stop token is sampled before, unless the mask allows
      no other token.
    - logprobs: the number of likeliest tokens reported with each sampled one; None for no log-probabilities.
    - prompt_logprobs: the same for the prompt's tokens. Such a prompt is always computed, never taken from the cache.
    - repetition_penalty applies to prompt and output, frequency_penalty and presence_penalty to the output, as in vLLM
      and OpenAI's API.
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
    prompt_logprobs: int | None = None

    @property
    def penalizes(self) -> bool:
        """Whether earlier tokens change the logits of later ones."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0

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
    """One sampled token. logprob: under the model's distribution before penalties, temperature and filters.

    top: the likeliest tokens with log-probabilities, if requested. finish: set on the last token.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    finish: Finish | None = None
