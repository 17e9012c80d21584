"""Structured output: the answer gives the question's facts as JSON of the developer's schema.

Input: a seeded random source and a split. Output: examples. The answer must be JSON, match the schema and have the question's values.
"""

import json
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

from ossia.harmony.messages import Developer, ResponseFormat, developer
from ossia.mini.parts.build import INSTRUCTIONS, example, opening, thoughts, written
from ossia.mini.parts.grades import of_text, read_json, verdict
from ossia.mini.parts.words import DAYS, NAME_ENDS, NAMES, PLACES, THINGS, Words, made_up, several, some
from ossia.mini.parts.working import working
from ossia.mini.tasks.arithmetic import any_sum, number
from ossia.task import Example, Grade, Split, Task

# Keys of facts in a schema.
KEYS: Mapping[str, Words] = {
    "person": {"train": ("name", "who", "buyer", "user"), "held": ("full_name", "client")},
    "place": {"train": ("city", "place", "location"), "held": ("town", "destination")},
    "thing": {"train": ("item", "goods", "what"), "held": ("product", "object_name")},
    "count": {"train": ("quantity", "count", "amount"), "held": ("how_many", "pieces")},
    "age": {"train": ("age", "years"), "held": ("age_in_years",)},
    "price": {"train": ("price", "cost", "dollars"), "held": ("unit_price",)},
    "day": {"train": ("day", "weekday"), "held": ("on_day",)},
    "urgent": {"train": ("urgent", "express"), "held": ("is_urgent",)},
    "result": {"train": ("answer", "result", "value", "solution"), "held": ("outcome", "total_value")},
    "list": {"train": ("items", "words", "list"), "held": ("entries", "all_of_them")},
}
# Descriptions of made-up keys.
DESCRIBED: Mapping[str, str] = {
    "person": "the person", "place": "the place", "thing": "the things", "count": "how many", "age": "the age", "price": "the price",
    "day": "the day", "urgent": "urgent or not", "list": "all of them",
}  # fmt: skip
KINDS = {"count": "integer", "age": "integer", "price": "integer", "result": "integer", "urgent": "boolean"}
# Sentences with their facts.
SENTENCES: Mapping[str, Mapping[Split, tuple[str, ...]]] = {
    "about": {
        "train": ("{person} is {age} years old and lives in {place}.", "{person}, {age}, from {place}", "I am {person}, {age} years old, and I live in {place}.",
                  "My friend {person} lives in {place} and is {age}.", "Name {person}, age {age}, home {place}.",
                  "At {age}, {person} moved to {place}.", "{place} is the home of {person}, aged {age}.", "{age} years old, living in {place}: {person}.",
                  "Meet {person}! Home: {place}. Age: {age}.", "I know {person}, a {age}-year-old of {place}.",
                  "{person} is {age} and comes from {place}.", "In {place} there is {person}, {age} years old.", "{person} of {place} has turned {age}.", "{place}: here lives {person}, {age}.",
                  "{person} grew up in {place} and is {age} years old.", "From {place} comes {person}, who is {age} now.", "My neighbour {person} ({age}) was born in {place}."),
        "held": ("{person} from {place} is {age} years old.", "In {place} lives {person}, who is {age}."),
    },
    "order": {
        "train": ("{person} orders {count} {thing} for {price} dollars each.", "I am {person} and want {count} {thing} at {price} dollars.",
                  "{count} {thing}, {price} dollars each, for {person}", "Please send {count} {thing} to {person}, price {price} dollars.",
                  "At {price} dollars each, {person} takes {count} {thing}.", "{count} of the {thing} go to {person}. Each costs {price} dollars.",
                  "Order by {person}: {thing}, {count} of them, {price} dollars.", "Customer {person}, number {count}, goods {thing}, price {price} dollars.",
                  "{person} wants {count} {thing} for {price} dollars each.", "{person} asks for {count} {thing} at {price} dollars.", "{person}: {count} {thing}, at {price} dollars each.", "We send {person} {count} {thing}, {price} dollars each.",
                  "{count} {thing} for {person}, each at {price} dollars.", "{person} needs {count} {thing}; each is {price} dollars.", "Let {person} have {count} {thing} for {price} dollars each."),
        "held": ("{person} would like {count} {thing} at {price} dollars each.", "For {person}: {count} {thing}, each {price} dollars."),
    },
    "trip": {
        "train": ("{person} travels to {place} on {day}.", "On {day} {person} goes to {place}.", "{person} wants a ticket to {place} for {day}.", "A room in {place} for {person}, {day}.",
                  "{day} is the day when {person} leaves for {place}.", "Book {place} for {person}. The day is {day}.", "{person} will see {place} on {day}.", "To {place}, {day}, one seat for {person}.",
                  "{person} drives to {place} this {day}.", "This {day}, {person} is in {place}.", "{person} goes to {place} by train on {day}.", "Next {day} {person} visits {place}.",
                  "{person} reaches {place} on {day} evening.", "Every {day} {person} is in {place}.", "{person}, {place}, {day}: please book.", "Come {day}, {person} will go to {place}."),
        "held": ("{person} flies to {place} next {day}.", "Next {day}, {person} will be in {place}."),
    },
}  # fmt: skip
LISTED: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "I need {x}.",
        "Buy {x}.",
        "My list: {x}",
        "Please get {x}.",
        "Do not forget {x}.",
        "{x} are missing.",
        "Today we sell {x}.",
        "Pack {x} for me.",
        "They want {x}.",
        "We have to get {x}.",
        "Bring {x}.",
        "Can you buy {x}?",
        "Would you pack {x}?",
        "I am out of {x}.",
        "Add {x} to the list.",
        "Who has {x}?",
    ),
    "held": ("We want {x}.", "Could you bring {x}?"),
}
NAMES_OF_FORMS: Words = {"train": ("answer", "record", "reply", "form"), "held": ("output", "entry")}


