"""Small trees of text files for tasks: settings, notes and lists, with words of a split.

In: a seeded random source and a split. Out: a `Tree`.
"""

import random
from typing import NamedTuple

from ossia.mini.parts.words import ANIMALS, FRUIT, NAMES, PLACES, THINGS, Words, several, some
from ossia.task import Split

FOLDERS: Words = {
    "train": tuple("src docs data lib notes config".split()),
    "held": tuple("pages parts shop garden".split()),
}
FILES: Words = {
    "train": tuple("main list names words items places people plan first second".split()),
    "held": tuple("index stock guests towns".split()),
}
KEYS: Words = {
    "train": tuple("speed size count limit width level volume color name mode".split()),
    "held": tuple("height pace depth label".split()),
}
NOTES: dict[Split, tuple[str, ...]] = {
    "train": ("{n} likes the {t}.", "The {t} is in {p}.", "{n} has a {a}.", "{n} goes to {p}.", "A {a} eats the {f}."),
    "held": ("In {p} there is a {a}.", "{n} bought the {f}.", "The {a} took the {t}."),
}


class Tree(NamedTuple):
    """files: by path. settings: the path of the file with settings, and its keys and values. notes: the other paths."""

    files: dict[str, str]
    settings: str
    values: dict[str, str]
    notes: list[str]


def tree(rng: random.Random, split: Split) -> Tree:
    """Three to five files in one or two folders. No line is there twice."""
    folders = several(rng, FOLDERS, split, 2)
    names = several(rng, FILES, split, rng.randint(3, 4))
    files: dict[str, str] = {}
    seen: set[str] = set()
    for name in names[1:]:
        lines = [_note(rng, split, seen) for _ in range(rng.randint(2, 5))]
        files[_path(rng, folders, f"{name}.txt")] = "".join(f"{line}\n" for line in lines)
    values = {key: _value(rng, split) for key in several(rng, KEYS, split, rng.randint(2, 4))}
    settings = _path(rng, folders, f"{names[0]}.ini")
    files[settings] = "".join(f"{key} = {value}\n" for key, value in values.items())
    return Tree(dict(sorted(files.items())), settings, values, sorted(set(files) - {settings}))


def _path(rng: random.Random, folders: list[str], name: str) -> str:
    return rng.choice((name, *(f"{folder}/{name}" for folder in folders)))


def _note(rng: random.Random, split: Split, seen: set[str]) -> str:
    while True:
        words = {"n": NAMES, "t": THINGS, "p": PLACES, "a": ANIMALS, "f": FRUIT}
        filled = {letter: some(rng, each, split) for letter, each in words.items()}
        line = rng.choice(NOTES[split]).format(**filled)
        if line not in seen:
            seen.add(line)
            return line


def _value(rng: random.Random, split: Split) -> str:
    return str(rng.randint(2, 999)) if rng.random() < 0.7 else some(rng, FRUIT, split)
