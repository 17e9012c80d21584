"""Small logic puzzles: orders from comparisons, syllogisms, elimination.

Input: a seeded random source and a split. Output: examples whose thinking combines the facts one by one.
"""

import itertools
import random
from collections.abc import Sequence

from ossia.mini.parts.build import Templates, example, pick, thoughts
from ossia.mini.parts.grades import one_of
from ossia.mini.parts.words import COLORS, CONTAINERS, NAMES, PLACES, THINGS, Words, joined, made_up, several
from ossia.task import Example, Split, Task

# Words of a sentence around its answer.
SPOKEN = frozenset(
    "a an and answer at be city i in into is it now not of one place she he so that the then there this to under who".split()
)
# A comparison, the superlative for the first, and for the last.
RELATIONS = {
    "train": (
        ("taller", "tallest", "shortest"), ("older", "oldest", "youngest"), ("faster", "fastest", "slowest"), ("richer", "richest", "poorest"),
        ("stronger", "strongest", "weakest"), ("heavier", "heaviest", "lightest"), ("bigger", "biggest", "smallest"),
        ("kinder", "kindest", "rudest"), ("younger", "youngest", "oldest"), ("slower", "slowest", "fastest"), ("braver", "bravest", "meekest"),
        ("cleaner", "cleanest", "dirtiest"), ("calmer", "calmest", "wildest"), ("busier", "busiest", "laziest"), ("nicer", "nicest", "meanest"),
        ("warmer", "warmest", "coldest"), ("lighter", "lightest", "heaviest"),
    ),
    "held": (("louder", "loudest", "quietest"), ("happier", "happiest", "saddest"), ("smarter", "smartest", "dumbest")),
}  # fmt: skip
WHO: Templates = {
    "train": (
        "{x} Who is the {q}?",
        "{x} Which of them is the {q}?",
        "{x} Tell me who is the {q}.",
        "Who is the {q}? {x}",
        "{x} So who is the {q}?",
        "Look: {x} Which one is the {q}?",
        "{x} The {q} of all is who?",
        "We know this. {x} Now find the {q}.",
        "{x} Give the name of the {q}.",
        "{x} Who of them is the {q}?",
        "{x} Say who is the {q}.",
        "{x} Can you find the {q}?",
        "Say who is the {q}: {x}",
        "{x} I want to know who is the {q}.",
        "{x} Among them, who is the {q}?",
    ),
    "held": ("{x} Name the {q} of them.", "{x} Can you say who is the {q}?"),
}
HOW = "Answer yes, no or unknown."


def _told(some: Sequence[str], others: Sequence[str], asks: Sequence[str]) -> tuple[str, ...]:
    """Two facts in either order, and a question, in varied wording."""
    told = itertools.product(some, others, asks)
    return tuple(f"{a} {b} {ask}" for one, other, ask in told for a, b in ((one, other), (other, one)))


def _syllogisms(rules: Sequence[str], known: str, asked: str) -> tuple[str, ...]:
    """A rule, a fact about `known`, and a question about `asked`."""
    facts = (
        "{w} is one of the {x}.",
        "{w} belongs to the {x}.",
        "{w} is among the {x}.",
        "We know that {w} is one of the {x}.",
    )
    asks = (
        "Is {w} one of the {x}?", "Does {w} belong to the {x}?", "Is {w} among the {x}?", "Must {w} be one of the {x}?",
        "So is {w} among the {x}?", "Is it true that {w} is one of the {x}?", "Does this make it true that {w} is one of the {x}?",
        "Does it follow that {w} is one of the {x}?", "Can we say that {w} is one of the {x}?", "Would that put {w} among the {x}?",
        "Does that mean that {w} belongs to the {x}?", "Does this show that {w} is among the {x}?",
    )  # fmt: skip
    return _told(rules, [fact.replace("{x}", known) for fact in facts], [ask.replace("{x}", asked) for ask in asks])


