"""Samples one token from one row of logits, with its log-probability.

In: float32 logits [V], parameters, a mask, penalties, a seed and the token's index in the output. Out: a `Sampled`.
The result depends on nothing else, so it is the same in every batch.

The order is that of transformers: bias, penalties and mask, temperature, top-k, top-p, min-p. The filters see the
distribution after the temperature. vLLM applies min-p before top-p. llama.cpp applies the filters before the temperature.
With a single filter the result equals vLLM's, and at temperature 1 llama.cpp's too.
"""

import numpy as np
from numpy.typing import NDArray

from ossia.engine.penalties import Penalties
from ossia.engine.request import DamagedModelError, Sampled, SamplingParams

Row = NDArray[np.float32]
SLICE = 512
GREEDY_BELOW = 1e-5  # a lower temperature is greedy: the division would overflow float32


def sample(
    logits_V: Row,
    params: SamplingParams,
    mask: bytes | None,
    seed: int,
    index: int,
    penalties: Penalties | None = None,
) -> Sampled:
    """The token at `index` of an output. penalties include the tokens before it.

    Raises ValueError if bias and mask allow no token, or the logits are not finite.
    """
    weights_V, total = _weights(logits_V)
    allowed_V = _allowed(logits_V, params, mask, penalties)
    if index < params.min_tokens:
        allowed_V = _without_stops(allowed_V, params.stop_tokens)
    likeliest = int(np.argmax(allowed_V))
    check_row(is_left=allowed_V[likeliest] > -np.inf)
    if params.temperature < GREEDY_BELOW:
        token = likeliest
    else:
        if allowed_V is not logits_V or params.temperature != 1.0:
            np.subtract(allowed_V, allowed_V[likeliest], out=weights_V)  # in place: new memory costs more than the sums
            weights_V /= np.float32(params.temperature)
            np.exp(weights_V, out=weights_V)
        token = _draw(weights_V, params, seed, index)
    return Sampled(token, float(logits_V[token]) - total, _likeliest(logits_V, params.logprobs, total))


def score(logits_V: Row, token: int, top: int) -> Sampled:
    """A given token with its log-probability, and the `top` likeliest tokens with theirs."""
    _, total = _weights(logits_V)
    return Sampled(token, float(logits_V[token]) - total, _likeliest(logits_V, top, total))


def uniform_of(seed: int, index: int) -> float:
    """A number in (0, 1] that depends on the seed and the output index only. Equal on all backends."""
    key = np.array([seed, index], np.uint64)  # a list with a seed from 2**63 on would be converted to float64
    return 1.0 - float(np.random.Generator(np.random.Philox(key=key)).random())


def check_row(*, is_finite: bool = True, is_left: bool = True) -> None:
    """Raise ValueError for a row that no token can be sampled from."""
    if not is_finite:
        raise DamagedModelError("the model's logits are not finite: its weights are damaged")
    if not is_left:
        raise ValueError("the mask and the logit bias leave no token to sample")


def _weights(logits_V: Row) -> tuple[Row, float]:
    """exp(logit - max), and the logarithm of the sum of exp."""
    top = logits_V.max()
    check_row(is_finite=bool(np.isfinite(top)))
    weights_V = np.exp(logits_V - top)
    return weights_V, float(top) + float(np.log(weights_V.sum(dtype=np.float64)))


def _allowed(logits_V: Row, params: SamplingParams, mask: bytes | None, penalties: Penalties | None) -> Row:
    """Logits with bias and penalties, and -inf where the mask has no bit. The mask may be shorter than the row."""
    if mask is None and not params.logit_bias and penalties is None:
        return logits_V
    out_V = logits_V.copy()
    for token, bias in params.logit_bias.items():
        out_V[token] += np.float32(bias)
    if penalties is not None:
        penalties.apply(out_V)
    if mask is not None:
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little", count=min(len(out_V), 8 * len(mask)))
        out_V[: len(bits)][bits == 0] = -np.inf
        out_V[len(bits) :] = -np.inf
    return out_V


def _without_stops(allowed_V: Row, stops: frozenset[int]) -> Row:
    """The row without the stop tokens; unchanged if no other token is allowed."""
    out_V = allowed_V.copy()
    out_V[[token for token in stops if token < len(out_V)]] = -np.inf
    return out_V if out_V.max() > -np.inf else allowed_V


def _draw(weights_V: Row, params: SamplingParams, seed: int, index: int) -> int:
    """Sample by inverting the cumulative distribution at a uniform random number."""
    uniform = uniform_of(seed, index)
    tokens = kept_tokens(weights_V, params)
    return _reached(weights_V, uniform) if tokens is None else int(tokens[_reached(weights_V[tokens], uniform)])


def _reached(weights: Row, uniform: float) -> int:
    """The index where the running sum reaches this fraction of the total. Its weight is never 0.

    Sums slices first, then inside one slice: a running sum over all of V would take most of the time.
    """
    sums = np.add.reduceat(weights, np.arange(0, len(weights), SLICE), dtype=np.float64)
    ends = np.cumsum(sums)
    point = uniform * ends[-1]
    chosen = int(np.searchsorted(ends, point))
    before = ends[chosen - 1] if chosen else 0.0
    running = np.cumsum(weights[chosen * SLICE : (chosen + 1) * SLICE], dtype=np.float64)
    return chosen * SLICE + int(np.searchsorted(running, min(point - before, running[-1])))


def kept_tokens(weights_V: Row, params: SamplingParams) -> NDArray[np.int64] | None:
    """The ids that the filters keep, ascending; None if nothing is filtered. The likeliest is always kept."""
    tokens: NDArray[np.int64] | None = None
    if 0 < params.top_k < len(weights_V):
        tokens = _highest(weights_V, params.top_k)
    if params.top_p < 1.0:
        kept = _nucleus(weights_V if tokens is None else weights_V[tokens], params.top_p)
        tokens = kept if tokens is None else tokens[kept]
    if params.min_p > 0.0:
        tokens = np.arange(len(weights_V)) if tokens is None else tokens
        tokens = tokens[weights_V[tokens] >= np.float32(params.min_p) * weights_V.max()]
    return tokens


def _nucleus(weights: Row, top_p: float) -> NDArray[np.int64]:
    """Indices of the fewest likeliest weights that sum to `top_p` of the total."""
    total = float(weights.sum(dtype=np.float64))
    # weights below this bound sum to less than 1 - top_p, so they are never kept; usually that is nearly all of them
    likely = np.sort(weights[weights >= (1.0 - top_p) * total / len(weights)])[::-1]
    reached = int(np.searchsorted(np.cumsum(likely, dtype=np.float64), top_p * total))
    return _highest(weights, min(reached + 1, len(likely)))


def _highest(values: Row, count: int) -> NDArray[np.int64]:
    """Indices of the `count` highest values, ascending. Ties go to the lower index."""
    least = np.partition(values, -count)[-count]
    above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
    return np.sort(np.concatenate([above, equal[: count - len(above)]]))


def _likeliest(logits_V: Row, count: int | None, total: float) -> tuple[tuple[int, float], ...]:
    if not count:
        return ()
    count = min(count, len(logits_V))
    best = _highest(logits_V, count)
    best = best[np.argsort(-logits_V[best], kind="stable")]
    return tuple((int(token), float(logits_V[token]) - total) for token in best)
