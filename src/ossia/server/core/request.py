"""The request that every API makes of the service: a conversation and the options of the answer.

Input: fields that all APIs share, in one form. Output: `AnswerRequest`s, harmony messages, sampling parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from ossia.chat import TurnOptions, Usage
from ossia.engine.request import SamplingParams
from ossia.harmony import openai_chat
from ossia.harmony.messages import Effort, Message, ResponseFormat, System, ToolNamespace
from ossia.harmony.opening import OPENING, dated
from ossia.server.errors import bad

MOST_STOP_TOKENS = 100  # of a request's own


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A request for one answer.

    messages: the whole conversation, system and developer message first. how: with the model's stop tokens; its `tools`
    are empty if the client runs them. stop: strings that end the final answer. client: identifies the client in the queue.
    """

    messages: tuple[Message, ...]
    how: TurnOptions
    stop: tuple[str, ...] = ()
    client: str = ""


@dataclass(frozen=True, slots=True)
class Opening:
    """An answer's first token was sampled; its events follow. usage: of the prompt alone."""

    usage: Usage


def conversation(
    effort: Effort | None,
    said: Sequence[Message],
    tools: Sequence[ToolNamespace] = (),
    formats: Sequence[ResponseFormat] = (),
    opening: System = OPENING,
) -> tuple[Message, ...]:
    """`openai_chat.conversation`, its system message dated."""
    return openai_chat.conversation(effort, said, tools, formats, opening=dated(opening))


def sampling(
    stop_tokens: frozenset[int],
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    seed: int | None = None,
    max_tokens: int | None = None,
    max_tokens_param: str = "max_tokens",
    logit_bias: Mapping[str, float] | None = None,
    logprobs: int | None = None,
    logprobs_param: str = "top_logprobs",
    repetition_penalty: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    min_tokens: int | None = None,
    stop_token_ids: Sequence[int] | None = None,
) -> SamplingParams:
    """Sampling parameters; what is None is the model's own. Raises ApiError that names the field out of range."""
    ranges = {
        "temperature": (temperature, 0, 2),
        "top_p": (top_p, 0, 1),
        "top_k": (top_k, -1, 2**31 - 1),
        "min_p": (min_p, 0, 1),
        max_tokens_param: (max_tokens := limit(max_tokens), 1, inf),
        logprobs_param: (logprobs, 0, 20),
        "repetition_penalty": (repetition_penalty, 0.01, 100),
        "frequency_penalty": (frequency_penalty, -2, 2),
        "presence_penalty": (presence_penalty, -2, 2),
        "min_tokens": (min_tokens, 0, inf if max_tokens is None else max_tokens),
    }
    for name, (value, least, most) in ranges.items():
        if value is not None and not least <= value <= most:
            raise bad(name, f"{name} is {value}: want {least} {'or more' if most == inf else f'to {most}'}")
    own_stops = stop_token_ids or ()
    if len(own_stops) > MOST_STOP_TOKENS or not all(0 <= token < 2**31 for token in own_stops):
        raise bad("stop_token_ids", f"stop_token_ids must be at most {MOST_STOP_TOKENS} token ids")
    return SamplingParams(
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else max(top_p, 1e-6),  # 0 keeps the likeliest alone
        top_k=max(top_k or 0, 0),
        min_p=min_p or 0.0,
        seed=limit(seed),
        max_tokens=None if max_tokens is None else min(max_tokens, 2**31),
        stop_tokens=stop_tokens.union(own_stops),
        logit_bias=_biases(logit_bias or {}),
        logprobs=logprobs,
        repetition_penalty=1.0 if repetition_penalty is None else repetition_penalty,
        frequency_penalty=frequency_penalty or 0.0,
        presence_penalty=presence_penalty or 0.0,
        min_tokens=min(min_tokens or 0, 2**31),
    )


def limit(value: int | None) -> int | None:
    """-1 means none, as llama.cpp and LM Studio write it: no limit of tokens, no seed of one's own."""
    return None if value == -1 else value


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    biases: dict[int, float] = {}
    for token, bias in given.items():
        if not token.isdecimal() or len(token) > 9:
            raise bad("logit_bias", f"logit_bias has the key {token[:40]!r}: want token ids")
        if not -100 <= bias <= 100:
            raise bad("logit_bias", "logit_bias has a value outside -100 to 100")
        biases[int(token)] = bias
    return biases


def stops(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Stop strings of a request: one, several or none; empty ones stop nothing."""
    given = (value,) if isinstance(value, str) else tuple(value or ())
    if len(given) > 16:
        raise bad("stop", f"stop has {len(given)} strings: want 16 at most")
    if any(len(each) > 1000 for each in given):
        raise bad("stop", "stop has a string of more than 1000 characters")
    return tuple(each for each in given if each)