EVERY = (
    "All {a} are {b}.", "Every one of the {a} is one of the {b}.", "All the {a} belong to the {b}.",
    "Each of the {a} is one of the {b}.", "The {a} are all among the {b}.", "Whoever is one of the {a} is one of the {b}.",
)  # fmt: skip
NOT_ONE = (
    "No {a} are {b}.", "None of the {a} is one of the {b}.", "No one of the {a} belongs to the {b}.",
    "Not one of the {a} is one of the {b}.", "The {a} are never among the {b}.",
)  # fmt: skip
ALL: Templates = {
    "train": _syllogisms(EVERY, "{a}", "{b}"),
    "held": ("{w} is one of the {a}. All {a} are {b}. Does that make {w} one of the {b}?",),
}
NONE: Templates = {
    "train": _syllogisms(NOT_ONE, "{a}", "{b}"),
    "held": ("{w} is one of the {a}. No {a} are {b}. Does that make {w} one of the {b}?",),
}
BACKWARDS: Templates = {
    "train": _syllogisms(EVERY, "{b}", "{a}"),
    "held": ("{w} is one of the {b}. All {a} are {b}. Does that make {w} one of the {a}?",),
}
HIDDEN: Templates = {
    "train": (
        "The key is in the {x} box. {n} Which box is it in?", "A prize is in the {x} box. {n} Where is it?", "The ball is in the {x} bag. {n} Which one has the ball?",
        "The cat is in the {x} room. {n} In which room is the cat?", "One box holds a ring: the {x} one. {n} Which is it?", "{n} So is the gold in the {x} chest?",
        "Behind which door is the car, the {x} one? {n}", "I hid a stone in the {x} jar. {n} Find the stone.", "There is a nut in the {x} bowl. {n} Where must it be?",
        "A ring lies in the {x} bag. {n} In which bag?", "My keys are in the {x} drawer. {n} Which drawer should I open?", "Somebody hid a book in the {x} chest. {n} Tell me where.",
        "The prize waits behind the {x} door. {n} Which door?", "{n} Which of the {x} boxes has the gift?", "There is a frog in the {x} pot. {n} Where is it?",
        "Pick the right one: the {x} hat hides a rabbit. {n}", "The money is in the {x} purse. {n} Say which.", "Which is it, the {x} one? {n}",
        "A pearl is under the {x} shell. {n} Under which shell is it?", "The note is in the {x} envelope. {n} Which envelope is it in?",
        "A spider sits under the {x} pot. {n} Which pot is it under?", "The map is in the {x} chest. {n} Where is the map?",
        "The bread is in the {x} bag. {n} Where is the bread?", "A prize is under the {x} lid. {n} Which lid is it under?",
    ),
    "held": ("A coin is under the {x} cup. {n} Which cup is it under?", "The letter is in the {x} folder. {n} Where is the letter?"),
}  # fmt: skip
MOVED = (
    "{w} was in {a} and went to {b}.", "{w} lived in {a} and moved to {b}.", "{w} flies from {a} to {b}.", "{w} was in {a}. Later {w} travelled to {b}.",
    "{w} left {a} and is now in {b}.", "From {a} {w} went on to {b}.", "{w} spent a week in {a} and then drove to {b}.", "{w} took a train from {a} to {b}.",
    "At the start {w} lived in {a}; today it is {b}.", "After some years in {a}, {w} came to {b}.", "{w} has gone from {a} to {b}.", "{w} started in {a} and ended in {b}.",
    "{w} was born in {a} but lives in {b}.", "{w} is in {a}. Then {w} goes to {b}.",
    "{w} departs from {a} for {b}.", "{w} sets out from {a} and arrives in {b}.", "{w} leaves {a} and reaches {b}.", "{w} moves out of {a} and into {b}.",
    "{w} gave up {a} for {b}.", "{w} says goodbye to {a} and settles in {b}.", "Before, {w} was in {a}, now in {b}.", "In spring {w} was in {a}, in autumn in {b}.",
    "On Monday {w} was in {a}, on Tuesday in {b}.", "{w} exchanged {a} for {b}.", "Once {w} was in {a}, later in {b}.", "{w} turned from {a} to {b}.",
)  # fmt: skip
STAYED = (
    "{v} is in {c}.",
    "{v} lives in {c}.",
    "{v} stays in {c}.",
    "{v} never left {c}.",
    "{v} works in {c}.",
    "{v} was in {c} all the time.",
    "{v} has a house in {c}.",
    "{v} can be found in {c}.",
)
SOUGHT = (
    "Where is {w}?", "Where does {w} live now?", "In which city is {w}?", "Where can I find {w}?", "Which city is {w} in?", "Where would you look for {w}?",
    "{w} is where?", "Tell me where {w} is.",
)  # fmt: skip
WHERE: Templates = {
    "train": _told(MOVED, STAYED, SOUGHT),
    "held": ("{w} leaves {a} for {b}. {v} is in {c}. Where is {w} now?", "First {w} was in {a}, then in {b}. {v} was in {c}. Where is {w} now?"),
}  # fmt: skip


def _choices(rng: random.Random, words: Words, split: Split, count: int) -> list[str]:
    """Different words that an answer cannot confuse: "The red one." must not choose "the" as well."""
    found = several(rng, words, split, count)
    while SPOKEN & {word.lower() for word in found}:
        found = several(rng, words, split, count)
    return found


def _ordering(rng: random.Random, split: Split) -> Example:
    """Adjacent pairs of an order, shuffled."""
    relation, most, least = _relation(rng, split)
    people = _choices(rng, NAMES, split, rng.choice((3, 3, 4)))
    pairs = list(itertools.pairwise(people))
    rng.shuffle(pairs)
    facts = [f"{one} is {relation} than {other}." for one, other in pairs]
    asked = rng.choice([most, least])
    answer = people[0] if asked == most else people[-1]
    template, number_of = pick(rng, WHO, split)
    medium = f"{' > '.join(people)}."
    end = "alike, so the first" if asked == most else "not alike, so the last"
    high = f"{walked(people, pairs)} Told {relation}, asked {asked}: {end}, {answer}."
    others = [name for name in people if name != answer]
    question = template.format(x=" ".join(facts), q=asked)
    thinking = thoughts("", medium, high)
    return example(rng, split, f"ordering/{number_of}", question, [answer, others], thinking, f"{answer}.")