class _Made(NamedTuple):
    """A question, the requested facts by kind in the question's order, and the template's name."""

    question: str
    facts: Mapping[str, Any]
    template: str


def _facts(rng: random.Random, split: Split) -> _Made:
    kind = rng.choice(tuple(SENTENCES))
    which = rng.randrange(len(SENTENCES[kind][split]))
    template = SENTENCES[kind][split][which]
    values: dict[str, Any] = {
        "person": some(rng, NAMES, split), "place": some(rng, PLACES, split), "thing": some(rng, THINGS, split), "count": rng.randint(2, 500),
        "age": rng.randint(5, 99), "price": rng.randint(1, 99), "day": rng.choice(DAYS),
    }  # fmt: skip
    question = template.format(**values)
    said = sorted(
        (fact for fact in values if f"{{{fact}}}" in template), key=lambda fact: template.index(f"{{{fact}}}")
    )
    facts = {fact: values[fact] for fact in said}
    if kind == "order" and rng.random() < 0.5:
        urgent = rng.random() < 0.5
        facts["urgent"] = urgent
        question += " It is urgent." if urgent else " There is no hurry."
    wanted = rng.sample(list(facts), rng.randint(2, len(facts)))
    return _Made(question, {fact: facts[fact] for fact in wanted}, f"{kind}/{split}/{which}")


def _list(rng: random.Random, split: Split) -> _Made:
    items = several(rng, THINGS, split, rng.randint(2, 4))
    which = rng.randrange(len(LISTED[split]))
    facts: dict[str, Any] = {"list": items}
    if rng.random() < 0.5:
        facts["count"] = len(items)
    return _Made(LISTED[split][which].format(x=", ".join(items)), facts, f"list/{split}/{which}")


