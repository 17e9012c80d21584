"""Letters and lists: spelling, spelling backwards, counting letters, counting and picking items.

Input: a seeded random source and a split. Output: examples; the thinking writes a word letter by letter and counts along.
"""

import random

from ossia.mini.parts.build import Templates, example, pick, thoughts
from ossia.mini.parts.grades import last_number, of_text, plain, verdict, whole_text
from ossia.mini.parts.words import ANIMALS, COLORS, FRUIT, PLAIN, THINGS, joined, made_up, several
from ossia.task import Example, Grade, Split, Task

SPELL: Templates = {
    "train": (
        'Spell "{w}".', "Spell the word {w}.", "How do you spell {w}?", "spell {w}", "Please spell {w}, letter by letter.",
        "Write {w} with a dash between the letters.", 'What are the letters of "{w}"?', "Letters of {w}?",
        "Letter by letter, what is {w}?", "Split {w} into letters.", "The spelling of {w}?", "Say {w} letter by letter.",
        "Break {w} into its letters.", "What letters make {w}?", "{w}, spelled?", "Show how {w} is spelled.", "Take {w} apart, letter for letter.",
    ),
    "held": ("Can you spell {w} for me?", 'Write the letters of "{w}" one by one.', "Please spell out the word {w}."),
}  # fmt: skip
BACKWARDS: Templates = {
    "train": (
        'Spell "{w}" backwards.', "Write {w} backwards.", "What is {w} backwards?", "Reverse the word {w}.", "reverse {w}",
        'Turn "{w}" around.', "Reverse the letters of {w}.", "{w} backwards?",
        "Flip the word {w}.", "Read {w} from right to left.", "{w} in reverse?", "From the last letter to the first: {w}", "Turn {w} round.",
        "Write the letters of {w} from the end.", "How does {w} read from behind?", "Say {w} in reverse order.", "The other way round: {w}",
        "{w}, backwards please", "Spell {w} from its end.", 'Write "{w}" from right to left.', "Give the letters of {w} in reverse.", "Can you turn {w} around?",
    ),
    "held": ("Can you write {w} backwards?", 'Please reverse "{w}".', "Give me the word {w} backwards."),
}  # fmt: skip
HOW_OFTEN: Templates = {
    "train": (
        'How many {l}\'s are in "{w}"?', 'How many times does the letter {l} appear in "{w}"?', "Count the {l}'s in {w}.",
        "How often is {l} in {w}?", "How many {l} in {w}?", "How many letters {l} does the word {w} have?", "count {l} in {w}",
        "In {w}, how many {l}'s are there?",
        "The letter {l} in {w}: how many?", "{w}: how many {l}'s?", "Number of {l} in {w}?", "Find how many {l}'s {w} contains.",
        "How many of the letters of {w} are {l}?", "Of the letter {l}, how many does {w} hold?", "In the word {w}, count each {l}.",
        "How often does {w} contain the letter {l}?", "Does {w} have the letter {l}? How often?", "Count how often {l} stands in {w}.",
        'How often do you see {l} in "{w}"?', "How often is the letter {l} used in {w}?", 'How many times is {l} in "{w}"?', "Say how often {w} has {l}.",
    ),
    "held": ('How often does "{w}" have the letter {l}?', "Please count the letter {l} in {w}.", "Tell me how many {l}'s {w} has."),
}  # fmt: skip
HOW_LONG: Templates = {
    "train": (
        'How many letters are in "{w}"?', "How many letters does {w} have?", "Count the letters of {w}.", "How long is the word {w}?",
        "letters in {w}?", "What is the number of letters in {w}?",
        "{w} has how many letters?", "Length of {w}?", "Of how many letters is {w} made?", "Number of letters: {w}", "Say how long {w} is.",
        "Count how many letters are in {w}.", "Say how many letters {w} has.", "How many letters long is {w}?", 'The word "{w}" has how many letters?',
        "Find the number of letters in {w}.", 'Count all letters of "{w}".',
    ),
    "held": ("Please count how many letters {w} has.", 'Tell me the number of letters of "{w}".'),
}  # fmt: skip
ITEMS: Templates = {
    "train": (
        "How many things are in this list: {x}?", "Count these: {x}", "How many words are there: {x}?", "How many items: {x}?",
        "Count the items in {x}.", "{x}: how many are these?",
        "How many are in {x}?", "The list {x} has how many entries?", "Number of words in {x}?", "I see {x}. How many is that?", "Count: {x}",
        "We have {x}. How many do we have?", "How long is the list {x}?", "Here are {x}. Say their number.",
    ),
    "held": ("Please count the things in this list: {x}", "How many are these: {x}?", "Tell me how many items are in {x}."),
}  # fmt: skip
NTH: Templates = {
    "train": (
        "What is the {n} word of: {x}?", "Which is {n} in this list: {x}?", "Give me the {n} of {x}.", "Take the {n} item of {x}.",
        "Name the {n} thing in {x}.",
        "In {x}, what comes {n}?", "From {x} take the {n}.", "Look at {x}. What is the {n} one?", "The list is {x}. Say the {n} one.",
        "{x}: the {n}?", "Here are some words: {x}. Pick the {n}.", "I need the {n} entry of {x}.", "Out of {x}, which one stands {n}?",
        "What stands at the {n} place of {x}?", "Show the {n} element of {x}.", "{n} of {x}?", "My list: {x}. And the {n} is?",
        "Please name the {n} of {x}.", "Which word is {n} in {x}?", "Say which item is the {n}: {x}", "Tell me the {n} thing of {x}.",
    ),
    "held": ("Please tell me the {n} word in this list: {x}", "Which item is {n}: {x}?"),
}  # fmt: skip
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def word(rng: random.Random, split: Split) -> str:
    if split == "train" and rng.random() < 0.5:
        return made_up(rng, rng.randint(1, 3))
    return rng.choice(rng.choice((PLAIN, PLAIN, ANIMALS, FRUIT))[split])