def walked(people: Sequence[str], pairs: Sequence[tuple[str, str]]) -> str:
    """Who stands above in a pair and who below; the first of those above held against those below, until it is none of them; from there down."""
    above, below = [one for one, _ in pairs], [other for _, other in pairs]
    said = [f"Above: {', '.join(above)}. Below: {', '.join(below)}."]
    for one in above[: above.index(people[0]) + 1]:
        until = below.index(one) + 1 if one in below else len(below)
        held_against = ", ".join(f"{one} or {other} {'yes' if one == other else 'no'}" for other in below[:until])
        said.append(f"{held_against}{', so the top.' if one == people[0] else '.'}")
    return f"{' '.join(said)} Down {len(pairs)}: {' > '.join(people)}."


def _relation(rng: random.Random, split: Split) -> tuple[str, str, str]:
    if split == "train" and rng.random() < 0.3:
        one, other = made_up(rng, 1), made_up(rng, 1)
        return f"{one}er", f"{one}est", f"{other}est"
    return rng.choice(RELATIONS[split])


def _following(rng: random.Random, split: Split) -> Example:
    """Yes, no, or unknown: all a are b says nothing about any b."""
    kind, templates, answer = rng.choice(
        (("all", ALL, "yes"), ("none", NONE, "no"), ("backwards", BACKWARDS, "unknown"))
    )
    if split == "train" and rng.random() < 0.6:
        one, other = f"{made_up(rng, 1)}s", f"{made_up(rng, 2)}es"  # the ends keep them apart
    else:
        one, other = several(rng, rng.choice((THINGS, CONTAINERS)), split, 2)
    (who,) = several(rng, NAMES, split, 1)
    template, number_of = pick(rng, templates, split)
    rule = f"No {one} are {other}" if kind == "none" else f"All {one} are {other}"
    among, asked = (other, one) if kind == "backwards" else (one, other)
    fact = f"{who} is in {among}"
    held_against = (
        f"{one} or {among}: {'the same, so it holds' if among == one else 'not the same, so it says nothing'}"
    )
    medium = f"{rule}; {fact}."
    high = f"Rule: {rule}. It begins with {one}. Fact: {fact}. {held_against}. Asked: is {who} in {asked}? {answer}."
    others = [word for word in ("yes", "no", "unknown") if word != answer]
    question = f"{template.format(a=one, b=other, w=who)} {HOW}"
    return example(
        rng, split, f"following/{kind}/{number_of}", question, [answer, others], thoughts("", medium, high),
        f"{answer.capitalize()}.",
    )  # fmt: skip


def _ruling_out(rng: random.Random, split: Split) -> Example:
    places = _choices(rng, COLORS, split, rng.randint(3, 4))
    answer, *others = rng.sample(places, len(places))
    told = rng.sample(others, len(others))
    facts = " ".join(rng.choice((f"It is not the {each} one.", f"The {each} one is empty.")) for each in told)
    template, number_of = pick(rng, HIDDEN, split)
    shown = f"{', '.join(places[:-1])} or {places[-1]}"
    medium = f"Not {joined(told)}."
    out = ", ".join(f"{each} is out" for each in told)
    each_one = ", ".join(f"{each} is {'left' if each == answer else 'out'}" for each in places)
    high = f"{out}. All: {each_one}."
    question = template.format(x=shown, n=facts)
    thinking = thoughts("", medium, high)
    return example(rng, split, f"ruling out/{number_of}", question, [answer, others], thinking, f"The {answer} one.")


def _whereabouts(rng: random.Random, split: Split) -> Example:
    """Someone moves; the last place is the answer."""
    (who, other), places = several(rng, NAMES, split, 2), _choices(rng, PLACES, split, 3)
    template, number_of = pick(rng, WHERE, split)
    question = template.format(w=who, v=other, a=places[0], b=places[1], c=places[2])
    medium = f"{who}: {places[0]}, then {places[1]}."
    high = f"{who}: first {places[0]}, then {places[1]}. {other}: {places[2]}. Asked: {who}, now {places[1]}."
    answer = [places[1], [places[0], places[2]]]
    return example(
        rng, split, f"whereabouts/{number_of}", question, answer, thoughts("", medium, high), f"In {places[1]}."
    )


TASKS = (
    Task("ordering", _ordering, one_of, weight=2.0),
    Task("following", _following, one_of, weight=1.5),
    Task("ruling out", _ruling_out, one_of),
    Task("whereabouts", _whereabouts, one_of, weight=0.5),
)
