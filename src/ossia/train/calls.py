"""Function calls made by code: a function with its schema, a request for it, its answer, and what is said of that.

In: a seeded random source. Out: a `CallProblem`.
It does not know messages, tokens or how a model is trained.
"""

import json
import random
from dataclasses import dataclass
from typing import Any

from ossia.harmony.messages import ToolSpec
from ossia.train.problems import NAMES, THINGS, number

CITIES = (
    "Kyoto Paris Oslo Tokyo Rome Lima Cairo Berlin Madrid Dublin Osaka Quito Delhi Milan Prague Vienna Boston Denver "
    "Lagos Accra Hanoi Seoul Sydney Porto Nara Bern Riga Turin London Sapporo"
).split()
VERBS = ("get", "find", "check", "fetch", "look_up", "show", "query", "read")
# What can be asked about, and the parameter that says of which one.
TOPICS: tuple[tuple[str, str], ...] = (
    ("weather", "city"), ("time", "city"), ("temperature", "city"), ("forecast", "city"), ("population", "city"),
    ("humidity", "city"), ("weather", "location"), ("traffic", "location"), ("price", "item"), ("stock", "item"),
    ("color", "item"), ("weight", "item"), ("age", "name"), ("address", "name"), ("email", "name"),
    ("score", "player"), ("rating", "title"), ("status", "order_id"), ("balance", "account_id"),
    ("level", "user_id"), ("news", "topic"), ("menu", "place"), ("schedule", "day"), ("grade", "student"),
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WORDS = "clear cloudy rainy open closed high low good ready late green busy calm new full".split()
FIELDS = ("sky", "state", "value", "celsius", "result", "level", "amount", "count", "note", "condition", "unit", "kind")


@dataclass(frozen=True, slots=True)
class CallProblem:
    """A request, the one tool among `tools` that fits it with its arguments, the tool's answer, and the reply."""

    question: str
    tools: tuple[ToolSpec, ...]
    name: str
    arguments: str
    result: str
    reply: str


def call_problem(rng: random.Random) -> CallProblem:
    topics = rng.sample(TOPICS, rng.randint(1, 3))
    topic, parameter = topics[0]
    names = [_name(rng, each) for each, _ in topics]
    specs = [_spec(rng, name, each, key) for name, (each, key) in zip(names, topics, strict=True)]
    value = _value(rng, parameter)
    rng.shuffle(specs)
    arguments: dict[str, Any] = {parameter: value}
    fields = {key: rng.choice((rng.choice(WORDS), rng.randint(0, 99))) for key in rng.sample(FIELDS, rng.randint(1, 2))}
    echoed = {parameter: value, **fields} if rng.random() < 0.5 else fields
    said = ", ".join(f"{key} {each}" for key, each in echoed.items())
    return CallProblem(
        question=_question(rng, topic, value),
        tools=tuple(specs),
        name=names[0],
        arguments=json.dumps(arguments),
        result=json.dumps(echoed, separators=(",", ":")),
        reply=f"The {topic} of {value}: {said}.",
    )


def unrelated_tools(rng: random.Random) -> tuple[ToolSpec, ...]:
    """Tools that are declared and do not fit what is asked."""
    topics = rng.sample(TOPICS, rng.randint(1, 2))
    return tuple(_spec(rng, _name(rng, topic), topic, key) for topic, key in topics)


def _name(rng: random.Random, topic: str) -> str:
    return f"{rng.choice(VERBS)}_{topic}" if rng.random() < 0.85 else topic


def _spec(rng: random.Random, name: str, topic: str, parameter: str) -> ToolSpec:
    kind = "integer" if parameter.endswith("_id") else "string"
    field = {"type": kind}
    if rng.random() < 0.3:
        field["description"] = f"the {parameter}"
    verb = name.split("_")[0].capitalize()
    description = rng.choice(
        (f"{verb} the {topic} of a {parameter}.", f"The {topic} of a {parameter}.", f"{verb} the {topic}.", "")
    )
    schema: dict[str, Any] = {"type": "object", "properties": {parameter: field}, "required": [parameter]}
    if rng.random() < 0.5:
        schema["additionalProperties"] = False
    return ToolSpec(name, description, schema)


def _value(rng: random.Random, parameter: str) -> str | int:
    match parameter:
        case "city" | "location" | "place":
            return rng.choice(CITIES)
        case "item" | "title" | "topic":
            return rng.choice(THINGS)
        case "day":
            return rng.choice(DAYS)
        case "order_id" | "account_id" | "user_id":
            return number(rng, 4)
    return rng.choice(NAMES)


def _question(rng: random.Random, topic: str, value: str | int) -> str:
    frames = (
        "What is the {t} in {v}?", "What is the {t} of {v}?", "What's the {t} for {v}?", "Tell me the {t} of {v}.",
        "Get the {t} for {v}.", "what is the {t} in {v}", "Find the {t} of {v}.", "I want to know the {t} of {v}.",
        "{t} of {v}?", "Check the {t} in {v}, please.",
        "How is the {t} in {v}?", "Can you look up the {t} of {v}?",
    )  # fmt: skip
    return rng.choice(frames).format(t=topic, v=value)