def _spelling(rng: random.Random, split: Split) -> Example:
    chosen = word(rng, split)
    if rng.random() < 0.4:
        template, number_of = pick(rng, SPELL, split)
        spelt = "-".join(chosen)
        thinking = thoughts("", f"{' '.join(chosen)}.", f"{' '.join(chosen)}. Together {chosen}, right.")
        return example(rng, split, f"spelling/forwards/{number_of}", template.format(w=chosen), spelt, thinking, spelt)
    template, number_of = pick(rng, BACKWARDS, split)
    turned = "-".join(chosen[::-1])
    medium = f"{' '.join(chosen)}. From the end: {' '.join(chosen[::-1])}."
    high = f"{_numbered(chosen)}. From the end: {_numbered(chosen, down=True)}. {' '.join(chosen[::-1])}."
    return example(
        rng, split, f"spelling/backwards/{number_of}", template.format(w=chosen), turned,
        thoughts("", medium, high), turned,
    )  # fmt: skip


def _numbered(text: str, down: bool = False) -> str:
    pairs = [f"{number}{letter}" for number, letter in enumerate(text, 1)]
    return " ".join(reversed(pairs) if down else pairs)


def _counting_letters(rng: random.Random, split: Split) -> Example:
    chosen = word(rng, split)
    if rng.random() < 0.35:
        template, number_of = pick(rng, HOW_LONG, split)
        count, letter, kind = len(chosen), "", "length"
        medium = f"{_numbered(chosen)}."
        high = f"{_numbered(chosen)}. The last is {count}, so {count} letters."
        reply = f"{chosen} has {count} letters: {count}"
    else:
        template, number_of = pick(rng, HOW_OFTEN, split)
        letter = rng.choice(chosen) if rng.random() < 0.85 else rng.choice("abdeinorstu")
        count, kind = chosen.count(letter), "letter"
        medium = f"{' '.join(chosen)}. {letter}: {count}."
        high = f"{_marked(chosen, letter)}. So {count}."
        reply = f"The letter {letter} in {chosen}: {count}"
    name = f"counting letters/{kind}/{number_of}"
    return example(rng, split, name, template.format(w=chosen, l=letter), count, thoughts("", medium, high), reply)


def _marked(text: str, letter: str) -> str:
    """Every letter; each counted one is followed by the count so far: "b a 1 n a 2"."""
    seen, said = 0, []
    for each in text:
        said.append(each)
        if each == letter:
            seen += 1
            said.append(str(seen))
    return " ".join(said)


def _counting_items(rng: random.Random, split: Split) -> Example:
    lists = rng.choice((ANIMALS, FRUIT, COLORS, THINGS))
    items = several(rng, lists, split, rng.randint(2, min(6, len(lists[split]))))
    shown = ", ".join(items) if rng.random() < 0.6 else joined(items)
    counted = ", ".join(f"{number} {item}" for number, item in enumerate(items, 1))
    template, number_of = pick(rng, ITEMS, split)
    high = f"{counted}. The last is {len(items)}."
    thinking = thoughts("", f"{counted}.", high)
    name = f"counting items/{number_of}"
    return example(rng, split, name, template.format(x=shown), len(items), thinking, f"There are {len(items)}.")


def _nth(rng: random.Random, split: Split) -> Example:
    lists = rng.choice((ANIMALS, FRUIT, COLORS, THINGS))
    items = several(rng, lists, split, rng.randint(3, min(6, len(lists[split]))))
    wanted = rng.randrange(len(items))
    template, number_of = pick(rng, NTH, split)
    pairs = [f"{ORDINALS[number]} {item}" for number, item in enumerate(items)]
    medium = f"{', '.join(pairs[: wanted + 1])}."
    high = f"{', '.join(pairs)}. Wanted: {pairs[wanted]}."
    question = template.format(n=ORDINALS[wanted], x=", ".join(items))
    return example(
        rng, split, f"nth item/{number_of}", question, items[wanted], thoughts("", medium, high), items[wanted]
    )


@of_text
def _letter_by_letter(example: Example, text: str) -> Grade:
    """Backwards with or without dashes, or forwards with dashes."""
    text = plain(text)
    whole = example.template.startswith("spelling/backwards") and "-" not in text
    return verdict("-".join(text) if whole else text, example.answer)


TASKS = (
    Task("spelling", _spelling, _letter_by_letter, weight=1.5),
    Task("counting letters", _counting_letters, last_number, weight=2.0),
    Task("counting items", _counting_items, last_number, weight=0.5),
    Task("nth item", _nth, whole_text),
)
