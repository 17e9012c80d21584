"""The words that problems are filled with, each list in two parts: for training, and held back. And made-up words.

In: a seeded random source and a split. Out: words of that split only.
It does not know problems.

Made-up words stand only in training: a model that has met thousands learns to copy what it has never seen.
"""

import random
from collections.abc import Mapping, Sequence
from itertools import chain

from ossia.task import Split

Words = Mapping[Split, tuple[str, ...]]


def _split(train: str, held: str) -> Words:
    return {"train": tuple(train.split()), "held": tuple(held.split())}


NAMES = _split(
    "Tom Anna Ben Lucy Omar Yuki Ken Mia Sara Leo Ivy Max Nina Paul Rosa Hiro Emma Jack Lily Noah Zoe Sam Maya Finn Ada "
    "Liam Olga Hugo Aya Carl Dina Eli Kate Luis Amir Chen Priya Ravi Elsa Igor Jana Kofi Lena Marco Nora Oscar Petra Quinn "
    "Rita Sven Tara Umar Vera Wei Xena Yosef Zara Alice Bob Clara David Ella Frank Grace Henry Iris James Karen Lucas Mary",
    "Peter Julia Simon Hannah Victor Laura Diego Fatima Kenji Amelia Bruno Celia Dmitri Esther Felix Gina Harold Ingrid",
)
THINGS = _split(
    "apples pens books coins stamps marbles cards eggs oranges pencils stickers shells balls flowers cookies candies "
    "toys cups keys boxes photos stones tickets nuts plums hats socks spoons plates chairs lamps buttons beads seeds leaves "
    "kites dolls badges maps letters ribbons bottles cans carrots onions lemons melons pears grapes muffins pies rolls",
    "bananas peaches notebooks erasers magnets candles puzzles tomatoes pebbles feathers bricks mugs bells sandwiches",
)
CONTAINERS = _split(
    "bags baskets shelves jars trays drawers crates packs rows tables bowls sacks tins nets carts racks",
    "cartons buckets pockets cabinets folders barrels",
)
PLACES = _split(
    "Kyoto Paris Oslo Tokyo Rome Lima Cairo Berlin Madrid Dublin Osaka Quito Delhi Milan Prague Vienna Boston Denver "
    "Lagos Accra Hanoi Seoul Sydney Porto Nara Bern Riga Turin London Sapporo Chicago Athens Bogota Dakar Geneva Havana",
    "Lisbon Nairobi Warsaw Helsinki Toronto Manila Zurich Santiago Tunis Dallas Kobe Malmo",
)
ANIMALS = _split(
    "cat dog horse cow pig hen duck goat sheep lion tiger bear wolf fox frog snake mouse rabbit deer camel eagle owl",
    "zebra whale monkey turtle parrot donkey beaver salmon",
)
FRUIT = _split(
    "apple pear plum grape lemon melon cherry fig mango lime date kiwi", "banana peach papaya orange apricot"
)
COLORS = _split("red blue green yellow black white brown pink gray purple", "orange violet silver golden beige")
METALS = _split("iron gold copper tin lead zinc", "silver nickel steel")
FURNITURE = _split("table chair bed sofa shelf desk lamp stool", "bench wardrobe cupboard mirror")
PLAIN = _split(
    "house water river paper garden window market summer winter school letter mother father sister table butter pepper "
    "little yellow better happy rabbit tree moon street kitchen dinner banner hammer carpet pocket planet forest "
    "bottle candle middle puzzle simple bubble coffee cheese screen green sleep speed street wheel seven eleven level "
    "radar paper piano guitar violin music dance artist doctor driver farmer baker singer writer reader leader engine",
    "mountain island bridge castle village thunder blanket elephant umbrella necessary business mirror "
    "cabbage success process mississippi committee balloon bookkeeper parallel tennis",
)
TOPICS = _split(
    "football politics cooking music religion movies cars money travel history fashion chess gardening medicine poetry "
    "law taxes space dinosaurs pets jokes horses war guns wine coffee sleep math school rivers trains love ghosts boats",
    "baseball astrology elections gambling painting diets robots volcanoes skiing weddings",
)
SECRET_WORDS = _split(
    "falcon maple thunderbolt orchid comet pepper anchor lantern copper walnut saffron glacier meadow cobalt jasmine ember "
    "harbor pebble velvet cinnamon raven willow topaz canyon clover marble amber tulip bamboo cedar",
    "sapphire hedgehog lighthouse avocado pelican tornado cactus magnolia walrus galaxy",
)
LISTS: tuple[Words, ...] = (
    NAMES, THINGS, CONTAINERS, PLACES, ANIMALS, FRUIT, COLORS, METALS, FURNITURE, PLAIN, TOPICS, SECRET_WORDS,
)  # fmt: skip
HELD = frozenset(chain.from_iterable(words["held"] for words in LISTS))  # training shows none of them
HELD_LOWER = frozenset(word.lower() for word in HELD)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

ONSETS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr pl st tr sh ch th".split()
VOWELS = "a e i o u a e i o u ai ea ee oo ou".split()
ENDS = " n r s t l m k d p nd st ck ng x".split(" ")


def made_up(rng: random.Random, syllables: int = 2) -> str:
    """A word that nobody knows, and that is on no list: syllables, halves of known words, or any letters."""
    while True:
        match rng.choices(("syllables", "halves", "letters"), (12, 5 if syllables > 1 else 0, 3))[0]:
            case "syllables":
                word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)) + rng.choice(ENDS)
            case "halves":
                one, other = rng.choice(PLAIN["train"]), rng.choice(PLAIN["train"])
                word = one[: rng.randint(2, 4)] + other[rng.randint(1, 3) :]
            case _:
                word = _letters(rng, syllables + rng.randint(2, 4))
        if not {word, f"{word}s"} & HELD_LOWER:
            return word


def _letters(rng: random.Random, count: int) -> str:
    """Vowels and consonants in no order, some of them twice in a row."""
    drawn = rng.choices("etaoinshrdlcumwfgypbvkjxqz", (12, 9, 8, 8, 7, 7, 6, 6, 6, 4, 4, 3, 3, *[2] * 8, *[1] * 5), k=count)
    return "".join(letter * (2 if rng.random() < 0.12 else 1) for letter in drawn)


def some(rng: random.Random, words: Words, split: Split, made: float = 0.3) -> str:
    """A word of the split's list; in training, with the chance `made`, a made-up one in its place."""
    if split == "train" and rng.random() < made:
        return _like(rng, words)
    return rng.choice(words[split])


def several(rng: random.Random, words: Words, split: Split, count: int) -> list[str]:
    """Different words of the split's list; in training none, half or all of them are made-up ones."""
    found = rng.sample(words[split], count)
    rate = rng.choice((0.0, 0.0, 0.5, 1.0)) if split == "train" else 0.0
    for place in range(count):
        if rng.random() < rate:
            while (word := _like(rng, words)) in found:
                pass
            found[place] = word
    return found


def _like(rng: random.Random, words: Words) -> str:
    """A made-up word that begins as the list's do."""
    word = made_up(rng, rng.randint(1, 3))
    return word.capitalize() if words["train"][0][0].isupper() else word


def joined(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
