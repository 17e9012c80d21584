"""Comparing and sorting: whole and decimal numbers, and words.

Input: a seeded random source and a split. Output: examples; the thinking compares from the left, a digit or a letter at a time.
"""

import random
from collections.abc import Sequence
from typing import Any

from ossia.mini.parts.build import Templates, example, pick, thoughts
from ossia.mini.parts.grades import of_text, plain, verdict
from ossia.mini.parts.words import ANIMALS, FRUIT, PLAIN, Words, joined, several
from ossia.mini.parts.working import compare
from ossia.mini.tasks.arithmetic import number
from ossia.task import Example, Grade, Split, Task

LARGER: Templates = {
    "train": (
        "Which is larger, {a} or {b}?", "Which number is bigger: {a} or {b}?", "Is {a} or {b} larger?", "{a} or {b}: which is larger?",
        "What is larger, {a} or {b}", "Tell me the larger of {a} and {b}.", "Which one is greater, {a} or {b}?", "larger: {a} or {b}?",
        "Find the larger number: {a}, {b}", "The bigger one of {a} and {b}?",
        "Take {a} and {b}. Which is larger?", "Compare {a} and {b}: the larger one?", "Which has the higher value, {a} or {b}?", "Is {a} more than {b}? Say the larger one.",
        "Pick the larger: {a} or {b}.", "I have {a} and {b}. Which is more?", "Between {a} and {b}, which is bigger?",
    ),
    "held": ("Of {a} and {b}, which is larger?", "Please say which is bigger, {a} or {b}.", "Give me the larger number of {a} and {b}."),
}  # fmt: skip
SMALLER: Templates = {
    "train": (
        "Which is smaller, {a} or {b}?", "Which number is less: {a} or {b}?", "Is {a} or {b} smaller?", "{a} or {b}: which is smaller?",
        "Tell me the smaller of {a} and {b}.", "Find the smaller number: {a}, {b}", "smaller: {a} or {b}?", "What is smaller, {a} or {b}",
        "Take {a} and {b}. Which is smaller?", "Compare {a} and {b}: the smaller one?", "Which has the lower value, {a} or {b}?",
        "Pick the smaller: {a} or {b}.", "I have {a} and {b}. Which is less?", "Between {a} and {b}, which is smaller?",
    ),
    "held": ("Of {a} and {b}, which is smaller?", "Please say which is smaller, {a} or {b}.", "Give me the smaller number of {a} and {b}."),
}  # fmt: skip
UPWARDS: Templates = {
    "train": (
        "Sort these numbers: {x}", "Sort {x}.", "Put {x} in order.", "Sort from smallest to largest: {x}", "Order these: {x}",
        "Arrange {x} from small to large.", "sort {x}", "Please sort {x} in ascending order.", "Put these numbers in order: {x}",
        "{x}: from the smallest to the largest?", "Bring {x} into order.", "Line up {x} by size.", "Start with the smallest: {x}", "ascending order: {x}",
        "Order {x}, the smallest at the front.", "Rank {x} upwards.", "{x}, smallest first", "Smallest first: {x}",
        "Put {x} in order, smallest first.", "Sort {x}, the smallest first.", "Order {x} so that the smallest comes first.",
        "List {x} in ascending order.", "Arrange {x}, smallest number first.", "Which order do {x} have, the smallest first?",
    ),
    "held": ("Could you sort {x} for me?", "Write {x} in order, smallest first.", "Please put {x} in ascending order."),
}  # fmt: skip
DOWNWARDS: Templates = {
    "train": (
        "Sort from largest to smallest: {x}", "Sort {x} in descending order.", "Arrange {x} from large to small.",
        "Put {x} in order, largest first.", "Order these from largest to smallest: {x}", "descending order: {x}",
        "{x}: from the largest to the smallest?", "Start with the largest: {x}", "Order {x}, the largest at the front.", "Rank {x} downwards.",
        "Bring {x} into falling order.", "Line up {x}, the biggest first.", "{x}, largest first", "Largest first: {x}",
        "Sort {x}, the largest first.", "List {x} in descending order.", "Order {x} so that the largest comes first.",
        "Arrange {x}, largest number first.", "Which order do {x} have, the largest first?",
    ),
    "held": ("Could you sort {x} from largest to smallest?", "Please put {x} in descending order.", "Write {x}, largest first."),
}  # fmt: skip
ALPHABET: Templates = {
    "train": (
        "Sort these words: {x}", "Put {x} in alphabetical order.", "Sort alphabetically: {x}", "Alphabetical order: {x}",
        "Arrange these words by the alphabet: {x}", "Please sort {x} from A to Z.", "Order the words {x} alphabetically.",
        "Bring {x} into alphabetical order.", "Alphabetise {x}.", "List {x} by their letters.", "{x}: sort them by the alphabet.",
        "In a dictionary, how would {x} be ordered?", "Make an alphabetical list of {x}.", "Line up the words {x} by the alphabet.",
        "Which order do {x} have in a dictionary?", "By the alphabet: {x}", "From A to Z: {x}", "List {x} from A to Z.",
        "Put the words {x} in order from A to Z.", "{x}, from A to Z please", "Order {x} as a dictionary does.", "Arrange {x} in alphabetical order.",
        "Can you arrange {x} alphabetically?", "Which order do the words {x} have from A to Z?", "Line up {x} from A to Z.", "{x}: alphabetical order?",
    ),
    "held": ("Could you put {x} in alphabetical order?", "Write {x} from A to Z.", "Please sort the words {x} alphabetically."),
}  # fmt: skip


