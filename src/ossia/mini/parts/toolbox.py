"""Generates functions: names, parameters, types and enums, with the words of a user's request.

Input: a seeded random source and a split. Output: a `Function`: its declaration, a request, and the matching arguments.
No name, parameter, topic or enum is in both splits.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ossia.harmony.messages import ToolSpec
from ossia.mini.parts.words import COMMON, DAYS, FRAMING, NAME_ENDS, NAMES, PLACES, THINGS, Words, made_up, some
from ossia.task import Split

VERBS: Words = {
    "train": (
        "get",
        "find",
        "check",
        "fetch",
        "look_up",
        "show",
        "query",
        "read",
        "ask",
        "give",
        "tell",
        "search",
        "lookup",
        "see",
        "pull",
        "compute",
        "list",
        "view",
        "describe",
        "report",
    ),
    "held": ("retrieve", "load", "obtain", "request"),
}
TOPICS: Words = {
    "train": tuple(
        "weather time temperature forecast population humidity traffic price stock color weight age address email score "
        "rating status balance level news menu schedule grade height speed size area depth length cost salary income "
        "phone birthday title rank team owner author mood plan route event job pulse opening_hours tax_rate wind_speed air_quality "
        "room_number sale_price exchange_rate water_level due_date last_login".split()
    ),
    "held": tuple("altitude rainfall currency width shoe_size deadline budget nationality discount inventory".split()),
}
KEYS: Mapping[str, Words] = {
    "place": {
        "train": ("city", "location", "place", "region", "area_name"),
        "held": ("town", "country", "destination"),
    },
    "thing": {"train": ("item", "goods", "article", "what", "thing"), "held": ("product", "object_name")},
    "person": {"train": ("name", "player", "student", "who", "employee"), "held": ("person", "customer", "member")},
    "number": {
        "train": ("order_id", "account_id", "user_id", "number", "code"),
        "held": ("ticket_id", "invoice_number"),
    },
    "day": {"train": ("day", "weekday"), "held": ("on_day",)},
}
MORE_KEYS: Mapping[str, Words] = {
    "count": {"train": ("limit", "max_results", "days", "top"), "held": ("hours", "page_count")},
    "choice": {"train": ("unit", "language", "format", "mode", "style"), "held": ("scale", "output_kind", "tone")},
    "flag": {"train": ("details", "history", "sources", "links"), "held": ("pictures", "comments")},
}
ENUMS: Mapping[Split, tuple[tuple[str, ...], ...]] = {
    "train": (
        ("celsius", "fahrenheit"), ("km", "miles"), ("english", "french", "german"), ("short", "long"), ("json", "text", "html"),
        ("fast", "slow"), ("daily", "weekly", "monthly"), ("dollars", "euros", "yen"), ("small", "medium", "large"), ("old", "new"),
    ),
    "held": (("kelvin", "rankine"), ("spanish", "italian", "dutch"), ("csv", "xml"), ("hourly", "yearly"), ("brief", "complete")),
}  # fmt: skip
REQUESTS: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "What is the {t} of {v}", "What's the {t} for {v}", "Tell me the {t} of {v}", "Get the {t} for {v}", "what is the {t} in {v}",
        "Find the {t} of {v}", "I want to know the {t} of {v}", "{t} of {v}", "Check the {t} in {v}", "How is the {t} in {v}",
        "Can you look up the {t} of {v}", "{v}: what is the {t}", "Show the {t} for {v}", "Please get me the {t} of {v}",
        "Which {t} does {v} have", "I need the {t} for {v}", "Do you have the {t} of {v}", "{t}, {v}", "Look up {v} and tell me the {t}",
        "Can you find out the {t} of {v}", "Please look up the {t} in {v}", "I am looking for the {t} of {v}", "Would you check the {t} of {v}",
        "For {v} I need the {t}", "In {v}, what's the {t}", "Hi! What is the {t} for {v}", "Say what the {t} of {v} is", "My question is about the {t} of {v}",
        "Could I have the {t} of {v}", "Do you know the {t} in {v}", "Find out for me the {t} of {v}", "Hello, I want the {t} of {v}",
        "Can you find the {t} of {v}", "Please find the {t} for {v}", "Please tell me the {t} for {v}", "I would love to know the {t} of {v}", "Give the {t} of {v}",
        "Could you tell me the {t} in {v}", "For {v}, tell me the {t}", "For {v}, please find the {t}", "Let us see the {t} of {v}", "I'd like to see the {t} of {v}",
        "Would you give me the {t} for {v}", "About {v}: the {t}", "The {t} for {v} is what", "May I have the {t} in {v}", "What {t} is there for {v}",
        "Quickly, the {t} of {v}", "I wonder about the {t} of {v}", "Please give the {t} in {v}", "I have to know the {t} for {v}", "Try to find the {t} of {v}",
        "As to {v}, what is its {t}", "Help me find the {t} for {v}", "Read me the {t} of {v}", "Somebody asks for the {t} of {v}", "Say me the {t} in {v}",
    ),
    "held": (
        "Could you find the {t} of {v}", "Please check the {t} for {v}", "Let me know the {t} of {v}", "Give me the {t} in {v}",
        "I would like the {t} of {v}", "For {v}, what is the {t}",
    ),
}  # fmt: skip
DESCRIPTIONS: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "{V} the {t} of a {k}.",
        "The {t} of a {k}.",
        "{V} the {t}.",
        "",
        "{t} for a given {k}",
        "Use this for the {t}.",
        "This function finds the {t}.",
        "{V} the {t} when a {k} is given.",
        "Answers with the {t} of one {k}.",
        "What the {t} is.",
        "Gets the {t} of a given {k}.",
        "Tells the {t} for a {k}.",
        "{V} the {t} from a {k}.",
        "Looks up the {t}.",
        "For a {k}, the {t}.",
    ),
    "held": ("Gives the {t} of a {k}.", "{V} the {t} for any {k}.", "Returns the {t}."),
}
EXTRAS: Mapping[str, Mapping[Split, tuple[str, ...]]] = {
    "count": {
        "train": (
            ", at most {v} {k}",
            ", {k} {v}",
            " with {k} {v}",
            " for {v} {k}",
            ". The {k}: {v}",
            ", and {v} as {k}",
            ", and {k} {v}",
            " with {v} {k}",
            " plus {k} {v}",
            ", {k} of {v}",
            ", {k}: {v}",
            " ({k} {v})",
            ", {v} for {k}",
            " and for {v} {k}",
        ),
        "held": (" and {k} {v}", ", {v} {k}"),
    },
    "choice": {
        "train": (
            " in {v}",
            ", {v} please",
            ", {k} {v}",
            ", {v}",
            " with {k} {v}",
            ". The {k} is {v}",
            ", as {v}",
            ", and {k} {v}",
            ", {v} as {k}",
            " plus {k} {v}",
            ", {k}: {v}",
            " ({v})",
            ", with {v} {k}",
            " by {k} {v}",
            ", in {v} {k}",
        ),
        "held": (", {v} {k}", " and {k} {v}"),
    },
    "flag": {
        "train": (
            ", with {k}",
            " and the {k}",
            ", {k} too",
            ". I want the {k} as well",
            " together with {k}",
            ", and {k}",
            " plus {k}",
            ", and also {k}",
            ", {k} included",
            " (with {k})",
            " and {k} please",
            ", not without {k}",
            " adding {k}",
            " showing {k}",
            " having {k}",
            " giving {k} too",
            " covering {k}",
            " as well as {k}",
            " along with {k}",
        ),
        "held": (", also with {k}", " including {k}"),
    },
}
# Phrases of further parameters in training, besides EXTRAS. {w} is any word, so no fixed word marks the end of a value.
JOINTS = (" {w} ", ", {w} ", ". {w} ", " and {w} ", ", and {w} ", " {w} {x} ", ", {w} {x} ", ", ", " and ", "; ", ". ")
BODIES = ("{k} {v}", "{v} {k}", "{v} as {k}", "{k}: {v}", "{k} of {v}", "{k} is {v}", "{v} for {k}")


@dataclass(frozen=True, slots=True)
class Function:
    """A declared function, and a request that only it matches. wanted: the topic as the request says it."""

    spec: ToolSpec
    wanted: str
    about: str
    request: str
    arguments: Mapping[str, Any]
    template: int  # the request's place among REQUESTS


def function(rng: random.Random, split: Split, topic: str, extras: int, verb: str | None = None) -> Function:
    """A function that looks `topic` up, with one required parameter and up to `extras` optional ones; named by `verb`, if given."""
    kind = rng.choices(("place", "thing", "person", "number", "day"), (4, 3, 3, 2, 1))[0]
    key = _key(rng, KEYS[kind], split)
    value = _value(rng, kind, split)
    verb = verb or _verb(rng, split)
    said_topic = topic.replace("_", " ")
    template = rng.randrange(len(REQUESTS[split]))
    request = REQUESTS[split][template].format(t=said_topic, v=value)
    properties: dict[str, Any] = {key: _property(rng, "integer" if kind == "number" else "string", key)}
    arguments: dict[str, Any] = {key: value}
    required = [key]
    for extra in rng.sample(tuple(MORE_KEYS), rng.randint(0, extras)):
        name, schema, given, phrase = _extra(rng, split, extra)
        if name in properties:
            continue
        properties[name] = schema
        if rng.random() < 0.7:
            arguments[name], request = given, request + phrase
            required += [name] if rng.random() < 0.5 else []
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    if rng.random() < 0.5:
        schema["additionalProperties"] = False
    described = rng.choice(DESCRIPTIONS[split]).format(
        V=verb.split("_")[0].capitalize(), t=said_topic, k=key.replace("_", " ")
    )
    spec = ToolSpec(named(rng, verb, topic), described, schema)
    return Function(spec, said_topic, str(value), request + rng.choice(("?", ".", "", "?")), arguments, template)


def functions_for(rng: random.Random, split: Split, count: int, extras: int) -> list[Function]:
    """Functions of different topics. In training their names often share a verb, so only the topic distinguishes them."""
    verb, shared = None, 0.0
    if split == "train" and rng.random() < 0.5:
        verb, shared = _verb(rng, split), rng.choice((0.6, 1.0))
    found = topics(rng, split, count)
    return [function(rng, split, topic, extras, verb if rng.random() < shared else None) for topic in found]


def topics(rng: random.Random, split: Split, count: int) -> list[str]:
    """Different topics of the split; in training some are made-up words."""
    found = rng.sample(TOPICS[split], count)
    for place in range(count):
        if split == "train" and rng.random() < 0.5:
            while (word := _own(rng)) in found:  # now and then it is a topic of the list, or drawn twice
                pass
            found[place] = word
    return found


def _verb(rng: random.Random, split: Split) -> str:
    return some(rng, VERBS, split, made=0.25)


def _key(rng: random.Random, words: Words, split: Split) -> str:
    """A parameter's name; in training mostly made up."""
    return _own(rng) if split == "train" and rng.random() < 0.6 else some(rng, words, split, made=0)


