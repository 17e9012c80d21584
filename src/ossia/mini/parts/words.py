"""Words for problems, each list in two splits (training and held out), and made-up words.

Input: a seeded random source and a split. Output: words of that split only.

Made-up words, and ordinary words outside the lists, are only in training. Thousands of them teach a model to copy words
that it has never seen.
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
# What frames a chat, and what sentences are held together by: their pieces of the vocabulary would stand nowhere else, and so be known as
# what always comes next, not as letters to copy. Words are made of them that begin or end as they do.
FRAMING = tuple(
    "include includes included current curry currants python pythons framework homework channel channels documentary "
    "commentary junctions functions assist assistant assistance seasoning reasoning paralysis analysis opening knowing wanting called calls "
    "formats format dormant computing compute computer addition additional quest questing question namesake namespace properties property "
    "beauties parties information instructions constructions boolean valid languages chatting developers tools answering answers responses "
    "remainders remainder describe describing require required requisite integers offering offered leftover friendly calculus "
    "falsehood message messages string strings numbers recipient every date large small medium trained cutoff type these those given give dollars "
    "wanted tell days gives finds letter letters object objects when about from help user users minutes results weekday details cannot "
    "ask links sources please area history goods lookup fetch pull style month query must by final model low one and how many what this "
    "find look has name than use none code word each get have location more speed true left need list article top check limit order that "
    "there talk cost region home show report search who but mode view fridge price which core any of level high too with you the fun can "
    "so item place see it out max read earn not now old up add thing in into is for be at as on or an if no we do us are to was will just "
    "only also first last next new here some such very well two three four five six seven eight nine ten day week year time unit ours "
    "author student employee player speaker topic city".split()
)
# Ordinary words for training only. Together they have most of the pieces of English words.
COMMON = tuple(
    "ability absence accident account achieve across action actor address admire advance advice affair afternoon agency agreement airport "
    "alarm allow amazing amount ancient angry answer anything appetite army arrange arrival article artist assistant attention attempt "
    "author autumn average awkward bakery basic battery beauty because bedroom before belief belong beneath between beyond billion biology "
    "birthday blossom board body border borrow brain branch bravery breakfast breath bright broken brother brought builder burden cabin "
    "calendar camera campaign cannon capital captain career careful catalogue cattle caught cause ceiling central century ceremony chain "
    "champion change chapter charity chimney choice circle citizen classroom climate clothing cloudy coach collect college column comfort "
    "command company compare concert condition congress connect consider constant content control cotton council counter couple courage "
    "cousin creature critical crowd culture curious current curtain custom damage danger daughter daylight debate decade decision defence "
    "degree delivery demand dentist depend desert design desire detail develop device dialogue dictionary difference digital dignity "
    "direction disaster discovery discuss disease distance district divide domestic double doubtful downtown dragon drama drawer duty "
    "eager earth easily economy editor education effective effort either electric element emergency emotion emperor employ enemy energy "
    "enjoy enormous enough entire envelope equal escape essay estimate evening event evidence exactly example excellent exchange excuse "
    "exercise existence expensive explain explore express extra fabric factory faculty fairly faith familiar family famous fantastic "
    "farewell fashion favour feature feeling festival fiction figure finally finger finish fiscal flexible flight floor flavour focus "
    "foreign formal fortune forward foundation fraction frequent friendly frozen fulfil fully function funny future gallery garage gather "
    "general gentle geography gesture giant glimpse glory goodness gossip grammar grateful gravity greatly grocery growth guarantee "
    "guidance habit handsome harmful harvest headache healthy heavy hesitate highway historic hobby holiday honest hospital hotel however "
    "human hundred hungry husband identity ignore illness image imagine immediate impact improve incident income increase indeed industry "
    "infant inform injury innocent inquiry insect inspire instance interest interview invent invite issue jacket jewel journal journey "
    "judge jungle junior justice keeper kindness kingdom knowledge ladder language laughter lawyer layer leather lecture legend lesson "
    "liberty library likely limit liquid literature local lonely longer loyal luggage lunch machine magazine majority manager manner "
    "manual many marine marriage material matter maximum meaning measure medical memory mention merchant message method military million "
    "mineral minister minute miracle mission mistake mixture model modern moment monument moral morning motion motor movement muscle museum "
    "mystery narrow nation native natural nature nearby nervous network neutral nobody noise normal notice novel nowhere number nursery "
    "obey observe obvious ocean offer office often opinion opposite option orchestra ordinary origin other outside oven owner oxygen "
    "package painful palace panel parade parent partner passage passenger patience pattern payment peaceful penalty people percent perfect "
    "perform perhaps permit photograph phrase physical picnic pilot pioneer plastic platform pleasant plenty poem police policy polite "
    "popular portion position possible potato poverty powder power practice prayer precious prefer prepare presence president pressure "
    "pretty prevent previous priest primary princess printer prison private probably problem produce profit program progress promise proof "
    "property protect proud province public publish purchase purpose quantity quarter question quickly quiet railway random rather reality "
    "reason rebuild recipe recover reduce reflect refuse regard region regular reject relation relief remain remember remote remove repair "
    "repeat replace report rescue research resist respect response restaurant restore retire reveal revenue review reward rhythm ribbon "
    "rocket romantic rough royal rubber rural sailor salad sample satisfy sausage scatter scenery schedule science scissors season second "
    "section security select senior sensible sentence separate serious servant service session settle several severe shadow shallow shelter "
    "shoulder signal silence similar single sister sketch skill smooth society soldier solution somebody sometimes somewhere soul source "
    "southern special specific spirit splendid spoken square stadium standard station statue steady stomach storage story stranger strategy "
    "struggle student studio subject succeed sudden suffer suggest summary supper supply support surface surprise surround survey suspect "
    "swallow sweater symbol system talent target teacher technology telephone temple tender terrible territory theatre theory therefore "
    "thirsty though thought thousand throat through tiny together tomorrow tongue tonight tough tourist toward tower tradition transfer "
    "translate travel treasure treaty tremble triangle trouble truly tunnel twelve twenty typical ugly uncle underneath understand uniform "
    "union unique universe unless upper urgent useful usual vacation valley valuable variety various vehicle version victim victory "
    "violence virtue visible vision visitor vital voice volume volunteer voyage wagon wander warning wealth weapon weather weekend welcome "
    "western whatever whisper whole widow wilderness willing wisdom within without witness wonder wooden workshop world worry worthy wound "
    "writing yesterday young youth "
    "actions sections fractions equality morality locality vocation indication would should could sighing thigh ledge pledge items county "
    "viscount input dispute rice whichever employee readers bully bullet quit quote ornament basement fitness careless "
    "endless lonesome awesome sisterhood childhood leadership friendship singing ringing talking hardest finest weekly daily".split()
)
LISTS: tuple[Words, ...] = (
    NAMES, THINGS, CONTAINERS, PLACES, ANIMALS, FRUIT, COLORS, METALS, FURNITURE, PLAIN, TOPICS, SECRET_WORDS,
)  # fmt: skip
HELD = frozenset(chain.from_iterable(words["held"] for words in LISTS))  # never in training
HELD_LOWER = frozenset(word.lower() for word in HELD)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

ONSETS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr pl st tr sh ch th".split()
VOWELS = "a e i o u a e i o u ai ea ee oo ou".split()
NAME_ENDS = (
    "name id number kind type code unit count list value object total key text state date size level group".split()
)
ENDINGS = ("", "s", "es", "er", "est")  # suffixes that tasks add to a made-up word
ENDS = " n r s t l m k d p nd st ck ng x".split(" ")


def made_up(rng: random.Random, syllables: int = 2) -> str:
    """A word outside all lists: syllables, parts of ordinary words, random letters, or a long ordinary word."""
    longer = syllables > 1
    kinds = {
        "syllables": 8,
        "parts": 8 if longer else 2,
        "letters": 3,
        "ordinary": 3 if longer else 0,
        "framing": 6 if longer else 2,
    }
    while True:
        match rng.choices(list(kinds), list(kinds.values()))[0]:
            case "syllables":
                word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)) + rng.choice(ENDS)
            case "parts":
                one, other = rng.choice(COMMON), rng.choice(COMMON)
                word = one[: rng.randint(2, 4)] * longer + other[-rng.randint(3, 6) :]
            case "ordinary":
                word = rng.choice(COMMON)
            case "framing":
                one, other = rng.choice(FRAMING), rng.choice(COMMON)
                word = rng.choice((one, one + other[-rng.randint(1, 5) :], other[: rng.randint(1, 3)] + one))
            case _:
                word = _letters(rng, syllables + rng.randint(2, 4))
        if not {word + end for end in ENDINGS} & HELD_LOWER:
            return word


def _letters(rng: random.Random, count: int) -> str:
    """Random vowels and consonants, some doubled."""
    drawn = rng.choices(
        "etaoinshrdlcumwfgypbvkjxqz", (12, 9, 8, 8, 7, 7, 6, 6, 6, 4, 4, 3, 3, *[2] * 8, *[1] * 5), k=count
    )
    return "".join(letter * (2 if rng.random() < 0.12 else 1) for letter in drawn)


def some(rng: random.Random, words: Words, split: Split, made: float = 0.3) -> str:
    """A word of the split's list; in training a made-up one with probability `made`."""
    if split == "train" and rng.random() < made:
        return _like(rng, words)
    return rng.choice(words[split])


def several(rng: random.Random, words: Words, split: Split, count: int) -> list[str]:
    """Different words of the split's list; in training none, half or all of them are made up."""
    found = rng.sample(words[split], count)
    rate = rng.choice((0.0, 0.0, 0.5, 1.0)) if split == "train" else 0.0
    for place in range(count):
        if rng.random() < rate:
            while (word := _like(rng, words)) in found:
                pass
            found[place] = word
    return found


def _like(rng: random.Random, words: Words) -> str:
    """A made-up word with the capitalisation of the list."""
    word = made_up(rng, rng.randint(1, 3))
    return word.capitalize() if words["train"][0][0].isupper() else word


def joined(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
