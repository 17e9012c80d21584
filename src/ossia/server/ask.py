"""What every API asks of the service, once its wire types are read: a conversation and how to go on with it.

In: fields that all APIs share, in one form. Out: `Ask`s, harmony messages, sampling parameters.
It does not know any API's own shapes, nor how an answer is made.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from math import inf

from ossia.chat import Answering
from ossia.engine.request import SamplingParams
from ossia.harmony.messages import (
    Developer,
    Effort,
    JsonObject,
    Message,
    ResponseFormat,
    System,
    ToolNamespace,
    developer,
    system,
)
from ossia.server.errors import bad

# What no thinking at all would be, the model has not learned: the least is low. docs/server.md says so.
EFFORTS: dict[str, Effort] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
# A line of its own in a system text, as gpt-oss's own system message says it: "Reasoning: high".
TOLD_EFFORT = re.compile(rf"^[^\w\n]*reasoning:[ \t]*({'|'.join(EFFORTS)})[^\w\n]*$", re.IGNORECASE | re.MULTILINE)
ANY_OBJECT: JsonObject = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Ask:
    """One answer asked for.

    messages: the whole conversation, system and developer message first. how: with the model's stop tokens; its `tools`
    are empty where the client runs them. stop: strings that end the final answer. client: who asks, for fairness.
    """

    messages: tuple[Message, ...]
    how: Answering
    stop: tuple[str, ...] = ()
    client: str = ""


def effort_of(value: str | None, param: str = "reasoning_effort") -> Effort | None:
    """The effort that a client's word means; None where it says none. Raises ApiError for a word that is no effort."""
    if value is None:
        return None
    if value not in EFFORTS:
        raise bad(param, f"{param} {value!r} is none of {', '.join(EFFORTS)}")
    return EFFORTS[value]


def conversation(
    effort: Effort | None,
    said: Sequence[Message],
    tools: Sequence[ToolNamespace] = (),
    formats: Sequence[ResponseFormat] = (),
) -> tuple[Message, ...]:
    """Our system message, one developer message with all that stands first, and the rest as it was said.

    What an API's user calls "system" or "developer" is a `developer("…")` in `said`: to gpt-oss both are a developer's word.
    effort: None for what the last of these texts says in a line "Reasoning: …", or else medium.
    """
    count = next((i for i, message in enumerate(said) if message.role != "developer"), len(said))
    words = [text for message in said[:count] if (text := _instructions(message)).strip()]
    declared = Developer("\n\n".join(words) or None, tuple(tools), tuple(formats))
    opening = [system(System(effort=effort or _told_effort(said), current_date=date.today().isoformat()))]
    if declared != Developer():
        opening.append(developer(declared))
    return (*opening, *said[count:])


def _told_effort(said: Sequence[Message]) -> Effort:
    told = [word for message in said if message.role == "developer" for word in TOLD_EFFORT.findall(_instructions(message))]
    return EFFORTS[told[-1].lower()] if told else "medium"


def _instructions(message: Message) -> str:
    parts = [part.instructions or "" if isinstance(part, Developer) else part for part in message.content]
    return "".join(part for part in parts if isinstance(part, str))


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
) -> SamplingParams:
    """Sampling parameters; what is None is the model's own. Raises ApiError that names the field out of range."""
    ranges = {
        "temperature": (temperature, 0, 2),
        "top_p": (top_p, 0, 1),
        "top_k": (top_k, -1, 2**31 - 1),
        "min_p": (min_p, 0, 1),
        max_tokens_param: (max_tokens, 1, inf),
        logprobs_param: (logprobs, 0, 20),
    }
    for name, (value, least, most) in ranges.items():
        if value is not None and not least <= value <= most:
            raise bad(name, f"{name} is {value}: want {least} {'or more' if most == inf else f'to {most}'}")
    return SamplingParams(
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else max(top_p, 1e-6),  # 0 keeps the likeliest alone
        top_k=max(top_k or 0, 0),
        min_p=min_p or 0.0,
        seed=seed,
        max_tokens=None if max_tokens is None else min(max_tokens, 2**31),
        stop_tokens=stop_tokens,
        logit_bias=_biases(logit_bias or {}),
        logprobs=logprobs,
    )


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
