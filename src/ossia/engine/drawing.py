"""A step's logits become tokens: on the device in one go where the backend draws there, else row by row on the host.

In: logits as the backend has them, and how each row is to be drawn. Out: `Sampled` tokens, asked for row by row.
It does not know requests, or which rows are only guesses.

A row behind a guess is drawn ahead without a mask, since its mask is known only once the guess has held. Should there be one
then, the row is drawn once more: rare, as a mask mostly rules headers, and guesses hold in text. Rows with log-probabilities,
penalties or a minimum length are sampled on the host.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ossia.engine.penalties import Penalties
from ossia.engine.request import Sampled, SamplingParams
from ossia.engine.sampler import GREEDY_BELOW, check_row, sample, score, share_of
from ossia.kernels.ops import NOT_FINITE, NOTHING_LEFT, Draw, Ops, SampleResult


class SampleRequest(NamedTuple):
    """How one row is drawn: by whose parameters, under which mask, and the seed and place that choose its share.

    penalties: of the request; by the time that the row is drawn they have noted all tokens before it.
    """

    params: SamplingParams
    mask: bytes | None
    seed: int
    place: int
    penalties: Penalties | None = None

    @property
    def on_host(self) -> bool:
        return bool(self.params.logprobs) or self.penalties is not None or self.place < self.params.min_tokens


class LogitRows:
    """The rows of a step. `asks` are what is known of each before any is drawn; None for one that is not to be drawn."""

    def __init__(self, ops: Ops, logits_RV: Any, asks: Sequence[SampleRequest | None]) -> None:
        self._ops, self._logits_RV, self._asks = ops, logits_RV, asks
        known = [(row, ask) for row, ask in enumerate(asks) if ask and not ask.on_host]
        drawn = ops.draw(logits_RV, [row for row, _ in known], [_draw(ask) for _, ask in known]) if known else []
        self._on_host = drawn is None
        self._drawn = dict(zip((row for row, _ in known), drawn or ()))

    def ask(self, row: int) -> SampleRequest | None:
        return self._asks[row]

    def take(self, row: int, ask: SampleRequest) -> Sampled:
        """The row's token. Raises ValueError when bias and mask leave none, or the logits are not numbers."""
        if self._on_host or ask.on_host:
            logits_V = self._ops.host(self._logits_RV[row : row + 1])[0]
            return sample(logits_V, ask.params, ask.mask, ask.seed, ask.place, ask.penalties)
        if ask == self._asks[row]:
            return _checked(self._drawn[row])
        again = self._ops.draw(self._logits_RV, [row], [_draw(ask)])
        assert again is not None, "a backend draws always or never"
        return _checked(again[0])

    def scores(self, first: int, tokens: Sequence[int], top: int) -> list[Sampled]:
        """These tokens, scored by the rows from `first` on."""
        logits_RV = self._ops.host(self._logits_RV[first : first + len(tokens)])
        return [score(row_V, token, top) for row_V, token in zip(logits_RV, tokens)]


def _draw(ask: SampleRequest) -> Draw:
    p = ask.params
    greedy = p.temperature < GREEDY_BELOW
    share = 1.0 if greedy else share_of(ask.seed, ask.place)
    temperature = 0.0 if greedy else p.temperature
    return Draw(share, temperature, p.top_k, p.top_p, p.min_p, ask.mask, p.logit_bias)


def _checked(drawn: SampleResult) -> Sampled:
    check_row(is_finite=drawn.token != NOT_FINITE, is_left=drawn.token != NOTHING_LEFT)
    return Sampled(drawn.token, drawn.logprob)
