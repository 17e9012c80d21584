"""Questions over a web of invented pages: the answer is one to three links away, and needs a citation.

In: a seeded random source and a split. Out: examples. The expert's searches are run when an example is made.
"""

import random
import re
from collections.abc import Mapping, Sequence

from ossia.harmony.messages import Message, assistant
from ossia.mini.parts.build import Templates, example, opening, pick, thoughts
from ossia.mini.tasks.tools.pages import InventedPage, Kind, pages_provider, web
from ossia.mini.tasks.tools.sessions import ToolRecorder, declared, session_tools
from ossia.task import Example, Grade, Split, Task, calls_of, final_text
from ossia.tools.browser.declaration import browser_namespace
from ossia.tools.browser.session import BrowserSession
from ossia.tools.functions import Tool

# How a page is described by a relation of another page: kind and relation, and the words of each split.
RELATIONS: Mapping[tuple[Kind, str], Mapping[Split, str]] = {
    ("town", "river"): {"train": "the river of {x}", "held": "the river that {x} is on"},
    ("town", "builder"): {
        "train": "the company that built the bridge of {x}",
        "held": "the builder of the bridge in {x}",
    },
    ("river", "town"): {"train": "the largest town on {x}", "held": "the biggest town along {x}"},
    ("company", "founder"): {"train": "the founder of {x}", "held": "the person who founded {x}"},
    ("company", "seat"): {"train": "the town where {x} has its seat", "held": "the home town of {x}"},
    ("person", "home"): {"train": "the town where {x} was born", "held": "the birthplace of {x}"},
}
QUESTIONS: Mapping[str, Templates] = {
    "people": {
        "train": ("How many inhabitants does {x} have?", "How many people live in {x}?", "Give the population of {x}."),
        "held": ("What is the number of inhabitants of {x}?", "Please look up how many people {x} has."),
    },
    "length": {
        "train": ("How long is {x} in kilometers?", "How many kilometers long is {x}?", "Find the length of {x}."),
        "held": ("What length does {x} have, in kilometers?", "Please look up how long {x} is."),
    },
    "year": {
        "train": ("In which year was {x} founded?", "When was {x} founded?", "Find the founding year of {x}."),
        "held": ("What year did {x} begin?", "Please look up since when {x} exists."),
    },
    "instrument": {
        "train": ("Which instrument does {x} play?", "What does {x} play?", "Find the instrument of {x}."),
        "held": ("What instrument is played by {x}?", "Please look up on which instrument {x} plays."),
    },
}
CITATION = re.compile(r"【(\d{1,4})†L(\d{1,5})(?:-L(\d{1,5}))?(?:†[^】]*)?】")
SHOWN_LINE = re.compile(r"^L(\d+): (.*)$", re.M)
SHOWN_CURSOR = re.compile(r"\[(\d+)\] ")
WORD = re.compile(r"\s*\S+|\s+")


def browser_session(split: Split) -> BrowserSession:
    """A browser of the split's pages. Its views are measured in words, which needs no tokenizer."""
    return BrowserSession(pages_provider(split), WORD.findall)


def _make(rng: random.Random, split: Split) -> Example:
    hops = rng.randint(1, 3)
    trail, relations = _trail(rng, split, hops)
    described = trail[0].name
    for page, relation in zip(trail, relations, strict=False):
        described = RELATIONS[page.kind, relation][split].format(x=described)
    (attribute,) = trail[-1].facts
    template, number = pick(rng, QUESTIONS[attribute], split, varied=False)

    recorder = ToolRecorder(browser_session(split))
    shown = recorder.call("search", query=trail[0].name, topn=3)
    for page in trail:
        shown = recorder.call("open", id=_link(shown, page.name))
    cursor, line = _place(shown, trail[-1].sentences[attribute])
    value = trail[-1].facts[attribute]
    reply = [*recorder.messages, assistant(f"The answer is {value}. 【{cursor}†L{line}】")]
    way = ", then ".join(
        RELATIONS[page.kind, relation][split].format(x=page.name)
        for page, relation in zip(trail, relations, strict=False)
    )
    high = (
        f"I search for {trail[0].name} and open its page. "
        + (f"I open {way}. " if way else "")
        + f"There is the {attribute}."
    )
    return example(
        rng,
        split,
        f"browse/{hops} {attribute}/{number}",
        template.format(x=described),
        value,
        thoughts("", f"Search {trail[0].name}.", high),
        reply,
        [declared(opening(rng), browser_namespace())],
    )


def _trail(rng: random.Random, split: Split, hops: int) -> tuple[list[InventedPage], list[str]]:
    """The pages from the one that the question names to that of the answer, and the relations between them."""
    pages = web(split).pages
    while True:
        trail, relations = [rng.choice(list(pages.values()))], list[str]()
        for _ in range(hops - 1):
            relations.append(rng.choice(list(trail[-1].links)))
            trail.append(pages[trail[-1].links[relations[-1]]])
        if len({page.name for page in trail}) == hops:
            return trail, relations


def _link(shown: str, name: str) -> int:
    """The number of the link to a page, in the text of a view."""
    found = re.search(rf"【(\d+)†{re.escape(name)}(?:†[^】]*)?】", shown)
    assert found, f"no link to {name} in {shown}"
    return int(found[1])


def _place(shown: str, sentence: str) -> tuple[int, int]:
    """The cursor of a view and the line of a sentence in it."""
    cursor = SHOWN_CURSOR.match(shown)
    lines = [int(number) for number, text in SHOWN_LINE.findall(shown) if text.strip() == sentence]
    assert cursor, shown
    assert lines, (shown, sentence)
    return int(cursor[1]), lines[0]


def _grade(asked: Example, turn: Sequence[Message]) -> Grade:
    """Graded: the text ends with the answer, and a citation means lines of an opened page that contain it."""
    text = final_text(turn)
    if text is None:
        return Grade(0.0, "no final answer")
    if not any((call.recipient or "").startswith("browser.") for call in calls_of(turn)):
        return Grade(0.0, "no call of the browser")
    said = CITATION.sub(" ", text).strip().rstrip(".").rstrip().lower().replace(",", "")
    if not re.search(rf"(?<!\w){re.escape(asked.answer.lower())}\Z", said):
        return Grade(0.0, f"said {said[-60:]!r}, wanted {asked.answer!r}")
    views = [message.text for message in turn if message.role == "tool" and (message.name or "").startswith("browser.")]
    cited = [lines for found in CITATION.finditer(text) for view in views if (lines := _cited(found, view))]
    if any(re.search(rf"(?<!\w){re.escape(asked.answer)}(?!\w)", lines) for lines in cited):
        return Grade(1.0, "right")
    return Grade(0.0, "no citation of lines that contain the answer")


def _cited(citation: re.Match[str], view: str) -> str:
    """The lines of a view that a citation means; "" for another view."""
    cursor = SHOWN_CURSOR.match(view)
    if cursor is None or cursor[1] != citation[1]:
        return ""
    first, last = int(citation[2]), int(citation[3] or citation[2])
    return "\n".join(text for number, text in SHOWN_LINE.findall(view) if first <= int(number) <= last)


def _tools(asked: Example) -> tuple[Tool, ...]:
    return session_tools(browser_session(asked.split))


TASKS: tuple[Task, ...] = (Task("browse", _make, _grade, _tools, max_turns=10),)
