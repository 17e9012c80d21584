"""Sampling fields of Chat Completions, Completions and Responses.

Input: the fields of a request. Output: `SamplingParams` and stop strings, or an `ApiError` that names the field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

from ossia.engine.request import SamplingParams
from ossia.server.apis.fields.extensions import SamplingFields
from ossia.server.errors import bad

MAX_STOP_TOKENS = 100  # of a request's own
MAX_STOPS, MAX_STOP_LENGTH = 16, 1000


def sampling_params(
    request: SamplingFields,
    stop_tokens: frozenset[int],
    warnings: list[str],
    *,
    max_tokens: int | None,
    max_tokens_param: str = "max_tokens",
    logprobs: int | None = None,
    logprobs_param: str = "top_logprobs",
) -> SamplingParams:
    """How to sample an answer. An unset field has the model's default. Raises ApiError for a value out of range.

    stop_tokens: the model's own. With ignore_eos they are sampled only where the grammar allows nothing else.
    max_tokens_param, logprobs_param: the API's names of these fields.
    """
    repetition_penalty = _repetition_penalty(request, warnings)
    max_tokens = limit(max_tokens)
    ranges = {
        "temperature": (request.temperature, 0, 2),
        "top_p": (request.top_p, 0, 1),
        "top_k": (request.top_k, -1, 2**31 - 1),
        "min_p": (request.min_p, 0, 1),
        max_tokens_param: (max_tokens, 1, inf),
        logprobs_param: (logprobs, 0, 20),
        "repetition_penalty": (repetition_penalty, 0.01, 100),
        "frequency_penalty": (request.frequency_penalty, -2, 2),
        "presence_penalty": (request.presence_penalty, -2, 2),
        "min_tokens": (request.min_tokens, 0, inf if max_tokens is None else max_tokens),
    }
    for name, (value, least, most) in ranges.items():
        if value is not None and not least <= value <= most:
            raise bad(name, f"{name} is {value}: want {least} {'or more' if most == inf else f'to {most}'}")
    own_stops = request.stop_token_ids or ()
    if len(own_stops) > MAX_STOP_TOKENS or not all(0 <= token < 2**31 for token in own_stops):
        raise bad("stop_token_ids", f"stop_token_ids must be at most {MAX_STOP_TOKENS} token ids")
    params = SamplingParams(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else max(request.top_p, 1e-6),  # 0 keeps only the likeliest token
        top_k=max(request.top_k or 0, 0),
        min_p=request.min_p or 0.0,
        seed=limit(request.seed),
        max_tokens=None if max_tokens is None else min(max_tokens, 2**31),
        stop_tokens=stop_tokens.union(own_stops),
        logit_bias=_logit_bias(request.logit_bias or {}),
        logprobs=logprobs,
        repetition_penalty=1.0 if repetition_penalty is None else repetition_penalty,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        min_tokens=min(request.min_tokens or 0, 2**31),
    )

    return replace(params, min_tokens=2**31) if request.ignore_eos and stop_tokens else params


def _repetition_penalty(request: SamplingFields, warnings: list[str]) -> float | None:
    """The repetition penalty, under either name."""
    if request.repetition_penalty is None and request.repeat_penalty not in (None, 1.0):
        warnings.append("repeat_penalty: applied as repetition_penalty, to all tokens of prompt and output")
        return request.repeat_penalty
    return request.repetition_penalty


def limit(value: int | None) -> int | None:
    """-1 means unset, as in llama.cpp and LM Studio: no limit of tokens, no seed."""
    return None if value == -1 else value


def _logit_bias(given: Mapping[str, float]) -> dict[int, float]:
    biases: dict[int, float] = {}
    for token, bias in given.items():
        if not token.isdecimal() or len(token) > 9:
            raise bad("logit_bias", f"logit_bias has the key {token[:40]!r}: want token ids")
        if not -100 <= bias <= 100:
            raise bad("logit_bias", "logit_bias has a value outside -100 to 100")
        biases[int(token)] = bias
    return biases


def stop_strings(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """The stop strings of a request. Empty strings are ignored."""
    given = (value,) if isinstance(value, str) else tuple(value or ())
    if len(given) > MAX_STOPS:
        raise bad("stop", f"stop has {len(given)} strings: want {MAX_STOPS} at most")
    if any(len(each) > MAX_STOP_LENGTH for each in given):
        raise bad("stop", f"stop has a string of more than {MAX_STOP_LENGTH} characters")
    return tuple(each for each in given if each)
