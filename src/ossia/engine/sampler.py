"""One row of logits to one token, and its log-probability.

In: float32 logits [V], parameters, a mask, penalties, a seed and the token's place in the output. Out: a `Sampled`.
It does not know batches: a draw depends on nothing but what is named above.

Order: bias, penalties and mask, temperature, top-k, top-p, min-p, as in transformers. Cuts come after the temperature, so
that they see the distribution that is drawn from. vLLM differs only in cutting min-p first, so that top-p is a share of what that
left; llama.cpp cuts before the temperature. With one cut alone vLLM agrees, and at temperature 1 llama.cpp too.
"""

import numpy as np
from numpy.typing import NDArray

from ossia.engine.penalties import Penalties
from ossia.engine.request import DamagedModelError, Sampled, SamplingParams

Row = NDArray[np.float32]
SLICE = 512
GREEDY_BELOW = 1e-5  # colder than this, a draw is the argmax and the division leaves float32


def sample(
    logits_V: Row,
    params: SamplingParams,
    mask: bytes | None,
    seed: int,
    index: int,
    penalties: Penalties | None = None,
) -> Sampled:
    """The token at place `index` of an output; `penalties` have noted the tokens before it.

    Raises ValueError when bias and mask leave no token, or the model's logits are not numbers.
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
            np.subtract(allowed_V, allowed_V[likeliest], out=weights_V)  # in place: fresh pages cost more than the sums
            weights_V /= np.float32(params.temperature)
            np.exp(weights_V, out=weights_V)
        token = _draw(weights_V, params, seed, index)
    return Sampled(token, float(logits_V[token]) - total, _likeliest(logits_V, params.logprobs, total))


def score(logits_V: Row, token: int, top: int) -> Sampled:
    """A given token with its log-probability, and the `top` likeliest tokens with theirs."""
    _, total = _weights(logits_V)
    return Sampled(token, float(logits_V[token]) - total, _likeliest(logits_V, top, total))


def share_of(seed: int, index: int) -> float:
    """Where in (0, 1] the distribution is inverted for the token at this place: the same on every backend."""
    key = np.array([seed, index], np.uint64)  # a plain list with a seed from 2**63 on would pass through float64
    return 1.0 - float(np.random.Generator(np.random.Philox(key=key)).random())


def check_row(*, is_finite: bool = True, is_left: bool = True) -> None:
    """ValueError for a row that no token can be drawn from."""
    if not is_finite:
        raise DamagedModelError("the model's logits are not finite: its weights are damaged")
    if not is_left:
        raise ValueError("the mask and the logit bias leave no token to sample")


def _weights(logits_V: Row) -> tuple[Row, float]:
    """Weights in proportion to the model's probabilities, the highest 1; and the logarithm of the sum of exp."""
    top = logits_V.max()
    check_row(is_finite=bool(np.isfinite(top)))
    weights_V = np.exp(logits_V - top)
    return weights_V, float(top) + float(np.log(weights_V.sum(dtype=np.float64)))


def _allowed(logits_V: Row, params: SamplingParams, mask: bytes | None, penalties: Penalties | None) -> Row:
    """Logits with bias and penalties, and -inf wherever the mask has no bit; the mask may end early."""
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
    """The row without the stop tokens; unchanged where nothing else may come."""
    out_V = allowed_V.copy()
    out_V[[token for token in stops if token < len(out_V)]] = -np.inf
    return out_V if out_V.max() > -np.inf else allowed_V


def _draw(weights_V: Row, params: SamplingParams, seed: int, index: int) -> int:
    """By inverting the distribution at a random share in (0, 1]."""
    share = share_of(seed, index)
    tokens = _kept(weights_V, params)
    return _reached(weights_V, share) if tokens is None else int(tokens[_reached(weights_V[tokens], share)])


def _reached(weights: Row, share: float) -> int:
    """Where the running sum reaches this share of the whole; the weight there is never 0.

    Sums of slices first, then a running sum inside one: over all of V it would be most of a draw's time.
    """
    sums = np.add.reduceat(weights, np.arange(0, len(weights), SLICE), dtype=np.float64)
    ends = np.cumsum(sums)
    point = share * ends[-1]
    chosen = int(np.searchsorted(ends, point))
    before = ends[chosen - 1] if chosen else 0.0
    running = np.cumsum(weights[chosen * SLICE : (chosen + 1) * SLICE], dtype=np.float64)
    return chosen * SLICE + int(np.searchsorted(running, min(point - before, running[-1])))


def _kept(weights_V: Row, params: SamplingParams) -> NDArray[np.int64] | None:
    """Ids that the cuts leave, in ascending order; None when nothing is cut. The likeliest is always kept."""
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


def _nucleus(weights: Row, share: float) -> NDArray[np.int64]:
    """The fewest likeliest places whose weights reach this share of the whole."""
    total = float(weights.sum(dtype=np.float64))
    # those below this, together, weigh less than 1 - share: never needed, and mostly nearly all
    likely = np.sort(weights[weights >= (1.0 - share) * total / len(weights)])[::-1]
    reached = int(np.searchsorted(np.cumsum(likely, dtype=np.float64), share * total))
    return _highest(weights, min(reached + 1, len(likely)))


def _highest(values: Row, count: int) -> NDArray[np.int64]:
    """Places of the `count` highest, in ascending order; of equals at the edge the first."""
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