def _own(rng: random.Random) -> str:
    """A made-up name of one word or two."""
    first = made_up(rng)
    match rng.choices(("one", "two", "ending"), (6, 2, 2))[0]:
        case "two":
            return f"{made_up(rng, 1)}_{first}"
        case "ending":
            return f"{first}_{rng.choice(NAME_ENDS)}"
    return first


def named(rng: random.Random, verb: str, topic: str) -> str:
    """get_weather, getWeather, weather_get, weather."""
    words = f"{verb}_{topic}".split("_")
    match rng.choices(("snake", "camel", "behind", "bare"), (6, 2, 1, 1))[0]:
        case "snake":
            return "_".join(words)
        case "camel":
            return words[0] + "".join(word.capitalize() for word in words[1:])
        case "behind":
            return f"{topic}_{verb}"
    return topic


def _property(rng: random.Random, kind: str, key: str) -> dict[str, Any]:
    described = {"description": f"the {key.replace('_', ' ')}"} if rng.random() < 0.3 else {}
    return {"type": kind, **described}


def _extra(rng: random.Random, split: Split, kind: str) -> tuple[str, dict[str, Any], Any, str]:
    """An optional parameter: its name, schema, the value asked for, and the words that ask for it."""
    key = _key(rng, MORE_KEYS[kind], split)
    phrase = _joined(rng, kind) if split == "train" and rng.random() < 0.5 else rng.choice(EXTRAS[kind][split])
    said = key.replace("_", " ")
    match kind:
        case "count":
            value: Any = rng.randint(2, 60)
            return key, {"type": "integer"}, value, phrase.format(k=said, v=value)
        case "choice":
            values = list(rng.choice(ENUMS[split]))
            if split == "train" and rng.random() < 0.5:
                values = sorted({made_up(rng, rng.randint(1, 2)) for _ in range(rng.randint(2, 4))})
            value = rng.choice(values)
            return key, {"type": "string", "enum": values}, value, phrase.format(k=said, v=value)
    return key, {"type": "boolean"}, True, phrase.format(k=said)


