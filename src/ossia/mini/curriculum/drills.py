"""Drills as plain text: copying, spelling, comparing and looking up short items.

Input: a random source. Output: a few problems of one kind, each with its answer after a colon, or on the next line.

Small models learn last to copy and compare words that they have never seen, so most words here are made up.
"""

import itertools
import json
import random
from collections.abc import Callable
from typing import Any

from ossia.harmony.schema import typescript
from ossia.mini.parts.build import written
from ossia.mini.parts.toolbox import functions_for, named
from ossia.mini.parts.words import ANIMALS, NAME_ENDS, NAMES, PLACES, PLAIN, THINGS, made_up
from ossia.mini.parts.working import compare
from ossia.mini.tasks.calls import said_of_each
from ossia.mini.tasks.logic import walked
from ossia.mini.tasks.order import inserted
from ossia.task import TrainingText

Problem = tuple[str, str]  # a problem and its answer
KNOWN = (PLAIN, NAMES, PLACES, THINGS, ANIMALS)


def drill(rng: random.Random) -> TrainingText:
    """Three to six problems of one kind; the answers are the targets."""
    kind = rng.choices([each for each, _ in KINDS], [weight for _, weight in KINDS])[0]
    pieces: list[tuple[str, bool]] = []
    for _ in range(rng.randint(3, 6)):
        given, answer = kind(rng)
        between = "\n" if "\n" in given + answer else " "
        pieces += [(f"{given}:", False), (f"{between}{answer}\n", True)]
    return TrainingText(pieces)


def word(rng: random.Random) -> str:
    """A made-up or known word: lower case, capitalised, or two joined as a name."""
    chosen = made_up(rng, rng.randint(1, 3)) if rng.random() < 0.75 else rng.choice(rng.choice(KNOWN)["train"])
    match rng.choices(("plain", "capital", "name"), (6, 3, 1))[0]:
        case "capital":
            return chosen.capitalize()
        case "name":
            return f"{chosen}_{made_up(rng, 1) if rng.random() < 0.5 else rng.choice(NAME_ENDS)}"
    return chosen


def words(rng: random.Random, least: int, most: int) -> list[str]:
    """From `least` to `most` different words."""
    count, found = rng.randint(least, most), dict[str, None]()
    while len(found) < count:
        found[word(rng)] = None
    return list(found)


def _again(rng: random.Random) -> Problem:
    given = ", ".join(words(rng, 2, 5))
    return f"again {given}", given


def _without(rng: random.Random) -> Problem:
    given = words(rng, 3, 5)
    gone = rng.choice(given)
    return f"{' '.join(given)} without {gone}", " ".join(each for each in given if each != gone)


def _spelled(rng: random.Random) -> Problem:
    chosen = word(rng).lower()
    match rng.randrange(4):
        case 0:
            return f"letters of {chosen}", " ".join(chosen)
        case 1:
            return f"{chosen} numbered", " ".join(f"{number}{letter}" for number, letter in enumerate(chosen, 1))
        case 2:
            return f"{' '.join(chosen)} together", chosen
    return f"{chosen} backwards", f"{' '.join(chosen)}, {' '.join(reversed(chosen))}"


def _alike(rng: random.Random) -> Problem:
    """Two words, the same or not; different ones often differ in one letter."""
    one = word(rng)
    draw, other = rng.random(), word(rng)
    if draw < 0.45:
        other = one
    elif draw < 0.7:
        place = rng.randrange(len(one))
        other = one[:place] + rng.choice("aeioubdfgklmnprst") + one[place + 1 :]
    return f"{one} or {other}", "the same" if one == other else "not the same"


def _looked_up(rng: random.Random) -> Problem:
    """The value of a key among several, or none if the key is missing."""
    keys = words(rng, 2, 5)
    values = [rng.choice((word(rng), str(rng.randint(0, 9999)))) for _ in keys]
    sign = rng.choice((" ", " is ", " by ", " > ", ": "))
    asked = rng.randrange(len(keys))
    told = "; ".join(f"{key}{sign}{value}" for key, value in zip(keys, values))
    if rng.random() < 0.25:
        return f"{told}. {(other := _other(rng, keys))}", f"{other}{sign}none"
    return f"{told}. {keys[asked]}", f"{keys[asked]}{sign}{values[asked]}"