def _extracting(rng: random.Random, split: Split) -> Example:
    made = (_list if rng.random() < 0.25 else _facts)(rng, split)
    keys = {fact: _key(rng, split, fact) for fact in made.facts}
    answer = {key: made.facts[fact] for fact, (key, _) in keys.items()}
    schema = _schema(
        rng,
        {
            key: _type(fact) | ({"description": described} if described else {})
            for fact, (key, described) in keys.items()
        },
    )
    # at the start of a line a key has the same tokens as in the schema; after a space it would not
    said = "\n".join(
        f"{key} {f'{described}: ' if described else ''}{written(value)}"
        for (key, described), value in zip(keys.values(), answer.values())
    )
    wanted = "\n".join(answer)
    high = f"The form wants:\n{wanted}\nSo:\n{said}\n{len(answer)} keys, right."
    return _in_form(rng, split, f"form/{made.template}", made.question, answer, schema, (said, high))


def _key(rng: random.Random, split: Split, fact: str) -> tuple[str, str]:
    """A fact's key and its description; made-up and held-out keys always have one."""
    known = split == "train" and rng.random() < 0.5
    described = DESCRIBED[fact] if not known or rng.random() < 0.2 else ""
    if known or split == "held":
        return some(rng, KEYS[fact], split, made=0), described
    words = [made_up(rng, rng.randint(1, 2)) for _ in range(rng.randint(1, 2))]
    if rng.random() < 0.3:
        words[1:] = [rng.choice(NAME_ENDS)]
    return "_".join(words), described


def _type(fact: str) -> dict[str, Any]:
    if fact == "list":
        return {"type": "array", "items": {"type": "string"}}
    if fact == "day":
        return {"type": "string", "enum": list(DAYS)}
    return {"type": KINDS.get(fact, "string")}


def _schema(rng: random.Random, properties: Mapping[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties), "required": list(properties)}
    if rng.random() < 0.6:
        schema["additionalProperties"] = False
    return schema


def _sum_in_form(rng: random.Random, split: Split) -> Example:
    task = any_sum(rng, rng.choice(("+", "-", "*")))
    if rng.random() < 0.5:
        task = type(task)(number(rng, 2), rng.choice(("+", "*")), number(rng, 1))
    key = some(rng, KEYS["result"], split, made=0.2)
    which = rng.randrange(len(SUMS[split]))
    question = SUMS[split][which].format(x=f"{task.left} {task.operator} {task.right}")
    schema = _schema(rng, {key: {"type": "integer"}})
    medium, high = working(task, "medium"), f"{working(task, 'high')} In the form as {key}."
    return _in_form(rng, split, f"sum in a form/{split}/{which}", question, {key: task.answer}, schema, (medium, high))


SUMS: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "What is {x}?",
        "Compute {x}.",
        "{x}",
        "How much is {x}?",
        "Please calculate {x}.",
        "{x} = ?",
        "Give me {x}.",
        "I need {x}.",
        "Solve {x}.",
        "What is the value of {x}?",
    ),
    "held": ("Could you compute {x}?", "What number is {x}?"),
}


def _in_form(
    rng: random.Random, split: Split, template: str, question: str, answer: Any, schema: Any, said: tuple[str, str]
) -> Example:
    told = rng.choice(INSTRUCTIONS[split]) if rng.random() < 0.3 else None
    form = ResponseFormat(some(rng, NAMES_OF_FORMS, split), schema)
    before = [opening(rng), developer(Developer(told, (), (form,)))]
    return example(rng, split, template, question, answer, thoughts("", *said), json.dumps(answer), before)


@of_text
def _same_json(asked: Example, text: str) -> Grade:
    """Graded: the answer is JSON with exactly the requested values."""
    try:
        given = read_json(text)
    except ValueError:
        return Grade(0.0, "not JSON")
    if json.dumps(given, sort_keys=True) == json.dumps(asked.answer, sort_keys=True):  # true is not 1
        return Grade(1.0, "right")
    return verdict(json.dumps(given), json.dumps(asked.answer))


TASKS = (
    Task("form", _extracting, _same_json, weight=3.0),
    Task("sum in a form", _sum_in_form, _same_json),
)