def _joined(rng: random.Random, kind: str) -> str:
    """A phrase that asks for an optional parameter, from JOINTS and BODIES; never a held-out one."""
    while True:
        joint = rng.choice(JOINTS).format(w=_joint(rng), x=_joint(rng))
        phrase = joint + ("{k}" if kind == "flag" else rng.choice(BODIES))
        if phrase not in EXTRAS[kind]["held"]:
            return phrase


def _joint(rng: random.Random) -> str:
    return (
        rng.choice(FRAMING if rng.random() < 0.4 else COMMON) if rng.random() < 0.7 else made_up(rng, rng.randint(1, 2))
    )


def _value(rng: random.Random, kind: str, split: Split) -> str | int:
    match kind:
        case "place":
            return some(rng, PLACES, split, made=0.5)
        case "thing":
            return some(rng, THINGS, split, made=0.5)
        case "day":
            return rng.choice(DAYS)
        case "number":
            return rng.randint(10, 9999)
    return some(rng, NAMES, split, made=0.5)


def names_in(specs: Sequence[ToolSpec]) -> set[str]:
    """Every name, parameter and enum value of some declarations."""
    found = {spec.name for spec in specs}
    for spec in specs:
        properties: Any = (spec.parameters or {}).get("properties", {})
        for key, schema in properties.items():
            found |= {key, *schema.get("enum", ())}
    return found