@of_text
def _one_number(example: Example, text: str) -> Grade:
    """Compare the last number as written, also decimals."""
    return verdict(plain(text.split()[-1]) if text.split() else "", example.answer)


@of_text
def _whole_list(example: Example, text: str) -> Grade:
    return verdict([plain(part) for part in text.split(",")], example.answer)


def _comparing(rng: random.Random, split: Split) -> Example:
    a, b = _pair(rng)
    wants_larger = rng.random() < 0.6
    template, number_of = pick(rng, LARGER if wants_larger else SMALLER, split)
    medium = _decimal_comparison(a, b) if "." in a else f"{a} and {b}: {compare(int(a), int(b))}."
    larger, smaller = (a, b) if float(a) > float(b) else (b, a)
    wanted = larger if wants_larger else smaller
    high = f"{medium} So {larger} is larger, {smaller} is smaller. Wanted: {'larger' if wants_larger else 'smaller'}, {wanted}."
    name = f"comparing/{'larger' if wants_larger else 'smaller'}/{number_of}"
    return example(rng, split, name, template.format(a=a, b=b), wanted, thoughts("", medium, high), wanted)


def _pair(rng: random.Random) -> tuple[str, str]:
    """Two different numbers; many have a common prefix, some a decimal point."""
    while True:
        if rng.random() < 0.3:
            whole = number(rng, 2)
            pair = [f"{whole + rng.choice((0, 0, 0, 1))}.{rng.randint(1, 99):0{rng.randint(1, 2)}d}" for _ in range(2)]
        else:
            a = number(rng, 5)
            b = number(rng, 5) if rng.random() < 0.4 else max(0, a + rng.choice((-1, 1)) * number(rng, 2))
            pair = [str(a), str(b)]
        if float(pair[0]) != float(pair[1]):
            return pair[0], pair[1]


def _decimal_comparison(a: str, b: str) -> str:
    """Compare the integer parts, then the decimals padded with zeros to one length."""
    (x, u), (y, v) = a.split("."), b.split(".")
    if x != y:
        return f"{a} and {b}: before the point {compare(int(x), int(y))}."
    width = max(len(u), len(v))
    u, v = u.ljust(width, "0"), v.ljust(width, "0")
    pairs = []
    for one, other in zip(u, v):
        pairs.append(f"{one}{'<' if one < other else '>' if one > other else '='}{other}")
        if one != other:
            break
    return f"{a} and {b}: before the point the same; behind it {u} and {v}: {', '.join(pairs)}."


def _sorting(rng: random.Random, split: Split) -> Example:
    count = rng.randint(3, 5)
    numbers = rng.sample(range(0, rng.choice((20, 100, 1000))), count)
    down = rng.random() < 0.35
    template, number_of = pick(rng, DOWNWARDS if down else UPWARDS, split)
    shown = ", ".join(map(str, numbers)) if rng.random() < 0.7 else joined([str(each) for each in numbers])
    ordered = sorted(numbers, reverse=down)
    reply = ", ".join(map(str, ordered))
    word = "largest" if down else "smallest"
    medium = f"{' '.join(map(str, numbers))}: {'; '.join(map(str, ordered))}."
    high = f"{word.capitalize()} first. {inserted(numbers, ordered)} Count: {count} and {count}, right."
    name = f"sorting/{'down' if down else 'up'}/{number_of}"
    answer = [str(each) for each in ordered]
    return example(rng, split, name, template.format(x=shown), answer, thoughts("", medium, high), reply)


def inserted(items: Sequence[Any], ordered: Sequence[Any]) -> str:
    """Insertion sort: each item is compared with the sorted ones until its place is found; then the whole list."""
    there, said = [items[0]], [f"{items[0]}."]
    for item in items[1:]:
        before = [each for each in there if ordered.index(each) < ordered.index(item)]
        against = there[: len(before) + 1]
        pairs = ", ".join(f"{each} or {item}: {each if each in before else item}" for each in against)
        there.insert(len(before), item)
        said.append(f"{item}: {pairs}; {' '.join(map(str, there))}.")
    return " ".join(said)


def _alphabet(rng: random.Random, split: Split) -> Example:
    lists: tuple[Words, ...] = (ANIMALS, FRUIT, PLAIN)
    words = several(rng, rng.choice(lists), split, rng.randint(3, 4))
    template, number_of = pick(rng, ALPHABET, split)
    ordered = sorted(words)
    first = ", ".join(f"{word} {_beginning(word, words)}" for word in words)
    sought = ", ".join(f"{_beginning(word, words)} {word}" for word in ordered)
    begun, sorted_ = ([_beginning(word, words) for word in each] for each in (words, ordered))
    high = f"{first}. {inserted(begun, sorted_)} {sought}."
    medium = f"{sought}."
    question = template.format(x=", ".join(words))
    return example(
        rng, split, f"alphabet/{number_of}", question, ordered, thoughts("", medium, high), ", ".join(ordered)
    )


def _beginning(word: str, words: Sequence[str]) -> str:
    """The first two letters, or as many as distinguish the word from the others."""
    length = next(n for n in range(2, len(word) + 2) if n >= len(word) or sum(w[:n] == word[:n] for w in words) == 1)
    return "-".join(word[:length])


TASKS = (
    Task("comparing", _comparing, _one_number),
    Task("sorting", _sorting, _whole_list, weight=1.5),
    Task("alphabet", _alphabet, _whole_list, weight=2.5),
)