def _by_name(rng: random.Random) -> Problem:
    """The function of a topic among similar names, or none."""
    verb = word(rng).lower()
    wanted = list(dict.fromkeys(each.lower() for each in words(rng, 2, 5)))
    names = [named(rng, verb if rng.random() < 0.8 else made_up(rng), each) for each in wanted]
    told = "; ".join(f"{each.replace('_', ' ')} by {name}" for each, name in zip(wanted, names))
    if rng.random() < 0.2:
        return f"{told}. So {(other := _other(rng, wanted))}", f"{other} by none"
    asked = rng.randrange(len(wanted))
    return f"{told}. So {(topic := wanted[asked].replace('_', ' '))}", f"{topic} by {names[asked]}"


def _arguments(rng: random.Random) -> Problem:
    """Declared functions, a request and its function; the answer gives each parameter's value."""
    found = functions_for(rng, "train", rng.randint(1, 4), 3)
    chosen = found[0]
    rng.shuffle(found)
    told = "; ".join(f"{each.spec.name} = {typescript(each.spec.parameters)}" for each in found)
    return f"{told}; {chosen.request}; {chosen.spec.name}", said_of_each(chosen)


def _other(rng: random.Random, given: list[str]) -> str:
    """A word that is not among the given ones, ignoring case."""
    while (found := word(rng)).lower() in {each.lower() for each in given}:
        pass
    return found


def _found(rng: random.Random) -> Problem:
    """The position of a named item, or the item at a position."""
    given = words(rng, 3, 5)
    place = rng.randrange(len(given))
    numbered = ", ".join(f"{number} {each}" for number, each in enumerate(given, 1))
    if rng.random() < 0.5:
        return f"{numbered}; where is {given[place]}", str(place + 1)
    return f"{numbered}; {place + 1}", given[place]


def _in_json(rng: random.Random) -> Problem:
    keys = words(rng, 1, 4)
    values = [rng.choice((word(rng), rng.randint(0, 999), True)) for _ in keys]
    said = "\n".join(f"{key} {written(value)}" for key, value in zip(keys, values))
    found = json.dumps(dict(zip(keys, values)))
    return (f"{said} as json", found) if rng.random() < 0.6 else (f"{found} in words", said)


def _taken_apart(rng: random.Random) -> Problem:
    """Split function names into words."""
    parts = [made_up(rng, rng.randint(1, 2)) for _ in range(rng.randint(2, 3))]
    name = "_".join(parts) if rng.random() < 0.6 else parts[0] + "".join(part.capitalize() for part in parts[1:])
    return f"{name} in words", f"{' '.join(parts)}; without the first {' '.join(parts[1:])}"


def _compared(rng: random.Random) -> Problem:
    a = rng.randrange(10 ** rng.randint(1, 5))
    b = rng.randrange(10 ** rng.randint(1, 5)) if rng.random() < 0.4 else max(0, a + rng.randint(-150, 150))
    kind = rng.choice(("larger", "smaller"))
    found = max(a, b) if kind == "larger" else min(a, b)
    if rng.random() < 0.6:
        return f"{a} and {b}, {kind}", f"{compare(a, b)}; {found}"
    return f"{a} or {b}, {kind}", str(found)


def _sorted(rng: random.Random) -> Problem:
    """Sort letters, prefixes or numbers: at once, or by insertion."""
    count, below = rng.randint(2, 5), rng.choice((20, 100, 1000))
    found: list[Any] = (
        rng.sample(range(below), count) if rng.random() < 0.5 else list({_begun(rng): None for _ in range(count)})
    )
    ordered = sorted(found)
    told = f"in order {' '.join(map(str, found))}"
    row = " ".join(map(str, ordered))
    return (told, inserted(found, ordered)) if rng.random() < 0.6 else (f"{told} at once", row)


def _begun(rng: random.Random) -> str:
    return "-".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.choice((1, 2, 2, 3))))


def _chained(rng: random.Random) -> Problem:
    """Build an order from shuffled adjacent pairs: from the top down, or at once."""
    row = words(rng, 3, 4)
    pairs = list(itertools.pairwise(row))
    rng.shuffle(pairs)
    told = "; ".join(f"{one} > {other}" for one, other in pairs)
    return (told, walked(row, pairs)) if rng.random() < 0.7 else (f"{told} at once", " > ".join(row))


KINDS: tuple[tuple[Callable[[random.Random], Problem], float], ...] = (
    (_again, 1), (_without, 1), (_spelled, 3), (_alike, 2), (_looked_up, 2), (_found, 1), (_in_json, 2), (_taken_apart, 1.5),
    (_compared, 2), (_sorted, 1.5), (_chained, 1.5), (_by_name, 2), (_arguments, 4),
)  # fmt: skip
