"""Samples a step's tokens: on the device in one call if the backend can, else row by row on the host.

In: logits as the backend holds them, and how to sample each row. Out: `Sampled` tokens, row by row.

A row after a draft token is sampled ahead without a mask, because the mask is known only once the draft token is
accepted. If there is a mask then, the row is sampled again. That is rare: masks mostly constrain headers, and draft
tokens are mostly accepted in text. Requests with log-probabilities, penalties or min_tokens are sampled on the host.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ossia.engine.penalties import Penalties
from ossia.engine.request import Sampled, SamplingParams
from ossia.engine.sampler import GREEDY_BELOW, check_row, sample, score, uniform_of
from ossia.kernels.ops import NOT_FINITE, NOTHING_LEFT, Draw, Ops, SampleResult


class SampleRequest(NamedTuple):
    """How to sample one row. seed and output_index determine its uniform random number.

    penalties: those of the request. When the row is sampled, they include all tokens before it.
    """

    params: SamplingParams
    mask: bytes | None
    seed: int
    output_index: int
    penalties: Penalties | None = None

    @property
    def on_host(self) -> bool:
        return bool(self.params.logprobs) or self.penalties is not None or self.output_index < self.params.min_tokens


class StepLogits:
    """The logits of a step. requests: what is known of each row before sampling; None for rows that are not sampled."""

    def __init__(self, ops: Ops, logits_RV: Any, requests: Sequence[SampleRequest | None]) -> None:
        self._ops, self._logits_RV, self._requests = ops, logits_RV, requests
        known = [(row, request) for row, request in enumerate(requests) if request and not request.on_host]
        drawn = (
            ops.draw(logits_RV, [row for row, _ in known], [_draw(request) for _, request in known]) if known else []
        )
        self._on_host = drawn is None
        self._drawn = dict(zip((row for row, _ in known), drawn or ()))

    def request(self, row: int) -> SampleRequest | None:
        return self._requests[row]

    def take(self, row: int, request: SampleRequest) -> Sampled:
        """The row's token. Raises ValueError if bias and mask allow none, or the logits are not finite."""
        if self._on_host or request.on_host:
            logits_V = self._ops.host(self._logits_RV[row : row + 1])[0]
            return sample(logits_V, request.params, request.mask, request.seed, request.output_index, request.penalties)
        if request == self._requests[row]:
            return _checked(self._drawn[row])
        again = self._ops.draw(self._logits_RV, [row], [_draw(request)])
        assert again is not None, "a backend samples either always or never"
        return _checked(again[0])

    def scores(self, first: int, tokens: Sequence[int], top: int) -> list[Sampled]:
        """These tokens with the log-probabilities of the rows from `first` on."""
        logits_RV = self._ops.host(self._logits_RV[first : first + len(tokens)])
        return [score(row_V, token, top) for row_V, token in zip(logits_RV, tokens)]


def _draw(request: SampleRequest) -> Draw:
    p = request.params
    greedy = p.temperature < GREEDY_BELOW
    uniform = 1.0 if greedy else uniform_of(request.seed, request.output_index)
    temperature = 0.0 if greedy else p.temperature
    return Draw(uniform, temperature, p.top_k, p.top_p, p.min_p, request.mask, p.logit_bias)


def _checked(drawn: SampleResult) -> Sampled:
    check_row(is_finite=drawn.token != NOT_FINITE, is_left=drawn.token != NOTHING_LEFT)
    return Sampled(drawn.token, drawn.logprob)
